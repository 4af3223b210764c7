#include "proto/log_record.hpp"

#include <array>

namespace planaria {

const char* record_name(const LogRecord& record) {
  static constexpr std::array<const char*, std::variant_size_v<LogRecord>> kNames = {
      "generation started", "job recorded",   "worker accepted",  "drain accepted", "worker released",
      "view prepared",      "view committed", "numeric decision", "step committed", "waiting started",
      "finished",           "fault fired",    "disagreement"};
  return kNames.at(record.index());
}

std::string describe(const log_record::FaultFired& fault) {
  std::string text = "fault: " + fault.kind;
  if (fault.worker) text += " worker " + std::to_string(*fault.worker);
  if (fault.step) text += " at step " + std::to_string(fault.step->value());
  if (!fault.phase.empty()) text += ", " + fault.phase;
  return text;
}

}  // namespace planaria

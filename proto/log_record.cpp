#include "proto/log_record.hpp"

#include <array>

namespace planaria {

const char* record_name(const LogRecord& record) {
  static constexpr std::array<const char*, std::variant_size_v<LogRecord>> kNames = {
      "generation started", "job recorded",    "worker accepted", "drain accepted",
      "worker released",    "view prepared",   "view committed",  "numeric decision",
      "step committed",     "waiting started", "finished"};
  return kNames.at(record.index());
}

}  // namespace planaria

#include "cli/event_list.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/arguments.hpp"
#include "coordinator/http/status.hpp"

namespace planaria {

std::string event_line(const LogEntry& entry) {
  const nlohmann::json record = event_json(entry);
  const std::time_t seconds = entry.unix_ms / 1000;
  std::string line = fmt::format("{:>6}  {:%Y-%m-%d %H:%M:%S}.{:03}  {:<18}", entry.sequence, fmt::gmtime(seconds),
                                 entry.unix_ms % 1000, record_name(entry.record));
  for (const auto& [key, value] : record.items()) {
    if (key == "sequence" || key == "unix_ms" || key == "kind") continue;
    line += fmt::format(" {}={}", key, to_text(value));
  }
  return line;
}

int show_event_list(const std::string& run_directory, bool as_json) {
  const auto log = read_log(run_directory + "/coordinator");
  if (!log) return fail(log.error());
  for (const LogEntry& entry : log->entries) {
    fmt::print("{}\n", as_json ? to_text(event_json(entry)) : event_line(entry));
  }
  return static_cast<int>(ExitCode::ok);
}

}  // namespace planaria

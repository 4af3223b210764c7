// `planaria status --log`: what a coordinator's log holds, whether a coordinator runs or not.
//
// Thread contract: one thread.
#pragma once

#include <string>

#include "coordinator/log/event_log.hpp"

namespace planaria {

// "17  2026-01-31 12:00:05.250  view prepared  view=2 reason=\"worker 3 lost\"".
[[nodiscard]] std::string event_line(const LogEntry& entry);

// Prints the log of a run's directory, a record a line, and returns the exit code.
int show_event_list(const std::string& run_directory, bool as_json);

}  // namespace planaria

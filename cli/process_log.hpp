// The logs of a long-lived process: lines of text on standard error, the same lines as JSON in a file of its own.
//
// Thread contract: as common/log.hpp; start_process_log belongs to a process's start.
#pragma once

#include <string>

#include "common/log.hpp"
#include "common/result.hpp"

namespace CLI {
class App;
}

namespace planaria {

struct LogArguments {
  std::string level = "info";
};

// --log-level, or the variable PLANARIA_LOG_LEVEL, which the processes that `planaria run` starts inherit.
void add_log_arguments(CLI::App& command, LogArguments& arguments);

// Where a worker that writes into `output` keeps its JSON lines: OUT/workers/HOST-PROCESS.jsonl. Its number is not
// known before the coordinator gives one, and may change.
[[nodiscard]] std::string worker_log_file(const std::string& output);

// A JSON file that can't be opened is told in the log itself: no job ends for want of a log.
// invalid_argument: no such level.
[[nodiscard]] Status start_process_log(const LogArguments& arguments, const std::string& json_file);

}  // namespace planaria

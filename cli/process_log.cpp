#include "cli/process_log.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdint>

#include "common/host.hpp"

namespace planaria {

void add_log_arguments(CLI::App& command, LogArguments& arguments) {
  command
      .add_option("--log-level", arguments.level, "least level that is logged: trace, debug, info, warning, error, off")
      ->envname("PLANARIA_LOG_LEVEL")
      ->capture_default_str();
}

std::string worker_log_file(const std::string& output) {
  return fmt::format("{}/workers/{}-{}.jsonl", output, host_name(), ::getpid());
}

Status start_process_log(const LogArguments& arguments, const std::string& json_file) {
  PLANARIA_ASSIGN(const LogLevel level, parse_log_level(arguments.level));
  LogOptions options{.level = level, .json_file = json_file};
  options.fields.emplace_back("process_id", static_cast<std::int64_t>(::getpid()));
  if (const Status started = start_logging(options); !started) {
    options.json_file.clear();
    PLANARIA_TRY(start_logging(options));
    Log("log").warning("this log goes to standard error only", {{"why", started.error().message()}});
  }
  return ok_status();
}

}  // namespace planaria

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <memory>
#include <optional>

#include "cli/arguments.hpp"
#include "cli/bus_error.hpp"
#include "cli/commands.hpp"
#include "cli/http_client.hpp"
#include "cli/process_log.hpp"
#include "cli/stop_signal.hpp"
#include "common/config.hpp"
#include "common/log.hpp"
#include "proto/job_config.hpp"
#include "proto/listen.hpp"
#include "worker/shell/agent.hpp"

namespace planaria {
namespace {

struct WorkerArguments {
  JobArguments job;
  LogArguments log;
  std::string join;
  std::optional<std::uint32_t> id;
  WorkerOptions options;
};

bool is_local(const std::string& host) {
  return host == "localhost" || is_loopback(host);
}

Result<WorkerOptions> prepare(const WorkerArguments& arguments) {
  WorkerOptions options = arguments.options;
  PLANARIA_ASSIGN(const HttpTarget target, parse_target(arguments.join));
  options.coordinator_host = target.host;
  const auto [end, error] =
      std::from_chars(target.port.data(), target.port.data() + target.port.size(), options.coordinator_port);
  if (error != std::errc() || options.coordinator_port == 0) {
    return Error(ErrorCode::invalid_argument, "--join: '" + target.port + "' is no port");
  }
  if (options.data_devices.empty()) options.data_devices = is_local(target.host) ? "lo" : "all";
  if (arguments.id) options.wanted = WorkerId(*arguments.id);
  options.give_up = stop_requested;
  if (arguments.job.file.empty() && !arguments.job.assignments.empty()) {
    return Error(ErrorCode::invalid_argument,
                 "--set changes keys of a job file: without JOB the job comes from the coordinator as it is");
  }
  if (!arguments.job.file.empty()) {
    PLANARIA_ASSIGN(options.job, load_job(arguments.job.file, arguments.job.assignments, process_environment()));
  }
  return options;
}

int run(const WorkerArguments& arguments) {
  watch_stop_signals();
  tell_bus_errors();
  auto options = prepare(arguments);
  if (!options) return fail(options.error());
  if (const Status started = start_process_log(arguments.log, worker_log_file(options->out_directory)); !started)
    return fail(started.error());
  fmt::print("looking for the coordinator at {}\n", arguments.join);
  std::fflush(stdout);
  auto agent = WorkerAgent::start(std::move(*options));
  if (!agent) return fail(agent.error());
  // SIGTERM lets the worker leave at a step boundary; SIGINT and a second signal end it at once.
  std::optional<StopSignalWatcher> signals([&agent] {
    if (interrupt_requested()) {
      flush_logs();
      _exit(static_cast<int>(ExitCode::stopped));
    }
    (*agent)->drain("SIGTERM");
  });
  const WorkerOutcome outcome = (*agent)->wait();
  signals.reset();
  Log("worker").info("ends", {{"why", outcome.reason}});
  flush_logs();
  fmt::print("{}\n", outcome.reason);
  if (outcome.success) return 0;
  return static_cast<int>(outcome.permanent ? ExitCode::refused : ExitCode::failed);
}

}  // namespace

void add_worker(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("worker", "Train for a coordinator");
  command->footer(
      "Examples:\n  planaria worker --join 10.0.0.1:7070\n  planaria worker JOB.toml --join 10.0.0.1:7070 --threads "
      "8\n\n"
      "Without JOB the job comes from the coordinator; the data must be on this machine (--data). SIGTERM drains\n"
      "the worker: it leaves at a step boundary, when nobody needs what it holds.");
  auto arguments = std::make_shared<WorkerArguments>();
  WorkerOptions& options = arguments->options;
  options.threads = 0;
  options.data_devices.clear();
  command->add_option("JOB", arguments->job.file, "job file (TOML)");
  command->add_option("--set", arguments->job.assignments, "override a key: section.key=value; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--join", arguments->join, "the coordinator's address:port")->required();
  add_log_arguments(*command, arguments->log);
  command->add_option("--id", arguments->id, "wanted worker number; default the next free one")
      ->transform(whole_number(0, UINT32_MAX));
  command->add_option("--out", options.out_directory, "directory of the worker's files")->capture_default_str();
  command->add_option("--data", options.data_path, "where this machine has the data, when not where the job says");
  command->add_option("--tokenizer-file", options.tokenizer_file, "the same of the tokenizer's file");
  command->add_option("--threads", options.threads, "compute threads; default the job's")
      ->transform(whole_number(0, 1024));
  command->add_option("--memory-mb", options.memory_mb, "MiB that training may use; default the job's")
      ->transform(whole_number(0, UINT32_MAX));
  command->add_option("--zone", options.zone, "machines of one zone are near each other: for the planner");
  command->add_option("--nic", options.nic, "class of this machine's network: for the planner");
  command->add_option(
      "--devices", options.data_devices,
      "network devices through which workers reach each other, as \"eth0\" or \"eth0,eth1\"; default lo "
      "where the coordinator is joined over loopback, else all");
  command->add_option("--join-token", options.security.join_token, "the job's shared secret")
      ->envname("PLANARIA_JOIN_TOKEN");
  command->add_option("--tls-certificate", options.security.tls_certificate, "PEM file");
  command->add_option("--tls-key", options.security.tls_key, "PEM file");
  command->add_option("--tls-authority", options.security.tls_authority, "PEM file");
  command->add_option("--telemetry", options.telemetry_endpoint, "tcp://address:port for samples; default none");
  command->add_option("--fault-hook", options.fault_socket, "socket on which chaos listens")->group("");
  command->callback([arguments, &code] { code = run(*arguments); });
}

}  // namespace planaria

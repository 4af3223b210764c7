#include "cli/agent_command.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <utility>

#include "cli/bus_error.hpp"
#include "cli/http_client.hpp"
#include "cli/stop_signal.hpp"
#include "common/exit_code.hpp"
#include "common/log.hpp"
#include "proto/listen.hpp"

namespace planaria {
namespace {

bool is_local(const std::string& host) {
  return host == "localhost" || is_loopback(host);
}

}  // namespace

void add_agent_arguments(CLI::App& command, AgentArguments& arguments) {
  WorkerOptions& options = arguments.options;
  options.threads = 0;
  options.data_devices.clear();
  command.add_option("--join", arguments.join, "the coordinator's address:port")->required();
  add_log_arguments(command, arguments.log);
  command.add_option("--id", arguments.id, "wanted number; default the next free one")
      ->transform(whole_number(0, UINT32_MAX));
  command.add_option("--host", options.host, "name of this machine; a keeper's workers have the same; default its own");
  command.add_option("--zone", options.zone, "machines of one zone are near each other: for the planner");
  command.add_option("--devices", options.data_devices,
                     "network devices through which members reach each other, as \"eth0\" or \"eth0,eth1\"; default lo "
                     "where the coordinator is joined over loopback, else all");
  command.add_option("--telemetry", options.telemetry_endpoint, "tcp://address:port for samples; default none");
  command.add_option("--join-token", options.security.join_token, "the job's shared secret")
      ->envname("PLANARIA_JOIN_TOKEN");
  command.add_option("--tls-certificate", options.security.tls_certificate, "PEM file");
  command.add_option("--tls-key", options.security.tls_key, "PEM file");
  command.add_option("--tls-authority", options.security.tls_authority, "PEM file");
  command.add_option("--fault-hook", options.fault_socket, "socket on which chaos listens")->group("");
}

Result<WorkerOptions> agent_options(const AgentArguments& arguments) {
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
  return options;
}

int run_agent(const AgentArguments& arguments, Result<WorkerOptions> options) {
  watch_stop_signals();
  tell_bus_errors();
  if (!options) return fail(options.error());
  const bool keeper = options->role == Role::keeper;
  if (const Status started = start_process_log(arguments.log, worker_log_file(options->out_directory)); !started)
    return fail(started.error());
  fmt::print("looking for the coordinator at {}\n", arguments.join);
  std::fflush(stdout);
  auto agent = WorkerAgent::start(std::move(*options));
  if (!agent) return fail(agent.error());
  // SIGTERM lets the process leave at a step boundary; SIGINT and a second signal end it at once.
  std::optional<StopSignalWatcher> signals([&agent] {
    if (interrupt_requested()) {
      flush_logs();
      _exit(static_cast<int>(ExitCode::stopped));
    }
    (*agent)->drain("SIGTERM");
  });
  const WorkerOutcome outcome = (*agent)->wait();
  signals.reset();
  Log(keeper ? "keeper" : "worker").info("ends", {{"why", outcome.reason}});
  flush_logs();
  fmt::print("{}\n", outcome.reason);
  if (outcome.success) return 0;
  return static_cast<int>(outcome.permanent ? ExitCode::refused : ExitCode::failed);
}

}  // namespace planaria

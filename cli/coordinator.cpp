#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/http_client.hpp"
#include "cli/process_log.hpp"
#include "cli/stop_signal.hpp"
#include "common/config.hpp"
#include "common/file.hpp"
#include "coordinator/http/status.hpp"
#include "coordinator/shell/service.hpp"
#include "proto/job_config.hpp"
#include "storage/pretrained.hpp"
#include "worker/data/dataset.hpp"

namespace planaria {
namespace {

struct CoordinatorArguments {
  JobArguments job;
  LogArguments log;
  std::string listen;
  std::string output = "out";
};

Status write_text(const std::string& path, std::string_view text) {
  return write_file_atomically(posix_file_system(), path, text);
}

// A result says that the job has ended; an earlier start's is written again when that is so.
Status remove_result(const std::string& path) {
  const Status removed = posix_file_system().remove(path);
  return removed || removed.error().code() == ErrorCode::not_found ? ok_status() : removed;
}

// "address:port", or an address alone, which leaves the port to the job.
Result<HttpTarget> parse_listen(const std::string& text) {
  const bool address = text.find_first_not_of("0123456789") != std::string::npos;
  if (address && (text.find(':') == std::string::npos || text.ends_with(']'))) {
    const bool bracketed = text.starts_with('[') && text.ends_with(']');
    return HttpTarget{bracketed ? text.substr(1, text.size() - 2) : text, ""};
  }
  auto target = parse_target(text);
  if (target) return target;
  return Error(ErrorCode::invalid_argument, "--listen: '" + text + "' is neither address:port nor an address");
}

// Reads the job, its data and the weights it starts from: their hashes are part of the job's.
Result<JobSpec> prepare_job(const CoordinatorArguments& arguments) {
  std::vector<std::string> assignments = arguments.job.assignments;
  if (!arguments.listen.empty()) {
    PLANARIA_ASSIGN(const HttpTarget target, parse_listen(arguments.listen));
    assignments.push_back(fmt::format("cluster.listen={}", target.host));
    if (!target.port.empty()) assignments.push_back("cluster.control_port=" + target.port);
  }
  PLANARIA_ASSIGN(JobSpec job, load_job(arguments.job.file, assignments, process_environment()));
  PLANARIA_ASSIGN(const Dataset dataset, Dataset::open(job.data, job.model.context, job.model.vocab));
  if (job.data.content_hash != Hash128{} && job.data.content_hash != dataset.content_hash()) {
    return Error(ErrorCode::mismatch, "the data at " + job.data.path + " is not what data.content_hash pins");
  }
  job.data.content_hash = dataset.content_hash();
  PLANARIA_TRY(open_pretrained(posix_file_system(), job));
  return job;
}

Result<CoordinatorOutcome> coordinate(const CoordinatorArguments& arguments) {
  PLANARIA_ASSIGN(JobSpec job, prepare_job(arguments));
  PLANARIA_TRY(posix_file_system().make_directories(arguments.output));
  const std::string result_file = join_path(arguments.output, "result.json");
  PLANARIA_TRY(start_process_log(arguments.log, join_path(arguments.output, "coordinator.jsonl")));
  // Not before it started: a refused start must leave the earlier run's job file as it was.
  PLANARIA_ASSIGN(const auto service, CoordinatorService::start({job, arguments.output}));
  PLANARIA_TRY(remove_result(result_file));
  PLANARIA_TRY(write_text(arguments.output + "/job.toml", job_to_toml(job)));
  const CoordinatorPorts ports = service->ports();
  Log("coordinator")
      .info("starts", {{"job", job.name},
                       {"job_hash", job_hash(job).hex()},
                       {"address", ports.address},
                       {"control_port", ports.control},
                       {"http_port", ports.http}});
  fmt::print("job {} ({}), {} workers expected\n", job.name, job_hash(job).hex(), job.cluster.workers);
  fmt::print("workers:     planaria worker --join {}:{}\n", ports.address, ports.control);
  fmt::print("status page: http://{}:{}/\n", ports.address, ports.http);
  std::fflush(stdout);
  const StopSignalWatcher signals([&service] { service->stop(); });
  CoordinatorOutcome outcome = service->wait();
  if (outcome.finished && outcome.status) {
    PLANARIA_TRY(write_text(result_file, to_text(status_json(*outcome.status)) + "\n"));
  }
  return outcome;
}

int run(const CoordinatorArguments& arguments) {
  watch_stop_signals();
  const auto outcome = coordinate(arguments);
  flush_logs();
  if (!outcome) return fail(outcome.error());
  if (!outcome->finished) {
    fmt::print("stopped; the workers train on, start the coordinator again with the same --out\n");
    return static_cast<int>(ExitCode::stopped);
  }
  fmt::print("{}\n", outcome->reason);
  return static_cast<int>(outcome->success ? ExitCode::ok : outcome->stopped ? ExitCode::stopped : ExitCode::failed);
}

}  // namespace

void add_coordinator(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("coordinator", "Coordinate a job whose workers join over the network");
  command->footer(
      "Example:\n  planaria coordinator JOB.toml --listen 10.0.0.1:7070 --out runs/big\n\n"
      "Other addresses than loopback need security.join_token and TLS in the job, or security.insecure = true\n"
      "(docs/OPERATING.md, \"Several machines\").\n"
      "A coordinator that is started again with the same --out goes on where it was.");
  auto arguments = std::make_shared<CoordinatorArguments>();
  add_job_arguments(*command, arguments->job);
  add_log_arguments(*command, arguments->log);
  command->add_option("--listen", arguments->listen,
                      "address or address:port of the control plane; default the job's, on loopback");
  command->add_option("--out", arguments->output, "directory of the job's files")->capture_default_str();
  command->callback([arguments, &code] { code = run(*arguments); });
}

}  // namespace planaria

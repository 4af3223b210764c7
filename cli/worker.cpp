#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cli/agent_command.hpp"
#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "common/config.hpp"
#include "proto/device_choice.hpp"
#include "proto/job_config.hpp"

namespace planaria {
namespace {

struct WorkerArguments {
  JobArguments job;
  AgentArguments agent;
  std::string precision;  // empty: the job's
};

Result<WorkerOptions> prepare(const WorkerArguments& arguments) {
  PLANARIA_ASSIGN(WorkerOptions options, agent_options(arguments.agent));
  if (arguments.job.file.empty() && !arguments.job.assignments.empty()) {
    return Error(ErrorCode::invalid_argument,
                 "--set changes keys of a job file: without JOB the job comes from the coordinator as it is");
  }
  if (!arguments.job.file.empty()) {
    PLANARIA_ASSIGN(options.job, load_job(arguments.job.file, arguments.job.assignments, process_environment()));
  }
  if (!arguments.precision.empty()) {
    PLANARIA_ASSIGN(options.precision, parse_precision(arguments.precision));
  }
  return options;
}

}  // namespace

void add_worker(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("worker", "Train for a coordinator");
  command->footer(
      "Examples:\n  planaria worker --join 10.0.0.1:7070\n  planaria worker JOB.toml --join 10.0.0.1:7070 --threads "
      "8\n\n"
      "Without JOB the job comes from the coordinator; the data must be on this machine (--data), and weights\n"
      "that the job starts from, too (--pretrained). SIGTERM drains\n"
      "the worker: it leaves at a step boundary, when nobody needs what it holds.");
  auto arguments = std::make_shared<WorkerArguments>();
  WorkerOptions& options = arguments->agent.options;
  command->add_option("JOB", arguments->job.file, "job file (TOML)");
  command->add_option("--set", arguments->job.assignments, "override a key: section.key=value; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  add_agent_arguments(*command, arguments->agent);
  command->add_option("--out", options.out_directory, "directory of the worker's files")->capture_default_str();
  command->add_option("--data", options.data_path, "where this machine has the data, when not where the job says");
  command->add_option("--tokenizer-file", options.tokenizer_file, "the same of the tokenizer's file");
  command->add_option("--pretrained", options.pretrained, "and of the directory of pretrained weights");
  command->add_option("--threads", options.threads, "compute threads; default the job's")
      ->transform(whole_number(0, 1024));
  command->add_option("--device", options.device, kDeviceHelp);
  command
      ->add_option("--device-share", options.device_share,
                   "workers that compute on that GPU, with this one: each reckons with its part of the GPU's memory")
      ->capture_default_str()
      ->transform(whole_number(1, 1024));
  command->add_option("--precision", arguments->precision, kPrecisionHelp);
  command->add_option("--memory-mb", options.memory_mb, "MiB that training may use; default the job's")
      ->transform(whole_number(0, UINT32_MAX));
  command->add_option("--nic", options.nic, "class of this machine's network: for the planner");
  command->add_option("--keeper", options.keeper_socket, "socket of this host's keeper; default none");
  command->callback([arguments, &code] { code = run_agent(arguments->agent, prepare(*arguments)); });
}

}  // namespace planaria

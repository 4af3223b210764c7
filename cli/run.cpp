#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <numeric>
#include <optional>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/local_job.hpp"
#include "cli/stop_signal.hpp"
#include "common/config.hpp"
#include "proto/job_config.hpp"

namespace planaria {
namespace {

struct RunArguments {
  JobArguments job;
  std::optional<std::uint32_t> workers;
  std::uint32_t hosts = 0;
  std::optional<std::string> layout, device, precision;
  std::optional<std::uint64_t> steps, seed;
  std::string scenario, output, resume;
  bool as_json = false;
  bool quiet = false;
};

std::string fresh_directory(const JobSpec& job) {
  const auto now = std::chrono::system_clock::now();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
  return fmt::format("runs/{}-{}", job.name, seconds);
}

void print_summary(const nlohmann::json& summary, const std::string& output) {
  const auto value = [&](const char* key) { return summary[key].is_null() ? std::string("–") : summary[key].dump(); };
  const std::string time = summary["wall_s"].is_number() ? fmt::format(" in {:.1f} s", summary["wall_s"].get<double>())
                                                         : " in an earlier run";
  fmt::print("{}: {} steps{}, loss {}, validation loss {}\n", summary["status"].get<std::string>(),
             value("steps_committed"), time, value("final_loss"), value("final_val_loss"));
  fmt::print("weights {}\n", summary["weights_hash"].is_string() ? summary["weights_hash"].get<std::string>() : "–");
  fmt::print("faults fired {} of {}, views {}, micro-batches computed {} ({} of them again)\n",
             summary["faults_fired"].size(), value("faults_requested"), value("views"), value("microbatches_computed"),
             summary["ledger"]["repeated"].dump());
  fmt::print("results in {}\n", output);
}

ExitCode exit_code_of_summary(const nlohmann::json& summary) {
  if (summary["status"] == "stopped") return ExitCode::stopped;
  if (summary["status"] != "finished") return ExitCode::failed;
  return summary["result_saved"].get<bool>() ? ExitCode::ok : ExitCode::unavailable;
}

int run(const RunArguments& arguments) {
  std::vector<std::string> assignments = arguments.job.assignments;
  if (arguments.layout) {
    const auto depths = pipeline_depths(*arguments.layout);
    if (!depths) return fail(depths.error().within("--layout"));
    assignments.push_back(fmt::format("cluster.layout={}", *arguments.layout));
    if (!arguments.workers) {
      assignments.push_back(fmt::format("cluster.workers={}", std::accumulate(depths->begin(), depths->end(), 0U)));
    }
  }
  if (arguments.workers) assignments.push_back(fmt::format("cluster.workers={}", *arguments.workers));
  if (arguments.device) assignments.push_back(fmt::format("cluster.device={}", *arguments.device));
  if (arguments.precision) assignments.push_back(fmt::format("cluster.precision={}", *arguments.precision));
  if (arguments.steps) assignments.push_back(fmt::format("train.steps={}", *arguments.steps));
  if (arguments.seed) assignments.push_back(fmt::format("train.seed={}", *arguments.seed));
  const auto job = load_job(arguments.job.file, assignments, process_environment());
  if (!job) return fail(job.error());
  LocalJobOptions options;
  if (!arguments.scenario.empty()) {
    auto scenario = load_scenario(arguments.scenario);
    if (!scenario) return fail(scenario.error());
    options.scenario = std::move(*scenario);
    for (const std::string& idle :
         never_strike(options.scenario, job->cluster.workers, arguments.hosts, job->train.steps)) {
      fmt::print(stderr, "planaria: {}: {}\n", arguments.scenario, idle);
    }
  }
  options.job_file = arguments.job.file;
  options.assignments = assignments;
  options.output = arguments.output.empty() ? fresh_directory(*job) : arguments.output;
  options.resume = arguments.resume;
  options.hosts = arguments.hosts;
  options.show = !arguments.quiet;
  watch_stop_signals();
  const auto summary = run_local_job(*job, options);
  if (!summary) return fail(summary.error());
  if (arguments.as_json) {
    fmt::print("{}\n", summary->dump());
  } else {
    print_summary(*summary, options.output);
  }
  const ExitCode code = exit_code_of_summary(*summary);
  if (code != ExitCode::ok) fmt::print(stderr, "planaria: {}\n", (*summary)["reason"].get<std::string>());
  return static_cast<int>(code);
}

}  // namespace

void add_job_arguments(CLI::App& command, JobArguments& arguments) {
  command.add_option("JOB", arguments.file, "job file (TOML)")->required();
  command.add_option("--set", arguments.assignments, "override a key: section.key=value; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
}

void add_run(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("run", "Train a job on this machine: a coordinator and workers as processes");
  command->footer(
      "Examples:\n  planaria run examples/quickstart.toml\n  planaria run JOB.toml --workers 4 --steps 100 --json\n"
      "  planaria run JOB.toml --scenario chaos/scenarios/quickstart.toml --out runs/disturbed");
  auto arguments = std::make_shared<RunArguments>();
  add_job_arguments(*command, arguments->job);
  command->add_option("--layout", arguments->layout,
                      "stages of each pipeline, like 2+1 (cluster.layout); as many workers unless --workers says more");
  command->add_option("--workers", arguments->workers, "worker processes (cluster.workers)")
      ->transform(whole_number(1, 1 << 16));
  command
      ->add_option("--hosts", arguments->hosts,
                   "as if on so many machines: workers in turns, each machine with a keeper; default one without")
      ->transform(whole_number(0, 1 << 16));
  command->add_option("--device", arguments->device, kDeviceHelp);
  command->add_option("--precision", arguments->precision, kPrecisionHelp);
  command->add_option("--steps", arguments->steps, "steps (train.steps)")->transform(whole_number(1, INT64_MAX));
  command->add_option("--seed", arguments->seed, "seed (train.seed)")->transform(whole_number(0, INT64_MAX));
  command->add_option("--scenario", arguments->scenario, "faults that strike the run (TOML)");
  command->add_option("--out", arguments->output, "directory of the run's files; default runs/NAME-TIME");
  command->add_option("--resume", arguments->resume, "go on from the newest sound checkpoint of this run's directory");
  command->add_flag("--json", arguments->as_json, "the last line of standard output is one JSON object");
  command->add_flag("--quiet", arguments->quiet, "no live view");
  command->callback([arguments, &code] { code = run(*arguments); });
}

}  // namespace planaria

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>

#include "chaos/faults/random_scenario.hpp"
#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/local_job.hpp"
#include "cli/stop_signal.hpp"
#include "common/config.hpp"
#include "common/file.hpp"
#include "proto/job_config.hpp"

namespace planaria {
namespace {

using nlohmann::json;

struct ChaosArguments {
  JobArguments job;
  std::uint64_t runs = 10;
  std::uint64_t first_seed = 1;
  std::uint32_t workers = 4;
  std::uint32_t hosts = 0;
  std::vector<std::string> layouts;
  bool both_optimizers = false;
  std::string output = "runs/chaos";
  bool keep = false;
};

std::string describe_variant(const ChaosArguments& arguments, const JobSpec& job) {
  std::string text;
  if (!arguments.layouts.empty()) text += fmt::format("layout {:<4} ", job.cluster.layout);
  if (arguments.both_optimizers) text += job.optimizer.shard ? "sharded    " : "replicated ";
  return text;
}

// What is wrong with a disturbed run, or nothing.
std::vector<std::string> complaints(const JobSpec& job, const json& run, const json& reference) {
  std::vector<std::string> found;
  const auto expect = [&](bool holds, std::string what) {
    if (!holds) found.push_back(std::move(what));
  };
  const std::uint64_t steps = job.train.steps;
  expect(run["status"] == "finished", "it ended as " + run["status"].dump());
  expect(run["weights_hash"] == reference["weights_hash"],
         "weights " + run["weights_hash"].dump() + " instead of " + reference["weights_hash"].dump());
  expect(run["final_loss"] == reference["final_loss"] && run["final_val_loss"] == reference["final_val_loss"],
         "its losses differ from the undisturbed run's");
  expect(run["faults_fired"].size() == run["faults_requested"].get<std::size_t>(),
         fmt::format("only {} of {} faults fired", run["faults_fired"].size(),
                     run["faults_requested"].get<std::size_t>()));
  expect(run["sequences_used"] == steps * job.sequences_per_step(),
         "sequences_used is " + run["sequences_used"].dump());
  expect(run["ledger"]["missing"] == 0, run["ledger"]["missing"].dump() + " micro-batches stand in no ledger");
  const auto computed = run["microbatches_computed"].get<std::uint64_t>();
  const auto repeated = run["ledger"]["repeated"].get<std::uint64_t>();
  expect(computed == steps * job.batch.micro_batches + repeated, "the ledgers don't add up");
  std::uint64_t lost = 0;
  bool rolled_back = false;  // whole steps are computed again then
  for (const json& recovery : run["recoveries"]) {
    lost += recovery["lost_slots"].get<std::uint64_t>();
    rolled_back = rolled_back || recovery["tier"].get<std::uint32_t>() > 0;
  }
  expect(rolled_back || repeated <= lost * job.micro_batches_per_slot(),
         fmt::format("{} micro-batches were computed again, but only {} slots were lost", repeated, lost));
  return found;
}

Result<json> undisturbed(const JobSpec& job, LocalJobOptions options, const std::string& output) {
  options.assignments.emplace_back("cluster.workers=1");
  options.output = output;
  JobSpec alone = job;
  alone.cluster.workers = 1;
  return run_local_job(alone, options);
}

// Empties a directory of earlier campaigns, and no other.
Status empty_directory(const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path marker = fs::path(path) / "chaos-campaign";
  std::error_code error;
  const bool filled = fs::exists(path, error) && !(fs::is_directory(path, error) && fs::is_empty(path, error));
  if (filled && !fs::exists(marker, error)) {
    return Error(ErrorCode::invalid_argument,
                 path + " holds something else than earlier campaigns, and would be emptied: give another --out");
  }
  PLANARIA_TRY(remove_tree(posix_file_system(), path));
  PLANARIA_TRY(posix_file_system().make_directories(path));
  return write_file_atomically(posix_file_system(), marker.string(),
                               std::string_view("planaria chaos may empty this directory\n"));
}

// One disturbed run, with its scenario beside its files.
Result<json> run_scenario(const JobSpec& job, const LocalJobOptions& options) {
  PLANARIA_TRY(posix_file_system().make_directories(options.output));
  PLANARIA_TRY(write_file_atomically(posix_file_system(), join_path(options.output, "scenario.toml"),
                                     std::string_view(scenario_to_toml(options.scenario))));
  return run_local_job(job, options);
}

// The seed's own variant of the job: layouts in turn, and sharded or not.
std::vector<std::string> variant(const ChaosArguments& arguments, std::uint64_t seed) {
  std::vector<std::string> assignments = arguments.job.assignments;
  const std::size_t count = std::max<std::size_t>(arguments.layouts.size(), 1);
  std::uint32_t workers = arguments.workers;
  if (!arguments.layouts.empty()) {
    const std::string& layout = arguments.layouts[seed % count];
    assignments.push_back("cluster.layout=" + layout);
    // As many as have a place in the pipelines, two at least: somebody must survive.
    const auto depths = pipeline_depths(layout);
    const std::uint32_t places = depths ? std::accumulate(depths->begin(), depths->end(), 0U) : workers;
    workers = std::max(places, 2U);
  }
  if (arguments.both_optimizers) {
    assignments.push_back(seed / count % 2 == 0 ? "optimizer.shard=false" : "optimizer.shard=true");
  }
  assignments.push_back(fmt::format("cluster.workers={}", workers));
  return assignments;
}

int campaign(const ChaosArguments& arguments) {
  std::vector<std::string> assignments = arguments.job.assignments;
  assignments.push_back(fmt::format("cluster.workers={}", arguments.workers));
  const auto job = load_job(arguments.job.file, assignments, process_environment());
  if (!job) return fail(job.error());
  if (job->train.steps < 20) {
    return fail(Error(ErrorCode::invalid_argument, "a campaign needs train.steps >= 20"));
  }
  watch_stop_signals();
  LocalJobOptions options;
  options.job_file = arguments.job.file;
  options.assignments = assignments;
  options.show = false;
  if (const Status emptied = empty_directory(arguments.output); !emptied) return fail(emptied.error());
  const auto reference = undisturbed(*job, options, arguments.output + "/undisturbed");
  if (!reference) return fail(reference.error());
  if ((*reference)["status"] != "finished") {
    return fail(Error(ErrorCode::internal, "the undisturbed run ended as " + (*reference)["status"].dump() + ": " +
                                               (*reference)["reason"].get<std::string>()));
  }
  fmt::print("undisturbed  one worker, {:.1f} s, weights {}\n", (*reference)["wall_s"].get<double>(),
             (*reference)["weights_hash"].get<std::string>());

  std::uint64_t ended = 0;
  std::uint64_t failed = 0;
  for (std::uint64_t seed = arguments.first_seed; seed < arguments.first_seed + arguments.runs && !stop_requested();
       ++seed) {
    options.assignments = variant(arguments, seed);
    const auto varied = load_job(arguments.job.file, options.assignments, process_environment());
    if (!varied) return fail(varied.error());
    RandomScenarioOptions drawn{seed, varied->train.steps, varied->cluster.workers, 0};
    drawn.stop_s = varied->cluster.lease_ms / 1000.0 + 1.0;
    drawn.hosts = options.hosts = arguments.hosts;
    options.scenario = draw_scenario(drawn);
    options.output = fmt::format("{}/seed-{}", arguments.output, seed);
    const auto run = run_scenario(*varied, options);
    if (stop_requested()) break;  // it didn't end on its own
    ++ended;
    const std::vector<std::string> wrong =
        run ? complaints(*job, *run, *reference) : std::vector<std::string>{run.error().message()};
    if (wrong.empty()) {
      fmt::print("seed {:<6} {}same bits, {:.1f} s, {} faults, {} views, {} micro-batches again\n", seed,
                 describe_variant(arguments, *varied), (*run)["wall_s"].get<double>(), (*run)["faults_fired"].size(),
                 (*run)["views"].get<int>(), (*run)["ledger"]["repeated"].get<int>());
      if (!arguments.keep) {
        if (const Status removed = remove_tree(posix_file_system(), options.output); !removed)
          return fail(removed.error());
      }
    } else {
      ++failed;
      fmt::print("seed {:<6} FAILED; see {}\n", seed, options.output);
      for (const std::string& what : wrong) fmt::print("  {}\n", what);
    }
    std::fflush(stdout);
  }
  fmt::print("{} runs, {} failed\n", ended, failed);
  if (failed == 0 && ended < arguments.runs) return static_cast<int>(ExitCode::stopped);
  return static_cast<int>(failed == 0 ? ExitCode::ok : ExitCode::failed);
}

}  // namespace

void add_chaos(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("chaos", "Run a job under random faults, many times, and compare the bits");
  command->footer(
      "Example:\n  planaria chaos tests/jobs/tiny.toml --runs 20 --first-seed 1\n\n"
      "Each seed draws kills in different phases, of two at once and of one that moves state, a stop, a drain, joins,\n"
      "a slow worker and a kill of the coordinator; with --hosts also of a keeper and of a host, and damage to what a\n"
      "keeper holds. These are real processes: the seed fixes the faults, not the machine's scheduling.");
  auto arguments = std::make_shared<ChaosArguments>();
  add_job_arguments(*command, arguments->job);
  command->add_option("--runs", arguments->runs, "how many")
      ->capture_default_str()
      ->transform(whole_number(1, 1'000'000));
  command->add_option("--first-seed", arguments->first_seed, "seed of the first")
      ->capture_default_str()
      ->transform(whole_number(0, INT64_MAX));
  command->add_option("--workers", arguments->workers, "started first, where no layouts are given")
      ->capture_default_str()
      ->transform(whole_number(2, 1024));
  command
      ->add_option("--hosts", arguments->hosts,
                   "with a keeper each, on which workers are in turn: keepers and a host die as well")
      ->transform(whole_number(0, 1024));
  command->add_option("--layouts", arguments->layouts, "stages of each pipeline, one after another: 1,2+1,2+2")
      ->delimiter(',');
  command->add_flag("--both-optimizers", arguments->both_optimizers, "with a replicated and a sharded one in turn");
  command->add_option("--out", arguments->output, "directory for the runs; it is emptied first")->capture_default_str();
  command->add_flag("--keep", arguments->keep, "keep the files of good runs too");
  command->callback([arguments, &code] { code = campaign(*arguments); });
}

}  // namespace planaria

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/plan_picture.hpp"
#include "coordinator/core/layout_planning.hpp"
#include "coordinator/planner/cluster_file.hpp"
#include "coordinator/planner/planner.hpp"
#include "proto/job_config.hpp"

namespace planaria {
namespace {

struct PlanArguments {
  JobArguments job;
  std::string cluster;
  std::string layout;
  std::string shard;
  bool as_json = false;
};

Result<PlanOptions> options_of(const JobSpec& job, std::size_t workers, const PlanArguments& arguments) {
  PlanOptions options = plan_options(job);
  if (!arguments.shard.empty()) options.shard_optimizer = arguments.shard == "true";
  options.losses_per_s = job.cluster.losses_per_s(workers);
  if (arguments.layout.empty()) return options;
  const auto depths = pipeline_depths(arguments.layout);
  if (!depths) return depths.error().within("--layout");
  options.forced_depths = *depths;
  return options;
}

int plan(const PlanArguments& arguments) {
  const auto job = load_job(arguments.job.file, arguments.job.assignments, process_environment());
  if (!job) return fail(job.error());
  const auto file = load_cluster(arguments.cluster);
  if (!file) return fail(file.error());
  const auto options = options_of(*job, file->cluster.workers.size(), arguments);
  if (!options) return fail(options.error());
  const StateMap map(job->model, job->train.tile_elements);
  const ModelProfile model = model_profile(*job, map, file->flops_per_s);
  const auto planned = plan_layout(model, file->cluster, *options);
  if (!planned) return fail(planned.error());
  if (arguments.as_json) {
    fmt::print("{}\n", plan_json(*planned, model, file->cluster).dump());
  } else {
    fmt::print("{}", plan_picture(*planned, model, file->cluster));
  }
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("plan", "Show the layout that a job would train in on a cluster, and why");
  command->footer(
      "Examples:\n  planaria plan examples/gpt_11m.toml --cluster examples/cluster.toml\n"
      "  planaria plan JOB.toml --cluster CLUSTER.toml --layout 2+1 --json\n\n"
      "Nothing is started. Cluster files: docs/OPERATING.md, \"Planning\".");
  auto arguments = std::make_shared<PlanArguments>();
  add_job_arguments(*command, arguments->job);
  command->add_option("--cluster", arguments->cluster, "TOML file of workers and links")->required();
  command->add_option("--layout", arguments->layout, "force the stages of each pipeline: 1, 2, 2+1, …");
  command
      ->add_option("--shard-optimizer", arguments->shard,
                   "optimizer state exists once (true) or with every owner; as the job says unless given")
      ->check(CLI::IsMember({"true", "false"}));
  command->add_flag("--json", arguments->as_json, "one JSON object");
  command->callback([arguments, &code] { code = plan(*arguments); });
}

}  // namespace planaria

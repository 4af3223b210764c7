#include <fmt/format.h>

#include <unistd.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "chaos/sim/campaign.hpp"
#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/simulate_fleet.hpp"

namespace planaria {
namespace {

// A cell of the table without a fault tells of a gap only where so many seeds were drawn.
constexpr std::uint64_t kSeedsForCoverage = 10'000;
constexpr std::uint32_t kMaxSimulatedWorkers = 4096;

struct SimulateOptions {
  sim::CampaignOptions campaign;
  std::uint32_t trace = 120;
};

int simulate(SimulateOptions& all) {
  sim::CampaignOptions& options = all.campaign;
  const bool terminal = isatty(STDERR_FILENO) == 1;
  options.progress = [&](std::uint64_t done) {
    if (terminal) fmt::print(stderr, "\r{} of {} seeds", done, options.seeds);
  };
  options.failed = [](std::uint64_t seed, const sim::Violation& violation) {
    fmt::print(stderr, "seed {} fails: invariant {}: {}; looking for the fewest faults that do\n", seed,
               violation.invariant, violation.detail);
  };
  const sim::CampaignResult result = sim::run_campaign(options);
  if (terminal) fmt::print(stderr, "\r\033[K");
  if (result.first_failure) {
    fmt::print("{}\n", result.first_failure->describe(all.trace));
    fmt::print("seed {} fails; {} seeds passed before it was found\n", result.first_failure->seed, result.passed);
    return static_cast<int>(ExitCode::failed);
  }
  fmt::print("{}\n", result.table());
  fmt::print(
      "{} finished, {} wait for workers that never came, {} had more broken than anybody could notice, "
      "{} views, {} events\n",
      result.finished, result.waiting, result.beyond, result.views, result.events);
  if (options.seeds >= kSeedsForCoverage) {
    for (const std::string& cell : result.empty_cells()) fmt::print("nothing struck: {}\n", cell);
  }
  fmt::print("{} seeds passed\n", result.passed);
  return 0;
}

}  // namespace

void add_simulate(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("simulate", "Run the protocol under virtual time with faults drawn from seeds");
  command->footer(
      "Examples:\n  planaria simulate --seeds 10000\n  planaria simulate --first-seed 4711 --seeds 1\n"
      "  planaria simulate --policy all --fleet 1000 --hours 1 --preemptions 0.05 --csv results.csv");
  auto options = std::make_shared<SimulateOptions>();
  command->add_option("--seeds", options->campaign.seeds, "how many")
      ->capture_default_str()
      ->transform(whole_number(1, 1'000'000'000));
  command->add_option("--first-seed", options->campaign.first_seed, "the first one")
      ->capture_default_str()
      ->transform(whole_number(0, INT64_MAX));
  command->add_option("--threads", options->campaign.threads, "0: as many as the machine has")
      ->capture_default_str()
      ->transform(whole_number(0, 1024));
  sim::OptionLimits& limits = options->campaign.limits;
  command->add_option("--workers", limits.max_workers, "at most this many a run")
      ->capture_default_str()
      ->transform(whole_number(limits.min_workers, kMaxSimulatedWorkers));
  command->add_option("--min-workers", limits.min_workers, "at least this many a run")
      ->capture_default_str()
      ->transform(whole_number(limits.min_workers, kMaxSimulatedWorkers));
  command->add_option("--steps", limits.min_steps, "at least this many a run")
      ->capture_default_str()
      ->transform(whole_number(2, 1000));
  command->add_option("--trace", options->trace, "how many lines of a failed run to show")
      ->capture_default_str()
      ->transform(whole_number(0, 1'000'000));
  const FleetCommand fleet = add_fleet_options(*command);
  command->callback([options, fleet, &code] {
    sim::OptionLimits& drawn = options->campaign.limits;
    drawn.max_workers = std::max(drawn.max_workers, drawn.min_workers);
    code = *fleet.asked ? fleet.run() : simulate(*options);
  });
}

}  // namespace planaria

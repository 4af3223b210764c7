// Many seeds on several threads, and what to tell about them: a table of faults by phase, and for a failing seed the
// fewest of its faults that still fail, with the trace.
//
// Thread contract: run_campaign may be called from one thread at a time; it starts and joins its own.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

struct CampaignOptions {
  std::uint64_t first_seed = 1;
  std::uint64_t seeds = 1000;
  std::uint32_t threads = 0;  // 0: as many as the machine has
  bool stop_at_first = true;  // failing seed; later seeds may have been run already
  MutationSet mutations;      // tests only
  OptionLimits limits;
  // Called from any of the threads, one at a time: now and then, and for each seed that fails.
  std::function<void(std::uint64_t done)> progress;
  std::function<void(std::uint64_t seed, const Violation& violation)> failed;
};

struct Failure {
  std::uint64_t seed = 0;
  SimOptions options;  // with the fewest faults that still fail
  std::size_t faults_drawn = 0;
  Violation violation;  // of the shrunk run
  std::deque<Trace::Line> trace;

  // Seed, options, violation, trace: what to paste into a report.
  [[nodiscard]] std::string describe(std::size_t trace_lines = 120) const;
};

struct CampaignResult {
  std::uint64_t passed = 0;
  std::uint64_t finished = 0;                // of these: reached the end, or
  std::uint64_t waiting = 0;                 // wait for workers that never came, with a reason
  std::uint64_t beyond = 0;                  // had more values flipped than anybody could notice
  std::vector<std::uint64_t> failing_seeds;  // in order
  std::optional<Failure> first_failure;
  FaultTable faults{};
  std::map<std::uint32_t, std::uint64_t> tiers;
  std::uint64_t events = 0;
  std::uint64_t views = 0;

  [[nodiscard]] std::string table() const;
  // Cells of the table in which nothing struck.
  [[nodiscard]] std::vector<std::string> empty_cells() const;
};

[[nodiscard]] CampaignResult run_campaign(const CampaignOptions& options);

// One seed, with a trace if asked for.
[[nodiscard]] RunResult run_seed(const SimOptions& options, std::size_t trace_lines = 0);

// Leaves out faults, one by one, as long as the run still fails.
[[nodiscard]] Failure shrink(const SimOptions& failing);

}  // namespace planaria::sim

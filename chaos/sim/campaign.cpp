#include "chaos/sim/campaign.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace planaria::sim {

RunResult run_seed(const SimOptions& options, std::size_t trace_lines) {
  Simulation simulation(options, trace_lines);
  return simulation.run();
}

CampaignResult run_campaign(const CampaignOptions& options) {
  CampaignResult result;
  std::mutex mutex;  // guards result, done and the callback
  std::uint64_t done = 0;
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> stop{false};
  const auto work = [&] {
    for (;;) {
      const std::uint64_t index = next.fetch_add(1);
      if (index >= options.seeds || stop.load()) return;
      SimOptions run = draw_options(options.first_seed + index, options.limits);
      run.mutations = options.mutations;
      const RunResult outcome = run_seed(run);
      const std::lock_guard lock(mutex);
      if (outcome.violation) {
        result.failing_seeds.push_back(run.seed);
        if (options.failed) options.failed(run.seed, *outcome.violation);
        if (options.stop_at_first) stop.store(true);
      } else {
        ++result.passed;
        std::uint64_t& ending = outcome.ending == Ending::waiting          ? result.waiting
                                : outcome.ending == Ending::beyond_promise ? result.beyond
                                                                           : result.finished;
        ++ending;
      }
      for (std::size_t kind = 0; kind < kFaultKinds; ++kind) {
        for (std::size_t phase = 0; phase < kSimPhases; ++phase)
          result.faults[kind][phase] += outcome.faults[kind][phase];
      }
      for (const auto& [tier, count] : outcome.tiers) result.tiers[tier] += count;
      result.events += outcome.events;
      result.views += outcome.views;
      if (++done % 64 == 0 && options.progress) options.progress(done);
    }
  };
  const std::uint32_t threads =
      options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::thread> pool;
  for (std::uint32_t i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  std::ranges::sort(result.failing_seeds);
  if (!result.failing_seeds.empty()) {
    SimOptions failing = draw_options(result.failing_seeds.front(), options.limits);
    failing.mutations = options.mutations;
    result.first_failure = shrink(failing);
  }
  return result;
}

Failure shrink(const SimOptions& failing) {
  Failure failure;
  failure.seed = failing.seed;
  failure.options = failing;
  failure.faults_drawn = failing.faults.size();
  const auto first = run_seed(failing).violation;
  bool smaller = first.has_value();
  while (smaller) {
    smaller = false;
    for (std::size_t i = 0; i < failure.options.faults.size(); ++i) {
      SimOptions candidate = failure.options;
      candidate.faults.erase(candidate.faults.begin() + static_cast<std::ptrdiff_t>(i));
      const auto violation = run_seed(candidate).violation;
      if (!violation || violation->invariant != first->invariant) continue;
      failure.options = std::move(candidate);
      smaller = true;
      break;
    }
  }
  constexpr std::size_t kTraceLines = 20'000;
  RunResult last = run_seed(failure.options, kTraceLines);
  if (last.violation) failure.violation = *last.violation;
  failure.trace = std::move(last.trace);
  return failure;
}

std::string Failure::describe(std::size_t trace_lines) const {
  std::string text =
      fmt::format("{}\n{} of its {} faults suffice.\n", options.describe(), options.faults.size(), faults_drawn);
  const std::size_t skip = trace.size() > trace_lines ? trace.size() - trace_lines : 0;
  if (skip > 0) text += "  ...\n";
  for (std::size_t i = skip; i < trace.size(); ++i) {
    text += fmt::format("  {:12.3f} ms  {}\n", static_cast<double>(trace[i].at.ns) / 1e6, trace[i].text);
  }
  text += fmt::format("VIOLATED at {:.3f} ms: invariant {}\n  {}\n", static_cast<double>(violation.at.ns) / 1e6,
                      violation.invariant, violation.detail);
  return text;
}

std::string CampaignResult::table() const {
  std::string text = fmt::format("{:<20}", "faults by phase");
  for (std::size_t phase = 0; phase < kSimPhases; ++phase)
    text += fmt::format("{:>9}", to_string(static_cast<SimPhase>(phase)));
  text += "\n";
  for (std::size_t kind = 0; kind < kFaultKinds; ++kind) {
    text += fmt::format("{:<20}", to_string(static_cast<FaultKind>(kind)));
    for (const std::uint32_t count : faults[kind]) text += fmt::format("{:>9}", count);
    text += "\n";
  }
  return text;
}

std::vector<std::string> CampaignResult::empty_cells() const {
  std::vector<std::string> cells;
  for (std::size_t kind = 0; kind < kFaultKinds; ++kind) {
    for (std::size_t phase = 0; phase < kSimPhases; ++phase) {
      if (faults[kind][phase] == 0) {
        cells.push_back(
            fmt::format("{} in {}", to_string(static_cast<FaultKind>(kind)), to_string(static_cast<SimPhase>(phase))));
      }
    }
  }
  return cells;
}

}  // namespace planaria::sim

#include "chaos/faults/random_scenario.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "common/philox.hpp"

namespace planaria {
namespace {

constexpr std::array kPhases = {Phase::forward, Phase::backward, Phase::reduce,
                                Phase::gate,    Phase::update,   Phase::commit};

template <class T>
void shuffle(std::vector<T>& items, PhiloxStream& random) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}

}  // namespace

Scenario draw_scenario(const RandomScenarioOptions& options) {
  PhiloxStream random(philox_key(options.seed, RandomPurpose::chaos));
  std::vector<Phase> phases(kPhases.begin(), kPhases.end());
  shuffle(phases, random);
  std::vector<std::uint32_t> first(options.workers);
  std::iota(first.begin(), first.end(), 0U);
  shuffle(first, random);

  // A step in the given share of the run, a little to either side.
  const auto around = [&](double share) {
    const double wobble = (random.unit_double() - 0.5) * 0.1;
    const double step = (share + wobble) * static_cast<double>(options.steps);
    return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(step), 2, options.steps - 1);
  };
  std::size_t next_phase = 0;
  const auto fault = [&](FaultKind kind, double share) {
    Fault drawn;
    drawn.kind = kind;
    drawn.at_step = around(share);
    drawn.phase = phases[next_phase++ % phases.size()];
    return drawn;
  };

  Scenario scenario;
  // The joiners come first: they take over from those that go.
  const std::uint32_t joiners = options.workers >= 4 ? 2 : 6 - options.workers;
  for (std::uint32_t i = 0; i < joiners; ++i) scenario.faults.push_back(fault(FaultKind::join, 0.08));
  // Two of those who started, then a joiner; where few start, joiners stand in for those who are stopped and drained.
  std::uint32_t next_joiner = options.workers;
  const auto starter = [&](std::size_t i) { return i < first.size() ? first[i] : next_joiner++; };
  const std::uint32_t stopped = first[first.size() > 2 ? 2 : 1];
  const std::vector<std::uint32_t> victims = {first[0], first.size() > 2 ? first[1] : next_joiner++, next_joiner++};
  const std::array<double, 3> shares = {0.2, 0.45, 0.8};
  next_phase = 0;
  for (std::size_t i = 0; i < victims.size(); ++i) {
    Fault kill = fault(FaultKind::kill, shares[i]);
    kill.worker = victims[i];
    scenario.faults.push_back(kill);
  }
  Fault stop = fault(FaultKind::stop, 0.33);
  stop.worker = stopped;
  stop.for_s = options.stop_s;
  scenario.faults.push_back(stop);
  Fault drain = fault(FaultKind::drain, 0.65);
  drain.worker = starter(3);
  scenario.faults.push_back(drain);
  Fault coordinator = fault(FaultKind::kill_coordinator, 0.15 + 0.7 * random.unit_double());
  coordinator.for_s = random.chance(0.5) ? 0 : 0.3;
  scenario.faults.push_back(coordinator);
  return scenario;
}

}  // namespace planaria

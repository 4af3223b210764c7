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
  std::size_t next_phase = 0;

  // A step in the given share of the run, a little to either side.
  const auto around = [&](double share) {
    const double wobble = (random.unit_double() - 0.5) * 0.1;
    const double step = (share + wobble) * static_cast<double>(options.steps);
    return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(step), 2, options.steps - 1);
  };
  Scenario scenario;
  const auto add = [&](FaultKind kind, double share, std::optional<std::uint32_t> worker) -> Fault& {
    Fault drawn;
    drawn.kind = kind;
    drawn.at_step = around(share);
    drawn.phase = phases[next_phase++ % phases.size()];
    drawn.worker = worker;
    return scenario.faults.emplace_back(drawn);
  };

  // Everybody has a fate: those who started in any order, then the early joiners, who take over from those that go.
  std::vector<std::uint32_t> fates(options.workers);
  std::iota(fates.begin(), fates.end(), 0U);
  shuffle(fates, random);
  enum Fate : std::uint8_t { killed_first, stopped, killed, killed_with_it, drained, killed_last, slow_one, count_ };
  const std::size_t early = std::max<std::size_t>(count_, options.workers + 1U);
  while (fates.size() < early) {
    add(FaultKind::join, 0.08, std::nullopt);
    fates.push_back(static_cast<std::uint32_t>(fates.size()));
  }

  next_phase = 0;
  add(FaultKind::kill, 0.2, fates[killed_first]);
  const Fault two_at_once = add(FaultKind::kill, 0.45, fates[killed]);
  scenario.faults.push_back(two_at_once);
  scenario.faults.back().worker = fates[killed_with_it];
  const Phase last_phase = phases[next_phase++];

  // One more joins, and either it dies while it moves state, or another does.
  const auto newcomer = static_cast<std::uint32_t>(early);
  add(FaultKind::join, 0.38, std::nullopt);
  const bool newcomer_dies = random.chance(0.5);
  Fault& moving = add(FaultKind::kill, 0, newcomer_dies ? newcomer : fates[killed_last]);
  moving.at_step = 1;  // whenever it fetches: after a rollback that is for a step before it came
  moving.phase = Phase::fetch;
  if (!newcomer_dies) moving.observer = newcomer;
  add(FaultKind::kill, 0.8, newcomer_dies ? fates[killed_last] : newcomer).phase = last_phase;

  add(FaultKind::stop, 0.33, fates[stopped]).for_s = options.stop_s;
  add(FaultKind::drain, 0.65, fates[drained]);
  Fault& slow = add(FaultKind::slow, 0.25 + 0.3 * random.unit_double(), fates[slow_one]);
  slow.cpu_fraction = 0.3 + 0.5 * random.unit_double();
  slow.for_s = random.chance(0.5) ? 0 : 1.0;
  Fault& coordinator = add(FaultKind::kill_coordinator, 0.15 + 0.7 * random.unit_double(), std::nullopt);
  coordinator.for_s = random.chance(0.5) ? 0 : 0.3;
  if (options.hosts < 2) return scenario;

  // Seen by the worker that lives on; the host that is lost, after all other faults, is another one's.
  const auto on_host = [&](FaultKind kind, double share, std::uint32_t host) -> Fault& {
    Fault& fault = add(kind, share, std::nullopt);
    fault.host = host;
    fault.observer = fates[slow_one];
    return fault;
  };
  const auto any_host = [&] { return static_cast<std::uint32_t>(random.below(options.hosts)); };
  on_host(FaultKind::kill_keeper, 0.55, any_host()).for_s = 0.3;
  on_host(FaultKind::damage_fragment, 0.7, any_host()).how =
      static_cast<FragmentDamage>(random.below(static_cast<std::uint64_t>(FragmentDamage::count_)));
  const auto others = static_cast<std::uint32_t>(random.below(options.hosts - 1));
  const std::uint32_t lost = (fates[slow_one] + 1 + others) % options.hosts;
  on_host(FaultKind::kill_host, 0.95, lost).for_s = 0.3;
  return scenario;
}

}  // namespace planaria

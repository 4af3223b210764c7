#include "coordinator/core/state_fetches.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace planaria {
namespace {

// Runs of tiles that the same workers hold.
struct HeldRun {
  TileRange tiles;
  std::vector<WorkerId> holders;  // in order
};

std::vector<HeldRun> held_runs(const std::map<WorkerId, HeldTiles>& sources, bool parameters_only) {
  struct Border {
    std::uint32_t tile = 0;
    bool begins = false;
    WorkerId holder;
  };
  std::vector<Border> borders;
  for (const auto& [worker, held] : sources) {
    for (const TileRange run : (parameters_only ? held.parameters : held.state).runs()) {
      borders.push_back({run.begin, true, worker});
      borders.push_back({run.end, false, worker});
    }
  }
  std::ranges::sort(borders, {}, &Border::tile);
  std::vector<HeldRun> runs;
  std::set<WorkerId> holders;
  for (std::size_t at = 0; at < borders.size();) {
    const std::uint32_t tile = borders[at].tile;
    if (!runs.empty() && runs.back().tiles.end == runs.back().tiles.begin) runs.back().tiles.end = tile;
    for (; at < borders.size() && borders[at].tile == tile; ++at) {
      if (borders[at].begins) {
        holders.insert(borders[at].holder);
      } else {
        holders.erase(borders[at].holder);
      }
    }
    if (!holders.empty()) runs.push_back({{tile, tile}, {holders.begin(), holders.end()}});
  }
  return runs;
}

// Whom a worker asks of those who hold something: others than itself, not too many, and other ones than the next
// worker asks.
std::vector<WorkerId> some_of(const std::vector<WorkerId>& holders, WorkerId to) {
  constexpr std::size_t kMaxSources = 16;
  std::vector<WorkerId> some;
  for (std::size_t k = 0; k < holders.size() && some.size() < kMaxSources; ++k) {
    const WorkerId holder = holders[(to.value() * kMaxSources + k) % holders.size()];
    if (holder != to) some.push_back(holder);
  }
  std::ranges::sort(some);
  return some;
}

class Fetches {
 public:
  void all(WorkerId to, StateSource source, WorkerId from, const TileSet& tiles, bool parameters_only) {
    for (const TileRange run : tiles.runs()) fetches_.push_back({to, source, from, run, parameters_only});
  }

  // Tiles with the same holders go together, split evenly over those.
  void from_peers(WorkerId to, const TileSet& tiles, bool parameters_only, const std::vector<HeldRun>& runs) {
    std::map<std::vector<WorkerId>, TileSet> by_holders;
    for (const HeldRun& run : runs) {
      const TileSet common = tiles.common(run.tiles);
      if (common.empty()) continue;
      std::vector<WorkerId> holders = some_of(run.holders, to);
      if (!holders.empty()) by_holders[std::move(holders)].add(common);
    }
    for (const auto& [holders, held] : by_holders) {
      std::uint64_t before = 0;
      const std::uint64_t all = held.size();
      for (const TileRange run : held.runs()) {
        for (TileRange left = run; !left.empty();) {
          const std::uint64_t k = before * holders.size() / all;
          const std::uint64_t end = ((k + 1) * all + holders.size() - 1) / holders.size();  // of this holder's tiles
          const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(left.end - left.begin, end - before));
          fetches_.push_back({to, StateSource::peer, holders[k], {left.begin, left.begin + count}, parameters_only});
          left.begin += count;
          before += count;
        }
      }
    }
  }

  [[nodiscard]] std::span<const StateFetch> planned() const { return fetches_; }
  [[nodiscard]] std::vector<StateFetch> take() { return std::move(fetches_); }

 private:
  std::vector<StateFetch> fetches_;
};

}  // namespace

std::vector<StateFetch> plan_state_fetches(StateSource source, std::span<const StateNeed> needs,
                                           const std::map<WorkerId, HeldTiles>& sources) {
  Fetches fetches;
  if (source == StateSource::initialize) {
    for (const StateNeed& need : needs) {
      fetches.all(need.worker, source, need.worker, need.state, false);
      fetches.all(need.worker, source, need.worker, need.parameters, true);
    }
    return fetches.take();
  }
  const std::vector<HeldRun> states = held_runs(sources, false);
  const std::vector<HeldRun> parameters = held_runs(sources, true);
  std::map<WorkerId, HeldTiles> loads;  // what each reads of a checkpoint
  for (const StateNeed& need : needs) {
    if (need.state.empty() && need.parameters.empty()) continue;
    if (source == StateSource::checkpoint && sources.contains(need.worker)) {
      loads[need.worker].state.add(need.state);
      loads[need.worker].parameters.add(need.parameters);
      continue;
    }
    TileSet beside;  // in the memory of its host
    if (need.keeper && source == StateSource::peer) {
      if (const auto keeper = sources.find(*need.keeper); keeper != sources.end()) beside = keeper->second.state;
      fetches.all(need.worker, source, *need.keeper, need.parameters.common(beside), true);
      fetches.all(need.worker, source, *need.keeper, need.state.common(beside), false);
    }
    // First parameters: the step's work waits for them.
    fetches.from_peers(need.worker, need.parameters.without(beside), true, parameters);
    fetches.from_peers(need.worker, need.state.without(beside), false, states);
  }
  if (source != StateSource::checkpoint) return fetches.take();
  for (const StateFetch& fetch : fetches.planned()) {
    HeldTiles& load = loads[fetch.from];
    (fetch.parameters_only ? load.parameters : load.state).add(fetch.tiles);
  }
  for (const auto& [from, load] : loads) {
    fetches.all(from, source, from, load.state, false);
    fetches.all(from, source, from, load.parameters.without(load.state), true);
  }
  return fetches.take();
}

}  // namespace planaria

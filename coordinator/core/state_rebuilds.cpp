#include "coordinator/core/state_rebuilds.hpp"

#include <algorithm>

namespace planaria {
namespace {

// Sources that a fragment is made from.
std::size_t sources_needed(const Stripe& stripe) {
  std::size_t count = 0;
  for (std::uint32_t i = 0; i < stripe.data; ++i) count += stripe.is_zeros(i) ? 0 : 1;
  return count;
}

}  // namespace

void StateRebuilds::add_state(WorkerId holder, const TileSet& tiles) {
  holders_[holder].add(tiles);
  held_.add(tiles);
}

void StateRebuilds::add_fragment(WorkerId holder, const HeldFragment& held) {
  const bool sound = check_snapshot_layout({{held.layout}}, map_).ok() && held.fragment >= held.layout.data &&
                     held.fragment < held.layout.fragments.size();
  if (held.snapshot.step != stamp_ || !sound) return;
  Group& group = groups_.try_emplace({held.snapshot.layout, held.stripe}, Group{held.layout, {}}).first->second;
  if (group.layout == held.layout) group.parity[held.fragment].push_back(holder);
}

std::optional<StateRebuilds::Available> StateRebuilds::available(const Group& group) const {
  Available there;
  for (std::uint32_t i = 0; i < group.layout.data; ++i) {
    if (group.layout.is_zeros(i)) continue;
    const TileSet tiles(group.layout.fragments[i].tiles);
    for (const auto& [holder, held] : holders_) {
      if (held.contains(tiles)) there[i].push_back(holder);
    }
  }
  there.insert(group.parity.begin(), group.parity.end());
  if (there.size() < sources_needed(group.layout)) return std::nullopt;
  return there;
}

TileSet StateRebuilds::lost(const Group& group) const {
  TileSet tiles;
  for (std::uint32_t i = 0; i < group.layout.data; ++i) tiles.add(TileSet(group.layout.fragments[i].tiles));
  return tiles.without(held_);
}

TileSet StateRebuilds::possible() const {
  TileSet tiles;
  for (const auto& [key, group] : groups_) {
    if (const TileSet gone = lost(group); !gone.empty() && available(group)) tiles.add(gone);
  }
  return tiles;
}

std::vector<FragmentRebuild> StateRebuilds::plan(const std::map<WorkerId, TileSet>& needs) const {
  std::vector<FragmentRebuild> rebuilds;
  std::map<WorkerId, TileSet> open;
  for (const auto& [worker, tiles] : needs) open[worker] = tiles.without(held_);
  std::map<WorkerId, std::uint64_t> gives;  // bytes
  for (const auto& [key, group] : groups_) {
    if (lost(group).empty()) continue;
    const auto there = available(group);
    if (!there) continue;
    const Stripe& stripe = group.layout;
    for (std::uint32_t i = 0; i < stripe.data; ++i) {
      const TileSet fragment(stripe.fragments[i].tiles);
      for (auto& [worker, tiles] : open) {
        const TileSet made = tiles.common(fragment);
        if (made.empty()) continue;
        tiles.remove(made);
        // Of each fragment the holder that has given least, and then the fragments whose holders have.
        std::vector<std::pair<std::uint64_t, FragmentSource>> ranked;
        for (const auto& [index, holders] : *there) {
          const WorkerId least = *std::ranges::min_element(holders, {}, [&](WorkerId id) { return gives[id]; });
          ranked.push_back({gives[least], {least, index}});
        }
        std::ranges::stable_sort(ranked, {}, [](const auto& entry) { return entry.first; });
        ranked.resize(sources_needed(stripe));
        FragmentRebuild rebuild{worker, {stamp_, key.first}, key.second, i, stripe, {}, made.runs()};
        for (const auto& [given, source] : ranked) {
          rebuild.sources.push_back(source);
          gives[source.from] += kTensorsOfState * bytes_of(map_, made);
        }
        std::ranges::sort(rebuild.sources, {}, &FragmentSource::fragment);
        rebuilds.push_back(std::move(rebuild));
      }
    }
  }
  return rebuilds;
}

}  // namespace planaria

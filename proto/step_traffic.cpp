#include "proto/step_traffic.hpp"

#include <algorithm>
#include <vector>

#include "proto/duty.hpp"

namespace planaria {
namespace {

// Subtrees that a worker has once all its slots of the same blocks are folded: neighbouring ranges fold together.
std::size_t count_nodes(std::vector<SlotRange> slots) {
  std::ranges::sort(slots);
  std::size_t nodes = 0;
  SlotRange joined;
  for (const SlotRange range : slots) {
    if (!joined.empty() && joined.end == range.begin) {
      joined.end = range.end;
    } else {
      nodes += maximal_nodes(joined).size();
      joined = range;
    }
  }
  return nodes + maximal_nodes(joined).size();
}

// Micro-batches of the slots that pass a border, forward or backward.
std::uint64_t count_items(const StepItems& items, SlotRange slots, bool backward) {
  std::uint64_t count = 0;
  for (SlotItem item = items.first(slots, backward); item.slot < slots.end;
       item = items.next(item, slots.end, backward)) {
    ++count;
  }
  return count;
}

}  // namespace

std::map<WorkerId, StepTraffic> step_traffic(const StateMap& map, const ViewRecord& layout, const StepItems& items,
                                             std::uint64_t boundary_bytes) {
  std::map<WorkerId, StepTraffic> traffic;
  std::map<std::pair<WorkerId, BlockRange>, std::vector<SlotRange>> computed;
  for (const StageAssignment& stage : layout.stages) {
    if (!stage.work.empty()) computed[{stage.worker, stage.work.blocks}].push_back(stage.work.slots);
  }
  const Duties duties(map, layout.sharded, layout.stages, layout.shards);
  for (const Member& to : layout.members) {
    const TileSet owned = owned_by(layout.shards, to.worker);
    for (const auto& [by, slots] : computed) {
      const auto& [from, blocks] = by;
      if (from == to.worker) continue;
      const std::uint64_t bytes = count_nodes(slots) * bytes_of(map, owned.common(map.tiles_of(blocks)));
      if (bytes > 0) traffic[from].sums += bytes;
    }
    const Duty& duty = duties.of(to.worker);
    for (const Member& from : layout.members) {
      if (from.worker == to.worker) continue;
      const std::uint64_t reduced = bytes_of(map, owned_by(layout.shards, from.worker).common(duty.summed));
      const std::uint64_t parameters =
          bytes_of(map, sent_by(map, layout.shards, from.worker, duty.used.without(duty.made)));
      if (reduced > 0) traffic[from.worker].reduced += reduced;
      if (parameters > 0) traffic[from.worker].parameters += parameters;
    }
  }
  for (const StageAssignment& below : layout.stages) {
    for (const StageAssignment& above : layout.stages) {
      const SlotRange slots = below.work.slots.common(above.work.slots);
      const bool adjacent = below.work.blocks.end == above.work.blocks.begin;
      if (!adjacent || slots.empty() || below.worker == above.worker) continue;
      traffic[below.worker].boundaries += boundary_bytes * count_items(items, slots, false);
      traffic[above.worker].boundaries += boundary_bytes * count_items(items, slots, true);
    }
  }
  return traffic;
}

}  // namespace planaria

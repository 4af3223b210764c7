#include "proto/duty.hpp"

namespace planaria {
namespace {

TileRange moved(TileRange range, std::int64_t by) {
  const auto at = [by](std::uint32_t tile) { return static_cast<std::uint32_t>(tile + by); };
  return {at(range.begin), at(range.end)};
}

}  // namespace

Duty duty_of(const StateMap& map, bool sharded, std::span<const StageAssignment> stages,
             std::span<const ShardAssignment> shards, WorkerId worker) {
  Duty duty;
  duty.used = tiles_used(map, stages, worker);
  duty.kept = (sharded ? owned_by(shards, worker) : duty.used).common(map.tiles_with_state());
  duty.summed = duty.kept;
  const TileSet copies = tied_to(map, duty.kept);
  duty.summed.add(copies);
  duty.made = duty.kept;
  duty.made.add(copies);
  duty.made = duty.made.common(duty.used);
  return duty;
}

Duties::Duties(const StateMap& map, bool sharded, std::span<const StageAssignment> stages,
               std::span<const ShardAssignment> shards)
    : map_(map), sharded_(sharded) {
  for (const StageAssignment& stage : stages) shares_[stage.worker].stages.push_back(stage);
  for (const ShardAssignment& shard : shards) shares_[shard.owner].shards.push_back(shard);
}

const Duty& Duties::of(WorkerId worker) const {
  const auto [made, is_new] = made_.try_emplace(worker);
  const auto share = shares_.find(worker);
  if (is_new && share != shares_.end()) {
    made->second = duty_of(map_, sharded_, share->second.stages, share->second.shards, worker);
  }
  return made->second;
}

const TileSet& Duties::first_kept_by(WorkerId worker) const {
  if (sharded_) return of(worker).kept;  // each tile is kept once
  if (first_kept_.empty()) {
    TileSet seen;
    for (const auto& [keeper, share] : shares_) {
      const TileSet& kept = of(keeper).kept;
      first_kept_[keeper] = kept.without(seen);
      seen.add(kept);
    }
  }
  return first_kept_[worker];
}

TileSet tiles_used(const StateMap& map, std::span<const StageAssignment> stages, WorkerId worker) {
  TileSet tiles;
  for (const StageAssignment& stage : stages) {
    if (stage.worker == worker) tiles.add(map.tiles_of(stage.work.blocks));
  }
  return tiles;
}

TileSet owned_by(std::span<const ShardAssignment> shards, WorkerId worker) {
  TileSet tiles;
  for (const ShardAssignment& shard : shards) {
    if (shard.owner == worker) tiles.add(shard.tiles);
  }
  return tiles;
}

TileSet tied_to(const StateMap& map, const TileSet& originals) {
  const TileRange tied = map.tied_tiles();
  TileSet copies;
  if (tied.empty()) return copies;
  const TileSet copied = originals.common(map.originals_of(tied));
  for (const TileRange& run : copied.runs()) copies.add(moved(run, tied.begin));
  return copies;
}

TileSet originals_of(const StateMap& map, const TileSet& tied) {
  TileSet originals;
  const TileSet copies = tied.common(map.tied_tiles());
  for (const TileRange& run : copies.runs()) originals.add(map.originals_of(run));
  return originals;
}

TileSet sent_by(const StateMap& map, std::span<const ShardAssignment> shards, WorkerId worker, const TileSet& tiles) {
  const TileSet owned = owned_by(shards, worker).common(map.tiles_with_state());
  TileSet sent = owned;
  sent.add(tied_to(map, owned));
  return sent.common(tiles);
}

}  // namespace planaria

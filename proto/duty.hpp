// What a layout asks of a worker, in tiles: parameters to compute with, state to update, sums to update it with.
//
// A tile's state is kept by every worker that computes with its block; with a sharded optimizer by the owner of its
// shard alone, who is one of those. A tied copy has no state: its gradient goes to who keeps the embedding's tiles, and
// its parameters come from there.
//
// Thread contract: values, pure functions; Duties: one thread.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "proto/layout.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

struct Duty {
  TileSet used;    // parameters that its stages compute with, tied copies among them
  TileSet kept;    // state: master and moments
  TileSet summed;  // reduced gradient that it updates `kept` with: of those tiles, and of copies tied to them
  TileSet made;    // of `used`, what follows from its own updates; the rest is sent to it
};

// `stages` and `shards` are those of the steady layout.
[[nodiscard]] Duty duty_of(const StateMap& map, bool sharded, std::span<const StageAssignment> stages,
                           std::span<const ShardAssignment> shards, WorkerId worker);

// The same for many workers of one layout, without looking at all stages and shards for each; each is made once.
class Duties {
 public:
  // `map` outlives this.
  Duties(const StateMap& map, bool sharded, std::span<const StageAssignment> stages,
         std::span<const ShardAssignment> shards);

  [[nodiscard]] const Duty& of(WorkerId worker) const;
  // Of the tiles that it keeps, those that no worker before it keeps: who tells of a tile for all its keepers.
  [[nodiscard]] const TileSet& first_kept_by(WorkerId worker) const;

 private:
  struct Share {
    std::vector<StageAssignment> stages;
    std::vector<ShardAssignment> shards;
  };
  const StateMap& map_;
  bool sharded_;
  std::map<WorkerId, Share> shares_;
  mutable std::map<WorkerId, Duty> made_;
  mutable std::map<WorkerId, TileSet> first_kept_;
};

// Tiles of all blocks in which the worker has a stage.
[[nodiscard]] TileSet tiles_used(const StateMap& map, std::span<const StageAssignment> stages, WorkerId worker);

[[nodiscard]] TileSet owned_by(std::span<const ShardAssignment> shards, WorkerId worker);

// The tied copies of which the tiles hold the originals, and the other way round.
[[nodiscard]] TileSet tied_to(const StateMap& map, const TileSet& originals);
[[nodiscard]] TileSet originals_of(const StateMap& map, const TileSet& tied);

// Of `tiles`, those whose parameters the worker sends to others after an update: it owns their shards, or the shards of
// their originals.
[[nodiscard]] TileSet sent_by(const StateMap& map, std::span<const ShardAssignment> shards, WorkerId worker,
                              const TileSet& tiles);

}  // namespace planaria

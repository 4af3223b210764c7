// Durable checkpoints of a simulation: written atomically some time after they were copied, pruned, sometimes failing
// or damaged.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "chaos/sim/world.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/tile_set.hpp"

namespace planaria::sim {

class WorkerProcess;

class Disks {
 public:
  explicit Disks(World& world) : world_(world) {}

  void save(WorkerProcess& process, Step step, TermVector tiles);
  // A keeper's part of a durable snapshot; with the last one it can be loaded.
  void save_part(WorkerProcess& process, const SnapshotName& snapshot, const TileSet& part, const TermVector& tiles);
  // Null when it isn't there (any more) or can't be read.
  [[nodiscard]] const TermVector* load(std::uint32_t disk, Step step) const;
  [[nodiscard]] std::vector<Step> list(std::uint32_t disk) const;

  void fill_up(Instant until) { full_until_ = until; }
  void damage_newest();

 private:
  struct Checkpoint {
    TermVector tiles;
    bool damaged = false;
  };
  struct Parts {
    TileSet there;
    TermVector tiles;
  };
  void keep(std::uint32_t disk, Step step, TermVector tiles);
  World& world_;
  std::map<SnapshotName, Parts> parts_;
  std::map<std::uint32_t, std::map<Step, Checkpoint>> disks_;
  Instant full_until_{};
};

}  // namespace planaria::sim

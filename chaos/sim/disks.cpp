#include "chaos/sim/disks.hpp"

#include <algorithm>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

void Disks::save(WorkerProcess& process, Step step, TermVector tiles) {
  const Duration takes = world_.about(std::chrono::milliseconds(5));
  world_.queue.after(takes, [this, &process, step, tiles = std::move(tiles)] {
    process.arrive([this, &process, step, tiles] {
      const bool ok = world_.now() >= full_until_;
      if (ok) {
        if (tiles != world_.reference.state(step)) {
          process.simulation().oracle().wrong("10: a checkpoint differs from the undisturbed run",
                                              process.name() + " step " + to_string(step));
        }
        keep(process.disk(), step, tiles);
      }
      process.post(worker_event::CheckpointWritten{step, ok, ok ? "" : "no space left on the disk"});
    });
  });
}

void Disks::save_part(WorkerProcess& process, const SnapshotName& snapshot, const TileSet& part,
                      const TermVector& tiles) {
  const Duration takes = world_.about(std::chrono::milliseconds(5));
  world_.queue.after(takes, [this, &process, snapshot, part, tiles] {
    process.arrive([this, &process, snapshot, part, tiles] {
      const bool ok = world_.now() >= full_until_;
      if (ok) {
        Parts& parts = parts_[snapshot];
        parts.tiles.resize(tiles.size());
        for (const TileRange run : part.runs()) {
          std::copy(tiles.begin() + run.begin, tiles.begin() + run.end, parts.tiles.begin() + run.begin);
        }
        parts.there.add(part);
        const StateMap& map = *world_.options.shape.map;
        if (parts.there == TileSet(map.tiles_with_state())) {
          fill_tied(map, parts.tiles);
          if (parts.tiles != world_.reference.state(snapshot.step)) {
            process.simulation().oracle().wrong("10: a durable snapshot differs from the undisturbed run",
                                                process.name() + " step " + to_string(snapshot.step));
          }
          keep(process.disk(), snapshot.step, parts.tiles);
        }
      }
      process.post(worker_event::SnapshotWritten{snapshot, ok, part.size(), ok ? "" : "no space left on the disk"});
    });
  });
}

void Disks::keep(std::uint32_t disk, Step step, TermVector tiles) {
  auto& checkpoints = disks_[disk];
  checkpoints[step] = Checkpoint{std::move(tiles), false};
  while (checkpoints.size() > world_.options.job.checkpoint.keep) checkpoints.erase(checkpoints.begin());
}

const TermVector* Disks::load(std::uint32_t disk, Step step) const {
  const auto found = disks_.find(disk);
  if (found == disks_.end()) return nullptr;
  const auto checkpoint = found->second.find(step);
  if (checkpoint == found->second.end() || checkpoint->second.damaged) return nullptr;
  return &checkpoint->second.tiles;
}

std::vector<Step> Disks::list(std::uint32_t disk) const {
  std::vector<Step> steps;
  const auto found = disks_.find(disk);
  if (found == disks_.end()) return steps;
  for (const auto& [step, checkpoint] : found->second) steps.push_back(step);
  return steps;
}

void Disks::damage_newest() {
  for (auto& [disk, checkpoints] : disks_) {
    if (!checkpoints.empty()) checkpoints.rbegin()->second.damaged = true;
  }
}

}  // namespace planaria::sim

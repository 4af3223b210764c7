#include "chaos/sim/disks.hpp"

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
        auto& disk = disks_[process.disk()];
        disk[step] = Checkpoint{tiles, false};
        while (disk.size() > world_.options.job.checkpoint.keep) disk.erase(disk.begin());
      }
      process.post(worker_event::CheckpointWritten{step, ok, ok ? "" : "no space left on the disk"});
    });
  });
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

// A worker's end of the copy link: copies state into the memory of its host's keeper, beside the training, and tells
// it.
//
// The values are read where the trainer left them, under leases that keep them as they are. One copy is under way at a
// time; the next one waits. A copy that can't be made (no keeper there, no memory) is told to the owner, and to the log
// once: the state then goes to the keeper as it does to others.
//
// Thread contract: any thread; calls return at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.hpp"
#include "common/ids.hpp"
#include "worker/trainer/state_copy.hpp"

namespace planaria {

struct CopyCounters {
  std::uint64_t copies = 0;
  std::uint64_t bytes = 0;
  std::uint64_t failed = 0;
  Duration copying{};
};

class SnapshotCopier {
 public:
  // `path`: where the keeper listens. `failed` is called from the copying thread.
  SnapshotCopier(std::string path, std::function<void(const StateCopy&)> failed);
  ~SnapshotCopier();
  SnapshotCopier(const SnapshotCopier&) = delete;
  SnapshotCopier& operator=(const SnapshotCopier&) = delete;

  // Copies are made in this name from now on; those of an earlier one that wait are dropped.
  void named(WorkerId worker, Incarnation incarnation);
  void copy(StateCopy copy);
  [[nodiscard]] CopyCounters counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

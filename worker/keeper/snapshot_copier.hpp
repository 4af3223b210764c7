// A worker's end of the copy link: copies state into the memory of its host's keeper, beside the training, and tells
// it; and takes state that the worker lacks from there.
//
// The values are read where the trainer left them, under leases that keep them as they are. One copy is under way at a
// time; the next one waits, and gives way to what the worker lacks. Memory that a GPU's state is copied into is
// page-locked beside the first copies. What can't be done (no keeper there, no memory, other bytes than their hash
// says) is told to the owner, and to the log once: the state then goes over the network.
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
  std::uint64_t attached_bytes = 0;
  std::uint64_t failed = 0;
  std::uint64_t locked_bytes = 0;  // of the keeper's memory, now
  Duration copying{};
};

class SnapshotCopier {
 public:
  // `path`: where the keeper listens. `tell` is called from the copying thread, with SnapshotCopyFailed, StateAttached
  // and AttachFailed.
  SnapshotCopier(std::string path, std::function<void(WorkerEvent)> tell);
  ~SnapshotCopier();
  SnapshotCopier(const SnapshotCopier&) = delete;
  SnapshotCopier& operator=(const SnapshotCopier&) = delete;

  // All is done in this name from now on; what was wanted in an earlier one and waits is dropped.
  void named(WorkerId worker, Incarnation incarnation);
  void copy(StateCopy copy);
  void attach(StateAttach wanted);
  [[nodiscard]] CopyCounters counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

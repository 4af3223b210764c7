// A keeper's part of durable snapshots: one thread that writes what the store holds to disk
// (storage/durable_store.hpp), beside the training, and tells when it is there.
//
// What is being written stays in memory until it is. One snapshot waits beside it; when the disk is slower than the
// schedule, the one that waits gives way to the next and is told of as left out. Of each, the newest that all keepers
// have are kept.
//
// Thread contract: any thread; calls return at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/file.hpp"
#include "common/hash.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "storage/snapshot_store.hpp"
#include "worker/core/events.hpp"

namespace planaria {

struct SaverOptions {
  FileSystem* files = nullptr;    // outlives the saver
  std::string root;               // of all keepers of the job
  std::string keeper;             // its directory there
  Hash128 job;                    // job_hash()
  std::uint64_t bytes_per_s = 0;  // 0 = as fast as the disk
  std::uint32_t keep = 3;         // complete snapshots
};

struct SnapshotToSave {
  SnapshotName snapshot;
  std::string numeric_class;
  std::vector<StoredTiles> tiles;
};

class SnapshotSaver {
 public:
  // `tell` is called from the writing thread, and from save() for what gives way, with SnapshotWritten. `map` outlives
  // this.
  SnapshotSaver(const StateMap& map, SaverOptions options, std::function<void(WorkerEvent)> tell);
  // Leaves what isn't finished.
  ~SnapshotSaver();
  SnapshotSaver(const SnapshotSaver&) = delete;
  SnapshotSaver& operator=(const SnapshotSaver&) = delete;

  void save(SnapshotToSave snapshot);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

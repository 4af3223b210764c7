// The durable tier of one keeper: chosen snapshots of its tiles, on disk, in its own directory of a root that all
// keepers of a job share (`<root>/<keeper>/`: segment files and an index).
//
// Order of a snapshot: bytes of each segment, sync, rename to its name, sync of the directory; then one synced write to
// the index that names them all. A crash before that write leaves files that nothing names, which go when the directory
// is opened next; after it, the part is whole. Removing goes the other way: out of the index first, then the files.
//
// Retention is told by retain(), never decided here. A part is worth what the other keepers' parts of the same snapshot
// make of it, and a keeper alone can't know that they are durable: were each to keep "its newest three", a keeper that
// is three snapshots ahead of a slow one would have nothing in common with it. Whoever calls retain() names complete
// snapshots that every keeper has promised: from their finish(), or from the marks that a catalog reads
// (storage/durable_catalog.hpp, newest_promised()). Then at every instant one complete snapshot is on disk, whoever is
// how far.
//
// Thread contract: one thread, not the training's: every call may wait for the disk. The rate limit never waits; it
// tells how long to.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.hpp"
#include "common/file.hpp"
#include "common/rate_limit.hpp"
#include "common/result.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"
#include "storage/checkpoint.hpp"
#include "storage/durable_format.hpp"
#include "storage/durable_index.hpp"

namespace planaria {

struct DurableOptions {
  std::string root;                          // of all keepers; made when missing
  std::string keeper;                        // its directory there: no other keeper of the job has this name
  std::uint64_t segment_bytes = 256U << 20;  // a segment file isn't begun a tile beyond this
  std::uint64_t bytes_per_s = 0;             // 0 = as fast as the disk
  rocksdb::Env* index_env = nullptr;         // RocksDB's seam to the system; null = its own
};

class DurableStore {
 public:
  // Clears what a crash left over. Everything finished() is durable. `fs`, `clock`, `map` and the env outlive this.
  // invalid_argument: a keeper's name that is none; mismatch: the directory is another job's or class's; unavailable:
  // another process has it open; corrupt: its index is damaged or gone.
  [[nodiscard]] static Result<std::unique_ptr<DurableStore>> open(FileSystem& fs, const Clock& clock,
                                                                  const StateMap& map,
                                                                  const CheckpointIdentity& identity,
                                                                  DurableOptions options);
  // Abandons what was begun.
  ~DurableStore();
  DurableStore(const DurableStore&) = delete;
  DurableStore& operator=(const DurableStore&) = delete;

  // Abandons what was begun before. `unix_ms` is told to people. invalid_argument: it is finished already. Opens the
  // index again after a failure, with open()'s errors.
  [[nodiscard]] Status begin(const SnapshotName& snapshot, std::int64_t unix_ms);
  // A tile's master, first and second moment, one behind the other, as SnapshotStore holds them; in any order of tiles,
  // best ascending. The bytes are read during the call only. Returns how long to wait before the next one.
  // invalid_argument: nothing is begun, no such tile, another size, or there already; corrupt: the bytes aren't those
  // of the hash: nothing was written, the snapshot goes on. exhausted, io: the snapshot is abandoned.
  [[nodiscard]] Result<Duration> append(TileIndex tile, std::span<const std::byte> bytes, const Hash128& hash);
  // Durable when it returns: promised. On failure the snapshot is abandoned, and every earlier one is as it was; only
  // after a failed write to the index it may come back, whole, when that is opened again. invalid_argument: it has no
  // tiles.
  [[nodiscard]] Status finish();
  // Removes what was begun; nothing is told of failures, what stays goes when the directory is opened next.
  void abandon();

  // Removes everything finished that is older than the newest of `kept` and not among them: by step, then view. What is
  // newer may become complete yet. `kept`: complete snapshots that are promised by all keepers; none = no effect.
  [[nodiscard]] Status retain(std::span<const SnapshotName> kept);
  // Removes everything finished of later steps: what the job goes back behind because it proved wrong (a raised
  // ResumePlan::lineage). Else it would pass for the newest until training is as far again.
  [[nodiscard]] Status drop_after(Step step);

  // Parts of this keeper that are durable, oldest first.
  [[nodiscard]] std::vector<SnapshotName> finished() const;

 private:
  struct Writing;

  DurableStore(FileSystem& fs, const Clock& clock, const StateMap& map, const CheckpointIdentity& identity,
               DurableOptions options);
  [[nodiscard]] std::string path_of(std::string_view name) const { return join_path(directory_, name); }
  [[nodiscard]] Status refuse_lost_index();
  [[nodiscard]] Status open_index();
  [[nodiscard]] Status remove_leftovers();
  [[nodiscard]] Status remove_parts(std::span<const NamedPart> parts);
  [[nodiscard]] Status remove_segments(const SnapshotName& snapshot, std::uint32_t segments);
  [[nodiscard]] Status write(std::uint32_t tile, std::span<const std::byte> bytes, const Hash128& hash);
  [[nodiscard]] Status begin_segment();
  [[nodiscard]] Status end_segment();
  [[nodiscard]] Status publish();

  FileSystem& fs_;
  const Clock& clock_;
  const StateMap& map_;
  const DurableOwner owner_;
  const DurableOptions options_;
  const std::string directory_;

  RateLimit limit_;
  std::unique_ptr<DurableIndex> index_;             // none after a write to it failed
  std::map<SnapshotName, std::uint32_t> finished_;  // segments of each
  std::unique_ptr<Writing> writing_;                // none between snapshots
};

}  // namespace planaria

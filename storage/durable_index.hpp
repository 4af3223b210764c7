// A keeper's index of what it made durable: RocksDB in its directory's `index/`.
//
// A part of a snapshot and all its segments are named by one synced write, so that they are there together or not at
// all. RocksDB does nothing behind the caller's back here: memory is flushed when the index is opened, files are merged
// by tidy(). An index has one writer at a time; readers may look while it is written.
//
// A reader sees what the writer wrote before the disk has it. `promised` tells the two apart: the mark is written only
// after the synced write of its part returned.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/result.hpp"
#include "storage/durable_format.hpp"

namespace rocksdb {
class DB;
class Env;
}  // namespace rocksdb

namespace planaria {

struct IndexedPart {
  SnapshotName snapshot;
  DurablePart part;
  std::vector<DurableSegment> segments;
  bool promised = false;
  std::optional<Error> damage;  // a record can't be read: the rest means nothing
};

// A part that the index names, by its number of segments.
struct NamedPart {
  SnapshotName snapshot;
  std::uint32_t segments = 0;
};

struct IndexContents {
  DurableOwner owner;
  std::vector<IndexedPart> parts;  // by name
};

// A look at the index in `directory`, which another process may be writing. not_found: there is none (yet); corrupt;
// mismatch: of another format; unavailable: it changed all the while. `env`: RocksDB's seam to the system; null = its
// own.
[[nodiscard]] Result<IndexContents> read_index(const std::string& directory, rocksdb::Env* env);

class DurableIndex {
 public:
  // Makes what isn't there in `directory`, which exists. All parts in it are durable and marked as promised. mismatch:
  // it is another job's, class's or keeper's; unavailable: another process has it open; corrupt: damaged.
  [[nodiscard]] static Result<std::unique_ptr<DurableIndex>> open(const std::string& directory,
                                                                  const DurableOwner& owner, rocksdb::Env* env);
  ~DurableIndex();
  DurableIndex(const DurableIndex&) = delete;
  DurableIndex& operator=(const DurableIndex&) = delete;

  [[nodiscard]] const std::vector<IndexedPart>& found() const { return found_; }  // when it was opened

  // Durable when it returns, then marked. After a failure nobody knows whether the part is named: open it again.
  [[nodiscard]] Status name(const SnapshotName& snapshot, const DurablePart& part,
                            std::span<const DurableSegment> segments);
  // Durable when it returns. After a failure: as above.
  [[nodiscard]] Status forget(std::span<const NamedPart> parts);
  // Merges RocksDB's files once there are several.
  [[nodiscard]] Status tidy();

 private:
  DurableIndex(std::string directory, std::unique_ptr<rocksdb::DB> db);
  [[nodiscard]] Status mark_promised(const SnapshotName& snapshot);

  const std::string directory_;
  const std::unique_ptr<rocksdb::DB> db_;
  std::vector<IndexedPart> found_;
};

}  // namespace planaria

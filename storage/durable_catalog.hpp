// What all keepers of a job have on disk together: durable snapshots, whether they are complete, and their bytes.
//
// A snapshot is complete when the parts of all keepers cover every tile with state. A tile that two keepers have is
// right when they agree on its hash; where they differ, one of them is damaged, and the snapshot isn't complete. Two
// views' snapshots of one step are two snapshots; that they differ is told, and the newer view's goes first.
//
// Everything here reads only, from any process, also while keepers write. Believed is what matches its hash.
//
// Thread contract: plain values and functions over a FileSystem, from any thread; a DurableState belongs to one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/file.hpp"
#include "common/hash.hpp"
#include "common/result.hpp"
#include "common/transport/transport.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"
#include "storage/checkpoint.hpp"
#include "storage/durable_format.hpp"

namespace rocksdb {
class Env;
}

namespace planaria {

// A segment that is there in the right size; its bytes weren't looked at yet.
struct PlacedSegment {
  std::string path;
  std::uint32_t index = 0;
  DurableSegment segment;
};

struct PlacedPart {
  std::string keeper;
  std::int64_t unix_ms = 0;  // when it was begun
  bool promised = false;     // its keeper knew it to be durable
  TileSet tiles;             // of the segments below
  std::uint64_t bytes = 0;   // of their files
  std::vector<PlacedSegment> segments;
};

struct DurableSnapshot {
  SnapshotName name;
  std::string numeric_class;
  std::vector<PlacedPart> parts;      // by keeper
  TileSet missing;                    // tiles with state that no part has
  TileSet differing;                  // that parts have with different hashes
  std::vector<std::string> problems;  // why, in words; and where another view's snapshot of the step differs

  [[nodiscard]] bool complete() const { return missing.empty() && differing.empty(); }
  // Complete with promised parts alone.
  [[nodiscard]] bool promised(const StateMap& map) const;
  [[nodiscard]] std::uint64_t bytes() const;
  [[nodiscard]] std::int64_t unix_ms() const;  // of the newest part
};

struct DurableCatalog {
  std::vector<DurableSnapshot> snapshots;  // newest first: by step, then view
  std::vector<Refusal> refused;            // keepers' directories that can't be read or are of something else
};

// Indexes and sizes only. An absent root has none. `index_env`: RocksDB's seam to the system; null = its own.
[[nodiscard]] Result<DurableCatalog> read_catalog(FileSystem& fs, const std::string& root, const StateMap& map,
                                                  const Hash128& job_hash, rocksdb::Env* index_env = nullptr);

// The newest of the step; without a step the newest complete one. not_found: there is none, or it isn't complete; says
// what is missing and why.
[[nodiscard]] Result<const DurableSnapshot*> find_complete(const DurableCatalog& catalog, std::optional<Step> step);

// Steps of which a complete snapshot is there; none where that can't be read.
[[nodiscard]] std::vector<Step> durable_steps(FileSystem& fs, const std::string& root, const StateMap& map,
                                              const Hash128& job_hash);

// For DurableStore::retain(): the newest `keep` that are complete and promised by all their keepers.
[[nodiscard]] std::vector<SnapshotName> newest_promised(const DurableCatalog& catalog, const StateMap& map,
                                                        std::uint32_t keep);

// Tiles of one snapshot, read from mapped segments: nothing else of them is touched.
class DurableState {
 public:
  // `fs`, `map` and `snapshot` outlive this.
  DurableState(FileSystem& fs, const StateMap& map, const Hash128& job_hash, const DurableSnapshot& snapshot);

  // As values of StateTiles (SnapshotStore::state): all masters, then all moments. Every byte was held against its
  // hash; where one keeper's copy of a tile is damaged another's is taken. not_found: no part has a tile; corrupt: no
  // copy of a tile is sound; io. Slices stay valid when this is gone.
  [[nodiscard]] Result<std::vector<ConstSlice>> state(TileRange tiles, bool parameters_only);

  // The bytes of one copy, from parts[part].segments[segment], at a tile's place there.
  struct Copy {
    std::uint32_t tile = 0;
    std::uint32_t part = 0;
    std::uint32_t segment = 0;
    std::uint64_t offset = 0;  // in the file
    Hash128 hash;
  };
  // All, by part, segment and place in it.
  [[nodiscard]] const std::vector<Copy>& copies() const { return copies_; }
  // Checked. corrupt: the file isn't the segment that it shall be, or the tile doesn't match its hash.
  [[nodiscard]] Result<ConstSlice> read(const Copy& copy);

 private:
  using Mapped = Result<std::shared_ptr<const FileView>>;
  [[nodiscard]] Mapped segment(std::uint32_t part, std::uint32_t index);
  [[nodiscard]] Result<ConstSlice> sound_copy(std::uint32_t tile);

  FileSystem& fs_;
  const StateMap& map_;
  const Hash128 job_hash_;
  const DurableSnapshot& snapshot_;
  std::vector<Copy> copies_;
  std::vector<std::uint32_t> by_tile_;                      // into copies_
  std::vector<std::vector<std::optional<Mapped>>> mapped_;  // by part and segment, once it was asked for
};

// What hashing every byte of every copy found.
struct DurableVerdict {
  std::uint64_t bytes = 0;        // that were hashed
  TileSet damaged;                // of which some copy is
  TileSet lost;                   // of which no copy is sound
  std::vector<Refusal> problems;  // by segment file

  [[nodiscard]] bool sound() const { return problems.empty(); }
};
[[nodiscard]] DurableVerdict verify_snapshot(FileSystem& fs, const StateMap& map, const Hash128& job_hash,
                                             const DurableSnapshot& snapshot);

// A complete snapshot as a checkpoint (storage/checkpoint.hpp), its loss unknown; from there everything that reads
// checkpoints goes on. Every byte is checked on its way. Needs memory for the whole state.
[[nodiscard]] Result<WrittenCheckpoint> restore_snapshot(FileSystem& fs, const WriteOptions& options,
                                                         const Hash128& job_hash, const ModelSpec& model,
                                                         const StateMap& map, const DurableSnapshot& snapshot);

}  // namespace planaria

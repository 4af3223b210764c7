// The bytes of the durable tier: keys and values of a keeper's index, names and heads of its segment files. Grammar and
// a worked example: docs/FORMATS.md, "Durable snapshots".
//
// What is read here was written by anyone: every length has a bound, and a record counts only when it fits the model.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

inline constexpr std::uint32_t kDurableFormat = 1;
inline constexpr std::size_t kSegmentHeadBytes = 64;
inline constexpr std::uint32_t kMaxSegmentTiles = 1U << 18;  // a segment's record stays below 5 MiB

// Whose directory it is.
struct DurableOwner {
  Hash128 job_hash;
  std::string numeric_class;
  std::string keeper;

  bool operator==(const DurableOwner&) const = default;
  template <class V>
  void fields(V& v) {
    v(job_hash, numeric_class, keeper);
  }
};

// What one keeper wrote of a snapshot.
struct DurablePart {
  std::int64_t unix_ms = 0;    // when it was begun; for people
  std::uint32_t segments = 0;  // files, from 0 on
  std::uint32_t tiles = 0;     // of all of them

  bool operator==(const DurablePart&) const = default;
  template <class V>
  void fields(V& v) {
    v(unix_ms, segments, tiles);
  }
};

// One file of it: a head, then its tiles one behind the other, each with master, first and second moment.
struct DurableSegment {
  std::uint64_t bytes = 0;       // of the file
  std::vector<TileRange> tiles;  // in the order of the file
  std::vector<Hash128> hashes;   // of each tile's bytes

  bool operator==(const DurableSegment&) const = default;
  template <class V>
  void fields(V& v) {
    v(bytes, tiles, hashes);
  }
};

// What a segment file says of itself, so that one that was put in another's place is told from a damaged one.
struct SegmentHead {
  Hash128 job_hash;
  SnapshotName snapshot;
  std::uint32_t index = 0;

  bool operator==(const SegmentHead&) const = default;
};

[[nodiscard]] std::array<std::byte, kSegmentHeadBytes> render(const SegmentHead& head);
// `bytes` may go on behind the head. corrupt: it isn't one; mismatch: of another format.
[[nodiscard]] Result<SegmentHead> parse_segment_head(std::span<const std::byte> bytes);

// "step-00000120-view-7-0.segment"; what is being written ends in kPartialSuffix besides.
[[nodiscard]] std::string segment_name(const SnapshotName& snapshot, std::uint32_t index);
inline constexpr std::string_view kPartialSuffix = ".partial";
// Of a segment, whole or partial: what an index doesn't name of those is left over from a crash.
[[nodiscard]] bool looks_like_segment(std::string_view name);

// ---- keys of the index ----

inline constexpr std::string_view kFormatKey = "f";  // u32 kDurableFormat
inline constexpr std::string_view kOwnerKey = "j";   // DurableOwner

// In RocksDB's order the entries of a kind follow by step, view and segment.
enum class DurableKeyKind : std::uint8_t { promised, part, segment };
struct DurableKey {
  DurableKeyKind kind = DurableKeyKind::part;
  SnapshotName snapshot;
  std::uint32_t segment = 0;  // of that kind only

  bool operator==(const DurableKey&) const = default;
};
[[nodiscard]] std::string render(const DurableKey& key);
[[nodiscard]] std::optional<DurableKey> parse_durable_key(std::string_view key);

// Bytes of a tile's state.
[[nodiscard]] inline std::uint64_t tile_state_bytes(const StateMap& map, std::uint32_t tile) {
  return kTensorsOfState * map.bytes({tile, tile + 1});
}

// A part and all its segments fit each other and the model: as many files, tiles and hashes as told, tiles with state,
// each once, sizes of files as their tiles need. The tiles, or corrupt with the reason.
[[nodiscard]] Result<TileSet> check_part(const StateMap& map, const DurablePart& part,
                                         std::span<const DurableSegment> segments);

}  // namespace planaria

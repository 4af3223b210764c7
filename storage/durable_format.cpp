#include "storage/durable_format.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "common/codec.hpp"

namespace planaria {
namespace {

constexpr std::string_view kMagic = "PLANSEGM";
constexpr std::string_view kSegmentSuffix = ".segment";
constexpr std::size_t kHashedHeadBytes = kSegmentHeadBytes - 2 * sizeof(std::uint64_t);
constexpr std::array<char, 3> kKeyPrefixes{'d', 'p', 's'};  // by DurableKeyKind

// A head's fields between the magic and its hash.
struct HeadFields {
  std::uint32_t version = kDurableFormat;
  std::uint32_t index = 0;
  Hash128 job_hash;
  SnapshotName snapshot;

  template <class V>
  void fields(V& v) {
    v(version, index, job_hash, snapshot);
  }
};

std::span<const std::uint8_t> octets(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};  // NOLINT: bytes as the codec's
}

Error corrupt(std::string why) {
  return {ErrorCode::corrupt, std::move(why)};
}

// Big-endian, so that the order of keys is that of numbers.
template <class Number>
void put(std::string& key, Number number) {
  for (std::size_t i = sizeof number; i-- > 0;) key += static_cast<char>(number >> (8 * i) & 0xFF);
}

template <class Number>
Number take(std::string_view& key) {
  Number number = 0;
  for (std::size_t i = 0; i < sizeof number; ++i) number = number << 8 | static_cast<std::uint8_t>(key[i]);
  key.remove_prefix(sizeof number);
  return number;
}

}  // namespace

std::array<std::byte, kSegmentHeadBytes> render(const SegmentHead& head) {
  std::array<std::byte, kSegmentHeadBytes> bytes{};
  const auto put_at = [&](std::size_t at, const auto& part) {
    std::ranges::copy(std::as_bytes(std::span(part)), bytes.begin() + static_cast<std::ptrdiff_t>(at));
  };
  const ByteVector fields = encode(HeadFields{kDurableFormat, head.index, head.job_hash, head.snapshot});
  put_at(0, kMagic);
  put_at(kMagic.size(), fields);
  const ByteVector hash = encode(hash_bytes(std::span(bytes).first(kHashedHeadBytes)));
  put_at(kHashedHeadBytes, hash);
  return bytes;
}

Result<SegmentHead> parse_segment_head(std::span<const std::byte> bytes) {
  if (bytes.size() < kSegmentHeadBytes) return corrupt("it is shorter than a segment's head");
  if (!std::ranges::equal(bytes.first(kMagic.size()), std::as_bytes(std::span(kMagic)))) {
    return corrupt("it doesn't begin as a segment does");
  }
  const auto hashed = bytes.first(kHashedHeadBytes);
  PLANARIA_ASSIGN(const Hash128 told,
                  decode<Hash128>(octets(bytes.subspan(kHashedHeadBytes, kSegmentHeadBytes - kHashedHeadBytes))));
  if (hash_bytes(hashed) != told) return corrupt("its head doesn't match its hash");
  PLANARIA_ASSIGN(const HeadFields fields, decode<HeadFields>(octets(hashed.subspan(kMagic.size()))));
  if (fields.version != kDurableFormat) {
    return Error(ErrorCode::mismatch, fmt::format("it has format {}, this program reads format {}; use the release "
                                                  "that wrote it",
                                                  fields.version, kDurableFormat));
  }
  return SegmentHead{fields.job_hash, fields.snapshot, fields.index};
}

std::string segment_name(const SnapshotName& snapshot, std::uint32_t index) {
  return fmt::format("step-{:08}-view-{}-{}{}", snapshot.step.value(), snapshot.layout.value(), index, kSegmentSuffix);
}

bool looks_like_segment(std::string_view name) {
  if (name.ends_with(kPartialSuffix)) name.remove_suffix(kPartialSuffix.size());
  return name.starts_with("step-") && name.ends_with(kSegmentSuffix);
}

std::string render(const DurableKey& key) {
  std::string bytes(1, kKeyPrefixes[static_cast<std::size_t>(key.kind)]);
  put(bytes, key.snapshot.step.value());
  put(bytes, key.snapshot.layout.value());
  if (key.kind == DurableKeyKind::segment) put(bytes, key.segment);
  return bytes;
}

std::optional<DurableKey> parse_durable_key(std::string_view key) {
  if (key.empty()) return std::nullopt;
  const auto prefix = std::ranges::find(kKeyPrefixes, key.front());
  if (prefix == kKeyPrefixes.end()) return std::nullopt;
  DurableKey parsed;
  parsed.kind = static_cast<DurableKeyKind>(prefix - kKeyPrefixes.begin());
  const bool of_segment = parsed.kind == DurableKeyKind::segment;
  key.remove_prefix(1);
  if (key.size() != 2 * sizeof(std::uint64_t) + (of_segment ? sizeof(std::uint32_t) : 0)) return std::nullopt;
  parsed.snapshot.step = Step(take<std::uint64_t>(key));
  parsed.snapshot.layout = ViewNumber(take<std::uint64_t>(key));
  if (of_segment) parsed.segment = take<std::uint32_t>(key);
  return parsed;
}

Result<TileSet> check_part(const StateMap& map, const DurablePart& part, std::span<const DurableSegment> segments) {
  if (part.segments != segments.size()) {
    return corrupt(fmt::format("it names {} segments and has records of {}", part.segments, segments.size()));
  }
  std::vector<bool> seen(map.tiles_with_state().end);
  std::uint64_t all = 0;
  for (const DurableSegment& segment : segments) {
    std::uint64_t count = 0;
    std::uint64_t bytes = kSegmentHeadBytes;
    for (const TileRange run : segment.tiles) {
      if (run.empty() || run.end > seen.size()) return corrupt("it names tiles without state");
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        if (seen[tile]) return corrupt("it names a tile twice");
        seen[tile] = true;
      }
      count += run.end - run.begin;
      bytes += kTensorsOfState * map.bytes(run);
    }
    if (count == 0 || count > kMaxSegmentTiles || count != segment.hashes.size() || bytes != segment.bytes) {
      return corrupt("a segment has more or fewer bytes or hashes than its tiles");
    }
    all += count;
  }
  if (all != part.tiles) return corrupt("it has more or fewer tiles than it tells");
  TileSet tiles;
  for (std::uint32_t tile = 0; tile < seen.size(); ++tile) {
    if (seen[tile]) tiles.add({tile, tile + 1});
  }
  return tiles;
}

}  // namespace planaria

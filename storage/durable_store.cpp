#include "storage/durable_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace planaria {
namespace {

constexpr std::string_view kIndexName = "index";
// Dirty memory is bounded, so that the last sync of a segment doesn't hold up the disk's other users.
constexpr std::uint64_t kSyncEveryBytes = 32U << 20;

Error misuse(std::string why) {
  return {ErrorCode::invalid_argument, std::move(why)};
}

}  // namespace

struct DurableStore::Writing {
  SnapshotName snapshot;
  DurablePart part;
  std::vector<DurableSegment> segments;
  TileSet tiles;
  std::unique_ptr<WritableFile> file;  // of the last segment, while it is open
  std::uint64_t unsynced_bytes = 0;
};

DurableStore::DurableStore(FileSystem& fs, const Clock& clock, const StateMap& map, const CheckpointIdentity& identity,
                           DurableOptions options)
    : fs_(fs),
      clock_(clock),
      map_(map),
      owner_{identity.job_hash, identity.numeric_class, options.keeper},
      options_(std::move(options)),
      directory_(join_path(options_.root, options_.keeper)),
      limit_(options_.bytes_per_s) {}

DurableStore::~DurableStore() {
  abandon();
}

Result<std::unique_ptr<DurableStore>> DurableStore::open(FileSystem& fs, const Clock& clock, const StateMap& map,
                                                         const CheckpointIdentity& identity, DurableOptions options) {
  const std::string& keeper = options.keeper;
  if (keeper.empty() || keeper.front() == '.' || keeper.find('/') != std::string::npos) {
    return misuse(fmt::format("'{}' can't name a keeper's directory; give it a plain name", keeper));
  }
  std::unique_ptr<DurableStore> store(new DurableStore(fs, clock, map, identity, std::move(options)));
  PLANARIA_TRY(store->refuse_lost_index());
  // RocksDB would make its directory as well, but not sync the one above.
  PLANARIA_TRY(fs.make_directories(store->path_of(kIndexName)));
  PLANARIA_TRY(store->open_index());
  return store;
}

// Segments would be taken for leftovers of a first start.
Status DurableStore::refuse_lost_index() {
  const auto entries = fs_.list(directory_);
  if (!entries || fs_.info(join_path(path_of(kIndexName), "CURRENT"))) return ok_status();
  if (std::ranges::none_of(*entries, looks_like_segment, &DirectoryEntry::name)) return ok_status();
  return Error(ErrorCode::corrupt, fmt::format("'{}' has segments and no index that names them; put its directory "
                                               "'{}' back, or move the keeper's directory away",
                                               directory_, kIndexName));
}

Status DurableStore::open_index() {
  if (index_) return ok_status();
  const std::string path = path_of(kIndexName);
  PLANARIA_ASSIGN(auto index, DurableIndex::open(path, owner_, options_.index_env));
  std::map<SnapshotName, std::uint32_t> finished;
  for (const IndexedPart& found : index->found()) {
    const auto tiles = found.damage ? Result<TileSet>(*found.damage) : check_part(map_, found.part, found.segments);
    if (!tiles) {
      return tiles.error().within(fmt::format(
          "{}: the part of the snapshot of step {}, view {}; move the keeper's directory away, snapshots of "
          "other keepers stay what they are",
          path, found.snapshot.step.value(), found.snapshot.layout.value()));
    }
    finished.emplace(found.snapshot, found.part.segments);
  }
  finished_ = std::move(finished);
  index_ = std::move(index);
  return remove_leftovers();
}

Status DurableStore::remove_leftovers() {
  std::set<std::string> named;
  for (const auto& [snapshot, segments] : finished_) {
    for (std::uint32_t i = 0; i < segments; ++i) named.insert(segment_name(snapshot, i));
  }
  if (writing_) {
    for (std::uint32_t i = 0; i < writing_->part.segments; ++i) {
      named.insert(segment_name(writing_->snapshot, i));
      named.insert(segment_name(writing_->snapshot, i) + std::string(kPartialSuffix));
    }
  }
  PLANARIA_ASSIGN(const auto entries, fs_.list(directory_));
  for (const DirectoryEntry& entry : entries) {
    if (entry.kind != FileKind::file || !looks_like_segment(entry.name) || named.contains(entry.name)) continue;
    PLANARIA_TRY(fs_.remove(path_of(entry.name)));
  }
  return ok_status();
}

Status DurableStore::remove_segments(const SnapshotName& snapshot, std::uint32_t segments) {
  for (std::uint32_t i = 0; i < segments; ++i) {
    const Status removed = fs_.remove(path_of(segment_name(snapshot, i)));
    if (!removed && removed.error().code() != ErrorCode::not_found) return removed;
  }
  return ok_status();
}

Status DurableStore::begin(const SnapshotName& snapshot, std::int64_t unix_ms) {
  abandon();
  PLANARIA_TRY(open_index());
  if (finished_.contains(snapshot)) {
    return misuse(fmt::format("the snapshot of step {}, view {} is durable already", snapshot.step.value(),
                              snapshot.layout.value()));
  }
  writing_ = std::make_unique<Writing>();
  writing_->snapshot = snapshot;
  writing_->part.unix_ms = unix_ms;
  return ok_status();
}

Result<Duration> DurableStore::append(TileIndex tile, std::span<const std::byte> bytes, const Hash128& hash) {
  if (!writing_) return misuse("a tile without a snapshot that was begun");
  const std::uint32_t index = tile.value();
  if (index >= map_.tiles_with_state().end) return misuse(fmt::format("tile {} has no state", index));
  if (bytes.size() != tile_state_bytes(map_, index)) return misuse(fmt::format("tile {} has another size", index));
  if (writing_->tiles.contains(tile)) return misuse(fmt::format("tile {} is written already", index));
  if (hash_bytes(bytes) != hash) {
    return Error(ErrorCode::corrupt, fmt::format("the bytes of tile {} of step {} don't match their hash", index,
                                                 writing_->snapshot.step.value()));
  }
  const Instant next = limit_.spend(bytes.size(), clock_.now());
  if (const Status written = write(index, bytes, hash); !written) {
    abandon();
    return written.error();
  }
  return std::max(next - clock_.now(), Duration{});
}

Status DurableStore::write(std::uint32_t tile, std::span<const std::byte> bytes, const Hash128& hash) {
  if (writing_->file) {
    const DurableSegment& last = writing_->segments.back();
    if (last.bytes + bytes.size() > options_.segment_bytes || last.hashes.size() == kMaxSegmentTiles) {
      PLANARIA_TRY(end_segment());
    }
  }
  if (!writing_->file) PLANARIA_TRY(begin_segment());
  PLANARIA_TRY(writing_->file->append(bytes));
  writing_->unsynced_bytes += bytes.size();
  if (writing_->unsynced_bytes >= kSyncEveryBytes) {
    PLANARIA_TRY(writing_->file->sync());
    writing_->unsynced_bytes = 0;
  }
  DurableSegment& segment = writing_->segments.back();
  segment.bytes += bytes.size();
  segment.hashes.push_back(hash);
  if (!segment.tiles.empty() && segment.tiles.back().end == tile) {
    ++segment.tiles.back().end;
  } else {
    segment.tiles.push_back({tile, tile + 1});
  }
  writing_->tiles.add({tile, tile + 1});
  ++writing_->part.tiles;
  return ok_status();
}

Status DurableStore::begin_segment() {
  const std::uint32_t index = writing_->part.segments;
  PLANARIA_ASSIGN(writing_->file,
                  fs_.create(path_of(segment_name(writing_->snapshot, index)) + std::string(kPartialSuffix)));
  ++writing_->part.segments;
  writing_->segments.emplace_back().bytes = kSegmentHeadBytes;
  writing_->unsynced_bytes = 0;
  return writing_->file->append(render(SegmentHead{owner_.job_hash, writing_->snapshot, index}));
}

Status DurableStore::end_segment() {
  const std::unique_ptr<WritableFile> file = std::move(writing_->file);
  PLANARIA_TRY(file->sync());
  PLANARIA_TRY(file->close());
  const std::string path = path_of(segment_name(writing_->snapshot, writing_->part.segments - 1));
  return fs_.rename(path + std::string(kPartialSuffix), path);
}

Status DurableStore::publish() {
  PLANARIA_TRY(end_segment());
  return fs_.sync_directory(directory_);
}

Status DurableStore::finish() {
  if (!writing_ || writing_->tiles.empty()) return misuse("a snapshot without tiles");
  Status published = publish();
  if (published) published = open_index();
  if (!published) {
    abandon();
    return published;
  }
  const std::unique_ptr<Writing> written = std::move(writing_);
  const Status named = index_->name(written->snapshot, written->part, written->segments);
  if (!named) {
    // The files stay: the index may name them.
    index_.reset();
    return named;
  }
  finished_.emplace(written->snapshot, written->part.segments);
  return ok_status();
}

void DurableStore::abandon() {
  if (!writing_) return;
  const std::unique_ptr<Writing> given_up = std::move(writing_);
  given_up->file.reset();
  for (std::uint32_t i = 0; i < given_up->part.segments; ++i) {
    const std::string path = path_of(segment_name(given_up->snapshot, i));
    static_cast<void>(fs_.remove(path + std::string(kPartialSuffix)));
    static_cast<void>(fs_.remove(path));
  }
}

Status DurableStore::retain(std::span<const SnapshotName> kept) {
  if (kept.empty()) return ok_status();
  PLANARIA_TRY(open_index());
  const SnapshotName newest = *std::ranges::max_element(kept);
  std::vector<NamedPart> old;
  for (const auto& [snapshot, segments] : finished_) {
    if (snapshot < newest && std::ranges::find(kept, snapshot) == kept.end()) old.push_back({snapshot, segments});
  }
  return remove_parts(old);
}

Status DurableStore::drop_after(Step step) {
  PLANARIA_TRY(open_index());
  std::vector<NamedPart> wrong;
  for (const auto& [snapshot, segments] : finished_) {
    if (snapshot.step > step) wrong.push_back({snapshot, segments});
  }
  return remove_parts(wrong);
}

Status DurableStore::remove_parts(std::span<const NamedPart> parts) {
  if (parts.empty()) return ok_status();
  if (const Status forgotten = index_->forget(parts); !forgotten) {
    index_.reset();
    return forgotten;
  }
  for (const NamedPart& part : parts) finished_.erase(part.snapshot);
  for (const NamedPart& part : parts) PLANARIA_TRY(remove_segments(part.snapshot, part.segments));
  PLANARIA_TRY(fs_.sync_directory(directory_));
  const Status tidied = index_->tidy();
  if (!tidied) index_.reset();
  return tidied;
}

std::vector<SnapshotName> DurableStore::finished() const {
  std::vector<SnapshotName> names;
  for (const auto& [snapshot, segments] : finished_) names.push_back(snapshot);
  return names;
}

}  // namespace planaria

#include "storage/durable_catalog.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <tuple>

#include "storage/durable_index.hpp"

namespace planaria {
namespace {

constexpr std::size_t kMaxRunsTold = 8;

std::string runs_text(const TileSet& tiles) {
  std::string text;
  for (std::size_t i = 0; i < tiles.runs().size() && i < kMaxRunsTold; ++i) {
    const TileRange run = tiles.runs()[i];
    text += i == 0 ? "" : ", ";
    text += run.end - run.begin == 1 ? fmt::format("{}", run.begin) : fmt::format("{}–{}", run.begin, run.end - 1);
  }
  return tiles.runs().size() > kMaxRunsTold ? text + ", …" : text;
}

std::string name_text(const SnapshotName& name) {
  return fmt::format("the snapshot of step {}, view {}", name.step.value(), name.layout.value());
}

template <class Visit>
void for_each_tile(const DurableSegment& segment, Visit&& visit) {
  auto hash = segment.hashes.begin();
  for (const TileRange run : segment.tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) visit(tile, *hash++);
  }
}

// Every tile's hash, of the first part that has it.
std::map<std::uint32_t, Hash128> hashes_of(const DurableSnapshot& snapshot) {
  std::map<std::uint32_t, Hash128> hashes;
  for (const PlacedPart& part : snapshot.parts) {
    for (const PlacedSegment& placed : part.segments) {
      for_each_tile(placed.segment, [&](std::uint32_t tile, const Hash128& hash) { hashes.try_emplace(tile, hash); });
    }
  }
  return hashes;
}

// What of a part is there: segments that are gone or have another size are told and left out.
PlacedPart place_part(FileSystem& fs, const std::string& directory, const std::string& keeper, IndexedPart& indexed,
                      std::vector<std::string>& problems) {
  PlacedPart part{keeper, indexed.part.unix_ms, indexed.promised, {}, 0, {}};
  for (std::uint32_t i = 0; i < indexed.segments.size(); ++i) {
    DurableSegment& segment = indexed.segments[i];
    const std::string path = join_path(directory, segment_name(indexed.snapshot, i));
    const auto info = fs.info(path);
    if (!info) {
      problems.push_back(info.error().message());
      continue;
    }
    if (info->bytes != segment.bytes) {
      problems.push_back(fmt::format("'{}' has {} bytes, the index says {}", path, info->bytes, segment.bytes));
      continue;
    }
    for (const TileRange run : segment.tiles) part.tiles.add(run);
    part.bytes += segment.bytes;
    part.segments.push_back({path, i, std::move(segment)});
  }
  return part;
}

// Fills what the parts together lack or contradict each other in.
void judge(const StateMap& map, DurableSnapshot& snapshot) {
  snapshot.missing = TileSet(map.tiles_with_state());
  TileSet twice;
  TileSet held;
  for (const PlacedPart& part : snapshot.parts) {
    twice.add(held.common(part.tiles));
    held.add(part.tiles);
  }
  snapshot.missing.remove(held);
  if (!snapshot.missing.empty()) {
    snapshot.problems.push_back(fmt::format("{} of {} tiles are missing: {}", snapshot.missing.size(),
                                            map.tiles_with_state().end, runs_text(snapshot.missing)));
  }
  if (twice.empty()) return;
  const auto first = hashes_of(snapshot);
  for (const PlacedPart& part : snapshot.parts) {
    for (const PlacedSegment& placed : part.segments) {
      for_each_tile(placed.segment, [&](std::uint32_t tile, const Hash128& hash) {
        if (first.at(tile) != hash) snapshot.differing.add({tile, tile + 1});
      });
    }
  }
  if (!snapshot.differing.empty()) {
    snapshot.problems.push_back(fmt::format(
        "keepers have tiles {} with different hashes: one of them wrote a wrong state", runs_text(snapshot.differing)));
  }
}

// Bits don't depend on the view, so snapshots of one step should be alike.
void compare_views(const DurableSnapshot& newer, DurableSnapshot& older) {
  TileSet differing;
  const auto expected = hashes_of(newer);
  for (const auto& [tile, hash] : hashes_of(older)) {
    const auto found = expected.find(tile);
    if (found != expected.end() && found->second != hash) differing.add({tile, tile + 1});
  }
  if (differing.empty()) return;
  older.problems.push_back(fmt::format("tiles {} are not those of the step in view {}: one of the two is a wrong state",
                                       runs_text(differing), newer.name.layout.value()));
}

// Read-only look at one keeper's directory.
Result<IndexContents> read_keeper(FileSystem& fs, const std::string& directory, const Hash128& job_hash,
                                  rocksdb::Env* env) {
  auto read = read_index(join_path(directory, "index"), env);
  if (!read && read.error().code() == ErrorCode::not_found) {
    // A keeper that has just begun has no index yet, and no segments either.
    PLANARIA_ASSIGN(const auto entries, fs.list(directory));
    if (std::ranges::any_of(entries, looks_like_segment, &DirectoryEntry::name)) {
      return Error(ErrorCode::corrupt, fmt::format("'{}' has segments and no index that names them", directory));
    }
  }
  PLANARIA_ASSIGN(IndexContents contents, std::move(read));
  if (contents.owner.job_hash != job_hash) {
    return Error(ErrorCode::mismatch, fmt::format("'{}' is of job {}, this is {}", directory,
                                                  contents.owner.job_hash.hex(), job_hash.hex()));
  }
  return contents;
}

using SnapshotKey = std::tuple<SnapshotName, std::string>;  // and numeric class

void add_parts(FileSystem& fs, const StateMap& map, const std::string& directory, IndexContents& contents,
               std::map<SnapshotKey, DurableSnapshot>& snapshots) {
  for (IndexedPart& indexed : contents.parts) {
    DurableSnapshot& snapshot = snapshots[{indexed.snapshot, contents.owner.numeric_class}];
    snapshot.name = indexed.snapshot;
    snapshot.numeric_class = contents.owner.numeric_class;
    const auto tiles =
        indexed.damage ? Result<TileSet>(*indexed.damage) : check_part(map, indexed.part, indexed.segments);
    if (tiles) {
      snapshot.parts.push_back(place_part(fs, directory, contents.owner.keeper, indexed, snapshot.problems));
    } else {
      snapshot.problems.push_back(
          fmt::format("the index in '{}' has a damaged record: {}", directory, tiles.error().message()));
    }
  }
}

}  // namespace

// ---- what is there ----

bool DurableSnapshot::promised(const StateMap& map) const {
  TileSet held;
  for (const PlacedPart& part : parts) {
    if (part.promised) held.add(part.tiles);
  }
  return complete() && held.contains(map.tiles_with_state());
}

std::uint64_t DurableSnapshot::bytes() const {
  return std::accumulate(parts.begin(), parts.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const PlacedPart& part) { return sum + part.bytes; });
}

std::int64_t DurableSnapshot::unix_ms() const {
  std::int64_t newest = 0;
  for (const PlacedPart& part : parts) newest = std::max(newest, part.unix_ms);
  return newest;
}

Result<DurableCatalog> read_catalog(FileSystem& fs, const std::string& root, const StateMap& map,
                                    const Hash128& job_hash, rocksdb::Env* index_env) {
  DurableCatalog catalog;
  const auto entries = fs.list(root);
  if (!entries && entries.error().code() == ErrorCode::not_found) return catalog;
  if (!entries) return entries.error();
  std::map<SnapshotKey, DurableSnapshot> snapshots;
  for (const DirectoryEntry& entry : *entries) {
    if (entry.kind != FileKind::directory || entry.name.starts_with('.')) continue;
    const std::string directory = join_path(root, entry.name);
    auto contents = read_keeper(fs, directory, job_hash, index_env);
    if (contents) {
      add_parts(fs, map, directory, *contents, snapshots);
    } else if (contents.error().code() != ErrorCode::not_found) {
      catalog.refused.push_back({directory, contents.error()});
    }
  }
  for (auto& [key, snapshot] : snapshots) {
    judge(map, snapshot);
    catalog.snapshots.push_back(std::move(snapshot));
  }
  std::ranges::reverse(catalog.snapshots);
  for (std::size_t i = 0; i < catalog.snapshots.size(); ++i) {
    for (std::size_t older = i + 1; older < catalog.snapshots.size(); ++older) {
      if (catalog.snapshots[older].name.step != catalog.snapshots[i].name.step) break;
      if (catalog.snapshots[older].numeric_class != catalog.snapshots[i].numeric_class) continue;
      compare_views(catalog.snapshots[i], catalog.snapshots[older]);
    }
  }
  return catalog;
}

Result<const DurableSnapshot*> find_complete(const DurableCatalog& catalog, std::optional<Step> step) {
  const DurableSnapshot* incomplete = nullptr;
  for (const DurableSnapshot& snapshot : catalog.snapshots) {
    if (step && snapshot.name.step != *step) continue;
    if (snapshot.complete()) return &snapshot;
    if (incomplete == nullptr) incomplete = &snapshot;
  }
  std::string reasons;
  if (incomplete != nullptr) {
    for (const std::string& problem : incomplete->problems) reasons += "\n  " + problem;
  }
  for (const Refusal& refusal : catalog.refused) reasons += "\n  " + refusal.reason.message();
  if (incomplete != nullptr) {
    return Error(ErrorCode::not_found, fmt::format("{} isn't complete:{}", name_text(incomplete->name), reasons));
  }
  const std::string what = step ? fmt::format("durable snapshot of step {}", step->value()) : "durable snapshot";
  return Error(ErrorCode::not_found, fmt::format("there is no {}{}{}", what, reasons.empty() ? "" : ":", reasons));
}

std::vector<Step> durable_steps(FileSystem& fs, const std::string& root, const StateMap& map, const Hash128& job_hash) {
  std::vector<Step> steps;
  const auto catalog = read_catalog(fs, root, map, job_hash);
  if (!catalog) return steps;
  for (const DurableSnapshot& snapshot : catalog->snapshots) {
    if (snapshot.complete() && (steps.empty() || steps.back() != snapshot.name.step)) {
      steps.push_back(snapshot.name.step);
    }
  }
  return steps;
}

std::vector<SnapshotName> newest_promised(const DurableCatalog& catalog, const StateMap& map, std::uint32_t keep) {
  std::vector<SnapshotName> names;
  for (const DurableSnapshot& snapshot : catalog.snapshots) {
    if (names.size() == keep) break;
    if (snapshot.promised(map)) names.push_back(snapshot.name);
  }
  return names;
}

// ---- its bytes ----

DurableState::DurableState(FileSystem& fs, const StateMap& map, const Hash128& job_hash,
                           const DurableSnapshot& snapshot)
    : fs_(fs), map_(map), job_hash_(job_hash), snapshot_(snapshot) {
  for (std::uint32_t part = 0; part < snapshot.parts.size(); ++part) {
    const auto& segments = snapshot.parts[part].segments;
    mapped_.emplace_back(segments.size());
    for (std::uint32_t i = 0; i < segments.size(); ++i) {
      std::uint64_t offset = kSegmentHeadBytes;
      for_each_tile(segments[i].segment, [&](std::uint32_t tile, const Hash128& hash) {
        copies_.push_back({tile, part, i, offset, hash});
        offset += tile_state_bytes(map, tile);
      });
    }
  }
  by_tile_.resize(copies_.size());
  std::iota(by_tile_.begin(), by_tile_.end(), 0U);
  std::ranges::stable_sort(by_tile_, {}, [this](std::uint32_t i) { return copies_[i].tile; });
}

DurableState::Mapped DurableState::segment(std::uint32_t part, std::uint32_t index) {
  std::optional<Mapped>& view = mapped_[part][index];
  if (view) return *view;
  const PlacedSegment& placed = snapshot_.parts[part].segments[index];
  const auto open = [&]() -> Mapped {
    PLANARIA_ASSIGN(FileView mapped, fs_.map(placed.path));
    if (mapped.bytes().size() != placed.segment.bytes) {
      return Error(ErrorCode::corrupt, fmt::format("'{}' has {} bytes, the index says {}", placed.path,
                                                   mapped.bytes().size(), placed.segment.bytes));
    }
    const auto head = parse_segment_head(mapped.bytes());
    if (!head) return head.error().within(fmt::format("'{}'", placed.path));
    if (*head != SegmentHead{job_hash_, snapshot_.name, placed.index}) {
      return Error(ErrorCode::corrupt, fmt::format("'{}' is segment {} of {}: it was put in another's place",
                                                   placed.path, head->index, name_text(head->snapshot)));
    }
    return std::make_shared<const FileView>(std::move(mapped));
  };
  view = open();
  return *view;
}

Result<ConstSlice> DurableState::read(const Copy& copy) {
  PLANARIA_ASSIGN(const auto file, segment(copy.part, copy.segment));
  const auto bytes = file->bytes().subspan(copy.offset, tile_state_bytes(map_, copy.tile));
  if (hash_bytes(bytes) != copy.hash) {
    return Error(ErrorCode::corrupt, fmt::format("tile {} in '{}' doesn't match its hash", copy.tile,
                                                 snapshot_.parts[copy.part].segments[copy.segment].path));
  }
  return ConstSlice{bytes, file};
}

Result<ConstSlice> DurableState::sound_copy(std::uint32_t tile) {
  Error reason(ErrorCode::not_found, fmt::format("{} has no tile {}", name_text(snapshot_.name), tile));
  const auto at = std::ranges::lower_bound(by_tile_, tile, {}, [this](std::uint32_t i) { return copies_[i].tile; });
  for (auto i = at; i != by_tile_.end() && copies_[*i].tile == tile; ++i) {
    auto read_copy = read(copies_[*i]);
    if (read_copy) return read_copy;
    reason = read_copy.error();
  }
  return reason;
}

Result<std::vector<ConstSlice>> DurableState::state(TileRange tiles, bool parameters_only) {
  std::vector<ConstSlice> whole;
  for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
    PLANARIA_ASSIGN(auto copy, sound_copy(tile));
    whole.push_back(std::move(copy));
  }
  std::vector<ConstSlice> slices;
  for (std::uint64_t vector = 0; vector < (parameters_only ? 1 : kTensorsOfState); ++vector) {
    for (const ConstSlice& tile : whole) {
      const std::uint64_t of_vector = tile.bytes.size() / kTensorsOfState;
      slices.push_back({tile.bytes.subspan(vector * of_vector, of_vector), tile.owner});
    }
  }
  return slices;
}

DurableVerdict verify_snapshot(FileSystem& fs, const StateMap& map, const Hash128& job_hash,
                               const DurableSnapshot& snapshot) {
  DurableState state(fs, map, job_hash, snapshot);
  DurableVerdict verdict;
  TileSet sound;
  for (const DurableState::Copy& copy : state.copies()) {
    const auto bytes = state.read(copy);
    if (bytes) {
      verdict.bytes += bytes->bytes.size();
      sound.add({copy.tile, copy.tile + 1});
      continue;
    }
    verdict.damaged.add({copy.tile, copy.tile + 1});
    const std::string& path = snapshot.parts[copy.part].segments[copy.segment].path;
    if (verdict.problems.empty() || verdict.problems.back().path != path) {
      verdict.problems.push_back({path, bytes.error()});  // of each file the first
    }
  }
  verdict.lost = verdict.damaged.without(sound);
  return verdict;
}

// ---- restoring ----

Result<WrittenCheckpoint> restore_snapshot(FileSystem& fs, const WriteOptions& options, const Hash128& job_hash,
                                           const ModelSpec& model, const StateMap& map,
                                           const DurableSnapshot& snapshot) {
  TrainState state;
  state.step = snapshot.name.step;
  state.view = snapshot.name.layout;
  DurableState durable(fs, map, job_hash, snapshot);
  std::vector<float> TrainState::*const vectors[] = {&TrainState::master, &TrainState::first_moment,
                                                     &TrainState::second_moment};
  for (const auto vector : vectors) (state.*vector).resize(map.vector_elements());
  for (std::uint32_t tile = 0; tile < map.tiles_with_state().end; ++tile) {
    PLANARIA_ASSIGN(const auto slices, durable.state({tile, tile + 1}, false));
    const std::uint64_t begin = map.tile(TileIndex(tile)).begin;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      std::memcpy((state.*vectors[i]).data() + begin, slices[i].bytes.data(), slices[i].bytes.size());
    }
  }
  fill_tied_copy(map, state.master);
  return write_checkpoint(fs, options, {job_hash, snapshot.numeric_class}, model, map, state);
}

}  // namespace planaria

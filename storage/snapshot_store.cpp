#include "storage/snapshot_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "storage/fragment_rebuild.hpp"

namespace planaria {
namespace {

// Of parity: what is read in part is checked in stretches of so many bytes.
constexpr std::uint64_t kStretch = 1U << 20;

Error corrupt(const char* why) {
  return {ErrorCode::corrupt, why};
}

// Slices that lie next to each other become one.
void append(std::vector<ConstSlice>& slices, std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  if (!slices.empty()) {
    ConstSlice& last = slices.back();
    if (last.owner == owner && last.bytes.data() + last.bytes.size() == bytes.data()) {
      last.bytes = {last.bytes.data(), last.bytes.size() + bytes.size()};
      return;
    }
  }
  slices.push_back({bytes, std::move(owner)});
}

bool is_inside(const FragmentPart& part, std::uint64_t bytes) {
  return part.offset <= bytes && part.bytes <= bytes - part.offset;
}

std::span<const std::byte> stretch(std::span<const std::byte> bytes, std::uint64_t index) {
  const std::uint64_t begin = index * kStretch;
  return bytes.subspan(begin, std::min<std::uint64_t>(kStretch, bytes.size() - begin));
}

}  // namespace

// ---- state ----

Result<std::uint64_t> SnapshotStore::bytes_of_tiles(std::span<const TileRange> tiles) const {
  std::uint64_t needed = 0;
  for (const TileRange run : tiles) {
    if (run.empty() || run.end > map_.tiles_with_state().end) return corrupt("a snapshot of tiles without state");
    needed += kTensorsOfState * map_.bytes(run);
  }
  return needed;
}

Status SnapshotStore::check_tiles(std::span<const TileRange> tiles, std::uint64_t bytes) const {
  PLANARIA_ASSIGN(const std::uint64_t needed, bytes_of_tiles(tiles));
  return needed == bytes ? ok_status() : Status(corrupt("a snapshot of more or fewer bytes than its tiles have"));
}

Status SnapshotStore::adopt(Step stamp, std::span<const TileRange> tiles, std::shared_ptr<const SharedMemory> memory,
                            std::uint64_t offset, std::span<const Hash128> hashes) {
  PLANARIA_ASSIGN(const std::uint64_t needed, bytes_of_tiles(tiles));
  std::size_t count = 0;
  for (const TileRange run : tiles) count += run.end - run.begin;
  const std::uint64_t there = memory->bytes().size();
  if (offset > there || needed > there - offset || hashes.size() != count) {
    return corrupt("a snapshot of fewer bytes or hashes than its tiles have");
  }
  Generation& generation = generations_[stamp];
  auto hash = hashes.begin();
  for (const TileRange run : tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      generation.try_emplace(tile, Tile{memory, offset, *hash++});
      offset += tile_bytes(tile);
    }
  }
  return ok_status();
}

Status SnapshotStore::store(Step stamp, TileRange tiles, std::span<const float> values) {
  PLANARIA_TRY(check_tiles(std::span(&tiles, 1), values.size_bytes()));
  PLANARIA_ASSIGN(const auto memory, memory_->take(values.size_bytes()));
  const std::span<const std::byte> bytes = std::as_bytes(values);
  const std::uint64_t of_vector = bytes.size() / kTensorsOfState;
  std::byte* to = memory->bytes().data();
  std::uint64_t before = 0;  // in each vector
  std::vector<Hash128> hashes;
  for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const std::byte* const begin = to;
    const std::uint64_t part = map_.bytes({tile, tile + 1});
    for (std::uint64_t vector = 0; vector < kTensorsOfState; ++vector) {
      std::memcpy(to, bytes.data() + vector * of_vector + before, part);
      to += part;
    }
    before += part;
    hashes.push_back(hash_bytes({begin, to}));
  }
  return adopt(stamp, std::span(&tiles, 1), memory, 0, hashes);
}

Status SnapshotStore::store_bytes(Step stamp, std::span<const TileRange> tiles, std::span<const std::byte> bytes,
                                  std::span<const Hash128> hashes) {
  PLANARIA_TRY(check_tiles(tiles, bytes.size()));
  PLANARIA_TRY(check_made(map_, tiles, bytes, hashes));
  PLANARIA_ASSIGN(const auto memory, memory_->take(bytes.size()));
  std::ranges::copy(bytes, memory->bytes().begin());
  return adopt(stamp, tiles, memory, 0, hashes);
}

TileSet SnapshotStore::tiles(Step stamp) const {
  TileSet held;
  if (const auto generation = generations_.find(stamp); generation != generations_.end()) {
    for (const auto& [tile, stored] : generation->second) held.add({tile, tile + 1});
  }
  return held;
}

TileSet SnapshotStore::take_damaged(Step stamp) {
  const auto found = damaged_.extract(stamp);
  return found.empty() ? TileSet() : found.mapped();
}

void SnapshotStore::drop_before(Step stamp) {
  generations_.erase(generations_.begin(), generations_.lower_bound(stamp));
  damaged_.erase(damaged_.begin(), damaged_.lower_bound(stamp));
}

void SnapshotStore::keep_only(std::optional<Step> stamp) {
  std::erase_if(generations_, [&](const auto& generation) { return generation.first != stamp; });
}

Result<const SnapshotStore::Generation*> SnapshotStore::checked(Step stamp, std::span<const TileRange> tiles) {
  const auto found = generations_.find(stamp);
  if (found == generations_.end()) return Error(ErrorCode::not_found, "no snapshot of the step is here");
  Generation& generation = found->second;
  std::uint32_t damaged = 0;
  for (const TileRange run : tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      const auto stored = generation.find(tile);
      if (stored == generation.end()) return Error(ErrorCode::not_found, "not all of the snapshot is here");
      if (hash_bytes(bytes_of(stored->second, tile)) == stored->second.hash) continue;
      generation.erase(stored);
      damaged_[stamp].add({tile, tile + 1});
      ++damaged;
    }
  }
  if (damaged > 0) {
    return Error(ErrorCode::corrupt,
                 fmt::format("{} tiles of the snapshot of step {} don't match their hashes; they are "
                             "given up",
                             damaged, stamp.value()));
  }
  return &generation;
}

Result<std::vector<ConstSlice>> SnapshotStore::state(Step stamp, TileRange tiles, bool parameters_only) {
  // A tied copy's parameters are those of its original.
  const auto source_of = [&](std::uint32_t tile) {
    const bool copy = parameters_only && map_.is_tied(TileIndex(tile));
    return copy ? map_.originals_of({tile, tile + 1}).begin : tile;
  };
  TileSet read;
  for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) read.add({source_of(tile), source_of(tile) + 1});
  PLANARIA_ASSIGN(const Generation* const generation, checked(stamp, read.runs()));
  std::vector<ConstSlice> slices;
  for (std::uint64_t vector = 0; vector < (parameters_only ? 1 : kTensorsOfState); ++vector) {
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const std::uint32_t source = source_of(tile);
      const Tile& stored = generation->at(source);
      const std::uint64_t of_vector = map_.bytes({source, source + 1});
      append(slices, bytes_of(stored, source).subspan(vector * of_vector, of_vector), stored.memory);
    }
  }
  return slices;
}

Result<std::vector<StoredTiles>> SnapshotStore::find(Step stamp, TileRange tiles, std::size_t most) const {
  const auto found = generations_.find(stamp);
  if (found == generations_.end()) return Error(ErrorCode::not_found, "no snapshot of the step is here");
  std::vector<StoredTiles> runs;
  std::uint64_t end = 0;  // of the last run, in its memory
  for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const auto stored = found->second.find(tile);
    if (stored == found->second.end()) return Error(ErrorCode::not_found, "not all of the snapshot is here");
    const auto& [memory, offset, hash] = stored->second;
    const bool joins =
        !runs.empty() && runs.back().memory == memory && end == offset && runs.back().hashes.size() < most;
    if (!joins) {
      runs.push_back({{tile, tile}, memory, offset, {}});
    }
    ++runs.back().tiles.end;
    runs.back().hashes.push_back(hash);
    end = offset + tile_bytes(tile);
  }
  return runs;
}

Result<std::vector<ConstSlice>> SnapshotStore::fragment(Step stamp, std::span<const TileRange> tiles,
                                                        std::uint64_t offset, std::uint64_t bytes) {
  const std::vector<TilePiece> pieces = pieces_of(map_, tiles, offset, bytes);
  std::uint64_t there = 0;
  TileSet read;
  for (const TilePiece& piece : pieces) {
    there += piece.bytes;
    read.add({piece.tile, piece.tile + 1});
  }
  if (there != bytes) return Error(ErrorCode::invalid_argument, "bytes beyond the end of a fragment");
  PLANARIA_ASSIGN(const Generation* const generation, checked(stamp, read.runs()));
  std::vector<ConstSlice> slices;
  for (const TilePiece& piece : pieces) {
    const Tile& stored = generation->at(piece.tile);
    const std::uint64_t begin = piece.vector * map_.bytes({piece.tile, piece.tile + 1}) + piece.offset;
    append(slices, bytes_of(stored, piece.tile).subspan(begin, piece.bytes), stored.memory);
  }
  return slices;
}

Result<std::vector<Hash128>> SnapshotStore::hashes(Step stamp, std::span<const TileRange> tiles, std::uint64_t offset,
                                                   std::uint64_t bytes) const {
  const auto found = generations_.find(stamp);
  if (found == generations_.end()) return Error(ErrorCode::not_found, "no snapshot of the step is here");
  std::vector<Hash128> hashes;
  for (const std::uint32_t tile : tiles_beginning(map_, tiles, offset, bytes)) {
    const auto stored = found->second.find(tile);
    if (stored == found->second.end()) return Error(ErrorCode::not_found, "not all of the snapshot is here");
    hashes.push_back(stored->second.hash);
  }
  return hashes;
}

// ---- parity ----

std::vector<std::uint32_t> SnapshotStore::data_tiles(const Stripe& stripe, const FragmentPart& part,
                                                     std::optional<std::uint32_t> fragment) const {
  std::vector<std::uint32_t> tiles;
  for (std::uint32_t i = fragment.value_or(0); i < (fragment ? *fragment + 1 : stripe.data); ++i) {
    std::ranges::copy(tiles_beginning(map_, stripe.fragments[i].tiles, part.offset, part.bytes),
                      std::back_inserter(tiles));
  }
  return tiles;
}

Status SnapshotStore::take_hashes(Parity& parity, std::span<const std::uint32_t> tiles,
                                  std::span<const Hash128> hashes) {
  if (tiles.size() != hashes.size()) return corrupt("a part of a fragment with more or fewer hashes than its tiles");
  for (std::size_t i = 0; i < tiles.size(); ++i) parity.tiles.try_emplace(tiles[i], hashes[i]);
  return ok_status();
}

Result<std::vector<Hash128>> SnapshotStore::data_hashes(const FragmentPart& part,
                                                        std::optional<std::uint32_t> fragment) const {
  const auto found = parities_.find({part.snapshot, part.stripe});
  if (found == parities_.end() || (fragment && *fragment >= found->second.layout.data)) {
    return Error(ErrorCode::not_found, "no parity of that fragment is here");
  }
  std::vector<Hash128> hashes;
  for (const std::uint32_t tile : data_tiles(found->second.layout, part, fragment)) {
    const auto known = found->second.tiles.find(tile);
    if (known == found->second.tiles.end()) return Error(ErrorCode::not_found, "not all of that parity is here");
    hashes.push_back(known->second);
  }
  return hashes;
}

const FragmentSums& SnapshotStore::encoder(std::uint32_t data, std::uint32_t parity) {
  const auto known = encoders_.find({data, parity});
  if (known != encoders_.end()) return known->second;
  // Stripes were checked with their view: such a code there is.
  return encoders_.emplace(std::pair(data, parity), ErasureCode::make(data, parity)->encode()).first->second;
}

Result<SnapshotStore::Parity*> SnapshotStore::open_parity(const Stripe& stripe, const FragmentPart& part,
                                                          bool encodes) {
  const ParityKey key{part.snapshot, part.stripe};
  if (const auto known = parities_.find(key); known != parities_.end()) return &known->second;
  Parity parity;
  parity.layout = stripe;
  parity.fragment = parity.first = encodes ? stripe.data : part.fragment;
  const std::uint64_t bytes = stripe_bytes(map_, stripe);
  for (std::uint32_t i = 0; i < (encodes ? stripe.parity() : 1); ++i) {
    PLANARIA_ASSIGN(auto memory, memory_->take(bytes));
    if (encodes) std::ranges::fill(memory->bytes(), std::byte{});
    parity.sums.push_back(std::move(memory));
  }
  if (encodes) {
    for (std::uint32_t i = 0; i < stripe.data; ++i) parity.missing += fragment_bytes(map_, stripe.fragments[i]);
  } else {
    parity.missing = bytes;
  }
  return &(parities_[key] = std::move(parity));
}

// True: it is whole.
bool SnapshotStore::count_down(Parity& parity, std::uint64_t bytes) {
  parity.missing -= std::min(bytes, parity.missing);
  if (parity.missing > 0) return false;
  const std::span<const std::byte> own = parity.sums.front()->bytes();
  for (std::uint64_t i = 0; i * kStretch < own.size(); ++i) parity.hashes.push_back(hash_bytes(stretch(own, i)));
  return true;
}

Result<bool> SnapshotStore::add_part(const Stripe& stripe, const FragmentPart& part, std::span<const std::byte> bytes,
                                     std::span<const Hash128> hashes) {
  const ParityKey key{part.snapshot, part.stripe};
  if (failed_.contains(key)) return Error(ErrorCode::exhausted, "a part of the stripe is lacking");
  auto added = add_to_sums(stripe, part, bytes, hashes);
  if (!added) {
    failed_.insert(key);
    parities_.erase(key);
  }
  return added;
}

Result<bool> SnapshotStore::add_to_sums(const Stripe& stripe, const FragmentPart& part,
                                        std::span<const std::byte> bytes, std::span<const Hash128> hashes) {
  PLANARIA_ASSIGN(Parity * parity, open_parity(stripe, part, true));
  const std::uint64_t all = parity->sums.front()->bytes().size();
  if (bytes.size() != part.bytes || !is_inside(part, all) || part.fragment >= stripe.data) {
    return corrupt("a part of a fragment that isn't what it says");
  }
  PLANARIA_TRY(take_hashes(*parity, data_tiles(stripe, part, part.fragment), hashes));
  std::vector<FragmentBuffer> to;
  for (const auto& sum : parity->sums) to.push_back(sum->bytes().subspan(part.offset, part.bytes));
  encoder(stripe.data, stripe.parity()).add(part.fragment, bytes, to);
  return count_down(*parity, part.bytes);
}

Result<bool> SnapshotStore::store_part(const Stripe& stripe, const FragmentPart& part, std::span<const std::byte> bytes,
                                       std::span<const Hash128> hashes) {
  if (part.fragment < stripe.data || part.fragment >= stripe.fragments.size()) {
    return corrupt("a part of parity that isn't what it says");
  }
  PLANARIA_ASSIGN(Parity * parity, open_parity(stripe, part, false));
  const std::span<std::byte> own = parity->sums.front()->bytes();
  if (bytes.size() != part.bytes || !is_inside(part, own.size()) || part.fragment != parity->fragment) {
    return corrupt("a part of parity that isn't what it says");
  }
  PLANARIA_TRY(take_hashes(*parity, data_tiles(stripe, part, {}), hashes));
  std::ranges::copy(bytes, own.subspan(part.offset).begin());
  return count_down(*parity, part.bytes);
}

Result<std::vector<ConstSlice>> SnapshotStore::sum(const FragmentPart& part) {
  const auto found = parities_.find({part.snapshot, part.stripe});
  if (found == parities_.end() || part.fragment < found->second.first ||
      part.fragment - found->second.first >= found->second.sums.size()) {
    return Error(ErrorCode::not_found, "no sum of that fragment is here");
  }
  std::shared_ptr<SharedMemory>& sum = found->second.sums[part.fragment - found->second.first];
  if (sum == nullptr) return Error(ErrorCode::not_found, "the sum of that fragment is gone");
  const std::span<const std::byte> all = sum->bytes();
  if (!is_inside(part, all.size())) {
    return Error(ErrorCode::invalid_argument, "bytes beyond the end of a fragment");
  }
  std::vector<ConstSlice> slices{{all.subspan(part.offset, part.bytes), sum}};
  if (part.fragment != found->second.fragment && part.offset + part.bytes == all.size()) sum.reset();
  return slices;
}

Result<std::vector<ConstSlice>> SnapshotStore::parity(const FragmentPart& part) {
  const auto found = parities_.find({part.snapshot, part.stripe});
  if (found == parities_.end() || found->second.fragment != part.fragment || found->second.missing > 0) {
    return Error(ErrorCode::not_found, "that parity isn't here");
  }
  const auto& memory = found->second.sums.front();
  const std::span<const std::byte> all = memory->bytes();
  if (part.bytes == 0 || !is_inside(part, all.size())) {
    return Error(ErrorCode::invalid_argument, "bytes beyond the end of a fragment");
  }
  for (std::uint64_t i = part.offset / kStretch; i * kStretch < part.offset + part.bytes; ++i) {
    if (hash_bytes(stretch(all, i)) == found->second.hashes[i]) continue;
    parities_.erase(found);
    return corrupt("parity of a snapshot doesn't match its hash; it is given up");
  }
  return std::vector<ConstSlice>{{all.subspan(part.offset, part.bytes), memory}};
}

void SnapshotStore::keep_fragments(std::span<const HeldFragment> whole, std::span<const SnapshotName> building) {
  std::erase_if(failed_,
                [&](const ParityKey& key) { return std::ranges::find(building, key.first) == building.end(); });
  std::erase_if(parities_, [&](const auto& entry) {
    const ParityKey& key = entry.first;
    const std::uint32_t own = entry.second.fragment;
    if (std::ranges::find(building, key.first) != building.end()) return false;
    return std::ranges::none_of(whole, [&](const HeldFragment& held) {
      return held.snapshot == key.first && held.stripe == key.second && held.fragment == own;
    });
  });
}

Status SnapshotStore::damage(FragmentDamage how) {
  std::map<SnapshotName, std::map<std::uint32_t, std::span<std::byte>>> whole;  // by stripe
  for (const auto& [key, parity] : parities_) {
    if (parity.missing == 0) whole[key.first][key.second] = parity.sums.front()->bytes();
  }
  if (whole.empty()) return Error(ErrorCode::not_found, "no parity is here");
  const auto newest = std::prev(whole.end());
  if (how == FragmentDamage::old && newest == whole.begin()) {
    return Error(ErrorCode::not_found, "no parity of an older snapshot is here");
  }
  std::span<std::byte> other;  // to exchange with
  for (const auto& [stripe, bytes] : newest->second) {
    const std::span<std::byte> half = bytes.subspan(bytes.size() / 2);
    if (how == FragmentDamage::flip) {
      half.front() ^= std::byte{0x10};
    } else if (how == FragmentDamage::truncate) {
      std::ranges::fill(half, std::byte{});
    } else if (how == FragmentDamage::swap) {
      if (other.empty()) other = bytes.first(bytes.size() / 2);
      const std::size_t both = std::min(other.size(), half.size());
      std::swap_ranges(half.begin(), half.begin() + static_cast<std::ptrdiff_t>(both), other.begin());
    } else if (const auto older = std::prev(newest)->second.find(stripe); older != std::prev(newest)->second.end()) {
      std::copy_n(older->second.begin(), std::min(older->second.size(), bytes.size()), bytes.begin());
    }
  }
  return ok_status();
}

}  // namespace planaria

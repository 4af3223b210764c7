// What a keeper holds: state of its host's tiles, by step, and parity of other hosts' (proto/snapshot_layout.hpp).
//
// A tile lies as it travels in fragments: master, first moment and second moment, one behind the other. Its hash comes
// with it, from whoever wrote it; parity has one of each stretch, taken when it was whole. Whatever is read is held
// against its hash first: what doesn't match is given up, and is as good as lost.
//
// Thread contract: one thread. What was read stays as it is until its slices let go, also when the store gives it up.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "common/transport/transport.hpp"
#include "proto/snapshot_layout.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"
#include "storage/erasure_code.hpp"
#include "storage/fragment_damage.hpp"
#include "storage/snapshot_memory.hpp"

namespace planaria {

// Tiles of a state, one behind the other.
struct StoredTiles {
  TileRange tiles;
  std::shared_ptr<const SharedMemory> memory;
  std::uint64_t offset = 0;
  std::vector<Hash128> hashes;  // of each
};

class SnapshotStore {
 public:
  // `map` outlives this.
  SnapshotStore(const StateMap& map, std::shared_ptr<SnapshotMemory> memory) : map_(map), memory_(std::move(memory)) {}

  // ---- state ----

  // Tiles that lie one behind the other in the memory, and their hashes. Tiles of the step that are here stay. corrupt:
  // not as many bytes or hashes as tiles; tiles without state.
  [[nodiscard]] Status adopt(Step stamp, std::span<const TileRange> tiles, std::shared_ptr<const SharedMemory> memory,
                             std::uint64_t offset, std::span<const Hash128> hashes);
  // Values of StateTiles: all masters, all first moments, all second moments. exhausted: no memory. corrupt: as above.
  [[nodiscard]] Status store(Step stamp, TileRange tiles, std::span<const float> values);
  // The bytes of a fragment that hold these tiles whole, made again, and the hashes that their owner told. corrupt: as
  // above, or they are other bytes.
  [[nodiscard]] Status store_bytes(Step stamp, std::span<const TileRange> tiles, std::span<const std::byte> bytes,
                                   std::span<const Hash128> hashes);

  [[nodiscard]] TileSet tiles(Step stamp) const;
  // Tiles of the step that were found damaged, since it was asked last.
  [[nodiscard]] TileSet take_damaged(Step stamp);
  void drop_before(Step stamp);
  // Nothing stays without a stamp.
  void keep_only(std::optional<Step> stamp);

  // As values of StateTiles. not_found: not all of it is here; corrupt: some of it was damaged, and isn't any more.
  [[nodiscard]] Result<std::vector<ConstSlice>> state(Step stamp, TileRange tiles, bool parameters_only);
  // Where they lie, unread: whoever reads them holds them against their hashes. not_found: as above.
  // In runs of at most so many tiles.
  [[nodiscard]] Result<std::vector<StoredTiles>> find(Step stamp, TileRange tiles, std::size_t most) const;
  // Bytes of a fragment of these tiles. Errors as above; invalid_argument: beyond its end.
  [[nodiscard]] Result<std::vector<ConstSlice>> fragment(Step stamp, std::span<const TileRange> tiles,
                                                         std::uint64_t offset, std::uint64_t bytes);
  // Of the tiles that begin in these bytes, as FragmentData has them. not_found: as above.
  [[nodiscard]] Result<std::vector<Hash128>> hashes(Step stamp, std::span<const TileRange> tiles, std::uint64_t offset,
                                                    std::uint64_t bytes) const;

  // ---- parity ----

  // Adds a part of a data fragment to all sums of the stripe. True: they are whole. exhausted: no memory; corrupt: the
  // bytes or hashes aren't those of the part. Sums that lack a part are good for nothing: once one failed, all of the
  // stripe do.
  [[nodiscard]] Result<bool> add_part(const Stripe& stripe, const FragmentPart& part, std::span<const std::byte> bytes,
                                      std::span<const Hash128> hashes);
  // A part of the own parity fragment. As above.
  [[nodiscard]] Result<bool> store_part(const Stripe& stripe, const FragmentPart& part,
                                        std::span<const std::byte> bytes, std::span<const Hash128> hashes);
  // A part of another parity's sum, which was added up as far; that sum is given up with its last byte.
  [[nodiscard]] Result<std::vector<ConstSlice>> sum(const FragmentPart& part);
  // Bytes of the own parity fragment, which is whole. not_found, corrupt: as above.
  [[nodiscard]] Result<std::vector<ConstSlice>> parity(const FragmentPart& part);
  // Of the tiles of the stripe's data that begin in the part's bytes, by fragment, or of one fragment. not_found: the
  // part of them hasn't come, or is no more.
  [[nodiscard]] Result<std::vector<Hash128>> data_hashes(const FragmentPart& part,
                                                         std::optional<std::uint32_t> fragment = {}) const;
  // Gives up what neither is named nor belongs to a snapshot that is being built.
  void keep_fragments(std::span<const HeldFragment> whole, std::span<const SnapshotName> building);

  // Chaos: spoils the whole parity of the newest snapshot. not_found: there is none, or, for `old`, none before it.
  [[nodiscard]] Status damage(FragmentDamage how);

 private:
  struct Tile {
    std::shared_ptr<const SharedMemory> memory;
    std::uint64_t offset = 0;
    Hash128 hash;
  };
  using Generation = std::map<std::uint32_t, Tile>;  // by tile
  struct Parity {
    std::uint32_t fragment = 0;
    std::uint32_t first = 0;                          // parity fragment whose sum is sums[0]
    std::vector<std::shared_ptr<SharedMemory>> sums;  // the own one, and those of others while they are being sent
    std::uint64_t missing = 0;                        // bytes that were not added or stored yet
    std::vector<Hash128> hashes;                      // of stretches, once it is whole
    Stripe layout;
    std::map<std::uint32_t, Hash128> tiles;  // of its data, by tile
  };
  using ParityKey = std::pair<SnapshotName, std::uint32_t>;  // stripe

  [[nodiscard]] std::uint64_t tile_bytes(std::uint32_t tile) const {
    return kTensorsOfState * map_.bytes({tile, tile + 1});
  }
  [[nodiscard]] std::span<const std::byte> bytes_of(const Tile& tile, std::uint32_t index) const {
    return std::as_bytes(tile.memory->bytes()).subspan(tile.offset, tile_bytes(index));
  }
  [[nodiscard]] Result<std::uint64_t> bytes_of_tiles(std::span<const TileRange> tiles) const;
  [[nodiscard]] Status check_tiles(std::span<const TileRange> tiles, std::uint64_t bytes) const;
  // Of which all were found whole.
  [[nodiscard]] Result<const Generation*> checked(Step stamp, std::span<const TileRange> tiles);
  [[nodiscard]] Result<bool> add_to_sums(const Stripe& stripe, const FragmentPart& part,
                                         std::span<const std::byte> bytes, std::span<const Hash128> hashes);
  [[nodiscard]] std::vector<std::uint32_t> data_tiles(const Stripe& stripe, const FragmentPart& part,
                                                      std::optional<std::uint32_t> fragment) const;
  [[nodiscard]] Status take_hashes(Parity& parity, std::span<const std::uint32_t> tiles,
                                   std::span<const Hash128> hashes);
  [[nodiscard]] Result<Parity*> open_parity(const Stripe& stripe, const FragmentPart& part, bool encodes);
  [[nodiscard]] const FragmentSums& encoder(std::uint32_t data, std::uint32_t parity);
  bool count_down(Parity& parity, std::uint64_t bytes);

  const StateMap& map_;
  const std::shared_ptr<SnapshotMemory> memory_;
  std::map<Step, Generation> generations_;
  std::map<ParityKey, Parity> parities_;
  std::set<ParityKey> failed_;
  std::map<Step, TileSet> damaged_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, FragmentSums> encoders_;
};

}  // namespace planaria

// Which hosts protect which tiles against each other's loss: the stripes of an erasure code over the keepers of a view.
//
// A stripe has k data fragments, runs of tiles of k different hosts that stay where they are, and m parity fragments
// on m further hosts; any k of its fragments give back the others (storage/erasure_code.hpp). Hosts stand in a ring in
// which those of one zone lie far apart, and stripe i begins at the ring's i-th: so each host gives a k-th of its tiles
// to each of k stripes and keeps parity of m others (rotating parity). A fragment is as long as its stripe's longest;
// what a shorter one lacks is zeros, which nobody sends or keeps. Bytes of parity, over those protected: m / k, more
// where hosts differ in what they have.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

// A host with a keeper, and what would be lost with it.
struct ProtectedHost {
  WorkerId keeper;
  std::string zone;
  TileSet tiles;  // that no other host holds
};

// Of a stripe: ISA-L's matrices are small ones.
inline constexpr std::uint32_t kMaxFragments = 32;

struct StripeFragment {
  WorkerId keeper;
  std::vector<TileRange> tiles;  // in order; none: it is all zeros, or parity
  bool operator==(const StripeFragment&) const = default;
  template <class V>
  void fields(V& v) {
    v(keeper, tiles);
  }
};

struct Stripe {
  std::uint32_t data = 0;                 // so many of the fragments, the first ones
  std::vector<StripeFragment> fragments;  // of different keepers

  [[nodiscard]] std::uint32_t parity() const { return static_cast<std::uint32_t>(fragments.size()) - data; }
  // A data fragment without tiles: always there.
  [[nodiscard]] bool is_zeros(std::size_t fragment) const {
    return fragment < data && fragments[fragment].tiles.empty();
  }
  bool operator==(const Stripe&) const = default;
  template <class V>
  void fields(V& v) {
    v(data, fragments);
  }
};

struct SnapshotLayout {
  std::vector<Stripe> stripes;  // every tile that is protected is in one
  bool operator==(const SnapshotLayout&) const = default;
  template <class V>
  void fields(V& v) {
    v(stripes);
  }
};

struct SnapshotShape {
  std::uint32_t data = 3;    // k
  std::uint32_t parity = 1;  // m
};

// With fewer hosts than k + m, k is lowered to what is left beside m, and then m, so that a stripe of one data fragment
// remains; that of a single host has no parity. Hosts by keeper, each once. Precondition: shape.data > 0.
[[nodiscard]] SnapshotLayout place_snapshots(const StateMap& map, std::span<const ProtectedHost> hosts,
                                             SnapshotShape shape);

// Bytes of state: master and moments.
[[nodiscard]] std::uint64_t fragment_bytes(const StateMap& map, const StripeFragment& fragment);
[[nodiscard]] std::uint64_t stripe_bytes(const StateMap& map, const Stripe& stripe);  // of its longest fragment

// Bytes of one vector of one tile, as they lie in a fragment of data: tile after tile, each with its master, its first
// and its second moment.
struct TilePiece {
  std::uint32_t tile = 0;
  std::uint32_t vector = 0;  // 0 to 2
  std::uint64_t offset = 0;  // in the tile's vector
  std::uint64_t bytes = 0;
  bool operator==(const TilePiece&) const = default;
};
// Those of bytes [offset, offset + bytes), in order, as far as there are so many.
[[nodiscard]] std::vector<TilePiece> pieces_of(const StateMap& map, std::span<const TileRange> tiles,
                                               std::uint64_t offset, std::uint64_t bytes);

// Tiles whose first byte is one of those, in order.
[[nodiscard]] std::vector<std::uint32_t> tiles_beginning(const StateMap& map, std::span<const TileRange> tiles,
                                                         std::uint64_t offset, std::uint64_t bytes);

// What the keeper's host hands over to it; what all hosts do.
[[nodiscard]] TileSet tiles_of(const SnapshotLayout& layout, WorkerId keeper);
[[nodiscard]] TileSet tiles_of(const SnapshotLayout& layout);

// Memory that the keeper needs for it, at most: its host's state three times (a whole snapshot, one that is being made,
// one that a worker is writing), a fourth time with `durable` (one that is being written to disk), its own parity three
// times, and, where it encodes, the other parities' sums until they are sent.
[[nodiscard]] std::uint64_t snapshot_memory(const StateMap& map, const SnapshotLayout& layout, WorkerId keeper,
                                            bool durable);

// Whether the stripe's data is there or can be made from what is: `present` tells of each fragment.
[[nodiscard]] bool recoverable(const Stripe& stripe, const std::vector<bool>& present);
// So many hosts may be lost now, whichever they are; `present`: of each stripe, of each fragment. 0 without stripes.
[[nodiscard]] std::uint32_t tolerated_losses(const SnapshotLayout& layout,
                                             const std::vector<std::vector<bool>>& present);

// Structural rules: at most kMaxFragments fragments of a stripe, on different keepers; tiles with state, each in one
// stripe.
[[nodiscard]] Status check_snapshot_layout(const SnapshotLayout& layout, const StateMap& map);

}  // namespace planaria

// What keepers say to each other to make a snapshot whole, what they tell of its fragments, and how lost ones are made
// again. A snapshot is named by its step and by the view whose layout of stripes it has (proto/snapshot_layout.hpp).
//
// Thread contract: plain values.
#pragma once

#include <cstdint>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "proto/snapshot_layout.hpp"

namespace planaria {

struct SnapshotName {
  Step step;
  ViewNumber layout;
  auto operator<=>(const SnapshotName&) const = default;
  template <class V>
  void fields(V& v) {
    v(step, layout);
  }
};

// Bytes [offset, offset + bytes) of a fragment, which follow. Of data: of its tiles, each with master, first and second
// moment; of parity: of the sums. Parts of a fragment come in order.
struct FragmentPart {
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  std::uint32_t fragment = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  auto operator<=>(const FragmentPart&) const = default;
  template <class V>
  void fields(V& v) {
    v(snapshot, stripe, fragment, offset, bytes);
  }
};

// A part on its way to who adds up or keeps parity, with the hashes of the tiles that begin in it: of data its own, of
// parity those of all of the stripe's data, fragment by fragment. They stay beside the parity: what is made from it is
// held against the hash that the tile's owner took.
struct FragmentData {
  FragmentPart part;
  std::vector<Hash128> hashes;
  bool operator==(const FragmentData&) const = default;
  template <class V>
  void fields(V& v) {
    v(part, hashes);
  }
};

// "Send me these bytes of a fragment that you hold", of tiles that are told, or of parity; `part.bytes` is what the
// fragment has, at most as long as the asker wants it. The answer: they follow, or aren't there any more; with parity
// come the hashes of the lost fragment's tiles that begin in the part.
struct FragmentRequest {
  FragmentPart part;
  std::vector<TileRange> tiles;  // of the whole fragment; none: it is parity
  std::uint32_t lost = 0;        // the fragment that is to be made
  bool operator==(const FragmentRequest&) const = default;
  template <class V>
  void fields(V& v) {
    v(part, tiles, lost);
  }
};
struct FragmentReply {
  FragmentPart part;
  bool available = true;
  std::vector<Hash128> hashes;
  bool operator==(const FragmentReply&) const = default;
  template <class V>
  void fields(V& v) {
    v(part, available, hashes);
  }
};

// "All of my parity fragment is here", to the encoder; "the stripe is placed", from it.
enum class StripeStatus : std::uint8_t { stored, placed, count_ };
struct StripeWord {
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  StripeStatus status = StripeStatus::stored;
  bool operator==(const StripeWord&) const = default;
  template <class V>
  void fields(V& v) {
    v(snapshot, stripe, status);
  }
};

// A parity fragment that a keeper holds whole. It tells its stripe, as a later view's layout has others.
struct HeldFragment {
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  std::uint32_t fragment = 0;
  Stripe layout;
  bool operator==(const HeldFragment&) const = default;
  template <class V>
  void fields(V& v) {
    v(snapshot, stripe, fragment, layout);
  }
};

// How a member makes tiles of a data fragment that nobody holds: each byte from the same byte of k other fragments.
struct FragmentSource {
  WorkerId from;
  std::uint32_t fragment = 0;
  bool operator==(const FragmentSource&) const = default;
  template <class V>
  void fields(V& v) {
    v(from, fragment);
  }
};
struct FragmentRebuild {
  WorkerId worker;  // who makes them
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  std::uint32_t fragment = 0;
  Stripe layout;
  std::vector<FragmentSource> sources;  // in order; with those fragments that are all zeros, and named by none, k
  std::vector<TileRange> tiles;         // of the fragment
  bool operator==(const FragmentRebuild&) const = default;
  template <class V>
  void fields(V& v) {
    v(worker, snapshot, stripe, fragment, layout, sources, tiles);
  }
};

// corrupt: its stripe makes no sense, its tiles aren't its fragment's, or its sources aren't as many different ones as
// are needed.
[[nodiscard]] Status check_rebuild(const FragmentRebuild& rebuild, const StateMap& map);

}  // namespace planaria

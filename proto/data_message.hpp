// What workers say to each other on the data plane: a small encoded header (DataMeta), then raw little-endian floats.
//
// Byte layout of a payload: u32 length of the encoded meta, the meta, zero padding to a multiple of 64, values. The
// transport's frame around it carries job, view, sender and the hash of all of it. Values of Piece and Reduced: the
// fp32 gradient of `tiles`, in order. Values of StateTiles: master, first moment and second moment of `tiles`, each in
// order, or the master alone. Values of Parameters: the master of `tiles`. Values of Boundary: what one block hands to
// the next, [sequences · context, width]. Values of FragmentData and FragmentReply: the fragment's bytes.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/layout.hpp"
#include "proto/snapshot_message.hpp"

namespace planaria {

// Sums over a slot's tokens, in double, in position and micro-batch order.
struct SlotLoss {
  SlotIndex slot;
  double train = 0;
  double validation = 0;  // of the validation micro-batches that ride on the slot in evaluation steps
  template <class V>
  void fields(V& v) {
    v(slot, train, validation);
  }
};

// One micro-batch on its way through a slot: positions below the slot's training micro-batches are those, the ones
// behind them the validation micro-batches that ride on the slot.
struct SlotItem {
  std::uint32_t slot = 0;
  std::uint32_t position = 0;
  auto operator<=>(const SlotItem&) const = default;
  template <class V>
  void fields(V& v) {
    v(slot, position);
  }
};

// What crosses the border below a block: the output of the block before it, or the gradient of that output.
enum class BoundaryKind : std::uint8_t { activation, gradient, count_ };

struct BoundaryId {
  BoundaryKind kind = BoundaryKind::activation;
  std::uint32_t block = 0;  // above the border
  SlotItem item;
  auto operator<=>(const BoundaryId&) const = default;
  template <class V>
  void fields(V& v) {
    v(kind, block, item);
  }
};

// "I compute on your side of this border: send me what you make for `slots`, from the item on."
struct BoundaryRequest {
  Step step;
  std::uint32_t attempt = 0;
  BoundaryId from;
  SlotRange slots;
  template <class V>
  void fields(V& v) {
    v(step, attempt, from, slots);
  }
};

struct Boundary {
  Step step;
  std::uint32_t attempt = 0;
  BoundaryId id;
  template <class V>
  void fields(V& v) {
    v(step, attempt, id);
  }
};

// A stage's sum of one tree node, for the shards of the receiver.
struct Piece {
  Step step;
  std::uint32_t attempt = 0;
  BlockRange blocks;  // the stage's
  TreeNode node;
  std::vector<TileRange> tiles;
  std::vector<SlotLoss> losses;      // of the node's slots, when the blocks hold the head
  std::vector<SlotRange> nonfinite;  // of the node's slots; looked at from the second attempt at a step on
  template <class V>
  void fields(V& v) {
    v(step, attempt, blocks, node, tiles, losses, nonfinite);
  }
};

// Finished sums of shards of the sender, for a worker that updates them.
struct Reduced {
  Step step;
  std::uint32_t attempt = 0;
  std::vector<TileRange> tiles;
  std::vector<SlotLoss> losses;  // of all V slots, or none when the sender doesn't know them all
  template <class V>
  void fields(V& v) {
    v(step, attempt, tiles, losses);
  }
};

// "I hold the reduced gradient of all tiles that I keep": the sums of squares of those that no worker before it keeps,
// with tied copies added, in order. Each tile's sum is told once in a view, whoever keeps it besides; the hash of all
// its sums shows whether the worker has the same.
struct GateWord {
  WorkerId worker;
  std::vector<TileRange> tiles;
  std::vector<double> sums;
  Hash128 told;  // of `sums`, as the worker has them: the message's own hash is by who passes the word on
  Hash128 kept;  // of the sums of all tiles that it keeps
  template <class V>
  void fields(V& v) {
    v(worker, tiles, sums, told, kept);
  }
};
[[nodiscard]] Hash128 hash_of_sums(std::span<const double> sums);

// What the sender says, or what it passes on (proto/relays.hpp).
struct Gate {
  Step step;
  std::uint32_t attempt = 0;
  std::vector<GateWord> words;
  std::vector<SlotLoss> losses;  // of all V slots, or none when the sender doesn't know them all
  template <class V>
  void fields(V& v) {
    v(step, attempt, words, losses);
  }
};

// Parameters of the step, for a worker that computes with them and doesn't make them.
struct Parameters {
  Step step;
  std::vector<TileRange> tiles;
  template <class V>
  void fields(V& v) {
    v(step, tiles);
  }
};

// The hash of what a worker holds of a whole block, which others may hold as well.
struct BlockHash {
  std::uint32_t block = 0;
  Hash128 hash;
  auto operator<=>(const BlockHash&) const = default;
  template <class V>
  void fields(V& v) {
    v(block, hash);
  }
};

// Whether all blocks that both lists name have the same hash in both.
[[nodiscard]] bool agree(std::span<const BlockHash> a, std::span<const BlockHash> b);

// "My parameters of the step are made and verified."
struct AckWord {
  WorkerId worker;
  std::vector<BlockHash> hashes;  // on steps at which members compare
  template <class V>
  void fields(V& v) {
    v(worker, hashes);
  }
};

// As Gate.
struct Ack {
  Step step;
  std::vector<AckWord> words;
  template <class V>
  void fields(V& v) {
    v(step, words);
  }
};

struct StateRequest {
  Step stamp;
  TileRange tiles;
  bool parameters_only = false;
  bool for_checkpoint = false;  // the answer says so, too: it isn't taken for one to another request
  bool operator==(const StateRequest&) const = default;
  template <class V>
  void fields(V& v) {
    v(stamp, tiles, parameters_only, for_checkpoint);
  }
};

struct StateTiles {
  Step stamp;
  TileRange tiles;
  bool parameters_only = false;
  bool for_checkpoint = false;
  bool available = true;  // false: the sender doesn't hold that (any more); no values follow
  template <class V>
  void fields(V& v) {
    v(stamp, tiles, parameters_only, for_checkpoint, available);
  }
};

using DataMeta = std::variant<Piece, Reduced, Gate, Ack, StateRequest, StateTiles, BoundaryRequest, Boundary,
                              Parameters, FragmentData, StripeWord, FragmentRequest, FragmentReply>;

// The head of a payload: length, meta, padding.
[[nodiscard]] std::vector<std::byte> encode_data_head(const DataMeta& meta);

struct DataHead {
  DataMeta meta;
  std::size_t values_offset = 0;  // bytes from the payload's start
};
[[nodiscard]] Result<DataHead> decode_data_head(std::span<const std::byte> payload);

}  // namespace planaria

// How a model's state is named: blocks, tensors, tiles.
//
// The state of a model is one flat fp32 vector a block; the blocks `embed`, `layer.0` … `layer.L-1`, `head` are laid
// one after another in that order, each starting at a multiple of kBlockAlignment elements. A block's vector is cut
// in tiles of `tile_elements`; its last tile may be shorter. TileIndex counts tiles over all blocks in order. The
// parameters, both Adam moments and the gradient share this one geometry.
//
// With a tied embedding the head has a tensor `tied` = true: its gradient is accumulated and summed apart from the
// embedding's and added to it once, after both trees (docs/PROTOCOL.md, R18); its parameters are a copy of the
// embedding's, made after each update. It has no optimizer state, no tile sums and is neither hashed nor exported.
// Its tiles hold nothing else: the tensor starts on a tile boundary.
//
// Weights of linear layers are [out, in], row-major: y = x · Wᵀ + b.
//
// Thread contract: immutable after construction.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/ids.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

inline constexpr std::uint64_t kTensorsOfState = 3;   // of a tile: master, first and second moment
inline constexpr std::uint64_t kBlockAlignment = 64;  // elements; tensors start at multiples of 16 inside a block

// Consecutive tiles [begin, end) by TileIndex.
struct TileRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;

  [[nodiscard]] bool empty() const { return begin >= end; }
  auto operator<=>(const TileRange&) const = default;
  template <class V>
  void fields(V& v) {
    v(begin, end);
  }
};

// Consecutive blocks [begin, end) by BlockIndex.
struct BlockRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;

  [[nodiscard]] bool empty() const { return begin >= end; }
  [[nodiscard]] std::uint32_t size() const { return empty() ? 0 : end - begin; }
  [[nodiscard]] bool contains(BlockIndex block) const { return begin <= block.value() && block.value() < end; }
  auto operator<=>(const BlockRange&) const = default;
  template <class V>
  void fields(V& v) {
    v(begin, end);
  }
};

struct TensorInfo {
  std::string name;                      // inside the block: "attention.qkv.weight"
  std::array<std::uint64_t, 2> shape{};  // rows, columns; vectors have columns = 1
  std::uint32_t dimensions = 1;          // 1 or 2
  std::uint64_t offset = 0;              // elements from the start of the block's vector
  bool decays = false;                   // weight decay applies
  bool tied = false;

  [[nodiscard]] std::uint64_t elements() const { return shape[0] * shape[1]; }
};

struct BlockInfo {
  std::string name;            // "embed", "layer.3", "head"
  std::uint64_t offset = 0;    // elements from the start of the whole vector
  std::uint64_t elements = 0;  // without the padding to the next block
  std::uint32_t first_tile = 0;
  std::uint32_t tiles = 0;
  std::vector<TensorInfo> tensors;

  [[nodiscard]] TileRange tile_range() const { return {first_tile, first_tile + tiles}; }
  // Precondition: the block has a tensor of that name.
  [[nodiscard]] const TensorInfo& tensor(std::string_view tensor_name) const;
};

struct ElementRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  [[nodiscard]] std::uint64_t size() const { return end - begin; }
};

class StateMap {
 public:
  // Precondition: validate(job) holds.
  StateMap(const ModelSpec& model, std::uint32_t tile_elements);

  [[nodiscard]] std::span<const BlockInfo> blocks() const { return blocks_; }
  [[nodiscard]] const BlockInfo& block(BlockIndex index) const { return blocks_[index.value()]; }
  [[nodiscard]] std::uint32_t tile_count() const { return static_cast<std::uint32_t>(tiles_.size()); }
  [[nodiscard]] std::uint32_t tile_elements() const { return tile_elements_; }

  // Elements of the whole flat vector, padding included: what a buffer must hold.
  [[nodiscard]] std::uint64_t vector_elements() const { return vector_elements_; }
  // Parameters of the model, each counted once (tied copies and padding excluded).
  [[nodiscard]] std::uint64_t parameter_count() const { return parameter_count_; }

  // Where a tile lies in the whole flat vector.
  [[nodiscard]] ElementRange tile(TileIndex index) const { return tiles_[index.value()].elements; }
  [[nodiscard]] BlockIndex block_of(TileIndex index) const { return tiles_[index.value()].block; }
  // True for tiles of a tied copy.
  [[nodiscard]] bool is_tied(TileIndex index) const { return tiles_[index.value()].tied; }
  // Those are the last ones of all, if there are any; the others have state of their own.
  [[nodiscard]] TileRange tied_tiles() const { return {first_tied_, tile_count()}; }
  [[nodiscard]] TileRange tiles_with_state() const { return {0, first_tied_}; }
  // The embedding's tiles of which tied ones are copies: element for element, from each tile's start on.
  [[nodiscard]] TileRange originals_of(TileRange tied) const {
    return {tied.begin - first_tied_, tied.end - first_tied_};
  }
  [[nodiscard]] TileRange tiles_of(BlockRange blocks) const;
  // Bytes of fp32 values in the range, block padding excluded.
  [[nodiscard]] std::uint64_t bytes(TileRange range) const;

 private:
  struct Tile {
    ElementRange elements;
    BlockIndex block;
    bool tied = false;
  };
  std::uint32_t tile_elements_;
  std::uint32_t first_tied_ = 0;
  std::uint64_t vector_elements_ = 0;
  std::uint64_t parameter_count_ = 0;
  std::vector<BlockInfo> blocks_;
  std::vector<Tile> tiles_;
};

}  // namespace planaria

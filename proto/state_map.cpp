#include "proto/state_map.hpp"

#include <algorithm>
#include <cassert>

namespace planaria {
namespace {

constexpr std::uint64_t kTensorAlignment = 16;

std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Collects one block's tensors in order.
class BlockBuilder {
 public:
  explicit BlockBuilder(std::string name) { block_.name = std::move(name); }

  void vector(std::string name, std::uint64_t size) { add(std::move(name), {size, 1}, 1, false); }
  void matrix(std::string name, std::uint64_t rows, std::uint64_t columns) {
    add(std::move(name), {rows, columns}, 2, true);
  }
  void linear(const std::string& name, std::uint64_t out, std::uint64_t in, bool bias) {
    matrix(name + ".weight", out, in);
    if (bias) vector(name + ".bias", out);
  }
  void norm(const std::string& name, std::uint64_t width, bool bias) {
    vector(name + ".weight", width);
    if (bias) vector(name + ".bias", width);
  }
  void tied(std::string name, std::uint64_t rows, std::uint64_t columns, std::uint64_t tile_elements) {
    end_ = round_up(end_, tile_elements);
    add(std::move(name), {rows, columns}, 2, false);
    block_.tensors.back().tied = true;
  }
  BlockInfo take() {
    block_.elements = end_;
    return std::move(block_);
  }

 private:
  void add(std::string name, std::array<std::uint64_t, 2> shape, std::uint32_t dimensions, bool decays) {
    TensorInfo tensor{std::move(name), shape, dimensions, round_up(end_, kTensorAlignment), decays, false};
    end_ = tensor.offset + tensor.elements();
    block_.tensors.push_back(std::move(tensor));
  }

  BlockInfo block_;
  std::uint64_t end_ = 0;
};

BlockInfo embed_block(const ModelSpec& model) {
  BlockBuilder builder("embed");
  builder.matrix("token.weight", model.vocab, model.width);
  if (model.family == ModelFamily::gpt2) builder.matrix("position.weight", model.context, model.width);
  return builder.take();
}

BlockInfo layer_block(const ModelSpec& model, std::uint32_t index) {
  BlockBuilder builder("layer." + std::to_string(index));
  const std::uint64_t width = model.width;
  if (model.family == ModelFamily::gpt2) {
    builder.norm("norm1", width, true);
    builder.linear("attention.qkv", model.qkv_width(), width, true);
    builder.linear("attention.out", width, width, true);
    builder.norm("norm2", width, true);
    builder.linear("mlp.up", model.up_width(), width, true);
    builder.linear("mlp.down", width, model.ffn_width, true);
  } else {
    // Rows of qkv: all query heads, then key heads, then value heads. Rows of gate_up: gate, then up.
    builder.norm("norm1", width, false);
    builder.linear("attention.qkv", model.qkv_width(), width, false);
    builder.linear("attention.out", width, width, false);
    builder.norm("norm2", width, false);
    builder.linear("mlp.gate_up", model.up_width(), width, false);
    builder.linear("mlp.down", width, model.ffn_width, false);
  }
  return builder.take();
}

BlockInfo head_block(const ModelSpec& model, std::uint64_t tile_elements) {
  BlockBuilder builder("head");
  builder.norm("norm", model.width, model.family == ModelFamily::gpt2);
  if (model.tied_embedding) {
    builder.tied("token.weight", model.vocab, model.width, tile_elements);
  } else {
    builder.matrix("token.weight", model.vocab, model.width);
  }
  return builder.take();
}

}  // namespace

const TensorInfo& BlockInfo::tensor(std::string_view tensor_name) const {
  const auto found = std::ranges::find(tensors, tensor_name, &TensorInfo::name);
  assert(found != tensors.end());
  return *found;
}

StateMap::StateMap(const ModelSpec& model, std::uint32_t tile_elements) : tile_elements_(tile_elements) {
  blocks_.push_back(embed_block(model));
  for (std::uint32_t i = 0; i < model.layers; ++i) blocks_.push_back(layer_block(model, i));
  blocks_.push_back(head_block(model, tile_elements));

  for (std::uint32_t index = 0; index < blocks_.size(); ++index) {
    BlockInfo& block = blocks_[index];
    block.offset = vector_elements_;
    block.first_tile = static_cast<std::uint32_t>(tiles_.size());
    const auto tied = std::ranges::find_if(block.tensors, &TensorInfo::tied);
    const std::uint64_t tied_from = tied == block.tensors.end() ? block.elements : tied->offset;
    for (std::uint64_t at = 0; at < block.elements; at += tile_elements) {
      const std::uint64_t end = std::min(at + tile_elements, block.elements);
      tiles_.push_back({{block.offset + at, block.offset + end}, BlockIndex(index), at >= tied_from});
    }
    block.tiles = static_cast<std::uint32_t>(tiles_.size()) - block.first_tile;
    first_tied_ = static_cast<std::uint32_t>(std::ranges::find_if(tiles_, &Tile::tied) - tiles_.begin());
    vector_elements_ += round_up(block.elements, kBlockAlignment);
    for (const TensorInfo& tensor : block.tensors) {
      if (!tensor.tied) parameter_count_ += tensor.elements();
    }
  }
}

TileRange StateMap::tiles_of(BlockRange blocks) const {
  if (blocks.empty()) return {};
  return {blocks_[blocks.begin].tile_range().begin, blocks_[blocks.end - 1].tile_range().end};
}

std::uint64_t StateMap::bytes(TileRange range) const {
  std::uint64_t elements = 0;
  for (std::uint32_t i = range.begin; i < range.end; ++i) elements += tiles_[i].elements.size();
  return elements * sizeof(float);
}

}  // namespace planaria

#include "proto/state_map.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

ModelSpec small_model(ModelFamily family, bool tied) {
  ModelSpec model;
  model.family = family;
  model.layers = 2;
  model.heads = 4;
  model.kv_heads = family == ModelFamily::llama ? 2 : 4;
  model.width = 48;
  model.ffn_width = 112;
  model.vocab = 97;
  model.context = 32;
  model.tied_embedding = tied;
  return model;
}

class StateMapTest : public testing::TestWithParam<std::tuple<ModelFamily, bool>> {};

TEST_P(StateMapTest, TilesCoverEveryTensorOnceAndStayInsideTheirBlock) {
  const auto [family, tied] = GetParam();
  const StateMap map(small_model(family, tied), 1024);
  std::uint64_t elements = 0;
  for (std::uint32_t i = 0; i < map.tile_count(); ++i) {
    const ElementRange range = map.tile(TileIndex(i));
    const BlockInfo& block = map.block(map.block_of(TileIndex(i)));
    EXPECT_GE(range.begin, block.offset);
    EXPECT_LE(range.end, block.offset + block.elements);
    EXPECT_LE(range.size(), 1024U);
    elements += range.size();
  }
  std::uint64_t expected = 0;
  for (const BlockInfo& block : map.blocks()) expected += block.elements;
  EXPECT_EQ(elements, expected);
  EXPECT_LE(map.blocks().back().offset + map.blocks().back().elements, map.vector_elements());
}

TEST_P(StateMapTest, TensorsDoNotOverlapAndTiedTilesHoldNothingElse) {
  const auto [family, tied] = GetParam();
  const StateMap map(small_model(family, tied), 1024);
  for (const BlockInfo& block : map.blocks()) {
    std::uint64_t end = 0;
    for (const TensorInfo& tensor : block.tensors) {
      EXPECT_GE(tensor.offset, end) << block.name << ' ' << tensor.name;
      end = tensor.offset + tensor.elements();
      if (tensor.tied) {
        EXPECT_EQ(tensor.offset % 1024, 0U);
      }
    }
    EXPECT_EQ(end, block.elements);
  }
  EXPECT_EQ(map.blocks().back().tensor("token.weight").tied, tied);
}

INSTANTIATE_TEST_SUITE_P(Families, StateMapTest,
                         testing::Combine(testing::Values(ModelFamily::gpt2, ModelFamily::llama), testing::Bool()));

}  // namespace
}  // namespace planaria

#include "worker/trainer/gradient_store.hpp"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "common/philox.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

constexpr std::uint32_t kSlots = 8;

class GradientStoreTest : public ::testing::Test {
 protected:
  GradientStoreTest() : map_(small_model(1, 64), 256), stream_(philox_key(11, RandomPurpose::tests)) {
    device_ = std::move(make_cpu_device({})).value();
    pool_ = std::move(BufferPool::create(device_, map_.vector_elements(), 4)).value();
    store_ = std::make_unique<GradientStore>(*device_, pool_, map_, kSlots);
    store_->enter(Step(1));
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      auto& values = slots_[slot];
      values.resize(map_.vector_elements());
      for (float& value : values) value = unit_float(stream_.next_u32()) - 0.5F;
    }
  }
  void compute(std::uint32_t slot) {
    auto buffer = store_->begin_slot(all(), SlotIndex(slot));
    ASSERT_TRUE(buffer.ok());
    std::copy(slots_[slot].begin(), slots_[slot].end(), *buffer);
  }
  // The tree in plain loops.
  std::vector<float> tree(TreeNode node) const {
    if (node.level == 0) return slots_.at(node.index);
    const auto left = tree({node.level - 1, node.index * 2});
    auto sum = tree({node.level - 1, node.index * 2 + 1});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = left[i] + sum[i];
    return sum;
  }
  void expect_reduced(TileRange tiles) {
    const auto expected = tree({3, 0});
    const float* reduced = *store_->reduced();
    for (const ElementRange& run : element_runs(map_, std::span(&tiles, 1))) {
      for (std::uint64_t i = run.begin; i < run.end; ++i) ASSERT_EQ(reduced[i], expected[i]) << i;
    }
  }
  // A received node: its values of `tiles`.
  GradientStore::Input received(TreeNode node, const std::vector<TileRange>& tiles) {
    const auto values = tree(node);
    auto& packed = packed_[node];
    for (const ElementRange& run : element_runs(map_, tiles)) {
      packed.insert(packed.end(), values.begin() + std::ptrdiff_t(run.begin), values.begin() + std::ptrdiff_t(run.end));
    }
    return {at(node), packed, tiles};
  }
  TileRange block_tiles(std::size_t block) const { return map_.blocks()[block].tile_range(); }
  BlockRange all() const { return {0, static_cast<std::uint32_t>(map_.blocks().size())}; }
  StageNode at(TreeNode node) const { return {all(), node}; }

  StateMap map_;
  PhiloxStream stream_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<BufferPool> pool_;
  std::unique_ptr<GradientStore> store_;
  std::map<std::uint32_t, std::vector<float>> slots_;
  std::map<TreeNode, std::vector<float>> packed_;
};

TEST_F(GradientStoreTest, FoldingEverySlotInOrderGivesTheTree) {
  for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
    compute(slot);
    ASSERT_TRUE(store_->add(all(), fold_cascade(0, SlotIndex(slot))).ok());
  }
  ASSERT_TRUE(store_
                  ->reduce(std::vector<TileRange>{{0, map_.tile_count()}},
                           std::vector<GradientStore::Input>{{at({3, 0}), {}, {}}})
                  .ok());
  expect_reduced({0, map_.tile_count()});
  EXPECT_LE(pool_->allocated(), 4U);
}

TEST_F(GradientStoreTest, OwnAndReceivedNodesFinishTheTree) {
  const std::vector<TileRange> tiles{block_tiles(0), block_tiles(1)};
  compute(3);
  compute(4);
  const std::vector<GradientStore::Input> inputs{{at({0, 3}), {}, {}},    {at({0, 4}), {}, {}},
                                                 received({1, 0}, tiles), received({1, 3}, tiles),
                                                 received({0, 2}, tiles), received({0, 5}, tiles)};
  ASSERT_TRUE(store_->reduce(tiles, inputs).ok());
  for (const TileRange& range : tiles) expect_reduced(range);
}

TEST_F(GradientStoreTest, AnIncompleteCoverIsRefused) {
  compute(0);
  const std::vector<GradientStore::Input> inputs{{at({0, 0}), {}, {}}};
  EXPECT_FALSE(store_->reduce(std::vector<TileRange>{block_tiles(0)}, inputs).ok());
}

TEST_F(GradientStoreTest, ALeasedNodeKeepsItsValuesWhenItIsFolded) {
  compute(0);
  compute(1);
  const auto lease = store_->lease_node(at({0, 0}));
  const auto other = store_->lease_node(at({0, 1}));
  ASSERT_TRUE(lease.ok() && other.ok());
  ASSERT_TRUE(store_->add(all(), fold_cascade(0, SlotIndex(1))).ok());
  EXPECT_TRUE(std::equal(slots_[0].begin(), slots_[0].end(), lease->vector));
  EXPECT_TRUE(std::equal(slots_[1].begin(), slots_[1].end(), other->vector));
  EXPECT_FALSE(store_->lease_node(at({0, 0})).ok());
  const auto sum = tree({1, 0});
  EXPECT_TRUE(std::equal(sum.begin(), sum.end(), store_->lease_node(at({1, 0}))->vector));
}

TEST_F(GradientStoreTest, FoldingWithTheBackwardPassMakesTheLaterOrderEmpty) {
  compute(0);
  compute(1);
  const auto cascade = fold_cascade(0, SlotIndex(1));
  auto fold = store_->begin_fold(all(), cascade);
  ASSERT_TRUE(fold.ok());
  for (const BlockInfo& block : map_.blocks()) store_->fold(*fold, {block.offset, block.offset + block.elements});
  store_->finish(std::move(*fold));
  ASSERT_TRUE(store_->add(all(), cascade).ok());
  const auto sum = tree({1, 0});
  EXPECT_EQ(store_->lease_node(at({1, 0}))->vector[5], sum[5]);
}

TEST_F(GradientStoreTest, TilesThatAreHeldAreNotOverwritten) {
  const std::vector<TileRange> tiles{block_tiles(0)};
  const auto root = received({3, 0}, tiles);
  ASSERT_TRUE(store_->store_reduced(tiles, root.values).ok());
  const std::vector<float> other(root.values.size(), 1.0F);
  ASSERT_TRUE(store_->store_reduced(tiles, other).ok());
  expect_reduced(tiles[0]);
}

TEST_F(GradientStoreTest, StagesOfOneSlotKeepTheirSumsApart) {
  const BlockRange lower{0, 2};
  const BlockRange upper{2, all().end};
  for (const BlockRange blocks : {lower, upper}) {
    auto buffer = store_->begin_slot(blocks, SlotIndex(0));
    ASSERT_TRUE(buffer.ok());
    const std::uint64_t first = map_.blocks()[blocks.begin].offset;
    std::copy_n(slots_[0].begin() + std::ptrdiff_t(first), map_.blocks()[blocks.begin].elements, *buffer + first);
  }
  const auto low = store_->lease_node({lower, {0, 0}});
  const auto high = store_->lease_node({upper, {0, 0}});
  ASSERT_TRUE(low.ok() && high.ok());
  EXPECT_EQ(low->vector[0], slots_[0][0]);
  EXPECT_EQ(high->vector[map_.blocks()[2].offset], slots_[0][map_.blocks()[2].offset]);
  EXPECT_FALSE(store_->lease_node(at({0, 0})).ok());
}

TEST_F(GradientStoreTest, AnotherStepStartsEmpty) {
  compute(0);
  store_->enter(Step(2));
  EXPECT_FALSE(store_->slot(all(), SlotIndex(0)).ok());
  EXPECT_FALSE(store_->reduced().ok());
}

TEST(FoldCascade, StopsAtTheRangesBegin) {
  EXPECT_TRUE(fold_cascade(0, SlotIndex(2)).empty());
  EXPECT_EQ(fold_cascade(0, SlotIndex(3)).size(), 2U);
  EXPECT_EQ(fold_cascade(2, SlotIndex(3)).size(), 1U);
  EXPECT_TRUE(fold_cascade(3, SlotIndex(3)).empty());
}

// A committed step's sums stay beside those of the next one until they are released or taken up again.
TEST_F(GradientStoreTest, AStepIsPutAsideAndTakenUpAgain) {
  for (std::uint32_t slot = 0; slot < 2; ++slot) compute(slot);
  ASSERT_TRUE(store_->keep(Step(1)));
  store_->enter(Step(2));
  EXPECT_FALSE(store_->lease_node(at({0, 0})).ok());
  compute(3);
  store_->release(Step(2));
  ASSERT_TRUE(store_->return_to(Step(1)));
  EXPECT_TRUE(store_->lease_node(at({0, 0})).ok());
  EXPECT_FALSE(store_->lease_node(at({0, 3})).ok());
  ASSERT_TRUE(store_->keep(Step(1)));
  store_->release(Step(1));
  EXPECT_FALSE(store_->return_to(Step(1)).ok());
}

}  // namespace
}  // namespace planaria

#include "worker/data/sampling.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace planaria {
namespace {

std::vector<std::uint64_t> epoch_of(const WindowOrder& order, std::uint64_t epoch) {
  std::vector<std::uint64_t> windows(order.windows());
  for (std::uint64_t p = 0; p < windows.size(); ++p) windows[p] = order.window(epoch * order.windows() + p);
  return windows;
}

class WindowOrderTest : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(WindowOrderTest, EveryWindowComesExactlyOnceInEachEpoch) {
  for (const std::uint64_t seed : {0ULL, 1ULL, 0xFFFFFFFFFFFFFFFFULL}) {
    const WindowOrder order(seed, GetParam());
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<std::uint64_t> windows = epoch_of(order, epoch);
      std::ranges::sort(windows);
      for (std::uint64_t w = 0; w < windows.size(); ++w) {
        ASSERT_EQ(windows[w], w) << "seed " << seed << ", epoch " << epoch;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, WindowOrderTest,
                         ::testing::Values(1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 100, 255, 256, 257, 1000, 4097,
                                           20000));

TEST(WindowOrder, EpochsAndSeedsGiveOtherOrders) {
  const WindowOrder order(5, 1000);
  EXPECT_NE(epoch_of(order, 0), epoch_of(order, 1));
  EXPECT_NE(epoch_of(order, 0), epoch_of(WindowOrder(6, 1000), 0));
  EXPECT_EQ(epoch_of(order, 1), epoch_of(WindowOrder(5, 1000), 1));
}

TEST(WindowOrder, IsWellMixed) {
  // Neighbours in position are no neighbours in the text, and the mean distance is that of a random order (W / 3).
  constexpr std::uint64_t kWindows = 3000;
  const std::vector<std::uint64_t> windows = epoch_of(WindowOrder(9, kWindows), 0);
  double distance = 0;
  std::uint64_t fixed = 0;
  for (std::uint64_t p = 0; p + 1 < kWindows; ++p) {
    distance += std::abs(static_cast<double>(windows[p]) - static_cast<double>(windows[p + 1]));
    fixed += windows[p] == p ? 1 : 0;
  }
  EXPECT_NEAR(distance / kWindows, kWindows / 3.0, kWindows * 0.03);
  EXPECT_LT(fixed, 10U);
}

TEST(WindowOrder, HugeCountsStayInRange) {
  const WindowOrder order(3, (1ULL << 40) + 12345);
  for (std::uint64_t p = 0; p < 1000; ++p) EXPECT_LT(order.permute(7, p), order.windows());
}

TEST(WindowOrder, PinnedValues) {
  const WindowOrder order(42, 100);
  const std::vector<std::uint64_t> first = {order.window(0), order.window(1), order.window(99), order.window(100)};
  EXPECT_EQ(first, (std::vector<std::uint64_t>{92, 12, 14, 15}));
}

TEST(SequenceIndex, CountsFromTheFirstStep) {
  const BatchShape shape{.micro_batches = 32, .sequences = 2};
  EXPECT_EQ(sequence_index(shape, Step(1), MicroBatchIndex(0), 0), 0U);
  EXPECT_EQ(sequence_index(shape, Step(1), MicroBatchIndex(31), 1), 63U);
  EXPECT_EQ(sequence_index(shape, Step(3), MicroBatchIndex(1), 1), 131U);
}

TEST(ValidationWindow, IsSpreadEvenly) {
  EXPECT_EQ(validation_window(0, 4, 100), 0U);
  EXPECT_EQ(validation_window(1, 4, 100), 25U);
  EXPECT_EQ(validation_window(3, 4, 100), 75U);
  EXPECT_EQ(validation_window(9, 10, 3), 2U);
}

}  // namespace
}  // namespace planaria

#include "worker/core/block_times.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using std::chrono::milliseconds;

TEST(BlockTimes, TellTheMedianOverSamplesOfWhatAMicroBatchTook) {
  BlockTimes times(4);
  const auto step = [&](int first, int second) {
    for (int i = 0; i < 3; ++i)
      times.computed({1, 3}, std::vector<Duration>{milliseconds(first), milliseconds(second)});
    times.sample_ended(1);
  };
  times.computed({1, 3}, std::vector<Duration>{milliseconds(1), milliseconds(1)});
  EXPECT_EQ(times.seconds(), std::vector<float>(4, 0));  // no sample has ended
  times.sample_ended(1);
  for (int i = 0; i < 5; ++i) step(10, 20);
  for (int i = 0; i < 3; ++i) step(1000, 5);
  EXPECT_FLOAT_EQ(times.seconds()[1], 0.010F);
  EXPECT_FLOAT_EQ(times.seconds()[2], 0.020F);
  EXPECT_EQ(times.seconds()[0], 0);
  EXPECT_EQ(times.seconds()[3], 0);
}

TEST(BlockTimes, SamplesWithoutTheBlockSayNothingAboutIt) {
  BlockTimes times(2);
  times.computed({0, 1}, std::vector<Duration>{milliseconds(10)});
  times.sample_ended(1);
  for (int i = 0; i < 20; ++i) times.sample_ended(1);
  EXPECT_FLOAT_EQ(times.seconds()[0], 0.010F);
}

TEST(BlockTimes, AreThoseOfWorkDoneAllTheTime) {
  BlockTimes times(1);
  times.computed({0, 1}, std::vector<Duration>{milliseconds(10)});
  times.sample_ended(2.5);
  EXPECT_FLOAT_EQ(times.seconds()[0], 0.025F);
}

}  // namespace
}  // namespace planaria

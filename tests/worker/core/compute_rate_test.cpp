#include "worker/core/compute_rate.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using std::chrono::milliseconds;

void step(ComputeRate& rate, std::uint32_t micro_batches, milliseconds each) {
  for (std::uint32_t i = 0; i < micro_batches; ++i) rate.computed(each, {}, 1);
  rate.step_ended();
}

TEST(ComputeRate, IsUnknownUntilAStepHasEnded) {
  ComputeRate rate;
  rate.computed(milliseconds(10), {}, 1);
  EXPECT_EQ(rate.per_second(), 0);
  rate.step_ended();
  EXPECT_DOUBLE_EQ(rate.per_second(), 100);
}

TEST(ComputeRate, IsNotMovedByOutliers) {
  ComputeRate rate;
  for (int i = 0; i < 5; ++i) step(rate, 40, milliseconds(10));
  for (int i = 0; i < 4; ++i) step(rate, 40, milliseconds(1000));
  EXPECT_DOUBLE_EQ(rate.per_second(), 100);
}

TEST(ComputeRate, FollowsALastingChange) {
  ComputeRate rate;
  for (int i = 0; i < 100; ++i) step(rate, 40, milliseconds(10));
  for (int i = 0; i < 5; ++i) step(rate, 40, milliseconds(40));
  EXPECT_DOUBLE_EQ(rate.per_second(), 25);
}

TEST(ComputeRate, IgnoresStepsWithoutWork) {
  ComputeRate rate;
  step(rate, 2, milliseconds(20));
  for (int i = 0; i < 20; ++i) rate.step_ended();
  EXPECT_DOUBLE_EQ(rate.per_second(), 50);
}

TEST(ComputeRate, TakesShortStepsTogether) {
  ComputeRate rate;
  step(rate, 1, milliseconds(10));
  EXPECT_DOUBLE_EQ(rate.per_second(), 100);  // better than none
  // Of four steps the scheduler takes one apart.
  for (int i = 0; i < 40; ++i) step(rate, 1, milliseconds(i % 4 == 3 ? 170 : 10));
  EXPECT_DOUBLE_EQ(rate.per_second(), 20);
}

TEST(ComputeRate, IsWhatALimitGrantsAllTheTime) {
  ComputeRate rate;
  rate.computed(milliseconds(10), milliseconds(25), 1);
  rate.computed(milliseconds(30), milliseconds(25), 1);
  EXPECT_EQ(rate.step_ended(), 1.25);
  EXPECT_DOUBLE_EQ(rate.per_second(), 40);
}

TEST(ComputeRate, IsNoFasterThanAProcessorThatOthersShare) {
  ComputeRate rate;
  rate.computed(milliseconds(50), milliseconds(25), 1);
  EXPECT_EQ(rate.step_ended(), 1);
  EXPECT_DOUBLE_EQ(rate.per_second(), 20);
}

}  // namespace
}  // namespace planaria

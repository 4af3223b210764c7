#include "worker/core/compute_rate.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using std::chrono::milliseconds;

void step(ComputeRate& rate, std::uint32_t micro_batches, milliseconds each) {
  for (std::uint32_t i = 0; i < micro_batches; ++i) rate.computed(each, 1);
  rate.step_ended();
}

TEST(ComputeRate, IsUnknownUntilAStepHasEnded) {
  ComputeRate rate;
  rate.computed(milliseconds(10), 1);
  EXPECT_EQ(rate.per_second(), 0);
  rate.step_ended();
  EXPECT_DOUBLE_EQ(rate.per_second(), 100);
}

TEST(ComputeRate, IsNotMovedByOutliers) {
  ComputeRate rate;
  for (int i = 0; i < 5; ++i) step(rate, 4, milliseconds(10));
  for (int i = 0; i < 4; ++i) step(rate, 4, milliseconds(1000));
  EXPECT_DOUBLE_EQ(rate.per_second(), 100);
}

TEST(ComputeRate, FollowsALastingChange) {
  ComputeRate rate;
  for (int i = 0; i < 100; ++i) step(rate, 4, milliseconds(10));
  for (int i = 0; i < 5; ++i) step(rate, 4, milliseconds(40));
  EXPECT_DOUBLE_EQ(rate.per_second(), 25);
}

TEST(ComputeRate, IgnoresStepsWithoutWork) {
  ComputeRate rate;
  step(rate, 2, milliseconds(20));
  for (int i = 0; i < 20; ++i) rate.step_ended();
  EXPECT_DOUBLE_EQ(rate.per_second(), 50);
}

}  // namespace
}  // namespace planaria

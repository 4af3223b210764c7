#include "coordinator/core/measured_blocks.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "common/philox.hpp"

namespace planaria {
namespace {

using Seconds = std::vector<std::vector<float>>;

MeasuredBlocks measure(const std::vector<double>& counted, const Seconds& seconds) {
  return measured_blocks(counted, std::vector<std::span<const float>>(seconds.begin(), seconds.end()));
}

TEST(MeasuredBlocks, WithoutMeasuresAreThoseCounted) {
  const std::vector<double> counted{0.1, 0.6, 0.3};
  const auto measured = measure(counted, {{}, {0, 0, 0}});
  EXPECT_EQ(measured.shares, counted);
  EXPECT_EQ(measured.speeds, (std::vector<double>{0, 0}));
}

TEST(MeasuredBlocks, WorkersWithDifferentBlocksTellTheirCosts) {
  PhiloxStream random(philox_key(11, RandomPurpose::tests));
  for (int round = 0; round < 100; ++round) {
    const std::size_t blocks = 4 + random.below(8);
    std::vector<double> cost;
    for (std::size_t b = 0; b < blocks; ++b) cost.push_back(0.1 + random.unit_double());
    double sum = 0;
    for (const double c : cost) sum += c;
    for (double& c : cost) c /= sum;
    const std::vector<double> counted(blocks, 1.0 / static_cast<double>(blocks));
    Seconds seconds;
    for (int w = 0; w < 6; ++w) {  // every second one computes all blocks
      const double speed = 0.5 + 3 * random.unit_double();
      const std::size_t begin = w % 2 == 0 ? 0 : random.below(blocks);
      const std::size_t end = w % 2 == 0 ? blocks : begin + 1 + random.below(blocks - begin);
      seconds.emplace_back(blocks, 0.0F);
      for (std::size_t b = begin; b < end; ++b) seconds.back()[b] = static_cast<float>(cost[b] / speed);
    }
    const auto measured = measure(counted, seconds);
    double off = 0, before = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      off += std::abs(measured.shares[b] - cost[b]);
      before += std::abs(counted[b] - cost[b]);
    }
    EXPECT_LT(off, 0.1 * before + 1e-4) << "round " << round;
  }
}

TEST(MeasuredBlocks, OneSlowWorkerMakesNoBlockDear) {
  const std::vector<double> counted{0.25, 0.5, 0.25};
  const auto measured = measure(counted, {{1, 2, 1}, {1, 2, 1}, {10, 20, 10}});
  for (std::size_t b = 0; b < 3; ++b) EXPECT_NEAR(measured.shares[b], counted[b], 1e-6);
  EXPECT_NEAR(measured.speeds[0], 0.25, 1e-6);
  EXPECT_NEAR(measured.speeds[2], 0.025, 1e-6);
}

TEST(MeasuredBlocks, WhatACommonWorkerMeasuredDifferentlyIsCorrected) {
  // The head takes four times what its shape says.
  const auto measured = measure({0.5, 0.5}, {{1, 4}, {1, 4}});
  EXPECT_NEAR(measured.shares[1], 0.8, 1e-6);
  EXPECT_NEAR(measured.speeds[0], 0.2, 1e-6);
}

TEST(EstimatedSpeeds, FollowFromOperationsUntilOthersAreKnown) {
  std::vector<double> speeds{0, 0, 0};
  const std::vector<double> gflops{10, 20, 0};
  estimate_speeds(speeds, gflops, 5e9);
  EXPECT_EQ(speeds, (std::vector<double>{2, 4, 0}));
}

TEST(EstimatedSpeeds, FollowFromWhatTheSameDevicesDoElsewhere) {
  // The known ones reach half of what counted operations promise, and one of them does worse for its own reasons.
  std::vector<double> speeds{1, 2, 0.1, 0};
  const std::vector<double> gflops{10, 20, 10, 15};
  estimate_speeds(speeds, gflops, 5e9);
  EXPECT_EQ(speeds, (std::vector<double>{1, 2, 0.1, 1.5}));
}

TEST(EstimatedSpeeds, ANewcomerIsNotBelievedToBeFasterThanTheFastest) {
  std::vector<double> speeds{1, 2, 0};
  const std::vector<double> gflops{10, 20, 50};
  estimate_speeds(speeds, gflops, 5e9);
  EXPECT_EQ(speeds, (std::vector<double>{1, 2, 2}));
}

}  // namespace
}  // namespace planaria

#include "coordinator/core/layout_planning.hpp"

#include <gtest/gtest.h>

#include "proto/block_cost.hpp"

namespace planaria {
namespace {

class LayoutPlanning : public ::testing::Test {
 protected:
  std::vector<PlannedWorker> workers(std::size_t count, std::uint64_t memory, bool of_host = false) const {
    std::vector<PlannedWorker> all;
    for (std::uint32_t i = 0; i < count; ++i) all.push_back({WorkerId(i), "here", {memory, of_host, "", ""}, 10});
    return all;
  }
  JobSpec job_;
  StateMap map_{job_.model, job_.train.tile_elements};
  ModelProfile model_ = measured_model(job_, map_, block_shares(job_, map_));
  std::uint32_t blocks_ = static_cast<std::uint32_t>(map_.blocks().size());
};

TEST_F(LayoutPlanning, SpeedsAreMicroBatchesASecond) {
  double seconds = 0;
  for (const BlockProfile& block : model_.blocks) seconds += block.seconds();
  EXPECT_NEAR(seconds, 1, 1e-9);
}

TEST_F(LayoutPlanning, WorkersOfAMachineShareItsMemory) {
  auto all = workers(3, 12'000, true);
  all[2].host = "there";
  const ClusterProfile cluster = measured_cluster(all);
  EXPECT_EQ(cluster.workers[0].memory_bytes, 6'000U);
  EXPECT_EQ(cluster.workers[2].memory_bytes, 12'000U);
}

TEST_F(LayoutPlanning, StagesAndPlansAreTheSame) {
  const std::vector<StageAssignment> stages{{WorkerId(4), {{0, 2}, {0, 20}}, false},
                                            {WorkerId(1), {{2, blocks_}, {0, 20}}, false},
                                            {WorkerId(2), {{0, blocks_}, {20, 32}}, false}};
  const LayoutPlan plan = plan_of(stages);
  EXPECT_EQ(depths_text(plan), "2+1");
  EXPECT_EQ(stages_of(plan), stages);
}

TEST_F(LayoutPlanning, WhatAWorkerIsPredictedToNeedMustFit) {
  const std::vector<StageAssignment> alone{{WorkerId(0), {{0, blocks_}, {0, job_.batch.slots}}, false}};
  const auto fits = [&](std::uint64_t memory) {
    const std::vector<PlannedWorker> one = workers(1, memory);
    const LayoutRequest request = layout_request(job_, map_, block_shares(job_, map_), one, {}, {});
    return Forecast(request).fits_memory(alone);
  };
  EXPECT_TRUE(fits(0));
  EXPECT_FALSE(fits(1'000'000));
  EXPECT_TRUE(fits(std::uint64_t{1} << 40));
}

TEST_F(LayoutPlanning, WorkersAreAllowedWhatTheirMemoryLetsThem) {
  const std::vector<StageAssignment> stages{{WorkerId(0), {{0, 2}, {0, job_.batch.slots}}, false},
                                            {WorkerId(1), {{2, blocks_}, {0, job_.batch.slots}}, false}};
  const auto allowed = [&](std::uint64_t memory, std::uint32_t worker) {
    const std::vector<PlannedWorker> two = workers(2, memory);
    const LayoutRequest request = layout_request(job_, map_, block_shares(job_, map_), two, {}, {});
    return Forecast(request).allowances(stages).at(WorkerId(worker));
  };
  EXPECT_EQ(allowed(0, 0), (Allowance{.ahead = 1, .waiting = 0})) << "nobody waits for the first stage";
  EXPECT_EQ(allowed(0, 1), (Allowance{.ahead = 0, .waiting = 1})) << "at the head forward and backward are one";
  EXPECT_EQ(allowed(1'000'000, 0), Allowance{});
  EXPECT_EQ(allowed(1'000'000, 1), Allowance{});
}

}  // namespace
}  // namespace planaria

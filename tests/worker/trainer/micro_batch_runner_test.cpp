// Weights' gradients that wait end as the same sums as those that don't, whenever they are made.
#include "worker/trainer/micro_batch_runner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/philox.hpp"
#include "trainer_cluster.hpp"
#include "worker/model/init.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {
namespace {

constexpr Step kStep(1);

class MicroBatchRunnerTest : public ::testing::Test {
 protected:
  MicroBatchRunnerTest()
      : job_(cluster_job(true)),
        dataset_(open_data(job_)),
        device_(make_device(1)),
        map_(job_.model, job_.train.tile_elements),
        parameters_(map_.vector_elements()),
        stage_{{1, static_cast<std::uint32_t>(map_.blocks().size())}, {0, job_.batch.slots}},
        stream_(philox_key(5, RandomPurpose::tests)) {
    initialize_parameters(job_.model, map_, 7, parameters_);
    const std::size_t boundary = job_.batch.sequences * job_.model.context * job_.model.width;
    for (auto& values : activations_) {
      values.resize(boundary);
      for (float& value : values) value = unit_float(stream_.next_u32()) - 0.5F;
    }
  }

  struct Rig {
    std::shared_ptr<BufferPool> pool;
    std::unique_ptr<GradientStore> gradients;
    std::unique_ptr<MicroBatchRunner> runner;
  };
  Rig make_rig() {
    Rig rig;
    rig.pool = std::move(BufferPool::create(device_, map_.vector_elements(), 4)).value();
    rig.gradients = std::make_unique<GradientStore>(*device_, rig.pool, map_, job_.batch.slots);
    rig.runner = std::move(MicroBatchRunner::create(device_, job_, *dataset_, map_, *rig.gradients)).value();
    return rig;
  }

  [[nodiscard]] worker_action::ComputeMicroBatch micro_batch(SlotItem item, std::uint32_t waiting,
                                                             Pass pass = Pass::both) const {
    auto payload = std::make_shared<FramePayload>();
    payload->values = activations_[item.slot * job_.micro_batches_per_slot() + item.position];
    return {kStep, attempt_, stage_, item, pass, false, waiting, payload};
  }
  void compute(Rig& rig, const worker_action::ComputeMicroBatch& action) {
    const Instant before = clock_.now();
    const auto done = rig.runner->compute(action, parameters_.data(), false, {});
    ASSERT_TRUE(done.ok()) << done.error().describe();
    EXPECT_GT(done->elapsed.count(), 0);
    EXPECT_LE(done->elapsed, clock_.now() - before);
    told_ += done->took;
    spent_ += clock_.now() - before;
  }
  void compute_slot(Rig& rig, std::uint32_t slot, std::uint32_t waiting) {
    for (std::uint32_t position = 0; position < job_.micro_batches_per_slot(); ++position) {
      compute(rig, micro_batch({slot, position}, waiting));
    }
    fold(rig, slot);
  }
  void fold(Rig& rig, std::uint32_t slot) {
    const auto additions = fold_cascade(0, SlotIndex(slot));
    if (!additions.empty()) {
      ASSERT_TRUE(rig.runner->fold({kStep, stage_.blocks, additions}).ok());
    }
  }
  // The sum of all slots, of the stage's blocks.
  std::vector<float> sum(Rig& rig) {
    EXPECT_TRUE(rig.runner->finish_waiting().ok());
    const auto node = rig.gradients->lease_node({stage_.blocks, {3, 0}});
    EXPECT_TRUE(node.ok());
    if (!node) return {};
    std::vector<float> sums;  // without what lies between blocks
    for (std::uint32_t b = stage_.blocks.begin; b < stage_.blocks.end; ++b) {
      const BlockInfo& block = map_.blocks()[b];
      sums.insert(sums.end(), node->vector + block.offset, node->vector + block.offset + block.elements);
    }
    return sums;
  }
  std::vector<float> eager_sum() {
    Rig rig = make_rig();
    for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) compute_slot(rig, slot, 0);
    EXPECT_FALSE(rig.runner->has_waiting());
    return sum(rig);
  }

  JobSpec job_;
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<Device> device_;
  StateMap map_;
  std::vector<float> parameters_;
  StageWork stage_;
  std::uint32_t attempt_ = 0;
  SteadyClock clock_;
  Duration told_{}, spent_{};
  PhiloxStream stream_;
  std::vector<float> activations_[16];
};

TEST_F(MicroBatchRunnerTest, SumsDontDependOnWhenWeightsAreMade) {
  const std::vector<float> expected = eager_sum();
  for (const std::uint32_t behind : {1U, 3U, 100U}) {
    Rig rig = make_rig();
    for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) {
      compute_slot(rig, slot, behind);
      while (rig.runner->has_waiting() && stream_.below(3) == 0) ASSERT_TRUE(rig.runner->finish_oldest().ok());
    }
    EXPECT_EQ(sum(rig), expected) << behind;
  }
}

// One that is neither the first nor the last; forward passes run ahead of backward ones.
TEST_F(MicroBatchRunnerTest, SumsOfAMiddleStageDontDependOnWhenWeightsAreMade) {
  stage_.blocks = {1, static_cast<std::uint32_t>(map_.blocks().size()) - 1};
  const std::uint32_t per_slot = job_.micro_batches_per_slot();
  const std::uint32_t all = job_.batch.slots * per_slot;
  const auto item = [&](std::uint32_t index) { return SlotItem{index / per_slot, index % per_slot}; };
  std::vector<float> expected;
  for (const std::uint32_t waiting : {0U, 1U, 2U, 100U}) {
    Rig rig = make_rig();
    for (std::uint32_t index = 0; index < all + 2; ++index) {
      if (index < all) compute(rig, micro_batch(item(index), waiting, Pass::forward));
      if (index < 2) continue;
      compute(rig, micro_batch(item(index - 2), waiting, Pass::backward));
      if (item(index - 2).position + 1 == per_slot) fold(rig, item(index - 2).slot);
      while (rig.runner->has_waiting() && stream_.below(4) == 0) ASSERT_TRUE(rig.runner->finish_oldest().ok());
    }
    const std::vector<float> sums = sum(rig);
    if (waiting == 0) expected = sums;
    EXPECT_EQ(sums, expected) << waiting;
  }
  EXPECT_FALSE(expected.empty());
}

// Slots are looked at when they end: nothing of them may wait then.
TEST_F(MicroBatchRunnerTest, AnAttemptThatLooksForNonfiniteSlotsGivesTheSameSums) {
  const std::vector<float> expected = eager_sum();
  attempt_ = 1;
  Rig rig = make_rig();
  for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) compute_slot(rig, slot, 3);
  EXPECT_EQ(sum(rig), expected);
}

TEST_F(MicroBatchRunnerTest, TimesAreToldOnce) {
  Rig rig = make_rig();
  for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) {
    compute_slot(rig, slot, 3);
    if (slot % 3 == 2) {
      const Instant before = clock_.now();
      ASSERT_TRUE(rig.runner->finish_waiting().ok());
      spent_ += clock_.now() - before;
    }
  }
  EXPECT_GT(told_, Duration{});
  EXPECT_LE(told_, spent_);
}

TEST_F(MicroBatchRunnerTest, ASlotThatIsBegunAgainLosesWhatItHad) {
  const std::vector<float> expected = eager_sum();
  Rig rig = make_rig();
  compute(rig, micro_batch({0, 0}, 4));
  EXPECT_TRUE(rig.runner->has_waiting());
  for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) compute_slot(rig, slot, 4);
  EXPECT_EQ(sum(rig), expected);
}

TEST_F(MicroBatchRunnerTest, WhatWaitsIsGivenUpWithItsStep) {
  Rig rig = make_rig();
  compute_slot(rig, 0, 4);
  EXPECT_TRUE(rig.runner->has_waiting());
  rig.runner->release(kStep);
  EXPECT_FALSE(rig.runner->has_waiting());
  auto next = micro_batch({0, 0}, 4);
  compute(rig, next);
  next.step = kStep.next();  // nobody released the step before
  compute(rig, next);
  EXPECT_TRUE(rig.runner->finish_waiting().ok());
}

TEST_F(MicroBatchRunnerTest, ARehearsalLeavesSumsAsTheyAre) {
  const std::vector<float> expected = eager_sum();
  Rig rig = make_rig();
  std::vector<float> scratch(map_.vector_elements());
  const auto rehearse = [&](StageWork work) {
    EXPECT_TRUE(rig.runner->rehearse(kStep, work, parameters_.data(), scratch.data()).ok());
  };
  rehearse(stage_);
  EXPECT_TRUE(std::ranges::any_of(scratch, [](float value) { return value != 0; }));
  for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) {
    compute_slot(rig, slot, slot % 2);
    rehearse({{0, 2}, {slot, slot + 1}});
    rehearse({{1, 2}, {slot, slot + 1}});
  }
  EXPECT_EQ(sum(rig), expected);
}

TEST_F(MicroBatchRunnerTest, MicroBatchesOfASlotComeInOrder) {
  Rig rig = make_rig();
  EXPECT_FALSE(rig.runner->compute(micro_batch({0, 1}, 0), parameters_.data(), false, {}).ok());
}

}  // namespace
}  // namespace planaria

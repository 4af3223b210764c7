#include "chaos/sim/terms.hpp"

#include <gtest/gtest.h>

#include "tests/small_model.hpp"

namespace planaria::sim {
namespace {

JobShape shape() {
  JobShape shape;
  shape.map = std::make_shared<StateMap>(small_model(), 512);
  shape.tiles = shape.map->tile_count();
  for (const BlockInfo& block : shape.map->blocks()) shape.blocks.push_back(block.tile_range());
  shape.slots = 4;
  shape.micro_batches_per_slot = 2;
  shape.total_steps = Step(10);
  return shape;
}

TEST(Terms, AdditionTellsItsOperandsOrder) {
  EXPECT_NE(add(zero_sum(0), zero_sum(1)), add(zero_sum(1), zero_sum(0)));
  EXPECT_EQ(add(zero_sum(0), zero_sum(1)), add(zero_sum(0), zero_sum(1)));
}

TEST(Terms, AccumulationTellsTheOrderOfMicroBatches) {
  const Term first = block_gradient({}, training_tokens(Step(1), 0), {});
  const Term second = block_gradient({}, training_tokens(Step(1), 1), {});
  EXPECT_NE(accumulate(accumulate(zero_sum(0), first), second), accumulate(accumulate(zero_sum(0), second), first));
}

TEST(Terms, ANonfiniteOperandMakesTheSumNonfinite) {
  Term poisoned = zero_sum(0);
  poisoned.finite = false;
  EXPECT_FALSE(add(zero_sum(1), poisoned).finite);
  EXPECT_FALSE(accumulate(zero_sum(1), poisoned).finite);
}

TEST(ReferenceRun, StepsDifferAndAskingTwiceGivesTheSame) {
  ReferenceRun run(shape());
  const TermVector third = run.state(Step(3));
  EXPECT_NE(third, run.state(Step(4)));
  EXPECT_EQ(third, run.state(Step(3)));
  EXPECT_EQ(third, ReferenceRun(shape()).state(Step(3)));
}

TEST(ReferenceRun, AStepNonfiniteByNatureLeavesTheStateAsItWas) {
  JobShape skipping = shape();
  skipping.natural_nan = Step(2);
  ReferenceRun run(skipping);
  EXPECT_EQ(run.state(Step(2)), run.state(Step(1)));
  EXPECT_NE(run.state(Step(3)), run.state(Step(2)));
}

TEST(ReferenceRun, AnotherSeedIsAnotherRun) {
  JobShape other = shape();
  other.seed = 2;
  EXPECT_NE(ReferenceRun(shape()).state(Step(1)), ReferenceRun(other).state(Step(1)));
}

}  // namespace
}  // namespace planaria::sim

#include <gtest/gtest.h>

#include "proto/evaluation.hpp"

namespace planaria {
namespace {

std::vector<SlotItem> walk(const StepItems& items, SlotRange slots, bool backward) {
  std::vector<SlotItem> seen;
  for (SlotItem item = items.first(slots, backward); item.slot < slots.end;
       item = items.next(item, slots.end, backward)) {
    seen.push_back(item);
  }
  return seen;
}

TEST(StepItems, ATrainingStepGoesForwardThroughAllAndBackwardThroughTraining) {
  const StepItems items{.slots = 4, .micro_batches = 2, .trains = true, .evaluated = 2};  // ride on slots 1 and 3
  EXPECT_EQ(walk(items, {0, 2}, false), (std::vector<SlotItem>{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {1, 2}}));
  EXPECT_EQ(walk(items, {0, 2}, true), (std::vector<SlotItem>{{0, 0}, {0, 1}, {1, 0}, {1, 1}}));
}

TEST(StepItems, HasWhatItGoesThrough) {
  for (const bool trains : {true, false}) {
    const StepItems items{.slots = 4, .micro_batches = 2, .trains = trains, .evaluated = 3};
    for (const bool backward : {true, false}) {
      std::size_t count = 0;
      for (std::uint32_t slot = 0; slot < 5; ++slot) {
        for (std::uint32_t position = 0; position < 6; ++position)
          count += items.has({slot, position}, backward) ? 1 : 0;
      }
      EXPECT_EQ(count, walk(items, {0, 4}, backward).size());
    }
  }
}

TEST(StepItems, TheEpilogueOnlyEvaluates) {
  const StepItems items{.slots = 4, .micro_batches = 2, .trains = false, .evaluated = 3};
  EXPECT_EQ(walk(items, {0, 4}, false).size(), 3U);
  EXPECT_EQ(walk(items, {0, 4}, false).front(), (SlotItem{1, 2}));
  EXPECT_TRUE(walk(items, {0, 4}, true).empty());
  EXPECT_EQ(items.first({0, 1}, false).slot, 1U) << "slot 0 has none";
}

TEST(StepItems, EveryValidationMicroBatchRidesOnce) {
  for (std::uint32_t evaluated : {0U, 1U, 5U, 8U, 21U}) {
    const StepItems items{.slots = 8, .micro_batches = 3, .trains = true, .evaluated = evaluated};
    EXPECT_EQ(walk(items, {0, 8}, false).size(), 24 + evaluated);
  }
}

}  // namespace
}  // namespace planaria

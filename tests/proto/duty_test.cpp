#include "proto/duty.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

ModelSpec small_model(bool tied) {
  ModelSpec model;
  model.layers = 3;
  model.width = 48;
  model.ffn_width = 96;
  model.tied_embedding = tied;
  return model;
}

// Two pipelines: worker 0 alone, and workers 1, 2.
const std::vector<StageAssignment> kStages = {{WorkerId(0), {{0, 5}, {0, 4}}, false},
                                              {WorkerId(1), {{0, 2}, {4, 8}}, false},
                                              {WorkerId(2), {{2, 5}, {4, 8}}, false}};

class DutyTest : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  const bool tied_ = std::get<0>(GetParam());
  const bool sharded_ = std::get<1>(GetParam());
  const StateMap map_{small_model(tied_), 256};
  const std::vector<ShardAssignment> shards_ = split_shards(map_, kStages);
  [[nodiscard]] Duty duty(std::uint32_t worker) const {
    return duty_of(map_, sharded_, kStages, shards_, WorkerId(worker));
  }
};

TEST_P(DutyTest, EveryTileWithStateIsKeptAndOnlyByWhoComputesWithIt) {
  TileSet kept;
  for (std::uint32_t worker = 0; worker < 3; ++worker) {
    const Duty own = duty(worker);
    EXPECT_TRUE(own.used.contains(own.kept));
    EXPECT_TRUE(own.used.contains(own.made));
    EXPECT_TRUE(own.summed.contains(own.kept));
    EXPECT_FALSE(own.kept.intersects(map_.tied_tiles()));
    EXPECT_FALSE(sharded_ && kept.intersects(own.kept));
    kept.add(own.kept);
  }
  EXPECT_EQ(kept, TileSet(map_.tiles_with_state()));
}

TEST_P(DutyTest, WhatIsNotMadeIsSentByExactlyOneOther) {
  for (std::uint32_t worker = 0; worker < 3; ++worker) {
    const TileSet missing = duty(worker).used.without(duty(worker).made);
    TileSet sent;
    for (std::uint32_t from = 0; from < 3; ++from) {
      const TileSet tiles = sent_by(map_, shards_, WorkerId(from), missing);
      EXPECT_TRUE(from != worker || tiles.empty());
      EXPECT_FALSE(sent.intersects(tiles));
      TileSet read = tiles.common(map_.tiles_with_state());
      read.add(originals_of(map_, tiles));
      EXPECT_TRUE(duty(from).kept.contains(read)) << "it sends what it doesn't make";
      sent.add(tiles);
    }
    EXPECT_EQ(sent, missing);
    EXPECT_TRUE(missing.empty() || sharded_ || (tied_ && worker == 2));
  }
}

TEST_P(DutyTest, TheGradientOfATiedCopyGoesToWhoKeepsTheEmbedding) {
  for (std::uint32_t worker = 0; worker < 3; ++worker) {
    const Duty own = duty(worker);
    EXPECT_EQ(own.summed.without(own.kept), tied_to(map_, own.kept));
  }
  EXPECT_TRUE(sharded_ || duty(1).summed.intersects(map_.tied_tiles()) == tied_);
}

TEST_P(DutyTest, EachTileIsToldOfByTheFirstOfItsKeepers) {
  const Duties duties(map_, sharded_, kStages, shards_);
  TileSet told;
  for (std::uint32_t worker = 0; worker < 3; ++worker) {
    const TileSet& first = duties.first_kept_by(WorkerId(worker));
    EXPECT_EQ(duties.of(WorkerId(worker)).kept.without(told), first);
    told.add(first);
  }
  EXPECT_EQ(told, TileSet(map_.tiles_with_state()));
  EXPECT_TRUE(sharded_ || duties.first_kept_by(WorkerId(2)).empty()) << "worker 0 keeps all";
  EXPECT_TRUE(duties.first_kept_by(WorkerId(9)).empty());
}

INSTANTIATE_TEST_SUITE_P(Modes, DutyTest, testing::Combine(testing::Bool(), testing::Bool()), [](const auto& info) {
  return std::string(std::get<0>(info.param) ? "Tied" : "Untied") +
         (std::get<1>(info.param) ? "Sharded" : "Replicated");
});

}  // namespace
}  // namespace planaria

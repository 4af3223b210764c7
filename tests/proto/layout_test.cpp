#include "proto/layout.hpp"
#include "proto/duty.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <map>
#include <numeric>

#include "common/philox.hpp"
#include "tests/single_stages.hpp"

namespace planaria {
namespace {

std::vector<WorkerId> ids(std::uint32_t count) {
  std::vector<WorkerId> workers;
  for (std::uint32_t i = 0; i < count; ++i) workers.emplace_back(i);
  return workers;
}

TEST(MaximalNodes, CoverTheirRangeOnceWithTheFewestNodes) {
  for (std::uint32_t begin = 0; begin <= 32; ++begin) {
    for (std::uint32_t end = begin; end <= 32; ++end) {
      std::uint32_t at = begin;
      const std::vector<TreeNode> nodes = maximal_nodes({begin, end});
      for (std::size_t i = 0; i < nodes.size(); ++i) {
        EXPECT_EQ(nodes[i].slots().begin, at);
        at = nodes[i].slots().end;
        const bool mergeable = i > 0 && nodes[i - 1].sibling() == nodes[i] && nodes[i - 1].index % 2 == 0;
        EXPECT_FALSE(mergeable) << begin << ' ' << end;
      }
      EXPECT_EQ(at, end);
    }
  }
}

// A sum whose value tells the order in which it was made.
std::string tree_text(std::uint32_t slots, const std::vector<SlotRange>& ranges) {
  std::map<TreeNode, std::string> sums;
  const auto sum = [](const std::string& left, const std::string& right) {
    return fmt::format("({}+{})", left, right);
  };
  std::vector<TreeNode> cover;
  const std::function<std::string(TreeNode)> canonical = [&](TreeNode node) -> std::string {
    if (node.level == 0) return std::to_string(node.index);
    return "(" + canonical({node.level - 1, node.index * 2}) + "+" + canonical({node.level - 1, node.index * 2 + 1}) +
           ")";
  };
  for (const SlotRange range : ranges) {
    for (const TreeNode node : maximal_nodes(range)) {
      sums[node] = canonical(node);
      cover.push_back(node);
    }
  }
  const auto additions = finish_tree(cover, slots);
  EXPECT_TRUE(additions.ok());
  for (const TreeAddition& add : *additions) sums[add.sum] = sum(sums.at(add.left), sums.at(add.right));
  return sums.at({static_cast<std::uint32_t>(std::countr_zero(slots)), 0});
}

TEST(FinishTree, AnySplitOfTheSlotsGivesTheSameSum) {
  PhiloxStream random(philox_key(7, RandomPurpose::tests));
  const std::string whole = tree_text(64, {{0, 64}});
  for (int round = 0; round < 200; ++round) {
    std::vector<std::uint32_t> cuts{0, 64};
    for (std::uint64_t i = random.below(9); i > 0; --i) cuts.push_back(static_cast<std::uint32_t>(random.below(65)));
    std::ranges::sort(cuts);
    std::vector<SlotRange> ranges;
    for (std::size_t i = 1; i < cuts.size(); ++i) ranges.push_back({cuts[i - 1], cuts[i]});
    EXPECT_EQ(tree_text(64, ranges), whole);
  }
}

TEST(FinishTree, HolesOverlapsAndRepeatsAreRefused) {
  const std::vector<TreeNode> hole{{1, 0}, {0, 2}};
  const std::vector<TreeNode> overlap{{2, 0}, {0, 3}};
  const std::vector<TreeNode> repeat{{1, 0}, {1, 0}, {1, 1}};
  const std::vector<TreeNode> outside{{2, 0}, {2, 1}};
  for (const auto& cover : {hole, overlap, repeat, outside}) {
    const auto additions = finish_tree(cover, 4);
    ASSERT_FALSE(additions.ok());
    EXPECT_EQ(additions.error().code(), ErrorCode::corrupt);
  }
}

TEST(SplitSlots, NoOtherSplitIsFasterThanTheSlackAllows) {
  PhiloxStream random(philox_key(11, RandomPurpose::tests));
  for (int round = 0; round < 100; ++round) {
    const auto count = static_cast<std::uint32_t>(1 + random.below(4));
    std::vector<double> speeds;
    for (std::uint32_t i = 0; i < count; ++i) speeds.push_back(0.2 + random.unit_double());
    const auto split = split_slots(16, speeds);
    double slowest = 0;
    for (std::uint32_t i = 0; i < count; ++i) slowest = std::max(slowest, split[i].size() / speeds[i]);
    // Every way to deal 16 slots.
    double best = 1e9;
    const std::function<void(std::uint32_t, std::uint32_t, double)> deal = [&](std::uint32_t worker, std::uint32_t left,
                                                                               double worst) {
      if (worker + 1 == count) {
        if (left >= 1) best = std::min(best, std::max(worst, left / speeds[worker]));
        return;
      }
      for (std::uint32_t n = 1; n < left; ++n) deal(worker + 1, left - n, std::max(worst, n / speeds[worker]));
    };
    deal(0, 16, 0);
    EXPECT_LE(slowest, best * 1.0051);
  }
}

TEST(SplitSlots, OfManyPipelinesEachSlotGoesToWhoeverIsDoneFirst) {
  PhiloxStream random(philox_key(12, RandomPurpose::tests));
  for (int round = 0; round < 50; ++round) {
    const auto count = static_cast<std::uint32_t>(65 + random.below(100));
    const auto slots = static_cast<std::uint32_t>(count + random.below(2000));
    const bool alike = round % 2 == 0;
    std::vector<double> speeds;
    for (std::uint32_t i = 0; i < count; ++i) speeds.push_back(alike ? 0.7 : 0.01 + random.unit_double());
    std::vector<std::uint32_t> expected(count, 1);
    for (std::uint32_t slot = count; slot < slots; ++slot) {
      std::size_t first = 0;
      for (std::size_t i = 1; i < count; ++i) {
        if ((expected[i] + 1) / speeds[i] < (expected[first] + 1) / speeds[first]) first = i;
      }
      ++expected[first];
    }
    std::vector<std::uint32_t> shares;
    for (const SlotRange range : split_slots(slots, speeds)) shares.push_back(range.size());
    EXPECT_EQ(shares, expected) << "round " << round;
  }
}

TEST(SplitSlots, MoreWorkersThanSlotsLeaveSomeWithNone) {
  const auto split = split_slots(4, std::vector<double>(6, 1.0));
  std::uint32_t at = 0;
  for (const SlotRange slots : split) {
    EXPECT_EQ(slots.begin, at);
    EXPECT_LE(slots.size(), 1U);
    at = slots.end;
  }
  EXPECT_EQ(at, 4U);
}

ModelSpec small_model() {
  ModelSpec model;
  model.layers = 3;
  model.width = 48;
  model.ffn_width = 96;
  return model;
}

TEST(SplitShards, CoverAllTilesStayInBlocksAndAreEven) {
  const StateMap map(small_model(), 256);
  const auto shards = split_shards(map, single_stages(5, ids(3), split_slots(8, std::vector<double>{1, 1, 1})));
  std::map<WorkerId, std::uint64_t> bytes;
  std::uint32_t at = 0;
  for (const ShardAssignment& shard : shards) {
    EXPECT_EQ(shard.tiles.begin, at);
    at = shard.tiles.end;
    EXPECT_EQ(map.block_of(TileIndex(shard.tiles.begin)), map.block_of(TileIndex(shard.tiles.end - 1)));
    bytes[shard.owner] += map.bytes(shard.tiles);
  }
  EXPECT_EQ(at, map.tile_count());
  for (const auto& [owner, size] : bytes) EXPECT_NEAR(double(size), double(map.bytes({0, at})) / 3, 2048);
}

// Worker 0 has all blocks, 1 the lower and 2 the upper ones.
std::vector<StageAssignment> three_stages(std::uint32_t cut) {
  return {{WorkerId(0), {{0, 5}, {0, 4}}, false},
          {WorkerId(1), {{0, cut}, {4, 8}}, false},
          {WorkerId(2), {{cut, 5}, {4, 8}}, false}};
}

TEST(SplitShards, BelongToWhoComputesWithThem) {
  const StateMap map(small_model(), 256);
  const auto stages = three_stages(2);
  std::map<WorkerId, std::uint64_t> bytes;
  for (const ShardAssignment& shard : split_shards(map, stages)) {
    EXPECT_TRUE(tiles_used(map, stages, shard.owner).contains(shard.tiles));
    bytes[shard.owner] += map.bytes(shard.tiles);
  }
  EXPECT_GT(bytes[WorkerId(1)], 0U);
  EXPECT_LT(bytes[WorkerId(2)], 2 * bytes[WorkerId(0)]);
}

TEST(SplitShards, StayWithTheirOwnersAsFarAsTheyCan) {
  const StateMap map(small_model(), 256);
  const auto before = split_shards(map, three_stages(2));
  EXPECT_EQ(split_shards(map, three_stages(2), before), before);
  // A block moves from worker 1 to 2: what worker 0 has of the others stays there.
  std::uint64_t moved = 0;
  const auto after = split_shards(map, three_stages(1), before);
  for (const ShardAssignment& shard : after) {
    const auto same = [&](const ShardAssignment& old) { return old.owner == shard.owner; };
    TileSet kept;
    for (const ShardAssignment& old : before) {
      if (same(old)) kept.add(old.tiles);
    }
    moved += map.bytes(shard.tiles);
    for (const TileRange run : TileSet(shard.tiles).common(kept).runs()) moved -= map.bytes(run);
  }
  EXPECT_LT(moved, map.bytes({0, map.tile_count()}) / 3);
}

constexpr std::uint32_t kBlocks = 5;  // of the small model

ViewRecord good_view(const StateMap& map) {
  ViewRecord view;
  view.view = ViewNumber(3);
  const auto workers = ids(2);
  for (const WorkerId id : workers) view.members.push_back({id, Incarnation(1), "host", {}});
  view.stages = single_stages(kBlocks, workers, split_slots(8, std::vector<double>{1, 1}));
  view.shards = split_shards(map, view.stages);
  view.checkpoint_writer = workers[0];
  view.resume.step = Step(5);
  view.resume.stages = view.stages;
  view.resume.shards = view.shards;
  return view;
}

TEST(CheckView, AcceptsAGoodViewAndSurvivesTheCodec) {
  const StateMap map(small_model(), 256);
  const ViewRecord view = good_view(map);
  EXPECT_TRUE(check_view(view, map, 8).ok());
  const auto decoded = decode<ViewRecord>(encode(view));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(encode(*decoded), encode(view));
}

// Columns of slots 0-3 and 3-8; in the first the upper stage is cut once more than in the second.
std::vector<StageAssignment> uneven_stages() {
  return {{WorkerId(0), {{0, 2}, {0, 3}}, false}, {WorkerId(1), {{2, 4}, {0, 3}}, false},
          {WorkerId(0), {{4, 5}, {0, 3}}, false}, {WorkerId(1), {{0, 3}, {3, 8}}, false},
          {WorkerId(0), {{3, 5}, {3, 8}}, false}, {WorkerId(0), {{0, 1}, {}}, false}};
}

TEST(CheckView, TakesPipelinesOfDifferentDepth) {
  const StateMap map(small_model(), 256);
  ViewRecord view = good_view(map);
  view.stages = uneven_stages();
  EXPECT_FALSE(check_view(view, map, 8).ok()) << "shards are at workers that don't compute with them";
  view.shards = split_shards(map, view.stages);
  EXPECT_TRUE(check_view(view, map, 8).ok());
}

TEST(CheckView, AResumePlanThatComputesNothingMayHaveGapsButNoBlockTwice) {
  const StateMap map(small_model(), 256);
  ViewRecord view = good_view(map);
  view.resume.compute = false;
  view.resume.stages = {{WorkerId(0), {{0, 2}, {0, 3}}, false}, {WorkerId(1), {{3, 4}, {0, 8}}, false}};
  EXPECT_TRUE(check_view(view, map, 8).ok());
  view.resume.stages.push_back({WorkerId(0), {{1, 3}, {0, 3}}, false});
  EXPECT_FALSE(check_view(view, map, 8).ok());
}

TEST(Stages, DepthIsTheLongestWayToTheHead) {
  const auto stages = uneven_stages();
  EXPECT_EQ(stages_above(stages, stages[0].work), 2U);
  EXPECT_EQ(stages_above(stages, stages[1].work), 1U);
  EXPECT_EQ(stages_above(stages, stages[3].work), 1U);
  EXPECT_EQ(stages_above(stages, stages[4].work), 0U);
  EXPECT_EQ(stages_below(stages, stages[0].work), 0U);
  EXPECT_EQ(stages_below(stages, stages[2].work), 2U);
  EXPECT_EQ(stages_below(stages, stages[4].work), 1U);
}

TEST(Stages, WhatIsUncoveredIsFoundInFewRanges) {
  auto stages = uneven_stages();
  EXPECT_TRUE(uncovered_work(stages, kBlocks, 8).empty());
  stages.erase(stages.begin() + 1);  // blocks 2-4 of slots 0-3
  EXPECT_EQ(uncovered_work(stages, kBlocks, 8), (std::vector<StageWork>{{{2, 4}, {0, 3}}}));
  std::erase_if(stages, [](const StageAssignment& stage) { return stage.worker == WorkerId(1); });
  EXPECT_EQ(uncovered_work(stages, kBlocks, 8), (std::vector<StageWork>{{{2, 4}, {0, 3}}, {{0, 3}, {3, 8}}}));
  EXPECT_EQ(uncovered_work({}, kBlocks, 8), (std::vector<StageWork>{{{0, 5}, {0, 8}}}));
}

TEST(CheckView, RefusesWhatWouldBreakTheSum) {
  const StateMap map(small_model(), 256);
  const auto refused = [&](auto damage) {
    ViewRecord view = good_view(map);
    damage(view);
    return !check_view(view, map, 8).ok();
  };
  EXPECT_TRUE(refused([](ViewRecord& v) { v.stages[0].work.slots.end -= 1; }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.resume.stages[1].work.slots.begin -= 1; }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.stages[1].worker = WorkerId(9); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.stages[0].work.blocks.begin = 1; }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.stages[1].work.blocks.end += 1; }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.stages.push_back(v.stages[0]); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.stages.push_back({WorkerId(0), {{2, 3}, {3, 5}}, false}); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.shards.pop_back(); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.resume.shards[0].owner = WorkerId(9); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { std::swap(v.members[0], v.members[1]); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.members.clear(); }));
  EXPECT_TRUE(refused([](ViewRecord& v) { v.checkpoint_writer = WorkerId(7); }));
  EXPECT_TRUE(refused([](ViewRecord& v) {
    v.resume.fetches.push_back({WorkerId(0), StateSource::peer, WorkerId(0), {0, 1}, false});
  }));
}

}  // namespace
}  // namespace planaria

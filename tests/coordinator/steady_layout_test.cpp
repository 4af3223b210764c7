#include "coordinator/core/steady_layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "common/philox.hpp"
#include "proto/block_cost.hpp"

namespace planaria {
namespace {

struct Drawn {
  std::vector<WorkerId> workers;
  std::vector<double> speeds;
  std::vector<double> shares;
  std::vector<std::uint32_t> depths;
  std::uint32_t slots = 32;

  [[nodiscard]] std::vector<StageAssignment> stages() const {
    return steady_stages({workers, speeds, shares, depths, slots});
  }
};

Drawn draw(PhiloxStream& random) {
  Drawn drawn;
  const auto workers = static_cast<std::uint32_t>(1 + random.below(7));
  for (std::uint32_t i = 0; i < workers; ++i) {
    drawn.workers.emplace_back(10 * i);
    drawn.speeds.push_back(0.2 + random.unit_double());
  }
  const std::uint64_t blocks = 3 + random.below(6);
  double sum = 0;
  for (std::uint64_t b = 0; b < blocks; ++b) {
    drawn.shares.push_back(0.01 + random.unit_double());
    sum += drawn.shares.back();
  }
  for (double& share : drawn.shares) share /= sum;
  for (std::uint64_t i = random.below(3); i > 0; --i) {
    drawn.depths.push_back(static_cast<std::uint32_t>(1 + random.below(4)));
  }
  return drawn;
}

// The slowest stage of the best cut of all blocks over these speeds.
double best_cut(std::span<const double> shares, std::span<const double> speeds, std::size_t begin = 0) {
  if (speeds.size() == 1) {
    double rest = 0;
    for (std::size_t b = begin; b < shares.size(); ++b) rest += shares[b];
    return rest / speeds[0];
  }
  double best = 1e9;
  double stage = 0;
  for (std::size_t end = begin + 1; end + speeds.size() - 1 <= shares.size(); ++end) {
    stage += shares[end - 1];
    best = std::min(best, std::max(stage / speeds[0], best_cut(shares, speeds.subspan(1), end)));
  }
  return best;
}

TEST(SteadyLayout, TilesTheGridAndCutsEachPipelineBest) {
  PhiloxStream random(philox_key(3, RandomPurpose::tests));
  for (int round = 0; round < 300; ++round) {
    const Drawn drawn = draw(random);
    const auto stages = drawn.stages();
    const auto blocks = static_cast<std::uint32_t>(drawn.shares.size());
    ASSERT_EQ(stages.size(), drawn.workers.size());
    EXPECT_TRUE(uncovered_work(stages, blocks, drawn.slots).empty());
    for (std::size_t first = 0; first < stages.size();) {
      std::size_t end = first;
      double slowest = 0;
      do {
        EXPECT_EQ(stages[end].worker, drawn.workers[end]);
        EXPECT_EQ(stages[end].work.slots, stages[first].work.slots);
        slowest = std::max(slowest, share_of(drawn.shares, stages[end].work.blocks) / drawn.speeds[end]);
        ++end;
      } while (stages[end - 1].work.blocks.end < blocks);
      EXPECT_NEAR(slowest, best_cut(drawn.shares, std::span(drawn.speeds).subspan(first, end - first)), 1e-9);
      first = end;
    }
  }
}

TEST(SteadyLayout, DepthsRepeatAndTheLastPipelineMayBeShorter) {
  Drawn drawn;
  drawn.shares.assign(4, 0.25);
  drawn.depths = {2, 1};
  for (std::uint32_t i = 0; i < 4; ++i) {
    drawn.workers.emplace_back(i);
    drawn.speeds.push_back(1);
  }
  const auto stages = drawn.stages();
  EXPECT_EQ(stages[0].work.blocks, (BlockRange{0, 2}));
  EXPECT_EQ(stages[1].work.blocks, (BlockRange{2, 4}));
  EXPECT_EQ(stages[2].work.blocks, (BlockRange{0, 4}));
  EXPECT_EQ(stages[3].work.blocks, (BlockRange{0, 4}));  // two were wanted and one is left
}

TEST(SteadyLayout, APipelineIsNoDeeperThanTheModel) {
  Drawn drawn;
  drawn.shares.assign(3, 1.0 / 3);
  drawn.depths = {9};
  for (std::uint32_t i = 0; i < 5; ++i) {
    drawn.workers.emplace_back(i);
    drawn.speeds.push_back(1);
  }
  const auto stages = drawn.stages();
  EXPECT_EQ(stages[2].work.blocks, (BlockRange{2, 3}));
  EXPECT_EQ(stages[3].work.blocks.begin, 0U);
}

// Workers 0 and 1, then 2 and 3, of two pipelines over four equal blocks.
class Mended : public ::testing::Test {
 protected:
  Mended() {
    before_.shares.assign(4, 0.25);
    before_.depths = {2};
    for (std::uint32_t i = 0; i < 4; ++i) before_.workers.emplace_back(i);
    before_.speeds.assign(4, 1);
    previous_ = before_.stages();
  }
  // By pipeline, the workers of its stages.
  using Pipelines = std::vector<std::vector<std::uint32_t>>;
  Pipelines mended(const std::vector<std::uint32_t>& ids, bool enter, std::vector<std::vector<double>> held = {}) {
    std::vector<WorkerId> workers;
    for (const std::uint32_t id : ids) workers.emplace_back(id);
    const std::vector<double> speeds(ids.size(), 1);
    SteadyLayoutInput input{workers, speeds, before_.shares, {}, 32};
    input.held = std::move(held);
    input.previous = previous_;
    input.enter = enter;
    input.whole_only = whole_only_;
    Pipelines pipelines;
    stages_ = steady_stages(input);
    EXPECT_TRUE(uncovered_work(stages_, 4, 32).empty());
    for (const StageAssignment& stage : stages_) {
      if (stage.work.blocks.begin == 0) pipelines.emplace_back();
      pipelines.back().push_back(stage.worker.value());
    }
    return pipelines;
  }

  Drawn before_;
  std::vector<StageAssignment> previous_, stages_;
  bool whole_only_ = false;
};

TEST_F(Mended, ThoseWhoAreLeftShareTheirPipelinesBlocks) {
  EXPECT_EQ(mended({0, 2, 3}, false), (Pipelines{{0}, {2, 3}}));
  EXPECT_EQ(stages_[0].work.blocks, (BlockRange{0, 4}));
  EXPECT_EQ(stages_[1].work.blocks, (BlockRange{0, 2}));
  EXPECT_LT(stages_[0].work.slots.size(), stages_[1].work.slots.size());
}

TEST_F(Mended, APipelineWithoutWorkersVanishes) {
  EXPECT_EQ(mended({2, 3}, false), (Pipelines{{2, 3}}));
}

TEST_F(Mended, ANewcomerTakesAFreePlace) {
  EXPECT_EQ(mended({0, 2, 3, 9}, true), (Pipelines{{0, 9}, {2, 3}}));
}

TEST_F(Mended, WhoHoldsAPlacesBlocksGetsIt) {
  std::vector<std::vector<double>> held(4, std::vector<double>(4, 0));
  held[3] = {0, 0, 1, 1};
  EXPECT_EQ(mended({0, 3, 8, 9}, true, held), (Pipelines{{0, 9}, {8, 3}}));
}

TEST_F(Mended, OnlyWholePipelinesGoOnWhereThatIsAsked) {
  whole_only_ = true;
  EXPECT_EQ(mended({0, 2, 3, 9}, true), (Pipelines{{2, 3}}));
  EXPECT_EQ(mended({0, 2}, false), (Pipelines{{0}, {2}}));  // none is whole
  EXPECT_EQ(mended({8, 9}, false), (Pipelines{{8, 9}}));    // nobody has a place
}

TEST_F(Mended, ANewcomerLengthensAShortPipelineWhereNothingMoves) {
  mended({0, 2, 3}, false);
  previous_ = stages_;
  EXPECT_EQ(mended({0, 2, 3, 4}, true), (Pipelines{{4, 0}, {2, 3}}));
  EXPECT_EQ(stages_[1].work.blocks, (BlockRange{2, 4}));
}

TEST_F(Mended, OneDeepPipelineDoesNotMakeAllOthersDeeper) {
  before_.depths = {2, 1, 1};
  previous_ = before_.stages();
  EXPECT_EQ(mended({0, 1, 2, 3, 4}, true), (Pipelines{{0, 1}, {2}, {3}, {4}}));
}

TEST_F(Mended, FewWorkersDontStandAsideOnlyForTheirPipelinesDepth) {
  for (const std::uint32_t id : {4, 5, 6}) before_.workers.emplace_back(id);
  before_.speeds.assign(7, 1);
  before_.depths = {2, 2, 3};
  previous_ = before_.stages();
  EXPECT_EQ(mended({0, 1, 2, 3, 4, 5, 6, 7}, true).front().size(), 3U);
}

TEST_F(Mended, NewcomersMakePipelinesOfTheUsualDepthAndOthersStaySpare) {
  EXPECT_EQ(mended({0, 1, 2, 3, 4, 5, 6}, true), (Pipelines{{0, 1}, {2, 3}, {4, 5}}));
  EXPECT_EQ(mended({0, 1, 2, 3, 4, 5}, false), (Pipelines{{0, 1}, {2, 3}}));
}

}  // namespace
}  // namespace planaria

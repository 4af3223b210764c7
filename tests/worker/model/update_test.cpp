#include "worker/model/update.hpp"

#include <cmath>

#include "model_test_support.hpp"
#include "worker/model/init.hpp"
#include "worker/model/schedule.hpp"

namespace planaria {
namespace {

OptimizerSpec optimizer(ScheduleKind kind) {
  OptimizerSpec spec;
  spec.learning_rate = 1.0;
  spec.min_learning_rate = 0.1;
  spec.warmup_steps = 10;
  spec.decay_fraction = 0.25;
  spec.schedule = kind;
  return spec;
}

TEST(Schedule, WarmsUpLinearlyFromTheFirstStep) {
  for (const ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::wsd}) {
    EXPECT_DOUBLE_EQ(learning_rate(optimizer(kind), 100, Step(1)), 0.1);
    EXPECT_DOUBLE_EQ(learning_rate(optimizer(kind), 100, Step(10)), 1.0);
  }
}

TEST(Schedule, CosineFallsToTheMinimumAtTheLastStep) {
  const OptimizerSpec spec = optimizer(ScheduleKind::cosine);
  EXPECT_NEAR(learning_rate(spec, 110, Step(60)), 0.55, 1e-14);
  EXPECT_NEAR(learning_rate(spec, 110, Step(110)), 0.1, 1e-14);
  EXPECT_EQ(learning_rate(spec, 110, Step(500)), learning_rate(spec, 110, Step(110)));
  for (std::uint64_t t = 10; t < 110; ++t) {
    EXPECT_GT(learning_rate(spec, 110, Step(t)), learning_rate(spec, 110, Step(t + 1)));
    const double reference = 0.1 + 0.45 * (1 + std::cos(M_PI * static_cast<double>(t - 10) / 100));
    EXPECT_NEAR(learning_rate(spec, 110, Step(t)), reference, 1e-14);
  }
}

TEST(Schedule, WsdStaysThenDecaysLinearly) {
  const OptimizerSpec spec = optimizer(ScheduleKind::wsd);
  EXPECT_EQ(learning_rate(spec, 100, Step(75)), 1.0);
  EXPECT_NEAR(learning_rate(spec, 100, Step(85)), 0.64, 1e-14);
  EXPECT_NEAR(learning_rate(spec, 100, Step(100)), 0.1, 1e-14);
}

TEST(Schedule, EdgeCasesStayFinite) {
  for (const ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::wsd}) {
    OptimizerSpec spec = optimizer(kind);
    spec.decay_fraction = 1.0;
    for (const std::uint64_t warmup : {0ULL, 1ULL, 5ULL, 50ULL}) {
      spec.warmup_steps = warmup;
      for (std::uint64_t t = 1; t <= 5; ++t) {
        const double rate = learning_rate(spec, 5, Step(t));
        EXPECT_TRUE(std::isfinite(rate) && rate > 0) << "warm-up " << warmup << ", step " << t;
      }
    }
  }
}

TEST(BiasCorrection, IsOneMinusThePower) {
  for (const std::uint64_t t : {1ULL, 2ULL, 7ULL, 1000ULL, 100000ULL}) {
    EXPECT_NEAR(bias_correction(0.95, Step(t)), 1.0 - std::pow(0.95, static_cast<double>(t)), 1e-14);
  }
}

class InitTest : public ::testing::Test {
 protected:
  static std::vector<float> initial(const JobSpec& job, std::uint64_t seed) {
    const StateMap map(job.model, job.train.tile_elements);
    std::vector<float> values(map.vector_elements());
    initialize_parameters(job.model, map, seed, values);
    return values;
  }
};

TEST_F(InitTest, HasTheDeviationsOfGpt2) {
  JobSpec job = small_job(ModelFamily::gpt2, true);
  job.model.width = 128;
  job.model.ffn_width = 512;
  const StateMap map(job.model, 65536);
  std::vector<float> block(map.blocks()[1].elements);
  initialize_block(job.model, map, 3, BlockIndex(1), block);
  const auto deviation = [&](const char* name) {
    const TensorInfo& tensor = map.blocks()[1].tensor(name);
    double sum = 0;
    double squares = 0;
    for (std::uint64_t i = 0; i < tensor.elements(); ++i) {
      sum += block[tensor.offset + i];
      squares += static_cast<double>(block[tensor.offset + i]) * block[tensor.offset + i];
    }
    const auto count = static_cast<double>(tensor.elements());
    EXPECT_NEAR(sum / count, 0.0, 5 * 0.02 / std::sqrt(count)) << name;
    return std::sqrt(squares / count);
  };
  EXPECT_NEAR(deviation("mlp.up.weight"), 0.02, 0.0003);
  EXPECT_NEAR(deviation("mlp.down.weight"), 0.01, 0.00015);  // 2 layers: 0.02 / sqrt(4)
  EXPECT_EQ(block[map.blocks()[1].tensor("norm2.weight").offset], 1.0F);
  EXPECT_EQ(block[map.blocks()[1].tensor("norm2.bias").offset], 0.0F);
}

TEST_F(InitTest, DoesNotDependOnTilesOrOnWhatElseIsMade) {
  JobSpec job = small_job(ModelFamily::llama, false);
  const std::vector<float> small_tiles = initial(job, 5);
  job.train.tile_elements = 65536;
  EXPECT_EQ(initial(job, 5), small_tiles);
  EXPECT_NE(initial(job, 6), small_tiles);
  const StateMap map(job.model, 65536);
  std::vector<float> block(map.blocks()[2].elements);
  initialize_block(job.model, map, 5, BlockIndex(2), block);
  EXPECT_TRUE(std::equal(block.begin(), block.end(),
                         small_tiles.begin() + static_cast<std::ptrdiff_t>(map.blocks()[2].offset)));
}

TEST_F(InitTest, TheTiedCopyEqualsTheEmbedding) {
  const JobSpec job = small_job(ModelFamily::gpt2, true);
  const StateMap map(job.model, job.train.tile_elements);
  const std::vector<float> values = initial(job, 5);
  const std::uint64_t copy = map.blocks().back().offset + map.blocks().back().tensor("token.weight").offset;
  for (std::uint64_t i = 0; i < 48 * 32; ++i) ASSERT_EQ(values[i], values[copy + i]);
}

TEST(Tree, FoldsAsABinaryCounter) {
  EXPECT_EQ(subtrees_completed(0), 0U);
  EXPECT_EQ(subtrees_completed(1), 1U);
  EXPECT_EQ(subtrees_completed(2), 0U);
  EXPECT_EQ(subtrees_completed(7), 3U);
  const std::vector<double> values{1e16, 1.0, -1e16, 1.0};
  EXPECT_EQ(tree_sum(values), (1e16 + 1.0) + (-1e16 + 1.0));
}

TEST(UpdateRanges, CoverEachUntiedElementOnceWithItsDecay) {
  for (const bool tied : {false, true}) {
    const JobSpec job = small_job(ModelFamily::gpt2, tied);
    const StateMap map(job.model, job.train.tile_elements);
    std::vector<int> decays(map.vector_elements(), -1);
    // In pieces of three tiles: cuts must not matter.
    for (std::uint32_t tile = 0; tile < map.tile_count(); tile += 3) {
      for (const UpdateRange& range : update_ranges(map, {tile, std::min(tile + 3, map.tile_count())})) {
        for (std::uint64_t i = range.begin; i < range.end; ++i) {
          ASSERT_EQ(decays[i], -1);
          decays[i] = range.decays ? 1 : 0;
        }
      }
    }
    for (const BlockInfo& block : map.blocks()) {
      for (const TensorInfo& tensor : block.tensors) {
        for (std::uint64_t i = 0; i < tensor.elements(); ++i) {
          const int expected = tensor.tied ? -1 : tensor.dimensions == 2 ? 1 : 0;
          ASSERT_EQ(decays[block.offset + tensor.offset + i], expected) << block.name << "." << tensor.name;
        }
      }
    }
  }
}

TEST(TileSums, CountTheTiedTensorOnceWhereverRangesAreCut) {
  const JobSpec job = small_job(ModelFamily::gpt2, true);
  const StateMap map(job.model, job.train.tile_elements);
  const auto device = cpu();
  std::vector<float> gradient(map.vector_elements());
  PhiloxStream random(3);
  double expected = 0;
  for (const BlockInfo& block : map.blocks()) {
    for (const TensorInfo& tensor : block.tensors) {
      for (std::uint64_t i = 0; i < tensor.elements(); ++i) {
        float& value = gradient[block.offset + tensor.offset + i];
        value = unit_float(random.next_u32());
        if (!tensor.tied) expected += static_cast<double>(value) * value;
      }
    }
  }
  std::vector<double> whole(map.tile_count());
  std::vector<double> single(map.tile_count());
  for (const BlockInfo& block : map.blocks()) {
    tile_sums(*device, map, {block.first_tile, block.first_tile + block.tiles}, gradient.data() + block.offset,
              whole.data() + block.first_tile);
  }
  for (std::uint32_t i = 0; i < map.tile_count(); ++i) {
    tile_sums(*device, map, {i, i + 1}, gradient.data() + map.tile(TileIndex(i)).begin, single.data() + i);
  }
  ASSERT_TRUE(device->synchronize().ok());
  EXPECT_EQ(whole, single);
  EXPECT_NEAR(sum_of_tiles(map, whole), expected, expected * 1e-12);
}

TEST(ClipDecision, ScalesToTheMeanAndClips) {
  EXPECT_EQ(clip_decision(16.0, 8, 1.0).scale, 0.125F);
  EXPECT_EQ(clip_decision(16.0, 2, 1.0).norm, 2.0);
  EXPECT_EQ(clip_decision(16.0, 2, 1.0).scale, 0.25F);
  EXPECT_EQ(clip_decision(16.0, 2, 0.0).scale, 0.5F);
  const ClipDecision bad = clip_decision(std::nan(""), 2, 1.0);
  EXPECT_FALSE(bad.finite);
  EXPECT_EQ(bad.scale, 0.0F);
}

}  // namespace
}  // namespace planaria

// Step 0: the weights that a job starts from, to the bit, and only those tiles that a worker holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "storage/checkpoint.hpp"
#include "storage/export.hpp"
#include "trainer_cluster.hpp"
#include "worker/model/init.hpp"
#include "worker/trainer/step_executor.hpp"

namespace planaria {
namespace {

class InitializeTest : public ::testing::TestWithParam<bool> {
 protected:
  InitializeTest() : dataset_(open_data(job_)) {}

  // Weights of another seed, as somebody else exported them.
  Hash128 export_others() {
    initialize_parameters(job_.model, map_, 99, parameters_);
    const auto told = export_model(posix_file_system(), folder_.path(), job_.model, map_, parameters_);
    EXPECT_TRUE(told.ok());
    job_.pretrained.path = folder_.path();
    return *told;
  }
  void create() {
    auto pretrained = open_pretrained(posix_file_system(), job_);
    ASSERT_TRUE(pretrained.ok()) << pretrained.error().describe();
    auto made = StepExecutor::create({.job = job_,
                                      .device = make_device(),
                                      .dataset = dataset_,
                                      .pretrained = *pretrained,
                                      .files = &posix_file_system(),
                                      .checkpoint_root = folder_.path() + "/checkpoints"},
                                     [](const WorkerEvent&) {});
    ASSERT_TRUE(made.ok()) << made.error().describe();
    executor_ = std::move(*made);
  }
  void initialize(const worker_action::InitializeState& action) {
    const auto done = executor_->initialize(action);
    ASSERT_TRUE(done.ok()) << done.error().describe();
    EXPECT_TRUE(std::get<worker_event::StateLoaded>(*done).ok);
  }
  void initialize_all() { initialize({{map_.tiles_with_state()}, {map_.tied_tiles()}}); }
  Hash128 weights() {
    std::vector<std::vector<Hash128>> hashes;
    const auto hashed = executor_->hash_weights(Step(0));
    for (const BlockWeights& block : std::get<worker_event::WeightsHashed>(*hashed).weights) {
      hashes.push_back(block.tensors);
    }
    EXPECT_EQ(hashes.size(), map_.blocks().size());
    return weights_hash(job_.model, map_, hashes);
  }
  // Master and both moments of one tile, as others would be sent them.
  std::vector<float> state_of(std::uint32_t tile) {
    const TileRange tiles{tile, tile + 1};
    const auto slices = executor_->state_payload({Step(0), tiles});
    std::vector<float> values;
    if (!slices) return values;
    for (const ConstSlice& slice : std::span(*slices).subspan(1)) {
      const std::size_t at = values.size();
      values.resize(at + slice.bytes.size() / sizeof(float));
      std::memcpy(values.data() + at, slice.bytes.data(), slice.bytes.size());
    }
    return values;
  }

  JobSpec job_ = cluster_job(GetParam());
  const StateMap map_{job_.model, job_.train.tile_elements};
  std::vector<float> parameters_ = std::vector<float>(map_.vector_elements());
  const TemporaryDirectory folder_;
  std::shared_ptr<const Dataset> dataset_;
  std::unique_ptr<StepExecutor> executor_;
};

TEST_P(InitializeTest, AnExportIsStepZeroBitForBit) {
  const Hash128 exported = export_others();
  create();
  initialize_all();
  EXPECT_EQ(weights(), exported);
}

TEST_P(InitializeTest, WithoutAnExportStepZeroIsTheSeeds) {
  initialize_parameters(job_.model, map_, job_.train.seed, parameters_);
  create();
  initialize_all();
  EXPECT_EQ(weights(), weights_hash(job_.model, map_, parameters_));
}

TEST_P(InitializeTest, MomentsAreZeroAndOtherTilesAreNotThere) {
  export_others();
  create();
  const std::uint32_t last = map_.tiles_with_state().end - 1;
  initialize({{{1, 3}, {last, last + 1}}, {}});
  for (const std::uint32_t tile : {1U, 2U, last}) {
    const ElementRange at = map_.tile(TileIndex(tile));
    std::vector<float> expected(parameters_.begin() + static_cast<std::ptrdiff_t>(at.begin),
                                parameters_.begin() + static_cast<std::ptrdiff_t>(at.end));
    expected.resize(3 * at.size());
    EXPECT_EQ(state_of(tile), expected) << "tile " << tile;
  }
  EXPECT_FALSE(executor_->state_payload({Step(0), {0, 1}}).has_value());
}

TEST_P(InitializeTest, AJobWhoseWeightsAreNotGivenIsRefused) {
  job_.pretrained.path = "/somewhere";
  const auto made =
      StepExecutor::create({.job = job_, .device = make_device(), .dataset = dataset_, .files = &posix_file_system()},
                           [](const WorkerEvent&) {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code(), ErrorCode::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Tied, InitializeTest, ::testing::Bool());

}  // namespace
}  // namespace planaria

// The planner reckons with the memory that the model's blocks take.
#include <gtest/gtest.h>

#include "coordinator/planner/profile.hpp"
#include "model_test_support.hpp"
#include "worker/model/transformer.hpp"

namespace planaria {
namespace {

class PredictedMemory : public ::testing::TestWithParam<ModelFamily> {};

TEST_P(PredictedMemory, OfABlockIsWhatAMicroBatchKeepsOfIt) {
  const JobSpec job = small_job(GetParam(), true);
  const StateMap map(job.model, 512);
  const auto device = cpu();
  const auto model = Transformer::create(*device, job.model, map, {job.batch.sequences, job.model.context}, 1);
  ASSERT_TRUE(model);
  const ModelProfile profile = model_profile(job, map, 1e9);
  EXPECT_EQ(profile.boundary_bytes, model->boundary_elements() * sizeof(float));
  for (std::uint32_t b = 1; b < profile.blocks.size(); ++b) {
    SCOPED_TRACE(profile.blocks[b].name);
    const std::size_t kept = model->saved_elements(BlockIndex(b)) + model->boundary_elements();  // and its input
    EXPECT_EQ(profile.blocks[b].saved_bytes, kept * sizeof(float));
    const bool head = BlockIndex(b) == model->head();
    EXPECT_EQ(profile.blocks[b].delta_bytes, head ? 0 : model->delta_elements(BlockIndex(b)) * sizeof(float));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PredictedMemory, ::testing::Values(ModelFamily::gpt2, ModelFamily::llama));

}  // namespace
}  // namespace planaria

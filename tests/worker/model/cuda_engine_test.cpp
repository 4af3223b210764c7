// The bf16 engine of a GPU against the fp32 engine of the CPU, and against itself: cut, split and run again.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/cuda_device.hpp"
#include "model_test_support.hpp"
#include "worker/model/transformer_pass.hpp"

namespace planaria {
namespace {

using Vector = std::vector<float>;

class CudaEngine : public testing::TestWithParam<ModelFamily> {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
    auto made = cuda::CudaDevice::create(0);
    ASSERT_TRUE(made.ok()) << made.error().describe();
    gpu_ = std::move(made).value();
  }

  [[nodiscard]] static JobSpec job() {
    JobSpec spec = small_job(GetParam(), true);
    spec.model.width = 128;
    spec.model.heads = 2;
    spec.model.kv_heads = GetParam() == ModelFamily::gpt2 ? 2 : 1;
    spec.model.ffn_width = 256;
    spec.model.context = 64;
    return spec;
  }
  [[nodiscard]] static Vector on_host(Device& device, const float* values, std::size_t count) {
    Vector host(count);
    device.copy_out(host.data(), values, count * sizeof(float));
    return host;
  }

  std::unique_ptr<Device> gpu_;
};

// Activations and their gradients are rounded to bf16, 2^-9 each, at some dozen places one behind another in a model of
// two layers; the roundings are independent.
TEST_P(CudaEngine, GradientsAreThoseOfFp32) {
  const auto host = cpu();
  const auto expected = trainer_of(*host, job());
  const auto actual = trainer_of(*gpu_, job());
  const auto expected_loss = expected->accumulate_gradient();
  const auto actual_loss = actual->accumulate_gradient();
  ASSERT_TRUE(expected_loss.ok());
  ASSERT_TRUE(actual_loss.ok()) << actual_loss.error().describe();
  EXPECT_NEAR(*actual_loss, *expected_loss, 1e-3 * *expected_loss);
  const StateMap& map = expected->map();
  const Vector gradient = on_host(*gpu_, actual->gradient(), map.vector_elements());
  for (const BlockInfo& block : map.blocks()) {
    for (const TensorInfo& tensor : block.tensors) {
      double difference = 0, size = 0;
      for (std::size_t i = 0; i < tensor.elements(); ++i) {
        const double reference = static_cast<double>(expected->gradient()[block.offset + tensor.offset + i]);
        const double value = static_cast<double>(gradient[block.offset + tensor.offset + i]);
        difference += (value - reference) * (value - reference);
        size += reference * reference;
      }
      EXPECT_LT(std::sqrt(difference), 0.03 * std::sqrt(size) + 1e-12) << block.name << "." << tensor.name;
    }
  }
}

TEST_P(CudaEngine, TrainsToTheSameBitsEveryTime) {
  const auto run = [&] {
    const auto trainer = trainer_of(*gpu_, job());
    for (int i = 0; i < 5; ++i) {
      const auto report = trainer->step();
      EXPECT_TRUE(report.ok());
    }
    return trainer->parameters_on_host();
  };
  const Vector first = run();
  EXPECT_EQ(first, run());
}

TEST_P(CudaEngine, AdoptedChoicesGiveTheBitsOfTheDeviceThatMadeThem) {
  const auto parameters = [](BareTrainer& trainer) {
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(trainer.step().ok());
    return trainer.parameters_on_host();
  };
  const auto maker = trainer_of(*gpu_, job());
  const auto choices = gpu_->kernel_choices();
  ASSERT_TRUE(choices.ok());
  const Vector expected = parameters(*maker);
  for (const bool engine_first : {false, true}) {
    auto device = cuda::CudaDevice::create(0);
    ASSERT_TRUE(device.ok());
    std::unique_ptr<BareTrainer> trainer;
    if (engine_first) trainer = trainer_of(**device, job());
    const Status adopted = (*device)->adopt_kernel_choices(*choices);
    ASSERT_TRUE(adopted.ok()) << adopted.error().describe();
    if (!engine_first) trainer = trainer_of(**device, job());
    EXPECT_EQ(parameters(*trainer), expected) << engine_first;
    EXPECT_EQ((*device)->kernel_choices().value(), *choices);
    JobSpec other = job();
    other.batch.sequences *= 2;
    const auto refused = BareTrainer::create(**device, other, pattern_source(other));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code(), ErrorCode::mismatch);
  }
}

TEST_P(CudaEngine, AnyCutIntoStagesGivesTheSameGradient) {
  const JobSpec spec = job();
  const auto trainer = trainer_of(*gpu_, spec);
  const StateMap& map = trainer->map();
  const MicroBatchShape shape{spec.batch.sequences, spec.model.context};
  const auto engine = make_model_engine(*gpu_, spec.model, map, shape, spec.train.seed);
  ASSERT_TRUE(engine.ok()) << engine.error().describe();
  const auto blocks = static_cast<std::uint32_t>(map.blocks().size());
  HostBatch batch;
  pattern_source(spec)(Step(1), MicroBatchIndex(0), batch);
  const auto gradient = [&](const std::vector<BlockRange>& stages, bool split, bool begin) {
    auto sum = gpu_->allocate_floats(map.vector_elements());
    auto boundary = gpu_->allocate_floats((*engine)->boundary_elements());
    auto next = gpu_->allocate_floats((*engine)->boundary_elements());
    EXPECT_TRUE(sum.ok() && boundary.ok() && next.ok());
    const GradientSums sums{sum->floats(), begin};
    const Vector before = garbage(map);
    if (begin) gpu_->copy_in(sum->floats(), before.data(), before.size() * sizeof(float));
    std::vector<double> losses(spec.batch.sequences);
    std::vector<std::unique_ptr<ModelPass>> passes;
    std::vector<LinearDeltas> deltas(stages.size());
    for (const BlockRange stage : stages) {
      passes.push_back(std::move((*engine)->make_pass(stage)).value());
      passes.back()->load(batch, Step(1));
      passes.back()->forward(stage, trainer->parameters(), true, boundary->floats(), next->floats(), losses.data());
      std::swap(boundary, next);
    }
    for (std::size_t s = stages.size(); s-- > 0;) {
      if (split && stages[s].begin > 0) {
        EXPECT_TRUE(passes[s]->cover_deltas(stages[s], deltas[s]).ok());
        passes[s]->backward_input(stages[s], trainer->parameters(), sums, boundary->floats(), next->floats(),
                                  deltas[s]);
      } else {
        passes[s]->backward(stages[s], trainer->parameters(), sums, boundary->floats(), next->floats());
      }
      std::swap(boundary, next);
    }
    for (std::size_t s = 0; split && s < stages.size(); ++s) {
      if (stages[s].begin > 0) passes[s]->backward_weights(stages[s], sums, deltas[s]);
    }
    const Status done = gpu_->synchronize();
    EXPECT_TRUE(done.ok()) << (done ? "" : done.error().describe());
    return on_host(*gpu_, sum->floats(), map.vector_elements());
  };
  const Vector whole = gradient({{0, blocks}}, false, true);
  for (std::uint32_t cut = 1; cut < blocks; ++cut) {
    for (const bool split : {false, true}) {
      for (const bool begin : {false, true}) {
        EXPECT_EQ(gradient({{0, cut}, {cut, blocks}}, split, begin), whole) << cut << split << begin;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaEngine, testing::Values(ModelFamily::gpt2, ModelFamily::llama),
                         [](const auto& test) { return std::string(to_string(test.param)); });

}  // namespace
}  // namespace planaria

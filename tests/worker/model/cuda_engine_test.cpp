// The engines of a GPU, bf16 and fp32, against the fp32 engine of the CPU, and against themselves: cut, split and run
// again.
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <tuple>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/fp32_device.hpp"
#include "model_test_support.hpp"
#include "tests/temporary_directory.hpp"
#include "worker/model/evaluate.hpp"
#include "worker/model/generate.hpp"
#include "worker/model/probe.hpp"
#include "worker/model/transformer_pass.hpp"

namespace planaria {
namespace {

using Vector = std::vector<float>;

using Engine = std::tuple<ModelFamily, Precision>;

template <class Made>
std::unique_ptr<Device> made(Result<std::unique_ptr<Made>> device) {
  EXPECT_TRUE(device.ok()) << (device ? "" : device.error().describe());
  return device ? std::move(*device) : nullptr;
}

class CudaEngine : public testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
    gpu_ = make_gpu();
    ASSERT_NE(gpu_, nullptr);
  }

  [[nodiscard]] static ModelFamily family() { return std::get<ModelFamily>(GetParam()); }
  [[nodiscard]] static bool fp32() { return std::get<Precision>(GetParam()) == Precision::fp32; }
  [[nodiscard]] static std::unique_ptr<Device> make_gpu() {
    return fp32() ? made(cuda::Fp32Device::create(0)) : made(cuda::CudaDevice::create(0));
  }
  [[nodiscard]] static JobSpec job() {
    JobSpec spec = small_job(family(), true, fp32() && family() == ModelFamily::gpt2 ? 0.1 : 0.0);
    spec.model.width = 128;
    spec.model.heads = 2;
    spec.model.kv_heads = family() == ModelFamily::gpt2 ? 2 : 1;
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

class CudaBf16Engine : public CudaEngine {};
class CudaFp32Engine : public CudaEngine {};

// Activations and their gradients are rounded at some dozen places one behind another in a model of two layers, to bf16
// by 2^-9 each; the roundings are independent. In fp32 sums of up to 2048 terms in another order differ by up to
// sqrt(2048) · 2^-24 = 3e-6 at each.
TEST_P(CudaEngine, GradientsAreThoseOfFp32) {
  const auto host = cpu();
  const auto expected = trainer_of(*host, job());
  const auto actual = trainer_of(*gpu_, job());
  const auto expected_loss = expected->accumulate_gradient();
  const auto actual_loss = actual->accumulate_gradient();
  ASSERT_TRUE(expected_loss.ok());
  ASSERT_TRUE(actual_loss.ok()) << actual_loss.error().describe();
  EXPECT_NEAR(*actual_loss, *expected_loss, (fp32() ? 1e-5 : 1e-3) * *expected_loss);
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
      EXPECT_LT(std::sqrt(difference), (fp32() ? 1e-4 : 0.03) * std::sqrt(size) + 1e-12)
          << block.name << "." << tensor.name;
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

TEST_P(CudaEngine, ProvesTheSameClassEveryTime) {
  const auto first = probe_numeric_class(*gpu_);
  ASSERT_TRUE(first.ok()) << first.error().describe();
  if (fp32()) {  // in bf16 another device may measure other kernels to be fastest
    EXPECT_EQ(probe_numeric_class(*make_gpu())->hex(), first->hex());
  }
  EXPECT_EQ(probe_numeric_class(*gpu_)->hex(), first->hex());
}

TEST_P(CudaBf16Engine, AdoptedChoicesGiveTheBitsOfTheDeviceThatMadeThem) {
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

// Of a model that the CPU trained: what `planaria evaluate` writes, and what `planaria generate` chooses.
TEST_P(CudaFp32Engine, LogitsAndTextAreTheCpus) {
  const JobSpec spec = job();
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/tokens.bin";
  std::ofstream file(path, std::ios::binary);
  for (std::uint64_t k = 0; k < 200; ++k) file.put(static_cast<char>(pattern_token(k, spec.model.vocab))).put('\0');
  file.close();
  DataSpec data;
  data.path = path;
  data.format = DataFormat::tokens_u16;
  data.validation_fraction = 0;
  const auto dataset = Dataset::open(data, spec.model.context, spec.model.vocab);
  ASSERT_TRUE(dataset.ok()) << dataset.error().describe();
  const std::vector<std::int32_t> prompt{1, 2, 3};
  const auto host = cpu();
  const auto trainer = trainer_of(*host, spec);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(trainer->step().ok());
  const Vector weights = trainer->parameters_on_host();
  std::vector<Vector> logits;
  std::vector<double> losses;
  std::vector<std::vector<std::int32_t>> texts;
  for (Device* device : {static_cast<Device*>(host.get()), gpu_.get()}) {
    auto own = device->allocate_floats(weights.size());
    ASSERT_TRUE(own.ok());
    device->copy_in(own->data(), weights.data(), weights.size() * sizeof(float));
    TensorDevice& tensors = *device->tensor_device();
    Vector& all = logits.emplace_back();
    const auto told =
        evaluate(tensors, spec.model, trainer->map(), own->floats(), *dataset, [&](std::span<const float> window) {
          all.insert(all.end(), window.begin(), window.end());
          return ok_status();
        });
    ASSERT_TRUE(told.ok()) << told.error().describe();
    losses.push_back(told->loss);
    const auto text =
        generate(tensors, spec.model, trainer->map(), own->floats(), prompt, {.tokens = 80, .temperature = 0.0});
    ASSERT_TRUE(text.ok()) << text.error().describe();
    texts.push_back(*text);
  }
  ASSERT_EQ(logits[0].size(), logits[1].size());
  for (std::size_t i = 0; i < logits[0].size(); ++i) ASSERT_NEAR(logits[1][i], logits[0][i], 2e-5) << i;
  EXPECT_NEAR(losses[1], losses[0], 1e-6);
  EXPECT_EQ(texts[1], texts[0]);
}

std::string name_of_engine(const testing::TestParamInfo<Engine>& test) {
  return fmt::format("{}_{}", to_string(std::get<ModelFamily>(test.param)), to_string(std::get<Precision>(test.param)));
}

const auto kFamilies = testing::Values(ModelFamily::gpt2, ModelFamily::llama);
INSTANTIATE_TEST_SUITE_P(All, CudaEngine,
                         testing::Combine(kFamilies, testing::Values(Precision::bf16, Precision::fp32)),
                         name_of_engine);
INSTANTIATE_TEST_SUITE_P(Bf16, CudaBf16Engine, testing::Combine(kFamilies, testing::Values(Precision::bf16)),
                         name_of_engine);
INSTANTIATE_TEST_SUITE_P(Fp32, CudaFp32Engine, testing::Combine(kFamilies, testing::Values(Precision::fp32)),
                         name_of_engine);

}  // namespace
}  // namespace planaria

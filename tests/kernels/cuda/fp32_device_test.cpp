// The ops of a GPU in fp32: the suite of all devices, and what must not change their bits.
#include "kernels/cuda/fp32_device.hpp"

#include <algorithm>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/model_engine.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "tests/kernels/cuda/device_fixture.hpp"
#include "tests/kernels/cuda/staged_device.hpp"
#include "tests/kernels/op_chain.hpp"
#include "tests/kernels/tensor_ops_suite.hpp"

namespace planaria::kernels_test {
namespace {

std::unique_ptr<TensorDevice> staged(std::size_t shift) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());  // a missing driver is no failure
  if (error != cudaSuccess || count == 0) return nullptr;
  auto device = cuda::Fp32Device::create(0);
  EXPECT_TRUE(device.ok()) << (device ? "" : device.error().describe());
  if (!device) return nullptr;
  return std::make_unique<cuda_test::StagedDevice>(std::move(*device), shift);
}

INSTANTIATE_TEST_SUITE_P(CudaFp32, TensorOps,
                         testing::Values(TestedDevice{"aligned", [] { return staged(0); }},
                                         TestedDevice{"unaligned", [] { return staged(1); }}),
                         name_of);

}  // namespace
}  // namespace planaria::kernels_test

namespace planaria::cuda_test {
namespace {

using kernels_test::expect_near;
using kernels_test::run_ops;

class CudaFp32 : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) device = kernels_test::staged(0);
  }
  std::unique_ptr<TensorDevice> device;
};

TEST_F(CudaFp32, BitsAreTheSameAtAnyAlignmentAndEveryTime) {
  for (const auto& [context, width] : {std::pair<std::size_t, std::size_t>{37, 24}, {256, 136}, {150, 384}}) {
    const Hash128 expected = run_ops(*device, context, width, 0);
    for (const std::size_t shift : {0, 1, 3}) {
      EXPECT_EQ(run_ops(*kernels_test::staged(shift), context, width, 0), expected)
          << "shift " << shift << ", context " << context << ", width " << width;
    }
  }
}

TEST_F(CudaFp32, KernelsProbeAlikeOnEveryDeviceObject) {
  const auto probe = [] {
    const auto own = cuda::Fp32Device::create(0);
    EXPECT_TRUE(own.ok());
    return probe_kernels(**own);
  };
  const auto first = probe();
  const auto second = probe();
  ASSERT_TRUE(first.ok()) << first.error().describe();
  EXPECT_EQ(*first, *second);
}

TEST_F(CudaFp32, AttentionOfAQueryDependsOnTheTokensUpToItAlone) {
  for (const std::size_t size : {24, 64, 128, 250}) {
    const AttentionShape whole{1, 130, 2, 1, size};
    const AttentionShape front{1, 61, 2, 1, size};
    const Floats qkv = draw.floats(whole.context * whole.qkv_width());
    Floats out(whole.context * whole.out_width()), start(front.context * front.out_width());
    Floats log_sums(whole.log_sum_count()), start_log_sums(front.log_sum_count());
    device->attention_forward(whole, qkv.data(), out.data(), log_sums.data());
    device->attention_forward(front, qkv.data(), start.data(), start_log_sums.data());
    EXPECT_TRUE(std::equal(start.begin(), start.end(), out.begin())) << size;
  }
}

// The first of two sequences, beside two different ones.
TEST_F(CudaFp32, ASequencesBitsDontDependOnItsNeighbours) {
  const std::size_t context = 77, width = 96;
  const AttentionShape attention{2, context, 4, 2, 24};
  const Floats first = draw.floats(context * width), w = draw.floats(attention.qkv_width() * width),
               gain = draw.floats(width);
  auto targets = draw.tokens(2 * context, attention.qkv_width());
  std::vector<Floats> seen;
  for (int neighbour = 0; neighbour < 2; ++neighbour) {
    Floats x = first;
    const Floats other = draw.floats(context * width, 3.0F);
    x.insert(x.end(), other.begin(), other.end());
    Floats normal(x.size()), inverse(2 * context), qkv(2 * context * attention.qkv_width()), out(x.size());
    Floats log_sums(attention.log_sum_count()), d_qkv(qkv.size()), d_normal(x.size());
    std::vector<double> losses(2);
    device->rmsnorm_forward({2 * context, width}, x.data(), gain.data(), normal.data(), inverse.data());
    device->linear_forward({2 * context, width, attention.qkv_width()}, normal.data(), w.data(), nullptr, qkv.data());
    device->attention_forward(attention, qkv.data(), out.data(), log_sums.data());
    device->attention_backward(attention, qkv.data(), out.data(), log_sums.data(), x.data(), d_qkv.data());
    device->linear_backward_input({2 * context, width, attention.qkv_width()}, d_qkv.data(), w.data(), d_normal.data());
    device->cross_entropy({2, context, attention.qkv_width()}, qkv.data(), targets.data(), losses.data(), qkv.data());
    Floats all{static_cast<float>(losses[0])};
    for (const Floats* part : {&normal, &qkv, &out, &d_qkv, &d_normal}) {
      all.insert(all.end(), part->begin(), part->begin() + static_cast<std::ptrdiff_t>(part->size() / 2));
    }
    seen.push_back(std::move(all));
  }
  EXPECT_TRUE(same_bits(seen[0], seen[1]));
}

TEST_F(CudaFp32, EmbeddingGradientsAreOneChainInRowOrder) {
  // Rows of a token lie within one look of the kernel, over several, and at the edges of both.
  for (const auto& [vocab, width] : {std::pair<std::size_t, std::size_t>{3, 37}, {300, 300}, {1, 8}, {50257, 5}}) {
    const EmbeddingShape s{5, 157, width, vocab};
    const std::size_t rows = s.sequences * s.context;
    const auto tokens = draw.tokens(rows, vocab);
    const Floats d_out = draw.floats(rows * width);
    Floats d_table = draw.floats(vocab * width);
    Floats expected = d_table;
    for (std::size_t i = 0; i < rows * width; ++i) {
      expected[static_cast<std::size_t>(tokens[i / width]) * width + i % width] += d_out[i];
    }
    device->embedding_backward(s, tokens.data(), d_out.data(), d_table.data(), nullptr);
    EXPECT_TRUE(same_bits(d_table, expected)) << vocab;
  }
}

TEST_F(CudaFp32, LinearMapsOfModelsAgreeWithReference) {
  for (const LinearShape& s : {LinearShape{200, 768, 2304}, LinearShape{130, 3072, 768}, LinearShape{5, 64, 50257}}) {
    const Floats x = draw.floats(s.rows * s.in), w = draw.floats(s.out * s.in), dy = draw.floats(s.rows * s.out);
    const Floats bias = draw.floats(s.out);
    Floats y(s.rows * s.out), dx(s.rows * s.in), dw(s.out * s.in, 1.0F), db(s.out, 2.0F);
    device->linear_forward(s, x.data(), w.data(), bias.data(), y.data());
    device->linear_backward_input(s, dy.data(), w.data(), dx.data());
    device->linear_backward_weight(s, x.data(), dy.data(), dw.data(), db.data());
    auto expected = reference::linear_backward(s, reference::widen(dy), reference::widen(x), reference::widen(w));
    for (double& value : expected.weight) value += 1.0;
    for (double& value : expected.bias) value += 2.0;
    expect_near(y, reference::linear(s, reference::widen(x), reference::widen(w), reference::widen(bias)),
                static_cast<double>(s.in) + 1);
    expect_near(dx, expected.x, static_cast<double>(s.out));
    expect_near(dw, expected.weight, static_cast<double>(s.rows) + 1);
    expect_near(db, expected.bias, static_cast<double>(s.rows) + 1);
  }
}

TEST_F(CudaFp32, CrossEntropyOfAWholeVocabularyAgreesWithReference) {
  const CrossEntropyShape s{2, 3, 50257};
  const std::size_t rows = s.sequences * s.context;
  const Floats logits = draw.floats(rows * s.vocab, 20.0F);
  const auto targets = draw.tokens(rows, s.vocab);
  Floats gradient(logits.size());
  std::vector<double> losses(s.sequences);
  device->cross_entropy(s, logits.data(), targets.data(), losses.data(), gradient.data());
  const auto expected = reference::cross_entropy(s, reference::widen(logits), targets);
  for (std::size_t i = 0; i < s.sequences; ++i) EXPECT_NEAR(losses[i], expected.losses[i], 1e-6 * expected.losses[i]);
  expect_near(gradient, expected.logits, 64);  // a logit's own rounding is 2^-24 of up to 40
}

TEST_F(CudaFp32, WiderHeadsThanItHasKernelsForAreRefused) {
  auto own = cuda::Fp32Device::create(0);
  ASSERT_TRUE(own.ok());
  JobSpec job;
  job.model.heads = job.model.kv_heads = 1;
  job.model.width = 384;
  const StateMap map(job.model, job.train.tile_elements);
  const auto engine = (*own)->make_engine(job.model, map, {1, 8}, 1);
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.error().code(), ErrorCode::unsupported);
  const AttentionShape shape{1, 8, 1, 1, 384};
  const OnDevice<float> qkv(shape.context * shape.qkv_width());
  OnDevice<float> out(shape.context * shape.out_width()), log_sums(shape.log_sum_count());
  (*own)->attention_forward(shape, qkv, out, log_sums);
  const Status done = (*own)->synchronize();
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code(), ErrorCode::unsupported);
}

TEST_F(CudaFp32, IsANumericClassOfItsOwn) {
  const auto fp32 = cuda::Fp32Device::create(0);
  const auto bf16 = cuda::CudaDevice::create(0);
  ASSERT_TRUE(fp32.ok() && bf16.ok());
  EXPECT_NE((*fp32)->numeric_class(), (*bf16)->numeric_class());
  EXPECT_NE((*fp32)->numeric_class().find("fp32"), std::string::npos);
  EXPECT_GT((*fp32)->rated_gflops(), 0);
  EXPECT_LT((*fp32)->rated_gflops(), (*bf16)->rated_gflops());
}

}  // namespace
}  // namespace planaria::cuda_test

#include "kernels/cuda/attention.hpp"

#include "device_fixture.hpp"
#include "kernels/cuda/attention_variants.hpp"

namespace planaria::cuda_test {
namespace {

struct Attended {
  Bf16s out;
  Bf16s d_qkv;
  Floats chunks;
};

// Of those that there are for a GPU, the one that is taken, and the one that runs everywhere.
struct Variant {
  const char* name;
  decltype(&cuda::portable::attention_forward) forward;
  decltype(&cuda::portable::attention_backward) backward;
};
constexpr Variant kVariants[] = {{"chosen", cuda::attention_forward, cuda::attention_backward},
                                 {"portable", cuda::portable::attention_forward, cuda::portable::attention_backward}};

class CudaAttention : public CudaTest, public testing::WithParamInterface<Variant> {
 protected:
  Attended run(const AttentionShape& shape, const Bf16s& qkv, const Bf16s& d_out) {
    const OnDevice<Bf16> device_qkv(qkv), device_d_out(d_out), out(d_out.size()), d_qkv(qkv.size());
    const OnDevice<float> log_sums(shape.log_sum_count()), scratch(shape.log_sum_count());
    const OnDevice<float> chunks(cuda::attention_chunks(shape) * shape.qkv_width());
    GetParam().forward(nullptr, shape, device_qkv, out, log_sums);
    GetParam().backward(nullptr, shape, device_qkv, out, log_sums, device_d_out, scratch, d_qkv, nullptr);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const Bf16s unsummed = d_qkv.read();
    GetParam().backward(nullptr, shape, device_qkv, out, log_sums, device_d_out, scratch, d_qkv, chunks);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_TRUE(same_bits(d_qkv.read(), unsummed));
    return {out.read(), unsummed, chunks.read()};
  }
};

// Up to 64 rounded values, added in fp32.
void expect_column_sums(const AttentionShape& shape, const Bf16s& d_qkv, const Floats& chunks) {
  const std::size_t width = shape.qkv_width();
  const std::size_t of_sequence = cuda::attention_chunks(shape) / shape.sequences;
  Values sums(chunks.size()), magnitudes(chunks.size());
  for (std::size_t i = 0; i < d_qkv.size(); ++i) {
    const std::size_t row = i / width;
    const std::size_t chunk = row / shape.context * of_sequence + row % shape.context / cuda::kAttentionSumRows;
    const double value = static_cast<double>(__bfloat162float(d_qkv[i]));
    sums[chunk * width + i % width] += value;
    magnitudes[chunk * width + i % width] += std::abs(value);
  }
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(chunks[i]), sums[i], 64 * 0x1.0p-24 * magnitudes[i])
        << "chunk " << i / width << ", column " << i % width;
  }
}

// Weights and their gradients are rounded to bf16 before they meet values, and the output before its product with the
// gradient: each adds half an ulp, 2^-9, of sums whose size the largest element bounds.
void expect_near_rounded_inside(const Bf16s& actual, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double allowed = 0x1.0p-8 * std::abs(expected[i]) + 4 * 0x1.0p-9 * largest;
    ASSERT_NEAR(static_cast<double>(__bfloat162float(actual[i])), expected[i], allowed) << "element " << i;
  }
}

TEST_P(CudaAttention, IsTheReferences) {
  for (const AttentionShape& shape :
       {AttentionShape{2, 128, 3, 3, 64}, AttentionShape{1, 200, 2, 2, 64}, AttentionShape{1, 1, 2, 2, 16},
        AttentionShape{2, 77, 4, 2, 32}, AttentionShape{1, 300, 4, 1, 128}, AttentionShape{2, 257, 2, 2, 16},
        AttentionShape{2, 456, 2, 1, 64}}) {
    const std::size_t rows = shape.sequences * shape.context;
    const Bf16s qkv = rounded(draw.floats(rows * shape.qkv_width(), 2.0F));
    const Bf16s d_out = rounded(draw.floats(rows * shape.out_width()));
    const Attended got = run(shape, qkv, d_out);
    SCOPED_TRACE(testing::Message() << shape.context << " x " << shape.heads << " x " << shape.head_size);
    expect_near_rounded_inside(got.out, reference::attention(shape, doubles(qkv)));
    expect_near_rounded_inside(got.d_qkv, reference::attention_backward(shape, doubles(qkv), doubles(d_out)));
    expect_column_sums(shape, got.d_qkv, got.chunks);
  }
}

TEST_P(CudaAttention, HasTheSameBitsEveryTimeAndInAnyBatch) {
  const AttentionShape one{1, 640, 6, 2, 64};
  AttentionShape many = one;
  many.sequences = 40;
  const Bf16s qkv = rounded(draw.floats(one.context * one.qkv_width(), 2.0F));
  const Bf16s d_out = rounded(draw.floats(one.context * one.out_width()));
  const auto repeat = [&](const auto& values) {
    std::remove_cvref_t<decltype(values)> all;
    for (std::size_t i = 0; i < many.sequences; ++i) all.insert(all.end(), values.begin(), values.end());
    return all;
  };
  const Attended alone = run(one, qkv, d_out);
  const Attended together = run(many, repeat(qkv), repeat(d_out));
  EXPECT_TRUE(same_bits(repeat(alone.out), together.out));
  EXPECT_TRUE(same_bits(repeat(alone.d_qkv), together.d_qkv));
  EXPECT_TRUE(same_bits(repeat(alone.chunks), together.chunks));
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaAttention, testing::ValuesIn(kVariants),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace planaria::cuda_test

// The CUDA ops that go over rows: norms, their sums over rows, and the classifier. Against the double reference, and
// bit by bit against a host model wherever a header promises an order.
#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <utility>

#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/classifier.hpp"
#include "kernels/cuda/norms.hpp"
#include "tests/kernels/cuda/device_fixture.hpp"

namespace planaria::cuda_test {
namespace {

using kernels_test::expect_near;
using reference::widen;

using CudaNorms = CudaTest;
using CudaSums = CudaTest;
using CudaClassifier = CudaTest;

Values plus(Values a, const Values& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

Floats added_in_order(std::size_t width, const Floats& chunks, float start) {
  Floats sums(width);
  for (std::size_t i = 0; i < chunks.size(); ++i) sums[i % width] += chunks[i];
  for (float& sum : sums) sum = start + sum;
  return sums;
}
Floats added(std::size_t width, const OnDevice<float>& chunks, std::size_t count) {
  OnDevice<float> target(Floats(width, 1.0F));
  const cuda::ChunkSum sum{chunks, count, width, target};
  cuda::add_chunks(nullptr, {&sum, 1});
  return target.read();
}

// Narrow and ragged, GPT-2's widths, and beyond what a warp holds.
constexpr NormShape norm_shapes[] = {{1, 8},     {3, 7},      {130, 24},  {33, 100},   {129, 256},
                                     {257, 768}, {140, 1024}, {70, 1280}, {200, 1600}, {129, 1792},
                                     {20, 1800}, {140, 2048}, {5, 2056},  {9, 4096}};

struct NormRun {
  const NormShape shape;
  const bool centered;
  const std::size_t n = shape.rows * shape.width;
  OnDevice<Bf16> y{n}, sum{n};
  OnDevice<float> mean{shape.rows}, inverse{shape.rows};

  void forward(const Bf16* x, const Bf16* delta, const float* gain, const float* bias) {
    cuda::norm_forward(nullptr, {.shape = shape,
                                 .x = x,
                                 .delta = delta,
                                 .sum = delta != nullptr ? sum.get() : nullptr,
                                 .gain = gain,
                                 .bias = centered ? bias : nullptr,
                                 .y = y,
                                 .mean = centered ? mean.get() : nullptr,
                                 .inverse_deviation = inverse});
  }
};

TEST_F(CudaNorms, ForwardAgreesWithReferenceAndFromTheSumGivesTheSameBits) {
  for (const NormShape& s : norm_shapes) {
    for (const bool centered : {true, false}) {
      SCOPED_TRACE(testing::Message() << s.rows << " x " << s.width << (centered ? " layer" : " RMS"));
      NormRun run{s, centered};
      const Bf16s x = rounded(draw.floats(run.n, 3.0F)), delta = rounded(draw.floats(run.n));
      const Floats gain = draw.floats(s.width), bias = draw.floats(s.width);
      const OnDevice<Bf16> in(x), more(delta);
      const OnDevice<float> g(gain, 1), b(bias);  // a parameter may lie anywhere
      run.forward(in, more, g, b);
      const Bf16s y = run.y.read(), sum = run.sum.read();
      for (std::size_t i = 0; i < run.n; ++i) {
        const Bf16 expected = __float2bfloat16_rn(__bfloat162float(x[i]) + __bfloat162float(delta[i]));
        ASSERT_EQ(std::memcmp(&sum[i], &expected, sizeof(Bf16)), 0) << i;
      }
      const Values expected = centered ? reference::layernorm(s, doubles(sum), widen(gain), widen(bias))
                                       : reference::rmsnorm(s, doubles(sum), widen(gain));
      expect_near_bf16(y, expected, static_cast<double>(s.width) + 16);
      const Floats inverse = run.inverse.read();
      const OnDevice<Bf16> again(sum);
      run.forward(again, nullptr, g, b);
      EXPECT_TRUE(same_bits(run.y.read(), y));
      EXPECT_TRUE(same_bits(run.inverse.read(), inverse));
    }
  }
}

// A backward pass with all that it writes.
struct NormGradients {
  NormGradients(const NormShape& shape, bool centered)
      : dx(shape.rows * shape.width),
        d_gain(cuda::chunks_of(shape.rows) * shape.width),
        d_bias(centered ? cuda::chunks_of(shape.rows) * shape.width : 0),
        dx_sums(cuda::chunks_of(shape.rows) * shape.width) {}

  void run(const NormShape& shape, const Bf16* dy, const Bf16* x, const float* gain, const float* mean,
           const float* inverse, const Bf16* residual) {
    cuda::norm_backward(nullptr, {shape, dy, x, gain, mean, inverse, residual, dx, d_gain, d_bias, dx_sums});
  }
  OnDevice<Bf16> dx;
  OnDevice<float> d_gain, d_bias, dx_sums;
};

TEST_F(CudaNorms, BackwardAgreesWithReferenceAndItsSumsHaveTheOneOrder) {
  for (const NormShape& s : norm_shapes) {
    for (const bool centered : {true, false}) {
      SCOPED_TRACE(testing::Message() << s.rows << " x " << s.width << (centered ? " layer" : " RMS"));
      NormRun run{s, centered};
      const Bf16s x = rounded(draw.floats(run.n, 3.0F)), dy = rounded(draw.floats(run.n));
      const Bf16s residual = rounded(draw.floats(run.n));
      const Floats gain = draw.floats(s.width);
      const OnDevice<Bf16> in(x), d(dy);
      const OnDevice<float> g(gain, 1), b(Floats(s.width));
      run.forward(in, nullptr, g, b);
      const float* mean = centered ? run.mean.get() : nullptr;
      NormGradients inplace(s, centered), plain(s, centered);
      inplace.dx.write(residual);
      inplace.run(s, d, in, g, mean, run.inverse, inplace.dx);
      plain.run(s, d, in, g, mean, run.inverse, nullptr);

      const auto expected = centered ? reference::layernorm_backward(s, doubles(dy), doubles(x), widen(gain))
                                     : reference::rmsnorm_backward(s, doubles(dy), doubles(x), widen(gain));
      const double depth = static_cast<double>(s.width) + 16;
      const std::size_t chunks = cuda::chunks_of(s.rows);
      expect_near_bf16(inplace.dx.read(), plus(expected.x, doubles(residual)), depth);
      expect_near_bf16(plain.dx.read(), expected.x, depth);
      const double sum_depth = static_cast<double>(s.rows) + 16;
      expect_near(added(s.width, plain.d_gain, chunks), plus(expected.gain, Values(s.width, 1.0)), sum_depth);
      EXPECT_TRUE(same_bits(plain.d_gain.read(), inplace.d_gain.read()));
      EXPECT_TRUE(same_bits(inplace.dx_sums.read(), chunks_in_order(s.rows, s.width, inplace.dx.read())));
      if (centered) {
        EXPECT_TRUE(same_bits(plain.d_bias.read(), chunks_in_order(s.rows, s.width, dy)));
      }
    }
  }
}

// More chunks than blocks run at once: blocks go on to other chunks.
TEST_F(CudaNorms, ChunksHaveTheSameBitsAlone) {
  const NormShape s{130 * 600 + 77, 24};
  const std::size_t n = s.rows * s.width;
  const OnDevice<Bf16> x(rounded(draw.floats(n, 3.0F))), dy(rounded(draw.floats(n))), residual(rounded(draw.floats(n)));
  const OnDevice<float> gain(draw.floats(s.width)), inverse(draw.floats(s.rows)), mean(draw.floats(s.rows));
  NormGradients all(s, true);
  all.run(s, dy, x, gain, mean, inverse, residual);
  const Bf16s dx = all.dx.read();
  const Floats d_gain = all.d_gain.read();
  for (const std::size_t chunk : {std::size_t{0}, std::size_t{1}, std::size_t{300}, cuda::chunks_of(s.rows) - 1}) {
    const std::size_t row = chunk * cuda::kChunkRows;
    const NormShape one{std::min(s.rows - row, cuda::kChunkRows), s.width};
    NormGradients alone(one, true);
    const std::size_t at = row * s.width;
    alone.run(one, dy.get() + at, x.get() + at, gain, mean.get() + row, inverse.get() + row, residual.get() + at);
    const auto dx_begin = dx.begin() + static_cast<std::ptrdiff_t>(at);
    const auto gain_begin = d_gain.begin() + static_cast<std::ptrdiff_t>(chunk * s.width);
    const auto length = static_cast<std::ptrdiff_t>(one.rows * s.width);
    EXPECT_TRUE(same_bits(alone.dx.read(), Bf16s(dx_begin, dx_begin + length)));
    EXPECT_TRUE(same_bits(alone.d_gain.read(), Floats(gain_begin, gain_begin + static_cast<std::ptrdiff_t>(s.width))));
  }
}

// Atomics, or an order that depends on who comes first, would show here some day.
TEST_F(CudaNorms, RunsAgreeInEveryBit) {
  const NormShape s{16384, 768};
  const std::size_t n = s.rows * s.width;
  const OnDevice<Bf16> x(rounded(draw.floats(n, 3.0F))), dy(rounded(draw.floats(n))), residual(rounded(draw.floats(n)));
  const OnDevice<float> gain(draw.floats(s.width)), inverse(draw.floats(s.rows)), mean(draw.floats(s.rows));
  NormGradients first(s, true), second(s, true);
  first.run(s, dy, x, gain, mean, inverse, residual);
  second.run(s, dy, x, gain, mean, inverse, residual);
  EXPECT_TRUE(same_bits(first.dx.read(), second.dx.read()));
  EXPECT_TRUE(same_bits(first.d_gain.read(), second.d_gain.read()));
  EXPECT_TRUE(same_bits(first.d_bias.read(), second.d_bias.read()));
  EXPECT_TRUE(same_bits(first.dx_sums.read(), second.dx_sums.read()));
}

TEST_F(CudaSums, HaveTheOrderOfTheirHeader) {
  for (const auto& [rows, width] :
       {std::pair<std::size_t, std::size_t>{1, 1}, {129, 8}, {300, 37}, {128 * 300, 40}, {1000, 768}, {200, 6400}}) {
    const Bf16s x = rounded(draw.floats(rows * width));
    for (const std::size_t offset : {0, 1}) {
      const OnDevice<Bf16> in(x, offset);
      OnDevice<float> chunks(cuda::chunks_of(rows) * width);
      cuda::column_chunks(nullptr, rows, width, in, chunks);
      const Floats expected = chunks_in_order(rows, width, x);
      EXPECT_TRUE(same_bits(chunks.read(), expected)) << rows << " x " << width;
      const Floats sums = added(width, chunks, cuda::chunks_of(rows));
      EXPECT_TRUE(same_bits(sums, added_in_order(width, expected, 1.0F))) << rows << " x " << width;
    }
  }
}

// More than one launch takes, one of them empty.
TEST_F(CudaSums, ManyTogetherHaveTheBitsOfEachAlone) {
  std::vector<std::pair<std::size_t, std::size_t>> shapes;  // chunks, width
  for (std::size_t i = 0; i < 2 * cuda::kChunkSumsAtOnce + 1; ++i)
    shapes.emplace_back(i == 3 ? 0 : 40 * i + 1, 17 * i + 8);
  std::vector<std::unique_ptr<OnDevice<float>>> chunks, targets;
  std::vector<cuda::ChunkSum> sums;
  for (const auto& [count, width] : shapes) {
    chunks.push_back(std::make_unique<OnDevice<float>>(draw.floats(count * width)));
    targets.push_back(std::make_unique<OnDevice<float>>(Floats(width, 1.0F)));
    sums.push_back({*chunks.back(), count, width, *targets.back()});
  }
  cuda::add_chunks(nullptr, sums);
  const auto begun_with = [&](std::size_t count, std::size_t width, const OnDevice<float>& of) {
    const OnDevice<float> target(Floats(width, std::numeric_limits<float>::quiet_NaN()));
    const cuda::ChunkSum sum{of, count, width, target, true};
    cuda::add_chunks(nullptr, {&sum, 1});
    return target.read();
  };
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto& [count, width] = shapes[i];
    EXPECT_TRUE(same_bits(targets[i]->read(), added_in_order(width, chunks[i]->read(), 1.0F))) << i;
    EXPECT_TRUE(same_bits(targets[i]->read(), added(width, *chunks[i], count))) << i;
    EXPECT_EQ(begun_with(count, width, *chunks[i]), added_in_order(width, chunks[i]->read(), 0.0F)) << i;
  }
}

struct ClassifierRun {
  std::size_t rows, vocab, stride;
  Bf16s logits;
  std::vector<std::int32_t> targets;
  Bf16s gradient;
  Floats losses;

  void run(bool with_gradient) {
    OnDevice<Bf16> x(logits);
    const OnDevice<std::int32_t> t(targets);
    OnDevice<float> out(rows);
    cuda::classify(nullptr, {rows, vocab, stride, x, t, out, with_gradient});
    gradient = x.read();
    losses = out.read();
  }
  [[nodiscard]] ClassifierRun only(std::size_t row) const {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * stride);
    return {1, vocab, stride, Bf16s(begin, begin + static_cast<std::ptrdiff_t>(stride)), {targets[row]}, {}, {}};
  }
};

// Padding holds what must not be looked at.
ClassifierRun draw_classifier(kernels_test::Draw& draw, std::size_t rows, std::size_t vocab, std::size_t stride) {
  ClassifierRun c{rows, vocab, stride, rounded(draw.floats(rows * stride, 8.0F)), draw.tokens(rows, vocab), {}, {}};
  for (std::size_t i = 0; i < c.logits.size(); ++i) {
    if (i % stride >= vocab) c.logits[i] = __float2bfloat16_rn(i % 2 == 0 ? 1e30F : NAN);
  }
  c.targets[0] = static_cast<std::int32_t>(vocab) - 1;
  if (rows > 1) c.targets[1] = -1;
  return c;
}

// The rows at 130000 classes don't fit into shared memory.
TEST_F(CudaClassifier, AgreesWithReference) {
  for (const auto& [rows, vocab, stride] : {std::array<std::size_t, 3>{3, 17, 24},
                                            {9, 5, 8},
                                            {1200, 1001, 1008},
                                            {5, 4096, 4096},
                                            {40, 50257, 50304},
                                            {4, 130001, 130048}}) {
    SCOPED_TRACE(testing::Message() << rows << " rows of " << vocab);
    ClassifierRun c = draw_classifier(draw, rows, vocab, stride);
    Values dense;
    for (std::size_t i = 0; i < c.logits.size(); ++i) {
      if (i % stride < vocab) dense.push_back(static_cast<double>(__bfloat162float(c.logits[i])));
    }
    const auto expected = reference::cross_entropy({rows, 1, vocab}, dense, c.targets);
    c.run(true);
    Bf16s gradient;
    for (std::size_t i = 0; i < c.gradient.size(); ++i) {
      if (i % stride < vocab) {
        gradient.push_back(c.gradient[i]);
      } else {
        ASSERT_EQ(__bfloat162float(c.gradient[i]), 0.0F) << i;
      }
    }
    // The exponent of 2 is about 32 with half an ulp of 2^-20, so a probability is off by 2^-20: 256 in the variance.
    expect_near_bf16(gradient, expected.logits, 256);
    expect_near(c.losses, expected.losses, 64);
    EXPECT_EQ(c.losses[std::min<std::size_t>(rows, 2) - 1], rows > 1 ? 0.0F : c.losses[0]);
    const Floats losses = c.losses;
    c.run(false);
    EXPECT_TRUE(same_bits(c.losses, losses));
    EXPECT_TRUE(same_bits(c.gradient, c.logits));
  }
}

TEST_F(CudaClassifier, RowsHaveTheSameBitsAlone) {
  ClassifierRun c = draw_classifier(draw, 1500, 1001, 1008);
  c.run(true);
  for (const std::size_t row : {0, 1, 2, 777, 1499}) {
    ClassifierRun one = c.only(row);
    one.run(true);
    EXPECT_EQ(one.losses[0], c.losses[row]);
    EXPECT_EQ(std::memcmp(one.gradient.data(), &c.gradient[row * c.stride], c.stride * sizeof(Bf16)), 0);
  }
}

TEST_F(CudaClassifier, LossesAreSummedInPositionOrder) {
  const std::size_t sequences = 3, context = 1500;
  const Floats losses = draw.floats(sequences * context, 9.0F);
  const OnDevice<float> in(losses);
  OnDevice<double> sums(sequences);
  cuda::sum_losses(nullptr, sequences, context, in, sums);
  Values expected(sequences);
  for (std::size_t i = 0; i < losses.size(); ++i) expected[i / context] += static_cast<double>(losses[i]);
  EXPECT_EQ(sums.read(), expected);
}

}  // namespace
}  // namespace planaria::cuda_test

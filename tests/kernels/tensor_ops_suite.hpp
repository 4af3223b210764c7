// Every op of a TensorDevice against the reference, for sizes with ragged edges. Who includes this instantiates
// TensorOps with devices that take pointers to host memory.
//
// Thread contract: each test has its own.
#pragma once

#include <functional>
#include <ostream>
#include <string>

#include "tests/kernels/kernel_fixture.hpp"

namespace planaria::kernels_test {
namespace {

using reference::Values;
using reference::widen;

struct TestedDevice {
  std::string name;
  std::function<std::unique_ptr<TensorDevice>()> make;  // null: there is none here
};
// Without it the names of tests hold bytes of the function, others in each process.
void PrintTo(const TestedDevice& device, std::ostream* out) {
  *out << device.name;
}

class TensorOps : public testing::TestWithParam<TestedDevice> {
 protected:
  void SetUp() override {
    device = GetParam().make();
    if (!device) GTEST_SKIP() << "no device for " << GetParam().name;
  }

  Draw draw{11};
  std::unique_ptr<TensorDevice> device;
};

inline std::string name_of(const testing::TestParamInfo<TestedDevice>& info) {
  return info.param.name;
}

constexpr LinearShape linear_shapes[] = {{1, 1, 1},    {1, 70, 40},  {7, 17, 33},     {64, 64, 192},
                                         {53, 401, 3}, {150, 8, 70}, {130, 390, 260}, {12, 800, 129}};

TEST_P(TensorOps, LinearForwardAgreesWithReference) {
  for (const LinearShape& s : linear_shapes) {
    const Floats x = draw.floats(s.rows * s.in), w = draw.floats(s.out * s.in), b = draw.floats(s.out);
    Floats y(s.rows * s.out, 99.0F);
    device->linear_forward(s, x.data(), w.data(), b.data(), y.data());
    expect_near(y, reference::linear(s, widen(x), widen(w), widen(b)), static_cast<double>(s.in) + 1);
    device->linear_forward(s, x.data(), w.data(), nullptr, y.data());
    expect_near(y, reference::linear(s, widen(x), widen(w), {}), static_cast<double>(s.in));
  }
}

TEST_P(TensorOps, LinearBackwardAgreesWithReferenceAndAccumulates) {
  for (const LinearShape& s : linear_shapes) {
    const Floats x = draw.floats(s.rows * s.in), w = draw.floats(s.out * s.in), dy = draw.floats(s.rows * s.out);
    Floats dx(s.rows * s.in, 99.0F), dw(s.out * s.in, 1.0F), db(s.out, 2.0F);
    device->linear_backward_input(s, dy.data(), w.data(), dx.data());
    device->linear_backward_weight(s, x.data(), dy.data(), dw.data(), db.data());
    auto expected = reference::linear_backward(s, widen(dy), widen(x), widen(w));
    for (double& value : expected.weight) value += 1.0;
    for (double& value : expected.bias) value += 2.0;
    expect_near(dx, expected.x, static_cast<double>(s.out));
    expect_near(dw, expected.weight, static_cast<double>(s.rows) + 1);
    expect_near(db, expected.bias, static_cast<double>(s.rows) + 1);
  }
}

constexpr NormShape norm_shapes[] = {{1, 1, 1e-5F}, {3, 7, 1e-5F}, {40, 24, 1e-6F}, {33, 100, 1e-5F}, {20, 384, 1e-5F}};

TEST_P(TensorOps, LayerNormAgreesWithReference) {
  for (const NormShape& s : norm_shapes) {
    const std::size_t n = s.rows * s.width;
    const Floats x = draw.floats(n, 3.0F), gain = draw.floats(s.width), bias = draw.floats(s.width);
    const Floats dy = draw.floats(n), residual = draw.floats(n);
    Floats y(n), mean(s.rows), inverse(s.rows), dx(n), d_gain(s.width, 1.0F), d_bias(s.width, 1.0F);
    device->layernorm_forward(s, x.data(), gain.data(), bias.data(), y.data(), mean.data(), inverse.data());
    device->layernorm_backward(s, dy.data(), x.data(), gain.data(), mean.data(), inverse.data(), residual.data(),
                               dx.data(), d_gain.data(), d_bias.data());
    auto d = reference::layernorm_backward(s, widen(dy), widen(x), widen(gain));
    for (std::size_t i = 0; i < n; ++i) d.x[i] += residual[i];
    for (std::size_t i = 0; i < s.width; ++i) d.gain[i] += 1.0, d.bias[i] += 1.0;
    const double depth = static_cast<double>(s.width) + 16;
    // A row of width 1 cancels to nothing, as does its gradient: rounding is relative to what cancels.
    if (s.width > 1) expect_near(y, reference::layernorm(s, widen(x), widen(gain), widen(bias)), depth);
    if (s.width > 1) expect_near(dx, d.x, depth);
    expect_near(d_gain, d.gain, static_cast<double>(s.rows) + 16);
    expect_near(d_bias, d.bias, static_cast<double>(s.rows) + 16);
  }
}

TEST_P(TensorOps, RmsNormAgreesWithReference) {
  for (const NormShape& s : norm_shapes) {
    const std::size_t n = s.rows * s.width;
    const Floats x = draw.floats(n, 3.0F), gain = draw.floats(s.width), dy = draw.floats(n);
    Floats y(n), inverse(s.rows), dx(n), d_gain(s.width);
    device->rmsnorm_forward(s, x.data(), gain.data(), y.data(), inverse.data());
    device->rmsnorm_backward(s, dy.data(), x.data(), gain.data(), inverse.data(), nullptr, dx.data(), d_gain.data());
    const auto d = reference::rmsnorm_backward(s, widen(dy), widen(x), widen(gain));
    const double depth = static_cast<double>(s.width) + 16;
    expect_near(y, reference::rmsnorm(s, widen(x), widen(gain)), depth);
    // A row of width 1 has a gradient that cancels to almost nothing: rounding is relative to what cancels.
    if (s.width > 1) expect_near(dx, d.x, depth);
    expect_near(d_gain, d.gain, static_cast<double>(s.rows) + 16);
  }
}

constexpr AttentionShape attention_shapes[] = {{1, 1, 1, 1, 8},    {2, 17, 3, 3, 8},  {1, 64, 4, 2, 16},
                                               {1, 97, 2, 1, 10},  {2, 50, 6, 2, 5},  {1, 130, 2, 2, 64},
                                               {1, 49, 1, 1, 128}, {1, 40, 2, 1, 200}};

TEST_P(TensorOps, AttentionAgreesWithReference) {
  for (const AttentionShape& s : attention_shapes) {
    const std::size_t rows = s.sequences * s.context;
    const Floats qkv = draw.floats(rows * s.qkv_width(), 2.0F), d_out = draw.floats(rows * s.out_width());
    Floats out(rows * s.out_width(), 99.0F), log_sums(s.log_sum_count()), d_qkv(qkv.size(), 99.0F);
    device->attention_forward(s, qkv.data(), out.data(), log_sums.data());
    device->attention_backward(s, qkv.data(), out.data(), log_sums.data(), d_out.data(), d_qkv.data());
    // The exponent's rounding (scores up to head_size) multiplies the probabilities' relative error.
    const double depth = static_cast<double>(s.context + 4 * s.head_size) + 64;
    expect_near(out, reference::attention(s, widen(qkv)), depth);
    expect_near(d_qkv, reference::attention_backward(s, widen(qkv), widen(d_out)), depth);
  }
}

TEST_P(TensorOps, RopeAgreesWithReferenceAndIsUndoneByItsBackward) {
  for (const AttentionShape& s : {AttentionShape{2, 40, 3, 1, 10}, AttentionShape{1, 300, 2, 2, 64}}) {
    const std::size_t count = s.sequences * s.context * s.qkv_width();
    const Floats table = make_rope_table(s.context, s.head_size, 10000.0), qkv = draw.floats(count);
    Floats turned = qkv;
    device->rope_forward(s, table.data(), turned.data());
    expect_near(turned, reference::rope(s, 10000.0, 1, widen(qkv)), 4);
    device->rope_backward(s, table.data(), turned.data());
    expect_near(turned, widen(qkv), 8);
  }
}

TEST_P(TensorOps, ActivationsAgreeWithReference) {
  for (const std::size_t width : {1, 5, 8, 300}) {
    const SwigluShape s{7, width};
    const Floats x = draw.floats(14 * width, 6.0F), dy = draw.floats(14 * width), d_out = draw.floats(7 * width);
    Floats y(x.size()), dx(x.size()), out(7 * width), d_gate_up(x.size());
    device->gelu_forward(x.size(), x.data(), y.data());
    device->gelu_backward(x.size(), x.data(), dy.data(), dx.data());
    device->swiglu_forward(s, x.data(), out.data());
    device->swiglu_backward(s, x.data(), d_out.data(), d_gate_up.data());
    // The gate's argument is about 4 where the gate still changes, and the slope that multiplies its rounding is as
    // large: one step of 16 half-ulps, 256 in the walk's variance.
    expect_near(y, reference::gelu(widen(x)), 256);
    expect_near(dx, reference::gelu_backward(widen(x), widen(dy)), 256);
    expect_near(out, reference::swiglu(s, widen(x)), 16);
    expect_near(d_gate_up, reference::swiglu_backward(s, widen(x), widen(d_out)), 32);
  }
}

TEST_P(TensorOps, ActivationsStayFiniteFarFromZero) {
  const Floats x{-1e4F, -100.0F, -30.0F, 0.0F, 30.0F, 100.0F, 1e4F};
  const Floats ones(x.size(), 1.0F);
  Floats y(x.size()), dx(x.size());
  device->gelu_forward(x.size(), x.data(), y.data());
  device->gelu_backward(x.size(), x.data(), ones.data(), dx.data());
  EXPECT_NEAR(y[0], 0.0F, 1e-30F);
  EXPECT_EQ(y[6], 1e4F);
  EXPECT_EQ(dx[6], 1.0F);
  for (const float value : dx) EXPECT_TRUE(std::isfinite(value));
}

TEST_P(TensorOps, EmbeddingAgreesWithReferenceAndAccumulates) {
  const EmbeddingShape s{3, 20, 37, 6};
  const auto tokens = draw.tokens(60, s.vocab);
  const Floats table = draw.floats(s.vocab * s.width), positions = draw.floats(s.context * s.width);
  const Floats d_out = draw.floats(60 * s.width);
  Floats out(60 * s.width), d_table(table.size(), 1.0F), d_positions(positions.size(), 1.0F);
  device->embedding_forward(s, tokens.data(), table.data(), positions.data(), out.data());
  device->embedding_backward(s, tokens.data(), d_out.data(), d_table.data(), d_positions.data());
  Values expected_table(table.size(), 1.0), expected_positions(positions.size(), 1.0);
  reference::embedding_backward(s, tokens, widen(d_out), expected_table, expected_positions);
  expect_near(out, reference::embedding(s, tokens, widen(table), widen(positions)), 1);
  expect_near(d_table, expected_table, 20);
  expect_near(d_positions, expected_positions, 4);
}

TEST_P(TensorOps, CrossEntropyAgreesWithReference) {
  for (const CrossEntropyShape& s :
       {CrossEntropyShape{2, 9, 5}, CrossEntropyShape{1, 40, 256}, CrossEntropyShape{3, 2, 1001}}) {
    const std::size_t rows = s.sequences * s.context;
    Floats logits = draw.floats(rows * s.vocab, 8.0F);
    auto targets = draw.tokens(rows, s.vocab);
    targets[1] = -1;
    const auto expected = reference::cross_entropy(s, widen(logits), targets);
    std::vector<double> losses(s.sequences), evaluated(s.sequences);
    device->cross_entropy(s, logits.data(), targets.data(), evaluated.data(), nullptr);
    device->cross_entropy(s, logits.data(), targets.data(), losses.data(), logits.data());
    EXPECT_EQ(losses, evaluated);
    for (std::size_t i = 0; i < s.sequences; ++i) EXPECT_NEAR(losses[i], expected.losses[i], 1e-6 * expected.losses[i]);
    expect_near(logits, expected.logits, 32);
  }
}

TEST_P(TensorOps, DropoutIsThePlainFunctionOfItsKey) {
  const DropoutShape s{2, 1037, 0.3F};
  const DropoutKey key{.seed = 5, .step = 1ULL << 33, .layer = 300, .which = 2};
  const std::uint64_t samples[] = {3, 1ULL << 50};
  const Floats x = draw.floats(2 * s.elements), residual = draw.floats(2 * s.elements);
  Floats y(x.size());
  device->dropout(key, s, samples, x.data(), nullptr, y.data());
  expect_near(y, reference::dropout(key, s, samples, widen(x)), 4);
  const auto kept = std::count_if(y.begin(), y.end(), [](float value) { return value != 0.0F; });
  EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(y.size()), 0.7, 0.05);
  Floats sum(y.size()), fused = x;
  device->add(y.size(), y.data(), residual.data(), sum.data());
  device->dropout(key, s, samples, fused.data(), residual.data(), fused.data());
  EXPECT_EQ(fused, sum);
}

TEST_P(TensorOps, AdamwAgreesWithReference) {
  const std::size_t n = 1003;
  const Floats p = draw.floats(n), m = draw.floats(n, 0.1F), g = draw.floats(n, 5.0F);
  Floats v = draw.floats(n, 0.1F);
  for (float& value : v) value = std::abs(value);
  const AdamwStep step{.learning_rate = 0.01F,
                       .weight_decay = 0.1F,
                       .bias_correction1 = 0.271F,
                       .bias_correction2 = 0.1426F,
                       .gradient_scale = 0.25F};
  Floats p2(n), m2(n), v2(n);
  const UpdateRange all[] = {{0, n, true}};
  device->adamw(step, all, {p.data(), m.data(), v.data()}, g.data(), {p2.data(), m2.data(), v2.data()});
  const auto expected = reference::adamw(step, {widen(p), widen(m), widen(v)}, widen(g));
  expect_near(p2, expected.parameter, 8);
  expect_near(m2, expected.moment1, 8);
  expect_near(v2, expected.moment2, 8);
}

TEST_P(TensorOps, TileSumsAreExactForShortLastTiles) {
  for (const std::size_t count : {1, 63, 64, 65, 200}) {
    const Floats x = draw.floats(count);
    std::vector<double> sums((count + 63) / 64);
    device->tile_sums_of_squares(64, count, x.data(), sums.data());
    for (std::size_t tile = 0; tile < sums.size(); ++tile) {
      double expected = 0;
      for (std::size_t i = tile * 64; i < std::min(count, tile * 64 + 64); ++i) expected += double{x[i]} * double{x[i]};
      EXPECT_NEAR(sums[tile], expected, 1e-13);
    }
  }
}

TEST_P(TensorOps, FoldIsTheSequenceOfPairwiseAdds) {
  const std::size_t n = 20011;
  std::vector<Floats> parts;
  std::vector<const float*> pointers;
  for (int i = 0; i < 6; ++i) parts.push_back(draw.floats(n, static_cast<float>(i + 1)));
  for (const Floats& part : parts) pointers.push_back(part.data());
  for (std::size_t used = 1; used <= parts.size(); ++used) {
    Floats sequential = parts[used - 1];
    for (std::size_t i = used - 1; i-- > 0;) {
      device->add(n, parts[i].data(), sequential.data(), sequential.data());
    }
    Floats folded(n);
    device->fold(n, std::span(pointers).first(used), folded.data());
    EXPECT_EQ(folded, sequential);
  }
}

TEST_P(TensorOps, ScaleZeroAndCopyCoverEveryElement) {
  const std::size_t n = 40003;
  const Floats x = draw.floats(n);
  Floats y(n), z(n);
  device->scale(n, 0.5F, x.data(), y.data());
  for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], x[i] * 0.5F);
  device->copy(z.data(), x.data(), n * sizeof(float));
  EXPECT_EQ(z, x);
  device->zero(n, z.data());
  EXPECT_EQ(z, Floats(n));
}

}  // namespace
}  // namespace planaria::kernels_test

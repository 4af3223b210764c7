// The references' gradients against central finite differences of their own forward passes, in double.
#include <functional>

#include "tests/kernels/kernel_fixture.hpp"

namespace planaria::kernels_test {
namespace {

using reference::Values;
using Function = std::function<Values(const Values&)>;

// d(sum of weights * f(x)) / dx by differences of 1e-5: truncation and rounding are each below 1e-9 here.
void expect_gradient(const Function& f, const Values& x, const Values& weights, const Values& gradient) {
  ASSERT_EQ(x.size(), gradient.size());
  constexpr double h = 1e-5;
  for (std::size_t i = 0; i < x.size(); ++i) {
    Values up = x;
    Values down = x;
    up[i] += h;
    down[i] -= h;
    const Values high = f(up);
    const Values low = f(down);
    double slope = 0;
    for (std::size_t j = 0; j < weights.size(); ++j) slope += weights[j] * (high[j] - low[j]) / (2 * h);
    ASSERT_NEAR(slope, gradient[i], 1e-8 * (1.0 + std::abs(slope))) << "element " << i;
  }
}

TEST(ReferenceGradient, LinearAgreesWithDifferences) {
  Draw draw(1);
  const LinearShape shape{3, 5, 4};
  const Values x = draw.doubles(15), w = draw.doubles(20), b = draw.doubles(4), dy = draw.doubles(12);
  const auto d = reference::linear_backward(shape, dy, x, w);
  expect_gradient([&](const Values& v) { return reference::linear(shape, v, w, b); }, x, dy, d.x);
  expect_gradient([&](const Values& v) { return reference::linear(shape, x, v, b); }, w, dy, d.weight);
  expect_gradient([&](const Values& v) { return reference::linear(shape, x, w, v); }, b, dy, d.bias);
}

TEST(ReferenceGradient, LayerNormAgreesWithDifferences) {
  Draw draw(2);
  const NormShape shape{3, 7, 1e-5F};
  const Values x = draw.doubles(21), gain = draw.doubles(7), bias = draw.doubles(7), dy = draw.doubles(21);
  const auto d = reference::layernorm_backward(shape, dy, x, gain);
  expect_gradient([&](const Values& v) { return reference::layernorm(shape, v, gain, bias); }, x, dy, d.x);
  expect_gradient([&](const Values& v) { return reference::layernorm(shape, x, v, bias); }, gain, dy, d.gain);
  expect_gradient([&](const Values& v) { return reference::layernorm(shape, x, gain, v); }, bias, dy, d.bias);
}

TEST(ReferenceGradient, RmsNormAgreesWithDifferences) {
  Draw draw(3);
  const NormShape shape{3, 7, 1e-5F};
  const Values x = draw.doubles(21), gain = draw.doubles(7), dy = draw.doubles(21);
  const auto d = reference::rmsnorm_backward(shape, dy, x, gain);
  expect_gradient([&](const Values& v) { return reference::rmsnorm(shape, v, gain); }, x, dy, d.x);
  expect_gradient([&](const Values& v) { return reference::rmsnorm(shape, x, v); }, gain, dy, d.gain);
}

TEST(ReferenceGradient, GroupedAttentionAgreesWithDifferences) {
  Draw draw(4);
  const AttentionShape shape{2, 5, 4, 2, 4};
  const Values qkv = draw.doubles(10 * shape.qkv_width()), d_out = draw.doubles(10 * shape.out_width());
  expect_gradient([&](const Values& v) { return reference::attention(shape, v); }, qkv, d_out,
                  reference::attention_backward(shape, qkv, d_out));
}

TEST(ReferenceGradient, RopeAgreesWithDifferences) {
  Draw draw(5);
  const AttentionShape shape{1, 4, 2, 1, 6};
  const Values qkv = draw.doubles(4 * shape.qkv_width()), d = draw.doubles(4 * shape.qkv_width());
  expect_gradient([&](const Values& v) { return reference::rope(shape, 100.0, 1, v); }, qkv, d,
                  reference::rope(shape, 100.0, -1, d));
}

TEST(ReferenceGradient, ActivationsAgreeWithDifferences) {
  Draw draw(6);
  const Values x = draw.doubles(24), dy = draw.doubles(24), half = draw.doubles(12);
  expect_gradient(reference::gelu, x, dy, reference::gelu_backward(x, dy));
  const SwigluShape shape{3, 4};
  expect_gradient([&](const Values& v) { return reference::swiglu(shape, v); }, x, half,
                  reference::swiglu_backward(shape, x, half));
}

TEST(ReferenceGradient, CrossEntropyAgreesWithDifferences) {
  Draw draw(7);
  const CrossEntropyShape shape{2, 3, 5};
  const Values logits = draw.doubles(30);
  const reference::Tokens targets{0, 4, -1, 2, 2, 1};
  expect_gradient([&](const Values& v) { return reference::cross_entropy(shape, v, targets).losses; }, logits, {1, 1},
                  reference::cross_entropy(shape, logits, targets).logits);
}

TEST(ReferenceGradient, EmbeddingAgreesWithDifferences) {
  Draw draw(8);
  const EmbeddingShape shape{2, 3, 4, 5};
  const reference::Tokens tokens{1, 1, 4, 0, 1, 4};
  const Values table = draw.doubles(20), positions = draw.doubles(12), d_out = draw.doubles(24);
  Values d_table(20), d_positions(12);
  reference::embedding_backward(shape, tokens, d_out, d_table, d_positions);
  expect_gradient([&](const Values& v) { return reference::embedding(shape, tokens, v, positions); }, table, d_out,
                  d_table);
  expect_gradient([&](const Values& v) { return reference::embedding(shape, tokens, table, v); }, positions, d_out,
                  d_positions);
}

}  // namespace
}  // namespace planaria::kernels_test

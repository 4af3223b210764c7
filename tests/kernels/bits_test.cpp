// What must not change a bit: the number of threads, the alignment of buffers, neighbours in the batch, how often a
// result was computed before.
#include "tests/kernels/kernel_fixture.hpp"
#include "tests/kernels/op_chain.hpp"

namespace planaria::kernels_test {
namespace {

TEST(Bits, AreTheSameForEveryThreadCountAndAlignment) {
  for (const auto& [context, width] : {std::pair<std::size_t, std::size_t>{37, 24}, {256, 136}, {150, 384}}) {
    const auto single = make_device(1);
    const Hash128 expected = run_ops(*single, context, width, 0);
    for (const std::size_t threads : {1, 2, 3, 4}) {
      const auto device = make_device(threads);
      for (const std::size_t shift : {0, 1, 3}) {
        EXPECT_EQ(run_ops(*device, context, width, shift), expected)
            << threads << " threads, shift " << shift << ", context " << context << ", width " << width;
      }
    }
  }
}

TEST(Bits, OfARowDontDependOnTheRowsAroundIt) {
  Draw draw(22);
  const LinearShape many{101, 390, 70};
  const LinearShape one{1, 390, 70};
  const Floats x = draw.floats(many.rows * many.in), w = draw.floats(many.out * many.in);
  Floats all(many.rows * many.out), alone(many.out);
  const auto device = make_device(2);
  device->linear_forward(many, x.data(), w.data(), nullptr, all.data());
  for (std::size_t row = 0; row < many.rows; row += 9) {
    device->linear_forward(one, x.data() + row * many.in, w.data(), nullptr, alone.data());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.data() + row * many.out)) << "row " << row;
  }
}

TEST(Bits, OfAttentionDontDependOnLaterTokens) {
  Draw draw(23);
  const AttentionShape whole{1, 130, 2, 1, 24};
  const AttentionShape front{1, 61, 2, 1, 24};
  const Floats qkv = draw.floats(whole.context * whole.qkv_width());
  Floats out(whole.context * whole.out_width()), start(front.context * front.out_width());
  Floats log_sums(whole.log_sum_count()), start_log_sums(front.log_sum_count());
  const auto device = make_device(2);
  device->attention_forward(whole, qkv.data(), out.data(), log_sums.data());
  device->attention_forward(front, qkv.data(), start.data(), start_log_sums.data());
  EXPECT_TRUE(std::equal(start.begin(), start.end(), out.begin()));
}

TEST(Bits, OfAnAccumulatedGradientAreOneChain) {
  // Two micro-batches one after the other must equal one of both, rows in order: the destination starts the chain.
  Draw draw(24);
  const LinearShape half{40, 50, 30};
  const LinearShape both{80, 50, 30};
  const Floats x = draw.floats(both.rows * both.in), dy = draw.floats(both.rows * both.out);
  Floats in_two(both.out * both.in), at_once(both.out * both.in);
  const auto device = make_device(2);
  device->linear_backward_weight(half, x.data(), dy.data(), in_two.data(), nullptr);
  device->linear_backward_weight(half, x.data() + 40 * 50, dy.data() + 40 * 30, in_two.data(), nullptr);
  device->linear_backward_weight(both, x.data(), dy.data(), at_once.data(), nullptr);
  EXPECT_EQ(in_two, at_once);
}

TEST(Bits, OfTheUpdateDontDependOnWhereARangeIsCut) {
  Draw draw(25);
  const std::size_t n = 1000;
  const Floats p = draw.floats(n), m = draw.floats(n), v(n, 0.25F), g = draw.floats(n);
  Floats whole(3 * n), cut(3 * n);
  const AdamwStep step{.learning_rate = 0.1F, .weight_decay = 0.1F};
  const auto device = make_device(1);
  const auto update = [&](std::span<const UpdateRange> ranges, Floats& out) {
    device->adamw(step, ranges, {p.data(), m.data(), v.data()}, g.data(), {&out[0], &out[n], &out[2 * n]});
  };
  const UpdateRange one[] = {{0, n, true}};
  const UpdateRange three[] = {{514, n, true}, {0, 13, true}, {13, 514, true}};
  update(one, whole);
  update(three, cut);
  EXPECT_EQ(cut, whole);
}

TEST(Probe, AgreesWithinANumericClassAndDiffersBetweenInstructionSets) {
  const auto expected = probe_kernels(*make_device(1));
  ASSERT_TRUE(expected.ok());
  for (const std::size_t threads : {2, 3, 5}) {
    const auto device = make_device(threads);
    const auto probed = probe_kernels(*device);
    ASSERT_TRUE(probed.ok());
    EXPECT_EQ(*probed, *expected);
  }
  const auto best = make_device(1);
  const auto plain = make_device(1, CpuIsa::baseline);
  const auto other = probe_kernels(*plain);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(best->numeric_class() == plain->numeric_class(), *other == *expected);
}

}  // namespace
}  // namespace planaria::kernels_test

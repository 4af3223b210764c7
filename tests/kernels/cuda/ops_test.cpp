// The CUDA ops on elements and on tables: against the double reference, and bit by bit against the host's arithmetic
// wherever a header promises an order.
#include <algorithm>
#include <map>
#include <utility>

#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/embeddings.hpp"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/cuda/vectors.hpp"
#include "tests/kernels/cuda/device_fixture.hpp"

namespace planaria::cuda_test {
namespace {

using CudaEmbeddings = CudaTest;
using CudaPointwise = CudaTest;
using CudaVectors = CudaTest;

// Groups of a token, by token and then by row, found the slow way.
void expect_occurrences(const std::vector<std::int32_t>& tokens, const cuda::TokenOccurrences& found) {
  std::map<std::int32_t, std::vector<std::int32_t>> rows_of;
  for (std::size_t row = 0; row < tokens.size(); ++row) rows_of[tokens[row]].push_back(static_cast<std::int32_t>(row));
  cuda::TokenOccurrences expected;
  for (const auto& [token, rows] : rows_of) {
    expected.tokens.push_back(token);
    expected.first.push_back(static_cast<std::int32_t>(expected.begin.size()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i % cuda::kOccurrences == 0) expected.begin.push_back(static_cast<std::int32_t>(expected.rows.size()));
      expected.rows.push_back(rows[i]);
    }
  }
  expected.first.push_back(static_cast<std::int32_t>(expected.begin.size()));
  expected.begin.push_back(static_cast<std::int32_t>(tokens.size()));
  EXPECT_EQ(found.rows, expected.rows);
  EXPECT_EQ(found.begin, expected.begin);
  EXPECT_EQ(found.tokens, expected.tokens);
  EXPECT_EQ(found.first, expected.first);
}

TEST(TokenOccurrences, AreSortedByTokenThenRowAndCutIntoGroups) {
  kernels_test::Draw draw(3);
  cuda::TokenOccurrences found;
  for (const auto& [count, vocab] :
       {std::pair<std::size_t, std::size_t>{4000, 20}, {300, 50257}, {64, 1}, {65, 1}, {1, 1}, {7, 7}, {0, 5}}) {
    auto tokens = draw.tokens(count, vocab);
    if (count == vocab) {
      for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<std::int32_t>(count - 1 - i);
    }
    cuda::find_occurrences(tokens, vocab, found);
    SCOPED_TRACE(testing::Message() << count << " of " << vocab);
    expect_occurrences(tokens, found);
  }
}

TEST_F(CudaEmbeddings, ForwardIsTheRoundedSumOfBothRows) {
  for (const std::size_t width : {8, 37, 768}) {
    const EmbeddingShape s{3, 20, width, 50};
    const auto tokens = draw.tokens(60, s.vocab);
    const Floats table = draw.floats(s.vocab * width), positions = draw.floats(s.context * width);
    const OnDevice<std::int32_t> t(tokens);
    const OnDevice<float> token_table(table, 1), position_table(positions);
    OnDevice<Bf16> both(60 * width), tokens_only(60 * width);
    cuda::embedding_forward(nullptr, s, t, token_table, position_table, both);
    cuda::embedding_forward(nullptr, s, t, token_table, nullptr, tokens_only);
    Floats sum, alone;
    for (std::size_t i = 0; i < 60 * width; ++i) {
      alone.push_back(table[static_cast<std::size_t>(tokens[i / width]) * width + i % width]);
      sum.push_back(alone.back() + positions[i / width % s.context * width + i % width]);
    }
    EXPECT_TRUE(same_bits(both.read(), rounded(sum)));
    EXPECT_TRUE(same_bits(tokens_only.read(), rounded(alone)));
  }
}

TEST_F(CudaEmbeddings, BackwardAddsGroupsInOrder) {
  for (const std::size_t width : {8, 37, 300, 768}) {
    const EmbeddingShape s{7, 130, width, 11};  // some tokens fill two groups
    const std::size_t rows = s.sequences * s.context;
    const auto tokens = draw.tokens(rows, s.vocab - 1);
    const Bf16s d_out = rounded(draw.floats(rows * width));
    cuda::TokenOccurrences found;
    cuda::find_occurrences(tokens, s.vocab, found);
    const OnDevice<std::int32_t> at_rows(found.rows), begin(found.begin), distinct(found.tokens), first(found.first);
    const std::size_t groups = found.begin.size() - 1;
    const OnDevice<Bf16> d(d_out);
    OnDevice<float> scratch(groups * width), d_table(Floats(s.vocab * width, 1.0F), 1);
    OnDevice<float> d_positions(Floats(s.context * width, 2.0F));
    cuda::embedding_backward(nullptr, s, {at_rows, begin, distinct, first, groups, found.tokens.size()}, d, scratch,
                             d_table, d_positions);
    Floats table(s.vocab * width, 1.0F), positions(s.context * width, 2.0F);
    for (std::size_t column = 0; column < width; ++column) {
      const auto value = [&](std::size_t row) { return __bfloat162float(d_out[row * width + column]); };
      for (std::size_t t = 0; t < found.tokens.size(); ++t) {
        float sum = 0;
        for (auto g = static_cast<std::size_t>(found.first[t]); g < static_cast<std::size_t>(found.first[t + 1]); ++g) {
          float group = 0;
          for (std::int32_t i = found.begin[g]; i < found.begin[g + 1]; ++i) {
            group += value(static_cast<std::size_t>(found.rows[static_cast<std::size_t>(i)]));
          }
          sum += group;
        }
        table[static_cast<std::size_t>(found.tokens[t]) * width + column] += sum;
      }
      for (std::size_t p = 0; p < s.context; ++p) {
        float sum = 0;
        for (std::size_t sequence = 0; sequence < s.sequences; ++sequence) sum += value(sequence * s.context + p);
        positions[p * width + column] += sum;
      }
    }
    EXPECT_TRUE(same_bits(d_table.read(), table)) << width;
    EXPECT_TRUE(same_bits(d_positions.read(), positions)) << width;
  }
}

// The gate's argument is about 4 where the gate still changes, as is the slope that multiplies its rounding: 16
// half-ulps, 256 in the walk's variance; the special function unit adds four times as much.
constexpr double activation_depth = 1024;

TEST_F(CudaPointwise, GeluAgreesWithReferenceAndSumsItsGradient) {
  for (const auto& [rows, width] : {std::pair<std::size_t, std::size_t>{1, 5}, {130, 37}, {300, 264}, {129, 3072}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << width);
    const Bf16s x = rounded(draw.floats(rows * width, 6.0F)), dy = rounded(draw.floats(rows * width));
    const OnDevice<Bf16> in(x);
    OnDevice<Bf16> y(x.size()), dx(dy), unsummed(x.size());
    OnDevice<float> sums(cuda::chunks_of(rows) * width);
    const OnDevice<Bf16> d(dy);
    cuda::gelu_forward(nullptr, x.size(), in, y);
    cuda::gelu_backward(nullptr, rows, width, in, d, unsummed, nullptr);
    cuda::gelu_backward(nullptr, rows, width, in, dx, dx, sums);
    expect_near_bf16(y.read(), reference::gelu(doubles(x)), activation_depth);
    expect_near_bf16(dx.read(), reference::gelu_backward(doubles(x), doubles(dy)), activation_depth);
    EXPECT_TRUE(same_bits(dx.read(), unsummed.read()));
    EXPECT_TRUE(same_bits(sums.read(), chunks_in_order(rows, width, dx.read())));
  }
}

TEST_F(CudaPointwise, GeluStaysFiniteFarFromZero) {
  const Bf16s x = rounded({-1e4F, -100.0F, -30.0F, -8.0F, 0.0F, 8.0F, 30.0F, 1e4F});
  const OnDevice<Bf16> in(x), ones(rounded(Floats(x.size(), 1.0F)));
  OnDevice<Bf16> y(x.size()), dx(x.size());
  cuda::gelu_forward(nullptr, x.size(), in, y);
  cuda::gelu_backward(nullptr, 1, x.size(), in, ones, dx, nullptr);
  for (const float value : widened(dx.read())) EXPECT_TRUE(std::isfinite(value));
  EXPECT_NEAR(widened(y.read())[0], 0.0F, 1e-30F);
  EXPECT_EQ(widened(y.read())[7], widened(x)[7]);
  EXPECT_EQ(widened(dx.read())[7], 1.0F);
}

TEST_F(CudaPointwise, SwigluAgreesWithReference) {
  for (const std::size_t width : {1, 5, 8, 300, 1376, 4096}) {
    const SwigluShape s{70, width};
    const Bf16s x = rounded(draw.floats(2 * s.rows * width, 6.0F)), d_out = rounded(draw.floats(s.rows * width));
    const OnDevice<Bf16> gate_up(x), d(d_out);
    OnDevice<Bf16> out(d_out.size()), d_gate_up(x.size());
    cuda::swiglu_forward(nullptr, s, gate_up, out);
    cuda::swiglu_backward(nullptr, s, gate_up, d, d_gate_up);
    expect_near_bf16(out.read(), reference::swiglu(s, doubles(x)), 64);
    expect_near_bf16(d_gate_up.read(), reference::swiglu_backward(s, doubles(x), doubles(d_out)), 128);
  }
}

TEST_F(CudaPointwise, RopeAgreesWithReferenceAndLeavesValuesAlone) {
  for (const AttentionShape& s :
       {AttentionShape{2, 40, 3, 1, 10}, AttentionShape{1, 300, 2, 2, 64}, AttentionShape{3, 33, 8, 2, 128}}) {
    const std::size_t count = s.sequences * s.context * s.qkv_width();
    const Bf16s qkv = rounded(draw.floats(count));
    const OnDevice<float> table(make_rope_table(s.context, s.head_size, 10000.0));
    for (const int direction : {1, -1}) {
      OnDevice<Bf16> turned(qkv);
      cuda::rope(nullptr, s, direction, table, turned);
      const Bf16s out = turned.read();
      expect_near_bf16(out, reference::rope(s, 10000.0, direction, doubles(qkv)), 4);
      for (std::size_t i = 0; i < count; ++i) {
        if (i % s.qkv_width() < (s.heads + s.kv_heads) * s.head_size) continue;
        ASSERT_EQ(std::memcmp(&out[i], &qkv[i], sizeof(Bf16)), 0);
      }
    }
  }
}

TEST_F(CudaPointwise, DropoutDecidesAsThePlainFunction) {
  const DropoutKey key{.seed = 5, .step = 1ULL << 33, .layer = 300, .which = 2};
  const std::vector<std::uint64_t> samples{3, 1ULL << 50};
  const OnDevice<std::uint64_t> ids(samples);
  for (const std::size_t elements : {std::size_t{1037}, std::size_t{2048}, std::size_t{30000}}) {
    for (const float probability : {0.0F, 0.3F}) {
      const DropoutShape s{samples.size(), elements, probability};
      const Bf16s x = rounded(draw.floats(2 * elements)), residual = rounded(draw.floats(2 * elements));
      OnDevice<Bf16> y(x), beside(residual);
      cuda::dropout(nullptr, key, s, ids, y, beside, beside);
      cuda::dropout(nullptr, key, s, ids, y, nullptr, y);
      const float factor = 1.0F / (1.0F - probability);
      Floats alone, sum;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const bool keeps = dropout_keeps(key, samples[i / elements], i % elements, probability);
        alone.push_back(keeps ? __bfloat162float(x[i]) * factor : 0.0F);
        sum.push_back(alone.back() + __bfloat162float(residual[i]));
      }
      EXPECT_TRUE(same_bits(y.read(), rounded(alone))) << elements;
      EXPECT_TRUE(same_bits(beside.read(), rounded(sum))) << elements;
    }
  }
}

TEST_F(CudaPointwise, SumsAndConversionsRoundOnce) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{40003}}) {
    const Floats x = draw.floats(count, 3.0F);
    const Bf16s a = rounded(x), b = rounded(draw.floats(count));
    const OnDevice<float> in(x);
    const OnDevice<Bf16> one(a), other(b);
    OnDevice<Bf16> narrow(count), sum(count);
    OnDevice<float> wide(count);
    cuda::narrow(nullptr, count, in, narrow);
    cuda::widen(nullptr, count, one, wide);
    cuda::add(nullptr, count, one, other, sum);
    Floats expected = widened(a);
    for (std::size_t i = 0; i < count; ++i) expected[i] += __bfloat162float(b[i]);
    EXPECT_TRUE(same_bits(narrow.read(), a));
    EXPECT_TRUE(same_bits(wide.read(), widened(a)));
    EXPECT_TRUE(same_bits(sum.read(), rounded(expected)));
  }
}

// Counts with and without a ragged end, addresses with and without alignment.
struct VectorCase {
  std::size_t count, offset;
};
constexpr VectorCase vector_cases[] = {{1, 0}, {1003, 0}, {1003, 1}, {40000, 0}, {40001, 3}};

// The CPU's vectors of the baseline instruction set multiply and add in two roundings, as these kernels do.
TEST_F(CudaVectors, AdamwHasTheBitsOfTheCpu) {
  const auto cpu = kernels_test::make_device(1, CpuIsa::baseline);
  const AdamwStep step{.learning_rate = 0.01F,
                       .weight_decay = 0.1F,
                       .bias_correction1 = 0.271F,
                       .bias_correction2 = 0.1426F,
                       .gradient_scale = 0.25F};
  for (const auto& [n, offset] : vector_cases) {
    const Floats p = draw.floats(n), m = draw.floats(n, 0.1F), g = draw.floats(n, 5.0F);
    Floats v = draw.floats(n, 0.1F);
    for (float& value : v) value = std::abs(value);
    const OnDevice<float> p0(p, offset), m0(m), v0(v), gradient(g);
    OnDevice<float> p1(n), m1(n), v1(n);
    const UpdateRange all[] = {{0, n, true}};
    cuda::adamw(nullptr, step, all, {p0, m0, v0}, gradient, {p1, m1, v1});
    Floats p2(n), m2(n), v2(n);
    cpu->adamw(step, all, {p.data(), m.data(), v.data()}, g.data(), {p2.data(), m2.data(), v2.data()});
    EXPECT_TRUE(same_bits(p1.read(), p2));
    EXPECT_TRUE(same_bits(m1.read(), m2));
    EXPECT_TRUE(same_bits(v1.read(), v2));
    cuda::adamw(nullptr, step, all, {p0, m0, v0}, gradient, {p0, m0, v0});
    EXPECT_TRUE(same_bits(p0.read(), p2));
  }
}

// More ranges than one launch takes, of all lengths, empty ones too; between them nothing is touched.
TEST_F(CudaVectors, AdamwOfRangesHasTheBitsOfTheCpu) {
  const auto cpu = kernels_test::make_device(1, CpuIsa::baseline);
  const AdamwStep step{.learning_rate = 0.01F, .weight_decay = 0.1F};
  for (const std::uint64_t unit : {4U, 1U}) {  // with and without aligned begins
    std::vector<UpdateRange> ranges;
    std::uint64_t at = 0;
    for (std::uint64_t i = 0; i < 300; ++i) {
      const std::uint64_t length = i % 50 == 7 ? 10'000 + i : i;
      ranges.push_back({at, at + length, i % 3 == 0});
      at = (at + length) / unit * unit + unit * (1 + i % 2);
    }
    const std::size_t n = at;
    const Floats p = draw.floats(n), m = draw.floats(n, 0.1F), g = draw.floats(n);
    Floats v = draw.floats(n, 0.1F);
    for (float& value : v) value = std::abs(value);
    const OnDevice<float> p0(p), m0(m), v0(v), gradient(g);
    OnDevice<float> p1(p), m1(m), v1(v);
    cuda::adamw(nullptr, step, ranges, {p0, m0, v0}, gradient, {p1, m1, v1});
    Floats p2 = p, m2 = m, v2 = v;
    cpu->adamw(step, ranges, {p.data(), m.data(), v.data()}, g.data(), {p2.data(), m2.data(), v2.data()});
    EXPECT_TRUE(same_bits(p1.read(), p2));
    EXPECT_TRUE(same_bits(m1.read(), m2));
    EXPECT_TRUE(same_bits(v1.read(), v2));
  }
}

TEST_F(CudaVectors, AddFoldAndScaleHaveTheBitsOfTheCpu) {
  const auto cpu = kernels_test::make_device(1, CpuIsa::baseline);
  for (const auto& [n, offset] : vector_cases) {
    std::vector<Floats> parts;
    std::vector<OnDevice<float>> uploaded;
    std::vector<const float*> on_host, on_device;
    for (std::size_t i = 0; i < cuda::kMaxFoldParts; ++i) parts.push_back(draw.floats(n, static_cast<float>(i + 1)));
    for (const Floats& part : parts) uploaded.emplace_back(part, offset);
    for (const Floats& part : parts) on_host.push_back(part.data());
    for (const auto& part : uploaded) on_device.push_back(part.get());
    OnDevice<float> out(n);
    Floats expected(n);
    for (const std::size_t used : {1, 2, 5, 16}) {
      cuda::fold(nullptr, n, std::span(on_device).first(used), out);
      cpu->fold(n, std::span(on_host).first(used), expected.data());
      EXPECT_TRUE(same_bits(out.read(), expected)) << used << " parts of " << n;
    }
    cuda::add(nullptr, n, uploaded[0].get(), uploaded[1].get(), out.get());
    cpu->add(n, on_host[0], on_host[1], expected.data());
    EXPECT_TRUE(same_bits(out.read(), expected));
    cuda::scale(nullptr, n, 0.3F, uploaded[2], uploaded[2]);
    cpu->scale(n, 0.3F, on_host[2], expected.data());
    EXPECT_TRUE(same_bits(uploaded[2].read(), expected));
  }
}

TEST_F(CudaVectors, TileSumsDependOnTheTileAlone) {
  for (const std::size_t tile : {std::size_t{64}, std::size_t{63}, std::size_t{20000}}) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{63}, std::size_t{65}, std::size_t{50003}}) {
      const Floats x = draw.floats(count);
      const std::size_t tiles = (count + tile - 1) / tile;
      OnDevice<double> sums(tiles), moved(tiles);
      const OnDevice<float> aligned(x), askew(x, 1);
      cuda::tile_sums_of_squares(nullptr, tile, count, aligned, sums);
      cuda::tile_sums_of_squares(nullptr, tile, count, askew, moved);
      const Values actual = sums.read();
      EXPECT_TRUE(same_bits(actual, moved.read()));
      for (std::size_t t = 0; t < tiles; ++t) {
        double expected = 0;
        for (std::size_t i = t * tile; i < std::min(count, (t + 1) * tile); ++i)
          expected += double{x[i]} * double{x[i]};
        // Up to 2^15 additions in double.
        EXPECT_NEAR(actual[t], expected, 1e-12 * (1.0 + expected));
      }
    }
  }
}

}  // namespace
}  // namespace planaria::cuda_test

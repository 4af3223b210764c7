// Ops on single elements or single rows: embedding, rotary positions, activations, dropout, sums and copies. All are
// bound by memory; each reads and writes every element once.
#include "kernels/cpu/op_kernels.hpp"
#include "kernels/cpu/simd.hpp"

namespace planaria::PLANARIA_ISA {
namespace {

constexpr float gelu_cubic = 0.044715F;
constexpr float gelu_slope = 1.5957691216057308F;  // 2 * sqrt(2 / pi): tanh(u) = 2 * sigmoid(2u) - 1

PLANARIA_INLINE V8 gelu_gate(V8 x) {
  return sigmoid(x * fma(x * x, splat(gelu_slope * gelu_cubic), splat(gelu_slope)));
}

using U4 = std::uint64_t __attribute__((vector_size(32)));

PLANARIA_INLINE U4 multiply_low_words(U4 a, std::uint64_t b) {
#ifdef __AVX2__
  return reinterpret_cast<U4>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<long long>(b))));
#else
  return a * b;
#endif
}

// Philox4x32-10 on four consecutive counters, every word in the low half of a 64-bit lane: words[w][i] is word w of
// counter i.
PLANARIA_INLINE void philox_vectors(std::uint64_t key, std::uint64_t counter_high, std::uint64_t counter_low,
                                    U4 (&words)[4]) {
  constexpr std::uint64_t low = 0xffffffffU;
  const U4 counters = U4{0, 1, 2, 3} + counter_low;
  words[0] = counters & low;
  words[1] = counters >> 32;
  words[2] = U4{} + (counter_high & low);
  words[3] = U4{} + (counter_high >> 32);
  std::uint64_t k0 = key & low;
  std::uint64_t k1 = key >> 32;
  for (int round = 0; round < 10; ++round) {
    const U4 product0 = multiply_low_words(words[0], 0xD2511F53);
    const U4 product1 = multiply_low_words(words[2], 0xCD9E8D57);
    words[0] = (product1 >> 32) ^ words[1] ^ k0;
    words[1] = product1 & low;
    words[2] = (product0 >> 32) ^ words[3] ^ k1;
    words[3] = product0 & low;
    k0 = (k0 + 0x9E3779B9) & low;
    k1 = (k1 + 0xBB67AE85) & low;
  }
}

}  // namespace

void add_column_sums(std::size_t rows, std::size_t width, std::size_t column_begin, std::size_t column_end,
                     const float* x, float* target) {
  std::size_t column = column_begin;
  for (; column + 4 * lanes <= column_end; column += 4 * lanes) {
    V8 sums[4]{};
    for (std::size_t row = 0; row < rows; ++row) {
#pragma GCC unroll 4
      for (std::size_t g = 0; g < 4; ++g) sums[g] += load(x + row * width + column + g * lanes);
    }
    for (std::size_t g = 0; g < 4; ++g) {
      store(target + column + g * lanes, load(target + column + g * lanes) + sums[g]);
    }
  }
  for_vectors(column, column_end, [&](std::size_t i, auto part) {
    V8 sum{};
    for (std::size_t row = 0; row < rows; ++row) sum += load(x + row * width + i, part);
    store(target + i, load(target + i, part) + sum, part);
  });
}

void embedding_forward(const EmbeddingShape& shape, std::size_t row_begin, std::size_t row_end,
                       const std::int32_t* tokens, const float* token_table, const float* position_table, float* out) {
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* token = token_table + static_cast<std::size_t>(tokens[row]) * shape.width;
    const float* position = position_table == nullptr ? nullptr : position_table + row % shape.context * shape.width;
    for_vectors(0, shape.width, [&](std::size_t i, auto part) {
      V8 v = load(token + i, part);
      if (position != nullptr) v += load(position + i, part);
      store(out + row * shape.width + i, v, part);
    });
  }
}

void embedding_backward(const EmbeddingShape& shape, std::size_t column_begin, std::size_t column_end,
                        const std::int32_t* tokens, const float* d_out, float* d_token_table, float* d_position_table) {
  const std::size_t rows = shape.sequences * shape.context;
  for (std::size_t row = 0; row < rows; ++row) {
    const float* d = d_out + row * shape.width;
    float* token = d_token_table + static_cast<std::size_t>(tokens[row]) * shape.width;
    float* position = d_position_table == nullptr ? nullptr : d_position_table + row % shape.context * shape.width;
    for_vectors(column_begin, column_end, [&](std::size_t i, auto part) {
      const V8 v = load(d + i, part);
      store(token + i, load(token + i, part) + v, part);
      if (position != nullptr) store(position + i, load(position + i, part) + v, part);
    });
  }
}

void rope(const AttentionShape& shape, std::size_t row_begin, std::size_t row_end, float direction, const float* table,
          float* qkv) {
  const std::size_t half = shape.head_size / 2;
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* cosines = table + row % shape.context * shape.head_size;
    const float* sines = cosines + half;
    for (std::size_t head = 0; head < shape.heads + shape.kv_heads; ++head) {
      float* first = qkv + row * shape.qkv_width() + head * shape.head_size;
      float* second = first + half;
      for_vectors(0, half, [&](std::size_t i, auto part) {
        const V8 c = load(cosines + i, part);
        const V8 s = load(sines + i, part) * splat(direction);
        const V8 a = load(first + i, part);
        const V8 b = load(second + i, part);
        store(first + i, fma(a, c, -(b * s)), part);
        store(second + i, fma(b, c, a * s), part);
      });
    }
  }
}

void gelu_forward(std::size_t begin, std::size_t end, const float* x, float* y) {
  for_vectors(begin, end, [&](std::size_t i, auto part) {
    const V8 v = load(x + i, part);
    store(y + i, v * gelu_gate(v), part);
  });
}

void gelu_backward(std::size_t begin, std::size_t end, const float* x, const float* dy, float* dx) {
  for_vectors(begin, end, [&](std::size_t i, auto part) {
    const V8 v = load(x + i, part);
    const V8 s = gelu_gate(v);
    const V8 slope = fma(v * v, splat(3.0F * gelu_slope * gelu_cubic), splat(gelu_slope));
    store(dx + i, load(dy + i, part) * fma(v * slope, s * (splat(1.0F) - s), s), part);
  });
}

void swiglu_forward(const SwigluShape& shape, std::size_t row_begin, std::size_t row_end, const float* gate_up,
                    float* out) {
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* gate = gate_up + row * 2 * shape.width;
    const float* up = gate + shape.width;
    for_vectors(0, shape.width, [&](std::size_t i, auto part) {
      const V8 g = load(gate + i, part);
      store(out + row * shape.width + i, g * sigmoid(g) * load(up + i, part), part);
    });
  }
}

void swiglu_backward(const SwigluShape& shape, std::size_t row_begin, std::size_t row_end, const float* gate_up,
                     const float* d_out, float* d_gate_up) {
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* gate = gate_up + row * 2 * shape.width;
    float* d_gate = d_gate_up + row * 2 * shape.width;
    for_vectors(0, shape.width, [&](std::size_t i, auto part) {
      const V8 g = load(gate + i, part);
      const V8 up = load(gate + shape.width + i, part);
      const V8 d = load(d_out + row * shape.width + i, part);
      const V8 s = sigmoid(g);
      store(d_gate + i, d * up * fma(g * s, splat(1.0F) - s, s), part);
      store(d_gate + shape.width + i, d * (g * s), part);
    });
  }
}

void dropout(const DropoutPiece& piece, std::size_t begin, std::size_t end, const float* x, const float* residual,
             float* y) {
  const V8 factor = splat(piece.factor);
  const auto threshold = static_cast<std::int32_t>(piece.threshold);
  for (std::size_t first = begin; first < end; first += 4 * lanes) {
    U4 words[2][4];
    philox_vectors(piece.key, piece.counter_high, piece.counter_low + first / 4, words[0]);
    philox_vectors(piece.key, piece.counter_high, piece.counter_low + first / 4 + 4, words[1]);
    // Counter i of a group holds elements 4i … 4i+3: pairs of words go to 64-bit lanes, then the pairs alternate.
    std::int32_t draws[4 * lanes];
    for (std::size_t group = 0; group < 2; ++group) {
      U4 pairs[2];
      for (std::size_t w = 0; w < 2; ++w) {
        pairs[w] = (words[group][2 * w] >> 8) | (words[group][2 * w + 1] >> 8 << 32);
      }
      const U4 front = __builtin_shuffle(pairs[0], pairs[1], U4{0, 4, 1, 5});
      const U4 back = __builtin_shuffle(pairs[0], pairs[1], U4{2, 6, 3, 7});
      __builtin_memcpy(draws + group * 2 * lanes, &front, sizeof(front));
      __builtin_memcpy(draws + group * 2 * lanes + lanes, &back, sizeof(back));
    }
    const std::size_t last = end < first + 4 * lanes ? end : first + 4 * lanes;
    for_vectors(first, last, [&](std::size_t i, auto part) {
      I8 draw;
      __builtin_memcpy(&draw, draws + (i - first), sizeof(draw));
      const I8 keep = draw >= threshold;
      const V8 scaled = load(x + i, part) * factor;
      V8 out = reinterpret_cast<V8>(reinterpret_cast<I8>(scaled) & keep);
      if (residual != nullptr) out += load(residual + i, part);
      store(y + i, out, part);
    });
  }
}

void add(std::size_t begin, std::size_t end, const float* a, const float* b, float* out) {
  for_vectors(begin, end,
              [&](std::size_t i, auto part) { store(out + i, load(a + i, part) + load(b + i, part), part); });
}

void fold(std::size_t begin, std::size_t end, const float* const* parts, std::size_t part_count, float* out) {
  for_vectors(begin, end, [&](std::size_t i, auto part) {
    V8 sum = load(parts[part_count - 1] + i, part);
    for (std::size_t p = part_count - 1; p-- > 0;) sum = load(parts[p] + i, part) + sum;
    store(out + i, sum, part);
  });
}

void scale(std::size_t begin, std::size_t end, float factor, const float* x, float* out) {
  for_vectors(begin, end, [&](std::size_t i, auto part) { store(out + i, load(x + i, part) * splat(factor), part); });
}

}  // namespace planaria::PLANARIA_ISA

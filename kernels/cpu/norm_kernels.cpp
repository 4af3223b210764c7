// LayerNorm and RMSNorm. A row is read twice or thrice from the first-level cache; parameter gradients are taken column
// by column, rows ascending, so that any split of the columns gives the same bits.
#include "kernels/cpu/op_kernels.hpp"
#include "kernels/cpu/simd.hpp"

namespace planaria::PLANARIA_ISA {
namespace {

PLANARIA_INLINE float inverse_sqrt(float x) {
  return 1.0F / sqrt(x);
}

// Columns handled at once by the gain gradient: two vectors of sums for each, and 128 bytes of every row.
constexpr std::size_t column_group = 4 * lanes;

template <class Part>
PLANARIA_INLINE void gain_columns(const NormShape& shape, std::size_t column, Part part, const float* dy,
                                  const float* x, const float* mean, const float* inverse_deviation, float* d_gain,
                                  float* d_bias) {
  V8 gain_sum{};
  V8 bias_sum{};
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const V8 d = load(dy + row * shape.width + column, part);
    const V8 centered = load(x + row * shape.width + column, part) - splat(mean == nullptr ? 0.0F : mean[row]);
    gain_sum = fma(d, centered * splat(inverse_deviation[row]), gain_sum);
    bias_sum += d;
  }
  store(d_gain + column, load(d_gain + column, part) + gain_sum, part);
  if (d_bias != nullptr) store(d_bias + column, load(d_bias + column, part) + bias_sum, part);
}

}  // namespace

void layernorm_forward(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* x,
                       const float* gain, const float* bias, float* y, float* mean, float* inverse_deviation) {
  const std::size_t width = shape.width;
  const float scale = 1.0F / static_cast<float>(width);
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* in = x + row * width;
    float* out = y + row * width;
    RowSum sum;
    for_vectors(0, width, [&](std::size_t i, auto part) { sum.add(i, load(in + i, part)); });
    const float center = sum.total() * scale;
    RowSum squares;
    for_vectors(0, width, [&](std::size_t i, auto part) {
      const V8 d = keep_lanes(load(in + i, part) - splat(center), part);
      squares.add(i, d * d);
    });
    const float inverse = inverse_sqrt(squares.total() * scale + shape.epsilon);
    for_vectors(0, width, [&](std::size_t i, auto part) {
      const V8 normal = (load(in + i, part) - splat(center)) * splat(inverse);
      store(out + i, fma(normal, load(gain + i, part), load(bias + i, part)), part);
    });
    mean[row] = center;
    inverse_deviation[row] = inverse;
  }
}

void layernorm_backward_input(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* dy,
                              const float* x, const float* gain, const float* mean, const float* inverse_deviation,
                              const float* residual, float* dx) {
  const std::size_t width = shape.width;
  const float scale = 1.0F / static_cast<float>(width);
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* d = dy + row * width;
    const float* in = x + row * width;
    const V8 center = splat(mean[row]);
    const V8 inverse = splat(inverse_deviation[row]);
    RowSum sum;
    RowSum product;
    for_vectors(0, width, [&](std::size_t i, auto part) {
      const V8 g = load(d + i, part) * load(gain + i, part);
      sum.add(i, g);
      product.add(i, g * ((load(in + i, part) - center) * inverse));
    });
    const V8 g_mean = splat(sum.total() * scale);
    const V8 g_product = splat(product.total() * scale);
    for_vectors(0, width, [&](std::size_t i, auto part) {
      const V8 g = load(d + i, part) * load(gain + i, part);
      const V8 normal = (load(in + i, part) - center) * inverse;
      V8 out = (g - g_mean - normal * g_product) * inverse;
      if (residual != nullptr) out += load(residual + row * width + i, part);
      store(dx + row * width + i, out, part);
    });
  }
}

void norm_backward_gain(const NormShape& shape, std::size_t column_begin, std::size_t column_end, const float* dy,
                        const float* x, const float* mean, const float* inverse_deviation, float* d_gain,
                        float* d_bias) {
  std::size_t column = column_begin;
  for (; column + column_group <= column_end; column += column_group) {
    V8 gain_sum[4]{};
    V8 bias_sum[4]{};
    for (std::size_t row = 0; row < shape.rows; ++row) {
      const V8 center = splat(mean == nullptr ? 0.0F : mean[row]);
      const V8 inverse = splat(inverse_deviation[row]);
      const std::size_t at = row * shape.width + column;
#pragma GCC unroll 4
      for (std::size_t g = 0; g < 4; ++g) {
        const V8 d = load(dy + at + g * lanes);
        gain_sum[g] = fma(d, (load(x + at + g * lanes) - center) * inverse, gain_sum[g]);
        bias_sum[g] += d;
      }
    }
    for (std::size_t g = 0; g < 4; ++g) {
      const std::size_t at = column + g * lanes;
      store(d_gain + at, load(d_gain + at) + gain_sum[g]);
      if (d_bias != nullptr) store(d_bias + at, load(d_bias + at) + bias_sum[g]);
    }
  }
  for_vectors(column, column_end, [&](std::size_t i, auto part) {
    gain_columns(shape, i, part, dy, x, mean, inverse_deviation, d_gain, d_bias);
  });
}

void rmsnorm_forward(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* x,
                     const float* gain, float* y, float* inverse_rms) {
  const std::size_t width = shape.width;
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* in = x + row * width;
    RowSum squares;
    for_vectors(0, width, [&](std::size_t i, auto part) {
      const V8 v = load(in + i, part);
      squares.add(i, v * v);
    });
    const float inverse = inverse_sqrt(squares.total() * (1.0F / static_cast<float>(width)) + shape.epsilon);
    for_vectors(0, width, [&](std::size_t i, auto part) {
      store(y + row * width + i, load(in + i, part) * splat(inverse) * load(gain + i, part), part);
    });
    inverse_rms[row] = inverse;
  }
}

void rmsnorm_backward_input(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* dy,
                            const float* x, const float* gain, const float* inverse_rms, const float* residual,
                            float* dx) {
  const std::size_t width = shape.width;
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* d = dy + row * width;
    const float* in = x + row * width;
    const V8 inverse = splat(inverse_rms[row]);
    RowSum product;
    for_vectors(0, width, [&](std::size_t i, auto part) {
      product.add(i, load(d + i, part) * load(gain + i, part) * (load(in + i, part) * inverse));
    });
    const V8 mean = splat(product.total() * (1.0F / static_cast<float>(width)));
    for_vectors(0, width, [&](std::size_t i, auto part) {
      const V8 g = load(d + i, part) * load(gain + i, part);
      V8 out = (g - load(in + i, part) * inverse * mean) * inverse;
      if (residual != nullptr) out += load(residual + row * width + i, part);
      store(dx + row * width + i, out, part);
    });
  }
}

}  // namespace planaria::PLANARIA_ISA

#include "kernels/cpu/gemm_kernels.hpp"

namespace planaria::PLANARIA_ISA {
namespace {

// k of one pass: a 16-column panel of B takes 24 KiB then, and a block's panels of A stay in the second-level cache.
constexpr std::size_t k_piece = 384;

PLANARIA_INLINE void transpose8(V8 (&r)[8]) {
  V8 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shuffle(r[i], r[i + 1], I8{0, 8, 1, 9, 4, 12, 5, 13});
    t[i + 1] = __builtin_shuffle(r[i], r[i + 1], I8{2, 10, 3, 11, 6, 14, 7, 15});
  }
  V8 u[8];
  for (int i = 0; i < 8; i += 4) {
    u[i] = __builtin_shuffle(t[i], t[i + 2], I8{0, 1, 8, 9, 4, 5, 12, 13});
    u[i + 1] = __builtin_shuffle(t[i], t[i + 2], I8{2, 3, 10, 11, 6, 7, 14, 15});
    u[i + 2] = __builtin_shuffle(t[i + 1], t[i + 3], I8{0, 1, 8, 9, 4, 5, 12, 13});
    u[i + 3] = __builtin_shuffle(t[i + 1], t[i + 3], I8{2, 3, 10, 11, 6, 7, 14, 15});
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shuffle(u[i], u[i + 4], I8{0, 1, 2, 3, 8, 9, 10, 11});
    r[i + 4] = __builtin_shuffle(u[i], u[i + 4], I8{4, 5, 6, 7, 12, 13, 14, 15});
  }
}

// The first `part` floats of eight lanes.
template <std::size_t part>
PLANARIA_INLINE void store_part(float* p, V8 v) {
  if constexpr (part == 8) {
    store(p, v);
  } else {
    for (std::size_t i = 0; i < part; ++i) p[i] = v[i];
  }
}

template <std::size_t panel>
PLANARIA_INLINE void pack_k_contiguous(const float* source, std::size_t stride, std::size_t count, std::size_t k,
                                       float* panels) {
  for (std::size_t first = 0; first < count; first += panel, panels += panel * k) {
    const std::size_t live = count - first < panel ? count - first : panel;
    std::size_t kk = 0;
    for (; kk + lanes <= k; kk += lanes) {
      for (std::size_t group = 0; group < panel; group += lanes) {
        constexpr std::size_t part = panel < lanes ? panel : lanes;
        V8 r[8]{};
        for (std::size_t i = 0; i < part; ++i) {
          if (group + i < live) r[i] = load(source + (first + group + i) * stride + kk);
        }
        transpose8(r);
        // A row of six is written as eight where two more floats of this panel follow: they are overwritten next.
        for (std::size_t i = 0; i < lanes; ++i) {
          float* target = panels + (kk + i) * panel + group;
          if (part == lanes || i + 1 < lanes) {
            store(target, r[i]);
          } else {
            store_part<part>(target, r[i]);
          }
        }
      }
    }
    for (; kk < k; ++kk) {
      for (std::size_t i = 0; i < panel; ++i) {
        panels[kk * panel + i] = i < live ? source[(first + i) * stride + kk] : 0.0F;
      }
    }
  }
}

template <std::size_t panel>
PLANARIA_INLINE void pack_k_strided(const float* source, std::size_t stride, std::size_t count, std::size_t k,
                                    float* panels) {
  std::size_t first = 0;
  for (; first + panel <= count; first += panel, panels += panel * k) {
    for (std::size_t kk = 0; kk < k; ++kk) {
      const float* row = source + kk * stride + first;
      float* target = panels + kk * panel;
      if constexpr (panel % lanes == 0) {
        for (std::size_t i = 0; i < panel; i += lanes) store(target + i, load(row + i));
      } else {
        __builtin_memcpy(target, row, panel * sizeof(float));
      }
    }
  }
  if (first == count) return;
  for (std::size_t kk = 0; kk < k; ++kk) {
    for (std::size_t i = 0; i < panel; ++i) {
      panels[kk * panel + i] = first + i < count ? source[kk * stride + first + i] : 0.0F;
    }
  }
}

// c[6][16] += a * b over k; c is a whole block.
PLANARIA_INLINE void multiply(std::size_t k, const float* a, const float* b, V8 (&c)[gemm_rows][2]) {
  V8 sums[gemm_rows][2];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < gemm_rows; ++r) {
    sums[r][0] = c[r][0];
    sums[r][1] = c[r][1];
  }
  for (std::size_t kk = 0; kk < k; ++kk) {
    const V8 b0 = load(b);
    const V8 b1 = load(b + lanes);
#pragma GCC unroll 6
    for (std::size_t r = 0; r < gemm_rows; ++r) {
      const V8 x = splat(a[r]);
      sums[r][0] = fma(x, b0, sums[r][0]);
      sums[r][1] = fma(x, b1, sums[r][1]);
    }
    a += gemm_rows;
    b += gemm_columns;
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < gemm_rows; ++r) {
    c[r][0] = sums[r][0];
    c[r][1] = sums[r][1];
  }
}

PLANARIA_INLINE void whole_tile(std::size_t k, const float* a, const float* b, float* c, std::size_t c_stride,
                                GemmStart start, const float* bias) {
  V8 sums[gemm_rows][2];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < gemm_rows; ++r) {
    for (std::size_t half = 0; half < 2; ++half) {
      const float* from = start == GemmStart::accumulate ? c + r * c_stride : bias;
      sums[r][half] = start == GemmStart::zero ? V8{} : load(from + half * lanes);
    }
  }
  multiply(k, a, b, sums);
#pragma GCC unroll 6
  for (std::size_t r = 0; r < gemm_rows; ++r) {
    store(c + r * c_stride, sums[r][0]);
    store(c + r * c_stride + lanes, sums[r][1]);
  }
}

// A tile at the lower or right edge goes through a whole one in scratch, whose surplus is dropped.
__attribute__((noinline)) void edge_tile(std::size_t k, const float* a, const float* b, float* c, std::size_t c_stride,
                                         GemmStart start, const float* bias, std::size_t rows, std::size_t columns) {
  alignas(32) float tile[gemm_rows * gemm_columns] = {};
  if (start != GemmStart::zero) {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* from = start == GemmStart::accumulate ? c + r * c_stride : bias;
      for (std::size_t j = 0; j < columns; ++j) tile[r * gemm_columns + j] = from[j];
    }
  }
  whole_tile(k, a, b, tile, gemm_columns, GemmStart::accumulate, nullptr);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t j = 0; j < columns; ++j) c[r * c_stride + j] = tile[r * gemm_columns + j];
  }
}

}  // namespace

void pack_a_k_contiguous(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels) {
  pack_k_contiguous<gemm_rows>(source, stride, count, k, panels);
}
void pack_b_k_contiguous(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels) {
  pack_k_contiguous<gemm_columns>(source, stride, count, k, panels);
}
void pack_a_k_strided(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels) {
  pack_k_strided<gemm_rows>(source, stride, count, k, panels);
}
void pack_b_k_strided(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels) {
  pack_k_strided<gemm_columns>(source, stride, count, k, panels);
}

void gemm_block(const GemmBlock& block) {
  const std::size_t a_panel = (block.a_panel_k == 0 ? block.k : block.a_panel_k) * gemm_rows;
  const std::size_t b_panel = (block.b_panel_k == 0 ? block.k : block.b_panel_k) * gemm_columns;
  std::size_t k0 = 0;
  do {  // once even for k = 0: the start must be written
    const std::size_t k = block.k - k0 < k_piece ? block.k - k0 : k_piece;
    const GemmStart start = k0 == 0 ? block.start : GemmStart::accumulate;
    for (std::size_t j = 0; j < block.columns; j += gemm_columns) {
      const float* b = block.b + (j / gemm_columns) * b_panel + k0 * gemm_columns;
      const float* bias = block.bias == nullptr ? nullptr : block.bias + j;
      const std::size_t columns = block.columns - j;
      for (std::size_t i = 0; i < block.rows; i += gemm_rows) {
        const float* a = block.a + (i / gemm_rows) * a_panel + k0 * gemm_rows;
        const std::size_t rows = block.rows - i;
        float* c = block.c + i * block.c_stride + j;
        if (rows >= gemm_rows && columns >= gemm_columns) {
          whole_tile(k, a, b, c, block.c_stride, start, bias);
        } else {
          edge_tile(k, a, b, c, block.c_stride, start, bias, rows < gemm_rows ? rows : gemm_rows,
                    columns < gemm_columns ? columns : gemm_columns);
        }
      }
    }
    k0 += k;
  } while (k0 < block.k);
}

}  // namespace planaria::PLANARIA_ISA

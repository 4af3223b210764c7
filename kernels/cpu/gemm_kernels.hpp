// Matrix multiplication on packed panels. Every element of C is ONE chain of multiply-adds over k, ascending, that
// starts from zero, the bias or C itself: so no choice of blocks, threads, strides or neighbours can change its bits.
//
// A is packed in panels of 6 rows ([k][6]), B in panels of 16 columns ([k][16]); the inner kernel holds a 6 x 16 block
// of C in registers (the shape that fills AVX2's sixteen registers: 12 sums, 2 of B, 2 broadcasts of A). The k loop is
// cut in pieces whose B panel stays in the first-level cache; between pieces C passes through memory unchanged.
//
// Thread contract: pure functions on disjoint outputs.
#pragma once

#include "kernels/cpu/kernel_table.hpp"
#include "kernels/cpu/simd.hpp"

namespace planaria::PLANARIA_ISA {

// source[r * stride + k] -> panels; count rows, the last panel is padded with zeros.
void pack_a_k_contiguous(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels);
void pack_b_k_contiguous(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels);
// source[k * stride + r] -> panels.
void pack_a_k_strided(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels);
void pack_b_k_strided(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels);

void gemm_block(const GemmBlock& block);

}  // namespace planaria::PLANARIA_ISA

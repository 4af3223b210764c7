// Causal attention over queries, keys and values of bf16 or fp32, tile by tile in on-chip memory (Dao,
// FlashAttention-2, arXiv:2307.08691), forward and backward.
//
// Every sum has one order: a block of threads owns its output rows and takes the other side's tiles in ascending order.
// So the backward pass runs twice over the scores, once for the queries' gradients and once for those of keys and
// values, instead of adding up partial gradients of queries in whatever order blocks finish.
//
// Thread contract: queue work on the stream; the caller's device is current.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/ops.hpp"

namespace planaria::cuda {

// Head sizes that there are kernels for in bf16.
[[nodiscard]] bool attention_supports(const AttentionShape& shape);

// qkv: [rows, shape.qkv_width()]; out: [rows, shape.out_width()]; log_sums: [sequences, heads, context], base 2: log2
// of the sum of 2^(score · log2(e)), for the backward pass.
void attention_forward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv, __nv_bfloat16* out,
                       float* log_sums);

// What attention_backward sums over rows, it sums over so many rows of a sequence at a time, the last time over fewer.
inline constexpr std::size_t kAttentionSumRows = 64;
[[nodiscard]] constexpr std::size_t attention_chunks(const AttentionShape& shape) {
  return shape.sequences * ((shape.context + kAttentionSumRows - 1) / kAttentionSumRows);
}

// scratch: as many floats as log_sums. d_qkv_chunks: [attention_chunks(shape), shape.qkv_width()], column sums of the
// rounded d_qkv; null: not wanted.
void attention_backward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                        const __nv_bfloat16* out, const float* log_sums, const __nv_bfloat16* d_out, float* scratch,
                        __nv_bfloat16* d_qkv, float* d_qkv_chunks);

// In fp32, for heads of up to so many channels. log_sums: natural logarithms of the sums of e^score.
inline constexpr std::size_t kMostFp32HeadSize = 256;
void attention_forward(cudaStream_t stream, const AttentionShape& shape, const float* qkv, float* out, float* log_sums);
// scratch: as many floats as log_sums.
void attention_backward(cudaStream_t stream, const AttentionShape& shape, const float* qkv, const float* out,
                        const float* log_sums, const float* d_out, float* scratch, float* d_qkv);

}  // namespace planaria::cuda

// The kernels that attention.hpp chooses from; each has its signatures and its promise of one order, and bits of its
// own.
//
// Thread contract: as kernels/cuda/attention.hpp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/ops.hpp"

namespace planaria::cuda {

// By mma.sync, from sm_80 on.
namespace portable {

[[nodiscard]] bool supports(const AttentionShape& shape);
void attention_forward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv, __nv_bfloat16* out,
                       float* log_sums);
void attention_backward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                        const __nv_bfloat16* out, const float* log_sums, const __nv_bfloat16* d_out, float* scratch,
                        __nv_bfloat16* d_qkv, float* d_qkv_chunks);

}  // namespace portable

// By wgmma and the tensor memory accelerator, on sm_90.
namespace hopper {

// Whether there are kernels for the shape and the current device runs them. Pointers are at multiples of 16 bytes.
[[nodiscard]] bool supports(const AttentionShape& shape);
void attention_forward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv, __nv_bfloat16* out,
                       float* log_sums);
void attention_backward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                        const __nv_bfloat16* out, const float* log_sums, const __nv_bfloat16* d_out, float* scratch,
                        __nv_bfloat16* d_qkv, float* d_qkv_chunks);

}  // namespace hopper

}  // namespace planaria::cuda

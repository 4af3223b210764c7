// Ops on elements of bf16 or fp32 that no matrix product's epilogue does: activations, rotary angles, dropout, widths.
//
// Thread contract: queue work on the stream; the caller's device is current.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/ops.hpp"

namespace planaria::cuda {

// GELU by the tanh approximation.
void gelu_forward(cudaStream_t stream, std::size_t count, const __nv_bfloat16* x, __nv_bfloat16* y);
void gelu_forward(cudaStream_t stream, std::size_t count, const float* x, float* y);
// dx may be dy. x, dy, dx: [rows, width]; dx_chunks: column sums of the rounded dx (kernels/cuda/chunk_sums.hpp), may
// be null.
void gelu_backward(cudaStream_t stream, std::size_t rows, std::size_t width, const __nv_bfloat16* x,
                   const __nv_bfloat16* dy, __nv_bfloat16* dx, float* dx_chunks);
void gelu_backward(cudaStream_t stream, std::size_t count, const float* x, const float* dy, float* dx);

void swiglu_forward(cudaStream_t stream, const SwigluShape& shape, const __nv_bfloat16* gate_up, __nv_bfloat16* out);
void swiglu_backward(cudaStream_t stream, const SwigluShape& shape, const __nv_bfloat16* gate_up,
                     const __nv_bfloat16* d_out, __nv_bfloat16* d_gate_up);
void swiglu_forward(cudaStream_t stream, const SwigluShape& shape, const float* gate_up, float* out);
void swiglu_backward(cudaStream_t stream, const SwigluShape& shape, const float* gate_up, const float* d_out,
                     float* d_gate_up);

// Rotates query and key heads of qkv in place, pairs (i, i + head_size/2); table: of make_rope_table, in device memory.
// direction: 1 forward, -1 the gradients back.
void rope(cudaStream_t stream, const AttentionShape& shape, int direction, const float* table, __nv_bfloat16* qkv);
void rope(cudaStream_t stream, const AttentionShape& shape, int direction, const float* table, float* qkv);

// y = dropout(x) (+ residual when not null); y may be x or residual. samples: device memory, [sequences]. Decides as
// dropout_keeps() does.
void dropout(cudaStream_t stream, const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples,
             const __nv_bfloat16* x, const __nv_bfloat16* residual, __nv_bfloat16* y);
void dropout(cudaStream_t stream, const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples,
             const float* x, const float* residual, float* y);

// y[row] += bias; y: [rows, width].
void add_bias(cudaStream_t stream, std::size_t rows, std::size_t width, const float* bias, float* y);

void add(cudaStream_t stream, std::size_t count, const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* out);
void narrow(cudaStream_t stream, std::size_t count, const float* x, __nv_bfloat16* y);
void widen(cudaStream_t stream, std::size_t count, const __nv_bfloat16* x, float* y);

}  // namespace planaria::cuda

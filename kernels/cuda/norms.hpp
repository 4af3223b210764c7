// Layer norm and RMS norm of rows of bf16 or fp32, fused with the residual stream that they read.
//
// Sums over a row are fp32 in an order that depends on the width alone. Gradients of gain and bias are summed over
// chunks of kChunkRows rows (kernels/cuda/chunk_sums.hpp), so no grid changes their rounding. What is computed from a
// sum of two streams is computed from its rounded value: the same bits whether the sum was made here or arrived.
// Where the width is a multiple of 8, rows of bf16 start at multiples of 16 bytes; fp32 may lie anywhere.
//
// Thread contract: queue work on the stream; the caller's device is current.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/ops.hpp"

namespace planaria::cuda {

template <class T>
struct BasicNormForward {
  NormShape shape;
  const T* x = nullptr;                // [rows, width]
  const T* delta = nullptr;            // added to x first; null: none
  T* sum = nullptr;                    // x + delta; unused without delta
  const float* gain = nullptr;         // [width]
  const float* bias = nullptr;         // [width]; null: RMS norm
  T* y = nullptr;                      // [rows, width]
  float* mean = nullptr;               // [rows], kept for backward; unused by RMS norm
  float* inverse_deviation = nullptr;  // [rows], likewise
};
using NormForward = BasicNormForward<__nv_bfloat16>;
void norm_forward(cudaStream_t stream, const NormForward& call);
void norm_forward(cudaStream_t stream, const BasicNormForward<float>& call);

template <class T>
struct BasicNormBackward {
  NormShape shape;
  const T* dy = nullptr;
  const T* x = nullptr;
  const float* gain = nullptr;
  const float* mean = nullptr;  // null: RMS norm
  const float* inverse_deviation = nullptr;
  const T* residual = nullptr;  // the gradient that bypasses the norm, added to dx; may be null, or dx
  T* dx = nullptr;
  float* d_gain_chunks = nullptr;  // [chunks_of(rows), width], written
  float* d_bias_chunks = nullptr;  // likewise; unused by RMS norm
  float* dx_chunks = nullptr;      // column sums of the rounded dx, likewise; null: not wanted
};
using NormBackward = BasicNormBackward<__nv_bfloat16>;
void norm_backward(cudaStream_t stream, const NormBackward& call);
void norm_backward(cudaStream_t stream, const BasicNormBackward<float>& call);

}  // namespace planaria::cuda

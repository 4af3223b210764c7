// Norms of rows that kernels/cuda/norms.cu has no registers for, and of all in fp32: any width, a block a row, element
// by element; later passes find the row in the caches. Sums over rows are kernels of their own, which read the gradient
// a second time.
#pragma once

#include "kernels/cuda/chunk_columns.cuh"
#include "kernels/cuda/norms.hpp"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda::wide {

constexpr unsigned kThreads = 256;

__device__ inline float widened(const Bf16* p) {
  return unpack(load<1>(p)).at[0];
}
__device__ inline void narrowed(Bf16* p, float value) {
  store<1>(p, pack(Floats<1>{{value}}));
}

__device__ inline float widened(const float* p) {
  return *p;
}
__device__ inline void narrowed(float* p, float value) {
  *p = value;
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_row(const BasicNormForward<T> call) {
  __shared__ float of_warps[2][kThreads / kWarp];
  const std::size_t width = call.shape.width;
  const std::size_t begin = blockIdx.x * width;
  const float scale = 1.0F / static_cast<float>(width);
  const T* x = call.x + begin;
  if (call.delta != nullptr) {
    x = call.sum + begin;  // each thread reads what it wrote
    for (std::size_t i = threadIdx.x; i < width; i += kThreads) {
      narrowed(call.sum + begin + i, widened(call.x + begin + i) + widened(call.delta + begin + i));
    }
  }
  float mean = 0;
  if (call.bias != nullptr) {
    float sum = 0;
    for (std::size_t i = threadIdx.x; i < width; i += kThreads) sum += widened(x + i);
    mean = __fmul_rn(block_sum<kThreads>(sum, of_warps[0]), scale);
  }
  float squares = 0;
  for (std::size_t i = threadIdx.x; i < width; i += kThreads) {
    const float centered = widened(x + i) - mean;
    squares = fmaf(centered, centered, squares);
  }
  const float variance = block_sum<kThreads>(squares, of_warps[1]);
  const float inverse = 1.0F / sqrtf(fmaf(variance, scale, call.shape.epsilon));
  for (std::size_t i = threadIdx.x; i < width; i += kThreads) {
    const float bias = call.bias != nullptr ? call.bias[i] : 0.0F;
    narrowed(call.y + begin + i, fmaf((widened(x + i) - mean) * inverse, call.gain[i], bias));
  }
  if (threadIdx.x == 0) {
    if (call.bias != nullptr) call.mean[blockIdx.x] = mean;
    call.inverse_deviation[blockIdx.x] = inverse;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) backward_row(const BasicNormBackward<T> call) {
  __shared__ float of_warps[2][kThreads / kWarp];
  const std::size_t width = call.shape.width;
  const std::size_t begin = blockIdx.x * width;
  const float scale = 1.0F / static_cast<float>(width);
  const float mean = call.mean != nullptr ? call.mean[blockIdx.x] : 0.0F;
  const float inverse = call.inverse_deviation[blockIdx.x];
  float sum = 0;
  float product = 0;
  for (std::size_t i = threadIdx.x; i < width; i += kThreads) {
    const float g = widened(call.dy + begin + i) * call.gain[i];
    sum += g;
    product = fmaf(g, (widened(call.x + begin + i) - mean) * inverse, product);
  }
  sum = block_sum<kThreads>(sum, of_warps[0]);
  const float g_mean = call.mean != nullptr ? sum * scale : 0.0F;
  const float g_product = block_sum<kThreads>(product, of_warps[1]) * scale;
  for (std::size_t i = threadIdx.x; i < width; i += kThreads) {
    const float normal = (widened(call.x + begin + i) - mean) * inverse;
    const float beside = call.residual != nullptr ? widened(call.residual + begin + i) : 0.0F;
    const float centered = fmaf(widened(call.dy + begin + i), call.gain[i], -g_mean);
    narrowed(call.dx + begin + i, fmaf(fmaf(-normal, g_product, centered), inverse, beside));
  }
}

template <class T>
__global__ void __launch_bounds__(kStripThreads) backward_columns(const BasicNormBackward<T> call) {
  __shared__ StripSums<1> strips[2];
  const std::size_t width = call.shape.width;
  const ChunkTile<1> tile(call.shape.rows, width);
  Floats<1> d_gain{};
  Floats<1> d_bias{};
  for (std::size_t row = tile.first_row; row < tile.end_row && tile.column < width; row += kStrips) {
    const float dy = widened(call.dy + row * width + tile.column);
    const float centered = widened(call.x + row * width + tile.column) - (call.mean != nullptr ? call.mean[row] : 0.0F);
    d_gain.at[0] = fmaf(dy, centered * call.inverse_deviation[row], d_gain.at[0]);
    d_bias.at[0] += dy;
  }
  const std::size_t at = tile.chunk * width + tile.first_column;
  add_strips<1>(strips[0], d_gain, width - tile.first_column, call.d_gain_chunks + at);
  if (call.mean == nullptr) return;
  add_strips<1>(strips[1], d_bias, width - tile.first_column, call.d_bias_chunks + at);
}

template <class T>
void norm_forward(cudaStream_t stream, const BasicNormForward<T>& call) {
  forward_row<T><<<static_cast<unsigned>(call.shape.rows), kThreads, 0, stream>>>(call);
}

template <class T>
void norm_backward(cudaStream_t stream, const BasicNormBackward<T>& call) {
  const NormShape& shape = call.shape;
  backward_columns<T><<<chunk_tiles<1>(shape.rows, shape.width), kStripThreads, 0, stream>>>(call);
  backward_row<T><<<static_cast<unsigned>(shape.rows), kThreads, 0, stream>>>(call);
  if (call.dx_chunks != nullptr) column_chunks(stream, shape.rows, shape.width, call.dx, call.dx_chunks);
}

}  // namespace planaria::cuda::wide

// Element-wise ops: a thread loads all its vectors before it stores the first, so that several loads are under way at
// once; the output may be any input, element by element.
//
// An Op has `static constexpr int kDepth` (vectors a thread), load<N>(row, i), which returns what elements i … i+N-1 of
// a row need, and finish<N>(row, i, loaded), which computes and stores them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/launch.cuh"

namespace planaria::cuda {

inline constexpr unsigned kMapThreads = 256;

template <int N, class Op>
__global__ void __launch_bounds__(kMapThreads, 3) map_elements(std::size_t rows, std::size_t count, const Op op) {
  const std::size_t vectors = count / N;
  const std::size_t first = std::size_t{blockIdx.x} * (kMapThreads * Op::kDepth) + threadIdx.x;
  for (std::size_t row = blockIdx.y; row < rows; row += gridDim.y) {
    decltype(op.template load<N>(0, 0)) loaded[Op::kDepth];
#pragma unroll
    for (int d = 0; d < Op::kDepth; ++d) {
      const std::size_t i = first + d * kMapThreads;
      if (i < vectors) loaded[d] = op.template load<N>(row, i * N);
    }
#pragma unroll
    for (int d = 0; d < Op::kDepth; ++d) {
      const std::size_t i = first + d * kMapThreads;
      if (i < vectors) op.template finish<N>(row, i * N, loaded[d]);
    }
    if constexpr (N > 1) {
      const std::size_t rest = vectors * N + threadIdx.x;
      if (blockIdx.x == gridDim.x - 1 && rest < count) {
        op.template finish<1>(row, rest, op.template load<1>(row, rest));
      }
    }
  }
}

// `vectors`: whether every row can be read N elements at a time.
template <int N, class Op>
void map(cudaStream_t stream, std::size_t rows, std::size_t count, bool vectors, const Op& op) {
  if (rows == 0 || count == 0) return;
  const auto height = static_cast<unsigned>(std::min<std::size_t>(rows, 65535));
  const auto grid = [&](std::size_t n) {
    return dim3(std::max(1U, blocks_for(count / n, std::size_t{kMapThreads} * Op::kDepth)), height);
  };
  if (vectors) {
    map_elements<N, Op><<<grid(N), kMapThreads, 0, stream>>>(rows, count, op);
  } else {
    map_elements<1, Op><<<grid(1), kMapThreads, 0, stream>>>(rows, count, op);
  }
}

struct Place {
  std::size_t row;
  std::size_t column;
};
// Of element i in rows of `width`. Dividing 32 bits is much quicker.
__device__ inline Place place_of(std::size_t i, std::size_t width) {
  if (((i | width) >> 32) == 0) {
    const auto row = static_cast<unsigned>(i) / static_cast<unsigned>(width);
    return {row, static_cast<unsigned>(i) - row * static_cast<unsigned>(width)};
  }
  return {i / width, i % width};
}

}  // namespace planaria::cuda

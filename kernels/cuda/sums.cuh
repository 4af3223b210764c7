// Sums and maxima over the threads of a warp or block, in an order that the number of threads fixes; every thread gets
// the same bits.
#pragma once

#include <cuda_runtime.h>

namespace planaria::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// A butterfly: both sides of each addition are the same for both lanes, but for their order.
template <class T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
  for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// of_warps: shared memory, one element a warp, not in use by anyone before or after without a barrier between.
template <unsigned kThreads, class T>
__device__ inline T block_sum(T value, T* of_warps) {
  static_assert(kThreads % kWarp == 0 && kThreads / kWarp <= kWarp);
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return warp_sum(lane < kThreads / kWarp ? of_warps[lane] : T{0});
}
template <unsigned kThreads>
__device__ inline float block_max(float value, float* of_warps) {
  static_assert(kThreads % kWarp == 0 && kThreads / kWarp <= kWarp);
  value = warp_max(value);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_max(of_warps[threadIdx.x % (kThreads / kWarp)]);
}

}  // namespace planaria::cuda

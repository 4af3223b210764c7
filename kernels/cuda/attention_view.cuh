// What the attention kernels share: where heads lie, how many rows a block of threads takes.
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/tile_mma.cuh"
#include "kernels/ops.hpp"

namespace planaria::cuda {

inline constexpr int kAttentionWarps = 4;
inline constexpr int kAttentionThreads = kAttentionWarps * kWarp;
// Rows of the side that a block walks along: in shared memory twice, this step's and the next one's.
inline constexpr int kStepRows = 64;

// Tiles of 16 rows that a warp owns: as many as its results leave registers for.
template <int kHead>
inline constexpr int kWarpTiles = kHead <= 64 ? 2 : 1;
template <int kHead>
inline constexpr int kBlockRows = kAttentionWarps * 16 * kWarpTiles<kHead>;
inline constexpr int kSumRows = int{kAttentionSumRows};

struct AttentionView {
  int context = 0;
  int heads = 0;
  int kv_heads = 0;
  int qkv_width = 0;
  int out_width = 0;
  float scale = 0;       // of scores
  float scale_log2 = 0;  // · log2(e)

  [[nodiscard]] __device__ std::int64_t first_row(int sequence) const { return std::int64_t{sequence} * context; }
  // Columns of qkv.
  [[nodiscard]] __device__ int query(int head, int size) const { return head * size; }
  [[nodiscard]] __device__ int key(int kv_head, int size) const { return (heads + kv_head) * size; }
  [[nodiscard]] __device__ int value(int kv_head, int size) const { return (heads + kv_heads + kv_head) * size; }
  [[nodiscard]] __device__ std::int64_t sums(int sequence, int head) const {
    return (std::int64_t{sequence} * heads + head) * context;
  }
  // Elements of the sums over rows of qkv before those of the sequence's rows from `row` on.
  [[nodiscard]] __device__ std::int64_t row_sums(int sequence, int row) const {
    return (std::int64_t{sequence} * ((context + kSumRows - 1) / kSumRows) + row / kSumRows) * qkv_width;
  }
};

// to[column] = the sum over the warps of what their store_rows left, in ascending order, for kSumRows rows of kHead
// results. `tile`: the first warp's. Each thread of `threads` comes once it sees what the warps left.
template <int kHead, int kWarpRows>
__device__ __forceinline__ void store_sums(const __nv_bfloat16* tile, float* to, int thread, int threads) {
  for (int column = thread; column < kHead; column += threads) {
    float sum = 0;
#pragma unroll
    for (int row = 0; row < kSumRows; row += kWarpRows) {
      sum += reinterpret_cast<const float*>(tile + row * kHead)[column];
    }
    to[column] = sum;
  }
}

// dots[row] = Σ out · d_out over a head's columns, for rows [first, first + kRows), and the same where `stored` keeps
// them: kHead / 8 lanes a row, by each group of kThreads threads.
template <int kHead, int kRows, int kThreads>
__device__ __forceinline__ void row_products(const AttentionView& view, const __nv_bfloat16* out,
                                             const __nv_bfloat16* d_out, int first, float* dots, float* stored) {
  constexpr int kLanes = kHead / kChunk;
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  const int chunk = thread % kLanes;
#pragma unroll
  for (int at = 0; at < kRows; at += kThreads / kLanes) {
    const int in_block = at + thread / kLanes;
    const int row = first + in_block;
    float dot = 0;
    if (in_block < kRows && row < view.context) {
      const std::int64_t place = std::int64_t{row} * view.out_width + chunk * kChunk;
      const uint4 a = *reinterpret_cast<const uint4*>(out + place);
      const uint4 b = *reinterpret_cast<const uint4*>(d_out + place);
      const auto* const x = reinterpret_cast<const __nv_bfloat162*>(&a);
      const auto* const y = reinterpret_cast<const __nv_bfloat162*>(&b);
#pragma unroll
      for (int i = 0; i < kChunk / 2; ++i) {
        const float2 p = __bfloat1622float2(x[i]);
        const float2 q = __bfloat1622float2(y[i]);
        dot = fmaf(p.x, q.x, dot);
        dot = fmaf(p.y, q.y, dot);
      }
    }
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) dot += __shfl_xor_sync(~0U, dot, lanes);
    if (chunk == 0 && in_block < kRows) {
      dots[in_block] = dot;
      if (row < view.context) stored[row] = dot;
    }
  }
}

[[nodiscard]] AttentionView view_of(const AttentionShape& shape);

// Calls `run` with the head size as a constant. Precondition: attention_supports.
template <class Run>
void with_head_size(std::size_t size, Run run) {
  switch (size) {
    case 16:
      return run(std::integral_constant<int, 16>());
    case 32:
      return run(std::integral_constant<int, 32>());
    case 64:
      return run(std::integral_constant<int, 64>());
    case 128:
      return run(std::integral_constant<int, 128>());
  }
}

}  // namespace planaria::cuda

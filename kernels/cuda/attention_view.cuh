// What the attention kernels share: where heads lie, how many rows a block of threads takes.
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

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
};

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

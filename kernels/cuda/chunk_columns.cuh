// How the columns of a chunk of rows are summed, by every kernel that does so: strip s holds the chunk's rows s,
// s + kStrips, … and is added up in ascending order from zero by one warp, whose lanes own N columns each; a fixed tree
// then adds the strips. Same rows, same bits, whichever kernel saw them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda {

inline constexpr unsigned kStrips = 8;
inline constexpr unsigned kStripThreads = kStrips * kWarp;
inline constexpr unsigned kStripRows = kChunkRows / kStrips;
static_assert(kChunkRows % kStrips == 0 && kStripRows <= kWarp);

// The strips' sums of the columns of one warp.
template <int N>
using StripSums = float[kStrips][kWarp * N];

// chunk[column] = the sum over strips, for columns below `columns`. Called by all kStripThreads threads of a block,
// warp s with the sums of strip s. Has one barrier inside: `strips` must not be used again before another.
template <int N>
__device__ inline void add_strips(StripSums<N>& strips, const Floats<N>& sums, std::size_t columns, float* chunk) {
  store<N>(&strips[threadIdx.x / kWarp][threadIdx.x % kWarp * N], sums);
  __syncthreads();
  const unsigned column = threadIdx.x;
  if (column >= kWarp * N || column >= columns) return;
  static_assert(kStrips == 8 && kWarp * N <= kStripThreads);
  const float even = (strips[0][column] + strips[4][column]) + (strips[2][column] + strips[6][column]);
  const float odd = (strips[1][column] + strips[5][column]) + (strips[3][column] + strips[7][column]);
  chunk[column] = even + odd;
}

// The share of a block that sums one chunk of 32 * N columns.
template <int N>
struct ChunkTile {
  std::size_t first_row;  // of this thread's strip
  std::size_t end_row;    // of the chunk
  std::size_t chunk;
  std::size_t first_column;  // of the block
  std::size_t column;        // of this thread

  __device__ ChunkTile(std::size_t rows, std::size_t width) {
    const std::size_t tiles = (width + kWarp * N - 1) / (kWarp * N);
    chunk = blockIdx.x / tiles;
    first_row = chunk * kChunkRows + threadIdx.x / kWarp;
    end_row = chunk * kChunkRows + kChunkRows < rows ? chunk * kChunkRows + kChunkRows : rows;
    first_column = blockIdx.x % tiles * (kWarp * N);
    column = first_column + threadIdx.x % kWarp * N;
  }
};
template <int N>
[[nodiscard]] inline unsigned chunk_tiles(std::size_t rows, std::size_t width) {
  return static_cast<unsigned>(chunks_of(rows) * ((width + kWarp * N - 1) / (kWarp * N)));
}

}  // namespace planaria::cuda

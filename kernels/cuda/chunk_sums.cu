// Column sums. A block reads 256 columns of one chunk, all of a thread's loads under way at once; adding chunks up
// reads them into shared memory side by side, so that only the additions themselves wait for each other.
#include "kernels/cuda/chunk_sums.hpp"

#include "kernels/cuda/chunk_columns.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packs.cuh"

namespace planaria::cuda {
namespace {

template <int N, class T>
__global__ void __launch_bounds__(kStripThreads)
    sum_chunks(std::size_t rows, std::size_t width, const T* __restrict__ x, float* __restrict__ chunks) {
  __shared__ StripSums<N> strips;
  const ChunkTile<N> tile(rows, width);
  Floats<N> sums{};
  if (tile.column < width) {
    Pack<N, T> packed[kStripRows];
#pragma unroll
    for (unsigned r = 0; r < kStripRows; ++r) {
      const std::size_t row = tile.first_row + r * kStrips;
      packed[r] = row < tile.end_row ? load<N>(x + row * width + tile.column) : Pack<N, T>{};
    }
#pragma unroll
    for (unsigned r = 0; r < kStripRows; ++r) {
      const Floats<N> values = unpack(packed[r]);
#pragma unroll
      for (int i = 0; i < N; ++i) sums.at[i] += values.at[i];
    }
  }
  add_strips<N>(strips, sums, width - tile.first_column, chunks + tile.chunk * width + tile.first_column);
}

constexpr unsigned kAddColumns = 32;
constexpr unsigned kAddThreads = 256;
constexpr unsigned kAddRows = 256;  // chunks in shared memory at a time

struct AddTable {
  ChunkSum sums[kChunkSumsAtOnce];
  unsigned end[kChunkSumsAtOnce];  // the first block behind those of sum i
};

__global__ void __launch_bounds__(kAddThreads) add_up_chunks(const __grid_constant__ AddTable table) {
  __shared__ float batch[kAddRows][kAddColumns];
  unsigned which = 0;
  while (blockIdx.x >= table.end[which]) ++which;
  const unsigned first_block = which == 0 ? 0 : table.end[which - 1];
  const std::size_t count = table.sums[which].count;
  const std::size_t width = table.sums[which].width;
  const float* __restrict__ const chunks = table.sums[which].chunks;
  const unsigned lane = threadIdx.x % kAddColumns;
  const unsigned part = threadIdx.x / kAddColumns;
  const std::size_t column = std::size_t{blockIdx.x - first_block} * kAddColumns + lane;
  float sum = 0;
  for (std::size_t first = 0; first < count; first += kAddRows) {
    constexpr unsigned kEach = kAddRows / (kAddThreads / kAddColumns);
    float values[kEach];
#pragma unroll
    for (unsigned r = 0; r < kEach; ++r) {
      const std::size_t chunk = first + part + r * (kAddThreads / kAddColumns);
      values[r] = chunk < count && column < width ? chunks[chunk * width + column] : 0.0F;
    }
    __syncthreads();  // the batch before has been added
#pragma unroll
    for (unsigned r = 0; r < kEach; ++r) batch[part + r * (kAddThreads / kAddColumns)][lane] = values[r];
    __syncthreads();
    if (part == 0) {
      const auto rows = static_cast<unsigned>(count - first < kAddRows ? count - first : kAddRows);
#pragma unroll 16
      for (unsigned r = 0; r < rows; ++r) sum += batch[r][lane];
    }
  }
  if (part != 0 || column >= width) return;
  float& target = table.sums[which].target[column];
  target = table.sums[which].begin ? sum : target + sum;
}

}  // namespace

void column_chunks(cudaStream_t stream, std::size_t rows, std::size_t width, const __nv_bfloat16* x, float* chunks) {
  if (rows == 0 || width == 0) return;
  if (width % 8 == 0 && aligned_to_16(x)) {
    sum_chunks<8, Bf16><<<chunk_tiles<8>(rows, width), kStripThreads, 0, stream>>>(rows, width, x, chunks);
  } else {
    sum_chunks<1, Bf16><<<chunk_tiles<1>(rows, width), kStripThreads, 0, stream>>>(rows, width, x, chunks);
  }
}

void column_chunks(cudaStream_t stream, std::size_t rows, std::size_t width, const float* x, float* chunks) {
  if (rows == 0 || width == 0) return;
  sum_chunks<1, float><<<chunk_tiles<1>(rows, width), kStripThreads, 0, stream>>>(rows, width, x, chunks);
}

void add_chunks(cudaStream_t stream, std::span<const ChunkSum> sums) {
  while (!sums.empty()) {
    const auto now = sums.first(std::min(sums.size(), kChunkSumsAtOnce));
    sums = sums.subspan(now.size());
    AddTable table{};
    unsigned blocks = 0;
    for (std::size_t i = 0; i < now.size(); ++i) {
      table.sums[i] = now[i];
      if (now[i].count > 0 || now[i].begin) blocks += blocks_for(now[i].width, kAddColumns);
      table.end[i] = blocks;
    }
    if (blocks > 0) add_up_chunks<<<blocks, kAddThreads, 0, stream>>>(table);
  }
}

}  // namespace planaria::cuda

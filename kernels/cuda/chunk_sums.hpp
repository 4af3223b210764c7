// Sums over rows without atomics: each chunk of kChunkRows rows is summed by itself, then chunks in ascending order.
// Who sums a chunk, and how many at a time, changes no bit.
//
// Thread contract: queue work on the stream; the caller's device is current.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <span>

namespace planaria::cuda {

inline constexpr std::size_t kChunkRows = 128;

[[nodiscard]] constexpr std::size_t chunks_of(std::size_t rows) {
  return (rows + kChunkRows - 1) / kChunkRows;
}

// chunks[c][column] = the sum of x[row][column] over the rows of chunk c, row by row as kernels that write chunks
// beside other work do. x: [rows, width].
void column_chunks(cudaStream_t stream, std::size_t rows, std::size_t width, const __nv_bfloat16* x, float* chunks);
void column_chunks(cudaStream_t stream, std::size_t rows, std::size_t width, const float* x, float* chunks);

struct ChunkSum {
  const float* chunks = nullptr;  // [count, width]
  std::size_t count = 0;
  std::size_t width = 0;
  float* target = nullptr;  // [width]
  bool begin = false;       // the target counts as 0
};
// Of each: target[column] += the sum of chunks[c][column] over c, in ascending order. Targets don't overlap. Up to
// kChunkSumsAtOnce of them are one launch.
inline constexpr std::size_t kChunkSumsAtOnce = 8;
void add_chunks(cudaStream_t stream, std::span<const ChunkSum> sums);

}  // namespace planaria::cuda

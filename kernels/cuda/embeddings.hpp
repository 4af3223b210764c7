// Token and position embeddings: fp32 tables in, rows of bf16 or fp32 out, gradients of both tables without atomics.
//
// A token's gradient is the sum over its positions in ascending order: for bf16 in fixed groups of kOccurrences, for
// which host code sorts positions by token once a micro-batch, beside the device's work; for fp32 one by one, as
// kernels/device.hpp has it.
//
// Thread contract: functions that take a stream queue work on it, with the caller's device current; the others are
// pure.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.hpp"

namespace planaria::cuda {

// out[row] = token_table[tokens[row]] + position_table[row % context], rounded; position_table may be null.
void embedding_forward(cudaStream_t stream, const EmbeddingShape& shape, const std::int32_t* tokens,
                       const float* token_table, const float* position_table, __nv_bfloat16* out);
void embedding_forward(cudaStream_t stream, const EmbeddingShape& shape, const std::int32_t* tokens,
                       const float* token_table, const float* position_table, float* out);

inline constexpr std::size_t kOccurrences = 64;

// Where tokens occur in a micro-batch. Group g sums rows[begin[g] … begin[g + 1]) of one token, at most kOccurrences;
// groups come by token, then by row; token t of the distinct ones, tokens[t], has groups [first[t], first[t + 1]).
struct TokenOccurrences {
  std::vector<std::int32_t> rows;
  std::vector<std::int32_t> begin;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> first;
};
// Precondition: 0 <= tokens < vocab. Memory of `out` is used again.
void find_occurrences(std::span<const std::int32_t> tokens, std::size_t vocab, TokenOccurrences& out);

// The same in device memory.
struct DeviceOccurrences {
  const std::int32_t* rows = nullptr;
  const std::int32_t* begin = nullptr;
  const std::int32_t* tokens = nullptr;
  const std::int32_t* first = nullptr;
  std::size_t groups = 0;
  std::size_t distinct = 0;
};

// Accumulates d_token_table[token] += the sum of d_out over its rows, and d_position_table[p] += the sum over sequences
// in order (may be null). scratch: groups * width floats.
void embedding_backward(cudaStream_t stream, const EmbeddingShape& shape, const DeviceOccurrences& occurrences,
                        const __nv_bfloat16* d_out, float* scratch, float* d_token_table, float* d_position_table);
// The same of fp32; tokens in device memory.
void embedding_backward(cudaStream_t stream, const EmbeddingShape& shape, const std::int32_t* tokens,
                        const float* d_out, float* d_token_table, float* d_position_table);

}  // namespace planaria::cuda

// The head's softmax and cross-entropy over logits, forward and backward in one pass: a row of bf16 is read once and
// its gradient written in its place.
//
// Thread contract: queues work on the stream; the caller's device is current.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace planaria::cuda {

struct Classifier {
  std::size_t rows = 0;
  std::size_t vocab = 0;   // classes; logits beyond them are padding: they count for nothing
  std::size_t stride = 0;  // elements of a row of logits, at least vocab; a multiple of 8
  // [rows, stride], 16-byte aligned; with `gradient` the gradient of the token sum takes their place, 0 in padding.
  __nv_bfloat16* logits = nullptr;
  const std::int32_t* targets = nullptr;  // [rows]; negative: left out, no loss and no gradient
  float* losses = nullptr;                // [rows]: -log softmax(logits)[target]
  bool gradient = true;
};
void classify(cudaStream_t stream, const Classifier& call);
// The same of fp32 logits without padding, [rows, vocab]. d_logits: null, or the gradient's place, which may be that of
// the logits.
void classify(cudaStream_t stream, std::size_t rows, std::size_t vocab, const float* logits,
              const std::int32_t* targets, float* losses, float* d_logits);

// sums[s] = the sum of losses over the rows of sequence s, in double, in position order. sums: device memory.
void sum_losses(cudaStream_t stream, std::size_t sequences, std::size_t context, const float* losses, double* sums);

}  // namespace planaria::cuda

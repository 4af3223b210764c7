// Softmax and cross-entropy of a row of fp32 logits by one block, which goes over the row three times: for the largest,
// for the sum, and to write the gradient. Later passes find it in the caches.
#include <cmath>

#include "kernels/cuda/classifier.hpp"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda {
namespace {

constexpr unsigned kThreads = 256;

// d_logits may be logits: a thread reads an element before it writes it, and nobody else's.
__global__ void __launch_bounds__(kThreads)
    classify_row(std::size_t vocab, const float* logits, const std::int32_t* __restrict__ targets,
                 float* __restrict__ losses, float* d_logits) {
  __shared__ float of_tops[kThreads / kWarp];
  __shared__ double of_sums[kThreads / kWarp];
  const std::size_t row = blockIdx.x;
  const float* const in = logits + row * vocab;
  float* const out = d_logits == nullptr ? nullptr : d_logits + row * vocab;
  const std::int32_t target = targets[row];
  if (target < 0) {
    if (threadIdx.x == 0) losses[row] = 0;
    for (std::size_t i = threadIdx.x; out != nullptr && i < vocab; i += kThreads) out[i] = 0;
    return;
  }
  const auto place = static_cast<std::size_t>(target);
  const float target_logit = in[place];  // before the first barrier, and so before it is written
  float top = -INFINITY;
  for (std::size_t i = threadIdx.x; i < vocab; i += kThreads) top = fmaxf(top, in[i]);
  top = block_max<kThreads>(top, of_tops);
  double sum = 0;
  for (std::size_t i = threadIdx.x; i < vocab; i += kThreads) sum += double{expf(in[i] - top)};
  sum = block_sum<kThreads>(sum, of_sums);
  if (threadIdx.x == 0) losses[row] = static_cast<float>(log(sum) + (double{top} - double{target_logit}));
  if (out == nullptr) return;
  const auto inverse = static_cast<float>(1.0 / sum);
  for (std::size_t i = threadIdx.x; i < vocab; i += kThreads) {
    const float probability = expf(in[i] - top) * inverse;
    out[i] = i == place ? probability - 1.0F : probability;
  }
}

}  // namespace

void classify(cudaStream_t stream, std::size_t rows, std::size_t vocab, const float* logits,
              const std::int32_t* targets, float* losses, float* d_logits) {
  if (rows == 0) return;
  classify_row<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(vocab, logits, targets, losses, d_logits);
}

}  // namespace planaria::cuda

#include "kernels/cuda/attention.hpp"

#include "kernels/cuda/attention_variants.hpp"

namespace planaria::cuda {

bool attention_supports(const AttentionShape& shape) {
  return portable::supports(shape);
}

void attention_forward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv, __nv_bfloat16* out,
                       float* log_sums) {
  const auto run = hopper::supports(shape) ? hopper::attention_forward : portable::attention_forward;
  run(stream, shape, qkv, out, log_sums);
}

void attention_backward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                        const __nv_bfloat16* out, const float* log_sums, const __nv_bfloat16* d_out, float* scratch,
                        __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  const auto run = hopper::supports(shape) ? hopper::attention_backward : portable::attention_backward;
  run(stream, shape, qkv, out, log_sums, d_out, scratch, d_qkv, d_qkv_chunks);
}

}  // namespace planaria::cuda

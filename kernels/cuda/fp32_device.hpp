// One GPU as a device that computes a transformer op by op in fp32 (kernels/device.hpp): for numbers to hold others
// against, and for training where bf16 isn't enough. The engine over it is the CPU's
// (worker/model/transformer_pass.hpp).
//
// Ops queue their work and return. Those that need memory of their own keep it; a first op of a shape asks cuBLASLt for
// an algorithm.
//
// Thread contract: as Device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda/fp32_matmul.hpp"
#include "kernels/cuda/gpu.hpp"

namespace planaria::cuda {

class Fp32Device final : public Gpu<TensorDevice> {
 public:
  // unavailable: there is no such GPU, or no driver; unsupported: this build has no code for it.
  [[nodiscard]] static Result<std::unique_ptr<Fp32Device>> create(int index);

  [[nodiscard]] std::string numeric_class() const override;
  [[nodiscard]] double rated_gflops() const override;
  // Null: the ops train. unsupported: heads of more channels than kMostFp32HeadSize.
  [[nodiscard]] Result<std::unique_ptr<ModelEngine>> make_engine(const ModelSpec& model, const StateMap& map,
                                                                 const MicroBatchShape& shape,
                                                                 std::uint64_t seed) override;

  void embedding_forward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* token_table,
                         const float* position_table, float* out) override;
  void embedding_backward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* d_out,
                          float* d_token_table, float* d_position_table) override;
  void layernorm_forward(const NormShape& shape, const float* x, const float* gain, const float* bias, float* y,
                         float* mean, float* inverse_deviation) override;
  void layernorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain, const float* mean,
                          const float* inverse_deviation, const float* residual, float* dx, float* d_gain,
                          float* d_bias) override;
  void rmsnorm_forward(const NormShape& shape, const float* x, const float* gain, float* y,
                       float* inverse_rms) override;
  void rmsnorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                        const float* inverse_rms, const float* residual, float* dx, float* d_gain) override;
  void linear_forward(const LinearShape& shape, const float* x, const float* weight, const float* bias,
                      float* y) override;
  void linear_backward_input(const LinearShape& shape, const float* dy, const float* weight, float* dx) override;
  void linear_backward_weight(const LinearShape& shape, const float* x, const float* dy, float* d_weight,
                              float* d_bias) override;
  void attention_forward(const AttentionShape& shape, const float* qkv, float* out, float* log_sums) override;
  void attention_backward(const AttentionShape& shape, const float* qkv, const float* out, const float* log_sums,
                          const float* d_out, float* d_qkv) override;
  void rope_forward(const AttentionShape& shape, const float* table, float* qkv) override;
  void rope_backward(const AttentionShape& shape, const float* table, float* d_qkv) override;
  void gelu_forward(std::size_t count, const float* x, float* y) override;
  void gelu_backward(std::size_t count, const float* x, const float* dy, float* dx) override;
  void swiglu_forward(const SwigluShape& shape, const float* gate_up, float* out) override;
  void swiglu_backward(const SwigluShape& shape, const float* gate_up, const float* d_out, float* d_gate_up) override;
  void dropout(const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples, const float* x,
               const float* residual, float* y) override;
  void cross_entropy(const CrossEntropyShape& shape, const float* logits, const std::int32_t* targets, double* losses,
                     float* d_logits) override;

 private:
  Fp32Device(int index, const cudaDeviceProp& properties) : Gpu(index, properties) {}
  // So much memory in `buffer`, for the op that asks: the next one may have it. Null when there isn't enough, which is
  // noted.
  template <class T>
  [[nodiscard]] T* room(DeviceBuffer& buffer, std::size_t count);
  // Whether there is a kernel for the head size; noted, if not.
  [[nodiscard]] bool attends(const AttentionShape& shape);
  void norm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain, const float* mean,
                     const float* inverse_deviation, const float* residual, float* dx, float* d_gain, float* d_bias);

  std::unique_ptr<Fp32Matmuls> matmuls_;
  DeviceBuffer scratch_, samples_;
};

}  // namespace planaria::cuda

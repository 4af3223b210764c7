// The CPU as a device: cuts every op into pieces for the thread pool and calls the kernels of one instruction set.
//
// How ops are cut depends on shapes alone wherever a cut could be seen in the bits (column sums, tiles); all other cuts
// are free, because the kernels make every output element by itself.
//
// Thread contract: as Device. Ops are synchronous.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.hpp"
#include "kernels/cpu/thread_pool.hpp"
#include "kernels/device.hpp"

namespace planaria {

class CpuDevice final : public TensorDevice {
 public:
  CpuDevice(const KernelTable& kernels, std::size_t threads) : kernels_(kernels), pool_(threads) {}

  [[nodiscard]] std::string name() const override { return "cpu"; }
  [[nodiscard]] std::string numeric_class() const override;
  [[nodiscard]] std::size_t threads() const override { return pool_.threads(); }
  [[nodiscard]] bool host_accessible() const override { return true; }

  [[nodiscard]] Result<DeviceBuffer> allocate(std::size_t bytes) override;
  [[nodiscard]] Result<DeviceBuffer> reserve(std::size_t bytes) override;
  void copy_in(void* device_target, const void* host_source, std::size_t bytes) override;
  void copy_out(void* host_target, const void* device_source, std::size_t bytes) override;
  void copy(void* target, const void* source, std::size_t bytes) override;
  using Device::read;
  [[nodiscard]] Status read(std::span<const HostRead> parts, const Arrived& arrived) override;
  [[nodiscard]] Result<std::shared_ptr<std::byte>> allocate_host(std::size_t bytes) override;
  [[nodiscard]] Status synchronize() override;

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
  void adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
             const float* gradient, const AdamwTarget& target) override;
  void tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) override;
  void add(std::size_t count, const float* a, const float* b, float* out) override;
  void fold(std::size_t count, std::span<const float* const> parts, float* out) override;
  void scale(std::size_t count, float factor, const float* x, float* out) override;
  void zero(std::size_t count, float* x) override;

 private:
  // Where a matrix lies and along which dimension it is contiguous.
  struct Operand {
    const float* data;
    std::size_t stride;
    bool k_contiguous;
  };
  struct Gemm {
    std::size_t rows, columns, k;
    Operand a, b;  // a: rows by k, b: columns by k
    float* c;
    GemmStart start;
    const float* bias;
  };

  void release(void* data, std::size_t bytes) override;
  void gemm(const Gemm& g);
  // body(begin, end) over [0, count) in pieces of `piece`.
  template <class Body>
  void split(std::size_t count, std::size_t piece, const Body& body);
  // Room for that many floats in a buffer that only grows; null, and the device failed, without memory.
  float* scratch(DeviceBuffer& buffer, std::size_t floats);

  const KernelTable& kernels_;
  ThreadPool pool_;
  DeviceBuffer packed_a_, packed_b_, thread_scratch_;
  std::vector<double> row_losses_;
  Status failure_ = ok_status();
};

}  // namespace planaria

#include "kernels/cuda/fp32_device.hpp"

#include <array>
#include <span>
#include <utility>

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/classifier.hpp"
#include "kernels/cuda/embeddings.hpp"
#include "kernels/cuda/norms.hpp"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/model_engine.hpp"
#include "proto/job_spec.hpp"

namespace planaria::cuda {
namespace {

// Raised by whoever changes what a kernel computes, to the bit.
constexpr int kRevision = 1;

Error too_wide_heads(std::size_t channels) {
  return {ErrorCode::unsupported, "there is no fp32 attention on GPUs for heads of " + std::to_string(channels) +
                                      " channels: up to " + std::to_string(kMostFp32HeadSize) + " are served"};
}

}  // namespace

Result<std::unique_ptr<Fp32Device>> Fp32Device::create(int index) {
  PLANARIA_ASSIGN(const cudaDeviceProp properties, properties_of(index));
  std::unique_ptr<Fp32Device> device(new Fp32Device(index, properties));
  PLANARIA_TRY(device->open());
  PLANARIA_ASSIGN(Fp32Matmuls matmuls, Fp32Matmuls::create(device->stream()));
  device->matmuls_ = std::make_unique<Fp32Matmuls>(std::move(matmuls));
  return device;
}

std::string Fp32Device::numeric_class() const {
  return class_of("cuda fp32", kRevision);
}

// Multiply-adds outside of the tensor cores (NVIDIA's white papers of each architecture).
double Fp32Device::rated_gflops() const {
  return gflops(properties().major == 8 && properties().minor == 0 ? 128 : 256);
}

Result<std::unique_ptr<ModelEngine>> Fp32Device::make_engine(const ModelSpec& model, const StateMap&,
                                                             const MicroBatchShape&, std::uint64_t) {
  if (model.head_size() > kMostFp32HeadSize) return too_wide_heads(model.head_size());
  return std::unique_ptr<ModelEngine>();
}

template <class T>
T* Fp32Device::room(DeviceBuffer& buffer, std::size_t count) {
  if (buffer.bytes() < count * sizeof(T)) {
    auto more = reserve(count * sizeof(T));
    if (!more) {
      note(more.error());
      return nullptr;
    }
    buffer = std::move(*more);  // what was there is given back once all that is queued is done
  }
  return static_cast<T*>(buffer.data());
}

void Fp32Device::embedding_forward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* token_table,
                                   const float* position_table, float* out) {
  cuda::embedding_forward(stream(), shape, tokens, token_table, position_table, out);
}

void Fp32Device::embedding_backward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* d_out,
                                    float* d_token_table, float* d_position_table) {
  cuda::embedding_backward(stream(), shape, tokens, d_out, d_token_table, d_position_table);
}

void Fp32Device::layernorm_forward(const NormShape& shape, const float* x, const float* gain, const float* bias,
                                   float* y, float* mean, float* inverse_deviation) {
  norm_forward(stream(), BasicNormForward<float>{.shape = shape,
                                                 .x = x,
                                                 .gain = gain,
                                                 .bias = bias,
                                                 .y = y,
                                                 .mean = mean,
                                                 .inverse_deviation = inverse_deviation});
}

void Fp32Device::rmsnorm_forward(const NormShape& shape, const float* x, const float* gain, float* y,
                                 float* inverse_rms) {
  norm_forward(stream(),
               BasicNormForward<float>{.shape = shape, .x = x, .gain = gain, .y = y, .inverse_deviation = inverse_rms});
}

void Fp32Device::norm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                               const float* mean, const float* inverse_deviation, const float* residual, float* dx,
                               float* d_gain, float* d_bias) {
  const std::size_t chunks = chunks_of(shape.rows);
  auto* const gain_chunks = room<float>(scratch_, 2 * chunks * shape.width);
  if (gain_chunks == nullptr) return;
  float* const bias_chunks = gain_chunks + chunks * shape.width;
  cuda::norm_backward(stream(), BasicNormBackward<float>{.shape = shape,
                                                         .dy = dy,
                                                         .x = x,
                                                         .gain = gain,
                                                         .mean = mean,
                                                         .inverse_deviation = inverse_deviation,
                                                         .residual = residual,
                                                         .dx = dx,
                                                         .d_gain_chunks = gain_chunks,
                                                         .d_bias_chunks = bias_chunks});
  const std::array<ChunkSum, 2> sums{
      {{gain_chunks, chunks, shape.width, d_gain}, {bias_chunks, chunks, shape.width, d_bias}}};
  add_chunks(stream(), std::span(sums).first(d_bias == nullptr ? 1 : 2));
}

void Fp32Device::layernorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                                    const float* mean, const float* inverse_deviation, const float* residual, float* dx,
                                    float* d_gain, float* d_bias) {
  norm_backward(shape, dy, x, gain, mean, inverse_deviation, residual, dx, d_gain, d_bias);
}

void Fp32Device::rmsnorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                                  const float* inverse_rms, const float* residual, float* dx, float* d_gain) {
  norm_backward(shape, dy, x, gain, nullptr, inverse_rms, residual, dx, d_gain, nullptr);
}

void Fp32Device::linear_forward(const LinearShape& shape, const float* x, const float* weight, const float* bias,
                                float* y) {
  note(matmuls_->forward(shape, x, weight, y));
  if (bias != nullptr) add_bias(stream(), shape.rows, shape.out, bias, y);
}

void Fp32Device::linear_backward_input(const LinearShape& shape, const float* dy, const float* weight, float* dx) {
  note(matmuls_->input_gradient(shape, dy, weight, dx));
}

void Fp32Device::linear_backward_weight(const LinearShape& shape, const float* x, const float* dy, float* d_weight,
                                        float* d_bias) {
  note(matmuls_->weight_gradient(shape, x, dy, d_weight));
  if (d_bias == nullptr) return;
  const std::size_t chunks = chunks_of(shape.rows);
  auto* const bias_chunks = room<float>(scratch_, chunks * shape.out);
  if (bias_chunks == nullptr) return;
  column_chunks(stream(), shape.rows, shape.out, dy, bias_chunks);
  const ChunkSum sum{bias_chunks, chunks, shape.out, d_bias};
  add_chunks(stream(), std::span(&sum, 1));
}

bool Fp32Device::attends(const AttentionShape& shape) {
  if (shape.head_size <= kMostFp32HeadSize) return true;
  note(too_wide_heads(shape.head_size));
  return false;
}

void Fp32Device::attention_forward(const AttentionShape& shape, const float* qkv, float* out, float* log_sums) {
  if (attends(shape)) cuda::attention_forward(stream(), shape, qkv, out, log_sums);
}

void Fp32Device::attention_backward(const AttentionShape& shape, const float* qkv, const float* out,
                                    const float* log_sums, const float* d_out, float* d_qkv) {
  if (!attends(shape)) return;
  auto* const dots = room<float>(scratch_, shape.log_sum_count());
  if (dots != nullptr) cuda::attention_backward(stream(), shape, qkv, out, log_sums, d_out, dots, d_qkv);
}

void Fp32Device::rope_forward(const AttentionShape& shape, const float* table, float* qkv) {
  rope(stream(), shape, 1, table, qkv);
}

void Fp32Device::rope_backward(const AttentionShape& shape, const float* table, float* d_qkv) {
  rope(stream(), shape, -1, table, d_qkv);
}

void Fp32Device::gelu_forward(std::size_t count, const float* x, float* y) {
  cuda::gelu_forward(stream(), count, x, y);
}

void Fp32Device::gelu_backward(std::size_t count, const float* x, const float* dy, float* dx) {
  cuda::gelu_backward(stream(), count, x, dy, dx);
}

void Fp32Device::swiglu_forward(const SwigluShape& shape, const float* gate_up, float* out) {
  cuda::swiglu_forward(stream(), shape, gate_up, out);
}

void Fp32Device::swiglu_backward(const SwigluShape& shape, const float* gate_up, const float* d_out, float* d_gate_up) {
  cuda::swiglu_backward(stream(), shape, gate_up, d_out, d_gate_up);
}

void Fp32Device::dropout(const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples, const float* x,
                         const float* residual, float* y) {
  auto* const copied = room<std::uint64_t>(samples_, shape.sequences);
  if (copied == nullptr) return;
  copy_in(copied, samples, shape.sequences * sizeof(std::uint64_t));
  cuda::dropout(stream(), key, shape, copied, x, residual, y);
}

void Fp32Device::cross_entropy(const CrossEntropyShape& shape, const float* logits, const std::int32_t* targets,
                               double* losses, float* d_logits) {
  const std::size_t rows = shape.sequences * shape.context;
  auto* const row_losses = room<float>(scratch_, rows);
  double* const sums = result(shape.sequences, losses);
  if (row_losses == nullptr || sums == nullptr) return;
  classify(stream(), rows, shape.vocab, logits, targets, row_losses, d_logits);
  sum_losses(stream(), shape.sequences, shape.context, row_losses, sums);
}

}  // namespace planaria::cuda

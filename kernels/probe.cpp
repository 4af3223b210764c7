#include <array>
#include <vector>

#include "common/philox.hpp"
#include "kernels/device.hpp"

namespace planaria {
namespace {

// Buffers of one probe run, filled from one random stream; results are hashed in the order of calls.
class Probe {
 public:
  explicit Probe(TensorDevice& device)
      : device_(device), random_(philox_key(0x50524f4245ULL, RandomPurpose::parameter_init)) {}

  // A buffer of values in [-1, 1), or of zeros.
  float* values(std::size_t count) {
    std::vector<float> host(count);
    for (float& value : host) value = 2.0F * unit_float(random_.next_u32()) - 1.0F;
    float* data = zeros(count);
    if (data != nullptr) device_.copy_in(data, host.data(), count * sizeof(float));
    return data;
  }
  float* zeros(std::size_t count) { return static_cast<float*>(bytes(count * sizeof(float))); }
  std::int32_t* tokens(std::size_t count, std::uint64_t vocab) {
    std::vector<std::int32_t> host(count);
    for (std::int32_t& token : host) token = static_cast<std::int32_t>(random_.below(vocab));
    void* data = bytes(count * sizeof(std::int32_t));
    if (data != nullptr) device_.copy_in(data, host.data(), count * sizeof(std::int32_t));
    return static_cast<std::int32_t*>(data);
  }
  void hash(const float* data, std::size_t count) {
    std::vector<float> host(count);
    device_.copy_out(host.data(), data, count * sizeof(float));
    if (Status status = device_.synchronize(); !status) return;
    hasher_.update(std::as_bytes(std::span(host)));
  }
  void hash(std::span<const double> host) { hasher_.update(std::as_bytes(host)); }

  [[nodiscard]] const Status& memory() const { return memory_; }
  [[nodiscard]] Hash128 digest() const { return hasher_.digest(); }

 private:
  void* bytes(std::size_t size) {
    auto buffer = device_.allocate(size);
    if (!buffer) {
      memory_ = buffer.error();
      return nullptr;
    }
    buffers_.push_back(std::move(buffer).value());
    return buffers_.back().data();
  }

  TensorDevice& device_;
  PhiloxStream random_;
  std::vector<DeviceBuffer> buffers_;
  Hasher hasher_;
  Status memory_ = ok_status();
};

}  // namespace

Result<Hash128> probe_kernels(TensorDevice& device) {
  // Sizes that are no multiples of any vector or block, so that edges are exercised too.
  constexpr std::size_t sequences = 2;
  constexpr std::size_t context = 53;
  constexpr std::size_t rows = sequences * context;
  constexpr std::size_t width = 60;
  constexpr std::size_t hidden = 101;
  constexpr std::size_t vocab = 71;
  constexpr AttentionShape attention{sequences, context, 6, 2, 10};
  constexpr std::size_t qkv_width = attention.qkv_width();
  constexpr NormShape norm{rows, width, 1e-5F};
  constexpr EmbeddingShape embedding{sequences, context, width, vocab};
  constexpr LinearShape to_qkv{rows, width, qkv_width};
  constexpr LinearShape to_gate_up{rows, width, 2 * hidden};
  constexpr LinearShape from_hidden{rows, hidden, width};
  constexpr LinearShape to_logits{rows, width, vocab};
  constexpr DropoutShape dropped{sequences, context * width, 0.1F};
  constexpr DropoutKey dropout_key{.seed = 7, .step = 3, .layer = 1, .which = 1};
  constexpr std::array<std::uint64_t, sequences> samples{11, 1ULL << 40};

  Probe probe(device);
  const std::int32_t* tokens = probe.tokens(rows, vocab);
  const std::int32_t* targets = probe.tokens(rows, vocab);
  const float* table = probe.values(vocab * width);
  const float* positions = probe.values(context * width);
  const float* gain = probe.values(width);
  const float* bias = probe.values(width);
  const float* qkv_weight = probe.values(qkv_width * width);
  const float* qkv_bias = probe.values(qkv_width);
  const float* gate_up_weight = probe.values(2 * hidden * width);
  const float* down_weight = probe.values(width * hidden);
  float* x = probe.zeros(rows * width);
  float* normal = probe.zeros(rows * width);
  float* mean = probe.zeros(rows);
  float* inverse = probe.zeros(rows);
  float* inverse_rms = probe.zeros(rows);
  float* qkv = probe.zeros(rows * qkv_width);
  float* attended = probe.zeros(rows * width);
  float* log_sums = probe.zeros(attention.log_sum_count());
  float* rotation = probe.zeros(context * attention.head_size);
  float* gate_up = probe.zeros(rows * 2 * hidden);
  float* active = probe.zeros(rows * hidden);
  float* activated = probe.zeros(rows * hidden);
  float* out = probe.zeros(rows * width);
  float* logits = probe.zeros(rows * vocab);
  float* d_out = probe.zeros(rows * width);
  float* d_active = probe.zeros(rows * hidden);
  float* d_gate_up = probe.zeros(rows * 2 * hidden);
  float* d_attended = probe.zeros(rows * width);
  float* d_qkv = probe.zeros(rows * qkv_width);
  float* d_normal = probe.zeros(rows * width);
  float* d_x = probe.zeros(rows * width);
  float* d_table = probe.zeros(vocab * width);
  float* d_positions = probe.zeros(context * width);
  float* d_gain = probe.zeros(width);
  float* d_bias = probe.zeros(width);
  float* d_qkv_weight = probe.zeros(qkv_width * width);
  float* d_qkv_bias = probe.zeros(qkv_width);
  float* moments = probe.zeros(4 * qkv_width * width);
  float* updated = probe.zeros(qkv_width * width);
  if (!probe.memory()) return probe.memory().error();

  const std::vector<float> host_rotation = make_rope_table(context, attention.head_size, 10000.0);
  device.copy_in(rotation, host_rotation.data(), host_rotation.size() * sizeof(float));
  device.embedding_forward(embedding, tokens, table, positions, x);
  device.layernorm_forward(norm, x, gain, bias, normal, mean, inverse);
  device.linear_forward(to_qkv, normal, qkv_weight, qkv_bias, qkv);
  device.rope_forward(attention, rotation, qkv);
  device.attention_forward(attention, qkv, attended, log_sums);
  device.dropout(dropout_key, dropped, samples.data(), attended, x, attended);
  device.rmsnorm_forward(norm, attended, gain, normal, inverse_rms);
  device.linear_forward(to_gate_up, normal, gate_up_weight, nullptr, gate_up);
  device.swiglu_forward({rows, hidden}, gate_up, active);
  device.gelu_forward(rows * hidden, active, activated);
  device.linear_forward(from_hidden, activated, down_weight, bias, out);
  device.linear_forward(to_logits, out, table, nullptr, logits);
  std::array<double, sequences> losses{};
  device.cross_entropy({sequences, context, vocab}, logits, targets, losses.data(), logits);
  PLANARIA_TRY(device.synchronize());
  probe.hash(losses);
  probe.hash(logits, rows * vocab);

  device.linear_backward_input(to_logits, logits, table, d_out);
  device.linear_backward_weight(to_logits, out, logits, d_table, nullptr);
  device.linear_backward_input(from_hidden, d_out, down_weight, d_active);
  device.gelu_backward(rows * hidden, active, d_active, d_active);
  device.swiglu_backward({rows, hidden}, gate_up, d_active, d_gate_up);
  device.linear_backward_input(to_gate_up, d_gate_up, gate_up_weight, d_normal);
  device.rmsnorm_backward(norm, d_normal, attended, gain, inverse_rms, d_out, d_attended, d_gain);
  device.attention_backward(attention, qkv, attended, log_sums, d_attended, d_qkv);
  device.rope_backward(attention, rotation, d_qkv);
  device.linear_backward_weight(to_qkv, normal, d_qkv, d_qkv_weight, d_qkv_bias);
  device.linear_backward_input(to_qkv, d_qkv, qkv_weight, d_normal);
  device.layernorm_backward(norm, d_normal, x, gain, mean, inverse, d_attended, d_x, d_gain, d_bias);
  device.embedding_backward(embedding, tokens, d_x, d_table, d_positions);
  for (const auto& [data, count] :
       {std::pair{d_table, vocab * width}, std::pair{d_positions, context * width}, std::pair{d_gain, width},
        std::pair{d_bias, width}, std::pair{d_qkv_bias, qkv_width}, std::pair{d_qkv_weight, qkv_width * width}}) {
    probe.hash(data, count);
  }

  constexpr std::size_t count = qkv_width * width;
  constexpr std::size_t tile = 1024;
  std::array<double, (count + tile - 1) / tile> squares{};
  const std::array<const float*, 3> parts{d_qkv_weight, qkv_weight, d_qkv_weight};
  device.scale(count, 1.0F / static_cast<float>(rows), d_qkv_weight, d_qkv_weight);
  device.fold(count, parts, d_qkv_weight);
  device.add(count, d_qkv_weight, d_qkv_weight, d_qkv_weight);
  device.tile_sums_of_squares(tile, count, d_qkv_weight, squares.data());
  constexpr AdamwStep step{.learning_rate = 1e-3F,
                           .weight_decay = 0.1F,
                           .bias_correction1 = 0.1F,
                           .bias_correction2 = 0.05F,
                           .gradient_scale = 0.3F};
  constexpr UpdateRange all[] = {{0, count, true}};
  device.adamw(step, all, {qkv_weight, moments, moments + count}, d_qkv_weight,
               {updated, moments + 2 * count, moments + 3 * count});
  PLANARIA_TRY(device.synchronize());
  probe.hash(squares);
  probe.hash(updated, count);
  probe.hash(moments + 2 * count, 2 * count);
  PLANARIA_TRY(device.synchronize());
  return probe.digest();
}

}  // namespace planaria

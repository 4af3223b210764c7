#include "worker/model/transformer.hpp"

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

namespace planaria {
namespace {

constexpr std::size_t kSavedAlignment = 16;  // elements

// Hands out consecutive aligned ranges.
class Places {
 public:
  std::size_t take(std::size_t elements) {
    return std::exchange(next_, next_ + (elements + kSavedAlignment - 1) / kSavedAlignment * kSavedAlignment);
  }
  [[nodiscard]] std::size_t total() const { return next_; }

 private:
  std::size_t next_ = 0;
};

std::size_t offset_of(const BlockInfo& block, const char* name, std::size_t otherwise) {
  const auto found = std::ranges::find(block.tensors, name, &TensorInfo::name);
  return found == block.tensors.end() ? otherwise : static_cast<std::size_t>(found->offset);
}

}  // namespace

Transformer::Transformer(TensorDevice& device, const ModelSpec& model, const StateMap& map, MicroBatchShape largest,
                         std::uint64_t seed)
    : device_(&device), model_(model), map_(&map), largest_(largest), seed_(seed) {
  if (is_gpt2()) model_.kv_heads = model_.heads;
  position_table_ = offset_of(map.blocks().front(), "position.weight", kNone);
  const BlockInfo& layer = map.blocks()[1];
  const auto place = [&](const char* name) { return offset_of(layer, name, kNone); };
  layer_ = {.norm1_gain = place("norm1.weight"),
            .norm1_bias = place("norm1.bias"),
            .qkv = place("attention.qkv.weight"),
            .qkv_bias = place("attention.qkv.bias"),
            .out = place("attention.out.weight"),
            .out_bias = place("attention.out.bias"),
            .norm2_gain = place("norm2.weight"),
            .norm2_bias = place("norm2.bias"),
            .up = place(is_gpt2() ? "mlp.up.weight" : "mlp.gate_up.weight"),
            .up_bias = place("mlp.up.bias"),
            .down = place("mlp.down.weight"),
            .down_bias = place("mlp.down.bias")};
  const BlockInfo& head = map.blocks().back();
  head_ = {.norm_gain = offset_of(head, "norm.weight", kNone),
           .norm_bias = offset_of(head, "norm.bias", kNone),
           .token = offset_of(head, "token.weight", kNone)};
}

Result<Transformer> Transformer::create(TensorDevice& device, const ModelSpec& model, const StateMap& map,
                                        MicroBatchShape largest, std::uint64_t seed) {
  assert(map.blocks().size() == model.layers + 2ULL && model.layers >= 1);
  Transformer result(device, model, map, largest, seed);
  PLANARIA_TRY(result.allocate());
  return result;
}

Status Transformer::allocate() {
  const std::size_t boundary = boundary_elements();
  const std::size_t widest = std::max(model_.up_width(), model_.qkv_width());
  for (DeviceBuffer& buffer : d_boundary_) {
    PLANARIA_ASSIGN(buffer, device_->allocate_floats(boundary));
  }
  PLANARIA_ASSIGN(narrow_, device_->allocate_floats(boundary));
  PLANARIA_ASSIGN(middle_gradient_, device_->allocate_floats(boundary));
  PLANARIA_ASSIGN(wide_, device_->allocate_floats(largest_.rows() * widest));
  if (model_.dropout > 0) {
    PLANARIA_ASSIGN(dropped_, device_->allocate_floats(boundary));
  }
  if (!is_gpt2()) {
    PLANARIA_ASSIGN(active_gradient_, device_->allocate_floats(largest_.rows() * model_.ffn_width));
    const std::vector<float> table = make_rope_table(largest_.context, model_.head_size(), model_.rope_theta);
    PLANARIA_ASSIGN(rope_table_, device_->allocate_floats(table.size()));
    device_->copy_in(rope_table_.data(), table.data(), table.size() * sizeof(float));
  }
  return device_->synchronize();
}

AttentionShape Transformer::attention_shape(MicroBatchShape shape) const {
  return {.sequences = shape.sequences,
          .context = shape.context,
          .heads = model_.heads,
          .kv_heads = model_.kv_heads,
          .head_size = model_.head_size()};
}

Transformer::LayerSaved Transformer::layer_saved(MicroBatchShape shape) const {
  const std::size_t rows = shape.rows();
  const AttentionShape attention = attention_shape(shape);
  Places places;
  LayerSaved at{};
  at.mean1 = places.take(rows);
  at.deviation1 = places.take(rows);
  at.normed1 = places.take(rows * model_.width);
  at.qkv = places.take(rows * model_.qkv_width());
  at.attention = places.take(rows * model_.width);
  at.log_sums = places.take(attention.log_sum_count());
  at.middle = places.take(rows * model_.width);
  at.mean2 = places.take(rows);
  at.deviation2 = places.take(rows);
  at.normed2 = places.take(rows * model_.width);
  at.up = places.take(rows * model_.up_width());
  at.active = places.take(rows * model_.ffn_width);
  at.total = places.total();
  return at;
}

Transformer::HeadSaved Transformer::head_saved(MicroBatchShape shape) const {
  const std::size_t rows = shape.rows();
  Places places;
  HeadSaved at{};
  at.mean = places.take(rows);
  at.deviation = places.take(rows);
  at.normed = places.take(rows * model_.width);
  at.logits = places.take(rows * model_.vocab);
  at.total = places.total();
  return at;
}

Transformer::LayerDeltas Transformer::layer_deltas(MicroBatchShape shape) const {
  const std::size_t rows = shape.rows();
  Places places;
  LayerDeltas at{};
  at.qkv = places.take(rows * model_.qkv_width());
  at.out = places.take(rows * model_.width);
  at.up = places.take(rows * model_.up_width());
  at.down = places.take(rows * model_.width);
  at.total = places.total();
  return at;
}

std::size_t Transformer::delta_elements(BlockIndex block) const {
  return block.value() == 0 || block == head() ? 0 : layer_deltas(largest_).total;
}

std::size_t Transformer::saved_elements(BlockIndex block) const {
  if (block.value() == 0) return 0;
  return block == head() ? head_saved(largest_).total : layer_saved(largest_).total;
}

void Transformer::norm_forward(std::size_t rows, const float* x, const float* gain, const float* bias, float* y,
                               float* mean, float* deviation) {
  const NormShape shape{rows, model_.width, static_cast<float>(model_.norm_epsilon)};
  if (is_gpt2()) {
    device_->layernorm_forward(shape, x, gain, bias, y, mean, deviation);
  } else {
    device_->rmsnorm_forward(shape, x, gain, y, deviation);
  }
}

void Transformer::norm_backward(std::size_t rows, const float* dy, const float* x, const float* gain, const float* mean,
                                const float* deviation, const float* residual, float* dx, float* d_gain,
                                float* d_bias) {
  const NormShape shape{rows, model_.width, static_cast<float>(model_.norm_epsilon)};
  if (is_gpt2()) {
    device_->layernorm_backward(shape, dy, x, gain, mean, deviation, residual, dx, d_gain, d_bias);
  } else {
    device_->rmsnorm_backward(shape, dy, x, gain, deviation, residual, dx, d_gain);
  }
}

void Transformer::forward(BlockIndex block, const MicroBatch& batch, const float* parameters, const float* input,
                          float* output, float* saved) {
  assert(block != head() && batch.shape.rows() <= largest_.rows());
  if (block.value() != 0) return forward_layer(block, batch, parameters, input, output, saved);
  const EmbeddingShape shape{batch.shape.sequences, batch.shape.context, model_.width, model_.vocab};
  device_->embedding_forward(shape, batch.tokens, parameters, optional(parameters, position_table_), output);
  if (is_gpt2()) add_residual(block, 0, batch, output, nullptr, output);
}

void Transformer::backward(BlockIndex block, const MicroBatch& batch, const float* parameters, const float* input,
                           const float* saved, const float* d_output, float* d_input, float* gradient) {
  assert(block != head());
  if (block.value() != 0) {
    return backward_layer(block, batch, parameters, input, saved, d_output, d_input, gradient, nullptr);
  }
  const EmbeddingShape shape{batch.shape.sequences, batch.shape.context, model_.width, model_.vocab};
  const float* d_embedding = dropped_gradient(block, 0, batch, d_output, nullptr);
  device_->embedding_backward(shape, batch.tokens, d_embedding, gradient, optional(gradient, position_table_));
}

void Transformer::backward_input(BlockIndex block, const MicroBatch& batch, const float* parameters, const float* input,
                                 const float* saved, const float* d_output, float* d_input, float* gradient,
                                 float* deltas) {
  assert(block.value() != 0 && block != head() && deltas != nullptr);
  backward_layer(block, batch, parameters, input, saved, d_output, d_input, gradient, deltas);
}

void Transformer::forward_head(const MicroBatch& batch, const float* parameters, const float* input, float* saved,
                               double* losses) {
  const std::size_t rows = batch.shape.rows();
  const HeadSaved at = head_saved(batch.shape);
  norm_forward(rows, input, parameters + head_.norm_gain, optional(parameters, head_.norm_bias), saved + at.normed,
               saved + at.mean, saved + at.deviation);
  float* logits = saved + at.logits;
  device_->linear_forward({rows, model_.width, model_.vocab}, saved + at.normed, parameters + head_.token, nullptr,
                          logits);
  device_->cross_entropy({batch.shape.sequences, batch.shape.context, model_.vocab}, logits, batch.targets, losses,
                         batch.training ? logits : nullptr);
}

const float* Transformer::logits(const MicroBatch& batch, const float* saved) const {
  assert(!batch.training);
  return saved + head_saved(batch.shape).logits;
}

void Transformer::backward_head_weights(const MicroBatch& batch, const float* saved, float* gradient) {
  const HeadSaved at = head_saved(batch.shape);
  device_->linear_backward_weight({batch.shape.rows(), model_.width, model_.vocab}, saved + at.normed,
                                  saved + at.logits, gradient + head_.token, nullptr);
}

void Transformer::backward_head_input(const MicroBatch& batch, const float* parameters, const float* input,
                                      const float* saved, float* d_input, float* gradient) {
  const std::size_t rows = batch.shape.rows();
  const HeadSaved at = head_saved(batch.shape);
  device_->linear_backward_input({rows, model_.width, model_.vocab}, saved + at.logits, parameters + head_.token,
                                 narrow_.floats());
  norm_backward(rows, narrow_.floats(), input, parameters + head_.norm_gain, saved + at.mean, saved + at.deviation,
                nullptr, d_input, gradient + head_.norm_gain, optional(gradient, head_.norm_bias));
}

void Transformer::row_logits(const float* parameters, const float* input_row, float* saved, float* logits) {
  const HeadSaved at = head_saved({1, 1});
  norm_forward(1, input_row, parameters + head_.norm_gain, optional(parameters, head_.norm_bias), saved + at.normed,
               saved + at.mean, saved + at.deviation);
  device_->linear_forward({1, model_.width, model_.vocab}, saved + at.normed, parameters + head_.token, nullptr,
                          logits);
}

}  // namespace planaria

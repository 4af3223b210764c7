// Forward and backward of one decoder layer (the formulas are in transformer.hpp).
//
// Scratch: `narrow` holds a projection or its input's gradient, `middle gradient` dL/dh, `wide` the widest gradients
// inside (MLP activations, then qkv), `dropped` a gradient behind dropout; the last two lie in `deltas` instead when
// the weights' gradients are made later. Everything else is read from `saved`.
#include "worker/model/transformer.hpp"

namespace planaria {

void Transformer::add_residual(BlockIndex block, std::uint32_t which, const MicroBatch& batch, const float* x,
                               const float* residual, float* y) {
  if (is_gpt2() && batch.training && model_.dropout > 0) {
    const DropoutKey key{seed_, batch.step.value(), block.value(), which};
    const DropoutShape shape{batch.shape.sequences, batch.shape.context * model_.width,
                             static_cast<float>(model_.dropout)};
    device_->dropout(key, shape, batch.samples.data(), x, residual, y);
  } else if (residual != nullptr) {
    device_->add(batch.shape.rows() * model_.width, residual, x, y);
  }
}

const float* Transformer::dropped_gradient(BlockIndex block, std::uint32_t which, const MicroBatch& batch,
                                           const float* d_y, float* kept) {
  const bool drops = is_gpt2() && batch.training && model_.dropout > 0;
  if (!drops && kept == nullptr) return d_y;
  float* const to = kept == nullptr ? dropped_.floats() : kept;
  if (drops) {
    add_residual(block, which, batch, d_y, nullptr, to);
  } else {
    device_->copy(to, d_y, batch.shape.rows() * model_.width * sizeof(float));
  }
  return to;
}

void Transformer::forward_layer(BlockIndex block, const MicroBatch& batch, const float* p, const float* input,
                                float* output, float* saved) {
  const std::size_t rows = batch.shape.rows();
  const std::size_t width = model_.width;
  const std::size_t ffn = model_.ffn_width;
  const AttentionShape attention = attention_shape(batch.shape);
  const LayerSaved at = layer_saved(batch.shape);

  norm_forward(rows, input, p + layer_.norm1_gain, optional(p, layer_.norm1_bias), saved + at.normed1, saved + at.mean1,
               saved + at.deviation1);
  device_->linear_forward({rows, width, model_.qkv_width()}, saved + at.normed1, p + layer_.qkv,
                          optional(p, layer_.qkv_bias), saved + at.qkv);
  if (!is_gpt2()) device_->rope_forward(attention, rope_table_.floats(), saved + at.qkv);
  device_->attention_forward(attention, saved + at.qkv, saved + at.attention, saved + at.log_sums);
  device_->linear_forward({rows, width, width}, saved + at.attention, p + layer_.out, optional(p, layer_.out_bias),
                          narrow_.floats());
  add_residual(block, 1, batch, narrow_.floats(), input, saved + at.middle);

  norm_forward(rows, saved + at.middle, p + layer_.norm2_gain, optional(p, layer_.norm2_bias), saved + at.normed2,
               saved + at.mean2, saved + at.deviation2);
  device_->linear_forward({rows, width, model_.up_width()}, saved + at.normed2, p + layer_.up,
                          optional(p, layer_.up_bias), saved + at.up);
  if (is_gpt2()) {
    device_->gelu_forward(rows * ffn, saved + at.up, saved + at.active);
  } else {
    device_->swiglu_forward({rows, ffn}, saved + at.up, saved + at.active);
  }
  device_->linear_forward({rows, ffn, width}, saved + at.active, p + layer_.down, optional(p, layer_.down_bias),
                          narrow_.floats());
  add_residual(block, 2, batch, narrow_.floats(), saved + at.middle, output);
}

void Transformer::accumulate_weights(LayerMap map, const MicroBatch& batch, const float* saved, const float* delta,
                                     float* gradient) {
  const std::size_t rows = batch.shape.rows();
  const std::size_t width = model_.width;
  const LayerSaved at = layer_saved(batch.shape);
  const auto accumulate = [&](LinearShape shape, std::size_t x, std::size_t weight, std::size_t bias) {
    device_->linear_backward_weight(shape, saved + x, delta, gradient + weight, optional(gradient, bias));
  };
  switch (map) {
    case LayerMap::qkv:
      return accumulate({rows, width, model_.qkv_width()}, at.normed1, layer_.qkv, layer_.qkv_bias);
    case LayerMap::out:
      return accumulate({rows, width, width}, at.attention, layer_.out, layer_.out_bias);
    case LayerMap::up:
      return accumulate({rows, width, model_.up_width()}, at.normed2, layer_.up, layer_.up_bias);
    case LayerMap::down:
      return accumulate({rows, model_.ffn_width, width}, at.active, layer_.down, layer_.down_bias);
  }
}

void Transformer::backward_weights(const MicroBatch& batch, const float* saved, const float* deltas, float* gradient) {
  const LayerDeltas at = layer_deltas(batch.shape);
  accumulate_weights(LayerMap::down, batch, saved, deltas + at.down, gradient);
  accumulate_weights(LayerMap::up, batch, saved, deltas + at.up, gradient);
  accumulate_weights(LayerMap::out, batch, saved, deltas + at.out, gradient);
  accumulate_weights(LayerMap::qkv, batch, saved, deltas + at.qkv, gradient);
}

void Transformer::backward_layer(BlockIndex block, const MicroBatch& batch, const float* p, const float* input,
                                 const float* saved, const float* d_output, float* d_input, float* gradient,
                                 float* deltas) {
  const std::size_t rows = batch.shape.rows();
  const std::size_t width = model_.width;
  const std::size_t ffn = model_.ffn_width;
  const AttentionShape attention = attention_shape(batch.shape);
  const LayerSaved at = layer_saved(batch.shape);
  const LayerDeltas kept = layer_deltas(batch.shape);
  const auto place = [&](std::size_t offset) { return deltas == nullptr ? nullptr : deltas + offset; };
  const auto weights = [&](LayerMap map, const float* delta) {
    if (deltas == nullptr) accumulate_weights(map, batch, saved, delta, gradient);
  };
  float* const narrow = narrow_.floats();
  float* const d_up = deltas == nullptr ? wide_.floats() : deltas + kept.up;
  float* const d_qkv = deltas == nullptr ? wide_.floats() : deltas + kept.qkv;
  float* const d_middle = middle_gradient_.floats();

  const float* d_down = dropped_gradient(block, 2, batch, d_output, place(kept.down));
  weights(LayerMap::down, d_down);
  const LinearShape down{rows, ffn, width};
  if (is_gpt2()) {
    device_->linear_backward_input(down, d_down, p + layer_.down, d_up);
    device_->gelu_backward(rows * ffn, saved + at.up, d_up, d_up);
  } else {
    device_->linear_backward_input(down, d_down, p + layer_.down, active_gradient_.floats());
    device_->swiglu_backward({rows, ffn}, saved + at.up, active_gradient_.floats(), d_up);
  }
  weights(LayerMap::up, d_up);
  device_->linear_backward_input({rows, width, model_.up_width()}, d_up, p + layer_.up, narrow);
  norm_backward(rows, narrow, saved + at.middle, p + layer_.norm2_gain, saved + at.mean2, saved + at.deviation2,
                d_output, d_middle, gradient + layer_.norm2_gain, optional(gradient, layer_.norm2_bias));

  const float* d_out = dropped_gradient(block, 1, batch, d_middle, place(kept.out));
  weights(LayerMap::out, d_out);
  device_->linear_backward_input({rows, width, width}, d_out, p + layer_.out, narrow);
  device_->attention_backward(attention, saved + at.qkv, saved + at.attention, saved + at.log_sums, narrow, d_qkv);
  if (!is_gpt2()) device_->rope_backward(attention, rope_table_.floats(), d_qkv);
  weights(LayerMap::qkv, d_qkv);
  device_->linear_backward_input({rows, width, model_.qkv_width()}, d_qkv, p + layer_.qkv, narrow);
  norm_backward(rows, narrow, input, p + layer_.norm1_gain, saved + at.mean1, saved + at.deviation1, d_middle, d_input,
                gradient + layer_.norm1_gain, optional(gradient, layer_.norm1_bias));
}

}  // namespace planaria

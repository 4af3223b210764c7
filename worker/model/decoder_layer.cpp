// Forward and backward of one decoder layer (the formulas are in transformer.hpp).
//
// Scratch: `narrow` holds a projection or its input's gradient, `middle gradient` dL/dh, `wide` the widest gradients
// inside (MLP activations, then qkv), `dropped` a gradient behind dropout. Everything else is read from `saved`.
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
                                           const float* d_y, float* scratch) {
  if (!is_gpt2() || !batch.training || model_.dropout <= 0) return d_y;
  add_residual(block, which, batch, d_y, nullptr, scratch);
  return scratch;
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
  device_->linear_forward({rows, width, attention.qkv_width()}, saved + at.normed1, p + layer_.qkv,
                          optional(p, layer_.qkv_bias), saved + at.qkv);
  if (!is_gpt2()) device_->rope_forward(attention, rope_table_.floats(), saved + at.qkv);
  device_->attention_forward(attention, saved + at.qkv, saved + at.attention, saved + at.log_sums);
  device_->linear_forward({rows, width, width}, saved + at.attention, p + layer_.out, optional(p, layer_.out_bias),
                          narrow_.floats());
  add_residual(block, 1, batch, narrow_.floats(), input, saved + at.middle);

  norm_forward(rows, saved + at.middle, p + layer_.norm2_gain, optional(p, layer_.norm2_bias), saved + at.normed2,
               saved + at.mean2, saved + at.deviation2);
  device_->linear_forward({rows, width, up_width()}, saved + at.normed2, p + layer_.up, optional(p, layer_.up_bias),
                          saved + at.up);
  if (is_gpt2()) {
    device_->gelu_forward(rows * ffn, saved + at.up, saved + at.active);
  } else {
    device_->swiglu_forward({rows, ffn}, saved + at.up, saved + at.active);
  }
  device_->linear_forward({rows, ffn, width}, saved + at.active, p + layer_.down, optional(p, layer_.down_bias),
                          narrow_.floats());
  add_residual(block, 2, batch, narrow_.floats(), saved + at.middle, output);
}

void Transformer::backward_layer(BlockIndex block, const MicroBatch& batch, const float* p, const float* input,
                                 const float* saved, const float* d_output, float* d_input, float* gradient) {
  const std::size_t rows = batch.shape.rows();
  const std::size_t width = model_.width;
  const std::size_t ffn = model_.ffn_width;
  const AttentionShape attention = attention_shape(batch.shape);
  const LayerSaved at = layer_saved(batch.shape);
  float* const narrow = narrow_.floats();
  float* const wide = wide_.floats();
  float* const d_middle = middle_gradient_.floats();

  const float* d_down = dropped_gradient(block, 2, batch, d_output, dropped_.floats());
  const LinearShape down{rows, ffn, width};
  device_->linear_backward_weight(down, saved + at.active, d_down, gradient + layer_.down,
                                  optional(gradient, layer_.down_bias));
  if (is_gpt2()) {
    device_->linear_backward_input(down, d_down, p + layer_.down, wide);
    device_->gelu_backward(rows * ffn, saved + at.up, wide, wide);
  } else {
    device_->linear_backward_input(down, d_down, p + layer_.down, active_gradient_.floats());
    device_->swiglu_backward({rows, ffn}, saved + at.up, active_gradient_.floats(), wide);
  }
  const LinearShape up{rows, width, up_width()};
  device_->linear_backward_weight(up, saved + at.normed2, wide, gradient + layer_.up,
                                  optional(gradient, layer_.up_bias));
  device_->linear_backward_input(up, wide, p + layer_.up, narrow);
  norm_backward(rows, narrow, saved + at.middle, p + layer_.norm2_gain, saved + at.mean2, saved + at.deviation2,
                d_output, d_middle, gradient + layer_.norm2_gain, optional(gradient, layer_.norm2_bias));

  const float* d_out = dropped_gradient(block, 1, batch, d_middle, dropped_.floats());
  const LinearShape out{rows, width, width};
  device_->linear_backward_weight(out, saved + at.attention, d_out, gradient + layer_.out,
                                  optional(gradient, layer_.out_bias));
  device_->linear_backward_input(out, d_out, p + layer_.out, narrow);
  device_->attention_backward(attention, saved + at.qkv, saved + at.attention, saved + at.log_sums, narrow, wide);
  if (!is_gpt2()) device_->rope_backward(attention, rope_table_.floats(), wide);
  const LinearShape qkv{rows, width, attention.qkv_width()};
  device_->linear_backward_weight(qkv, saved + at.normed1, wide, gradient + layer_.qkv,
                                  optional(gradient, layer_.qkv_bias));
  device_->linear_backward_input(qkv, wide, p + layer_.qkv, narrow);
  norm_backward(rows, narrow, input, p + layer_.norm1_gain, saved + at.mean1, saved + at.deviation1, d_middle, d_input,
                gradient + layer_.norm1_gain, optional(gradient, layer_.norm1_bias));
}

}  // namespace planaria

// The models, GPT-2 and Llama, as one vocabulary of blocks: embed, decoder layers, head (proto/state_map.hpp).
//
// A block is computed by itself: forward turns its input boundary [rows, width] into its output boundary and keeps
// what backward needs in `saved`; backward turns the output boundary's gradient into the input's and accumulates the
// block's parameter gradients. Nothing fuses across blocks, so a model may be cut between any two of them without a
// change of bits. Gradients are those of the token-sum loss; dividing by the tokens of the step comes after the tree.
//
//   gpt2 layer:  h = x + drop(out(attention(qkv(layernorm1(x)))))    y = h + drop(down(gelu(up(layernorm2(h)))))
//   llama layer: h = x + out(attention(rope(qkv(rmsnorm1(x)))))      y = h + down(swiglu(gate_up(rmsnorm2(h))))
//
// A tied head multiplies by its own copy of the embedding and accumulates that copy's gradient (worker/model/update.hpp
// joins them).
//
// All memory is the caller's or reserved by create: nothing is allocated inside a step. Ops run on the device in call
// order and may be asynchronous; errors show at Device::synchronize.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <span>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "kernels/device.hpp"
#include "kernels/micro_batch.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct MicroBatch {
  MicroBatchShape shape;
  const std::int32_t* tokens = nullptr;    // device memory, [rows]
  const std::int32_t* targets = nullptr;   // device memory, [rows]; the head's
  std::span<const std::uint64_t> samples;  // the sequences' global indices (sequence_index); dropout's key
  Step step;                               // dropout's key
  bool training = true;                    // false: no dropout
};

class Transformer {
 public:
  // `largest` bounds the shapes that will be computed. The map must be the model's, and outlive this.
  // exhausted when the scratch memory can't be had.
  [[nodiscard]] static Result<Transformer> create(TensorDevice& device, const ModelSpec& model, const StateMap& map,
                                                  MicroBatchShape largest, std::uint64_t seed);

  [[nodiscard]] TensorDevice& device() const { return *device_; }
  [[nodiscard]] const StateMap& map() const { return *map_; }
  [[nodiscard]] const ModelSpec& model() const { return model_; }
  [[nodiscard]] MicroBatchShape largest() const { return largest_; }
  [[nodiscard]] BlockIndex head() const { return BlockIndex(model_.layers + 1); }

  // Elements of the boundary between two blocks and of what a block saves, for the largest shape.
  [[nodiscard]] std::size_t boundary_elements() const { return largest_.rows() * model_.width; }
  // Two of that size, for gradients between the blocks of the backward pass that is run.
  [[nodiscard]] float* d_boundary(int which) { return d_boundary_[which].floats(); }
  [[nodiscard]] std::size_t saved_elements(BlockIndex block) const;

  // `parameters` and `gradient` point at the block's own vector. For the embed block `input` and `d_input` are unused.
  // Precondition: block is not the head.
  void forward(BlockIndex block, const MicroBatch& batch, const float* parameters, const float* input, float* output,
               float* saved);
  void backward(BlockIndex block, const MicroBatch& batch, const float* parameters, const float* input,
                const float* saved, const float* d_output, float* d_input, float* gradient);

  // The same in two parts: first the input's gradient, which the blocks before it wait for, and the norms'; later the
  // linear maps', from `saved` and `deltas`, the gradients of their outputs, which the first part keeps there. Both
  // accumulate into `gradient` what backward() does. Preconditions: block is neither the embedding nor the head.
  [[nodiscard]] std::size_t delta_elements(BlockIndex block) const;
  void backward_input(BlockIndex block, const MicroBatch& batch, const float* parameters, const float* input,
                      const float* saved, const float* d_output, float* d_input, float* gradient, float* deltas);
  void backward_weights(const MicroBatch& batch, const float* saved, const float* deltas, float* gradient);

  // Writes each sequence's sum of token losses to `losses` (host memory, valid after synchronize); when
  // batch.training, keeps in `saved` what backward needs.
  void forward_head(const MicroBatch& batch, const float* parameters, const float* input, float* saved, double* losses);
  // The logits that this left in `saved`, when it wasn't training: [rows, vocab].
  [[nodiscard]] const float* logits(const MicroBatch& batch, const float* saved) const;
  // The head's backward pass comes in two parts always: `saved` holds all that the second one needs.
  void backward_head_input(const MicroBatch& batch, const float* parameters, const float* input, const float* saved,
                           float* d_input, float* gradient);
  void backward_head_weights(const MicroBatch& batch, const float* saved, float* gradient);
  // The logits of one row of the input boundary: [vocab], in device memory.
  void row_logits(const float* parameters, const float* input_row, float* saved, float* logits);

 private:
  // Places of tensors inside a layer's vector; an absent bias is kNone.
  struct LayerTensors {
    std::size_t norm1_gain, norm1_bias, qkv, qkv_bias, out, out_bias;
    std::size_t norm2_gain, norm2_bias, up, up_bias, down, down_bias;
  };
  struct HeadTensors {
    std::size_t norm_gain, norm_bias, token;
  };
  // Places inside `saved`, for one shape.
  struct LayerSaved {
    std::size_t mean1, deviation1, normed1, qkv, attention, log_sums, middle, mean2, deviation2, normed2, up, active;
    std::size_t total;
  };
  struct HeadSaved {
    std::size_t mean, deviation, normed, logits, total;
  };
  // The linear maps of a layer, and where the gradients of their outputs lie.
  enum class LayerMap : std::uint8_t { qkv, out, up, down };
  struct LayerDeltas {
    std::size_t qkv, out, up, down, total;
  };

  Transformer(TensorDevice& device, const ModelSpec& model, const StateMap& map, MicroBatchShape largest,
              std::uint64_t seed);
  Status allocate();

  [[nodiscard]] bool is_gpt2() const { return model_.family == ModelFamily::gpt2; }
  [[nodiscard]] AttentionShape attention_shape(MicroBatchShape shape) const;
  [[nodiscard]] LayerSaved layer_saved(MicroBatchShape shape) const;
  [[nodiscard]] HeadSaved head_saved(MicroBatchShape shape) const;
  [[nodiscard]] LayerDeltas layer_deltas(MicroBatchShape shape) const;

  void norm_forward(std::size_t rows, const float* x, const float* gain, const float* bias, float* y, float* mean,
                    float* deviation);
  void norm_backward(std::size_t rows, const float* dy, const float* x, const float* gain, const float* mean,
                     const float* deviation, const float* residual, float* dx, float* d_gain, float* d_bias);
  // y = residual + drop(x)
  void add_residual(BlockIndex block, std::uint32_t which, const MicroBatch& batch, const float* x,
                    const float* residual, float* y);
  // The gradient through drop: in `kept`, unless that is null; else `d_y` itself when nothing is dropped, or scratch.
  const float* dropped_gradient(BlockIndex block, std::uint32_t which, const MicroBatch& batch, const float* d_y,
                                float* kept);
  void forward_layer(BlockIndex block, const MicroBatch& batch, const float* p, const float* input, float* output,
                     float* saved);
  // `deltas` null: the linear maps' weights get their gradients at once, while what they are made of is in the cache.
  void backward_layer(BlockIndex block, const MicroBatch& batch, const float* p, const float* input, const float* saved,
                      const float* d_output, float* d_input, float* gradient, float* deltas);
  void accumulate_weights(LayerMap map, const MicroBatch& batch, const float* saved, const float* delta,
                          float* gradient);

  static constexpr std::size_t kNone = SIZE_MAX;
  // The place in a vector, or null for a tensor the family lacks.
  template <class T>
  [[nodiscard]] static T* optional(T* base, std::size_t place) {
    return place == kNone ? nullptr : base + place;
  }

  TensorDevice* device_;
  ModelSpec model_;
  const StateMap* map_;
  MicroBatchShape largest_;
  std::uint64_t seed_;
  LayerTensors layer_{};
  HeadTensors head_{};
  std::size_t position_table_ = kNone;  // in the embed block
  DeviceBuffer rope_table_;
  DeviceBuffer narrow_, middle_gradient_, dropped_;  // [rows, width]
  DeviceBuffer wide_;                                // [rows, the widest inside a layer]
  DeviceBuffer active_gradient_;                     // [rows, ffn_width], llama only
  DeviceBuffer d_boundary_[2];                       // [rows, width]
};

}  // namespace planaria

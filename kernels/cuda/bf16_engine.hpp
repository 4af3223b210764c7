// Trains GPT-2 and Llama on a GPU: bf16 activations and working parameters, fp32 sums and master, one stream.
//
// The formulas are those of worker/model/transformer.hpp. Linear maps are products of the kernel table
// (kernels/cuda/matmul.hpp); whatever is bound by memory is fused with its neighbours, also across blocks where both
// are in one pass: what crosses a border is rounded to bf16 first, so a cut there changes no bit. The working
// parameters of a block are its master rounded, made when they are first used after a change.
//
// Thread contract: as ModelEngine.
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/embeddings.hpp"
#include "kernels/cuda/matmul.hpp"
#include "kernels/model_engine.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria::cuda {

// Elements of a layer's vector; an absent tensor is kNone.
inline constexpr std::size_t kNone = SIZE_MAX;
struct LayerTensors {
  std::size_t norm1_gain, norm1_bias, qkv, qkv_bias, out, out_bias;
  std::size_t norm2_gain, norm2_bias, up, up_bias, down, down_bias;
};
struct HeadTensors {
  std::size_t norm_gain, norm_bias, token;
};

// Bytes inside what a block keeps for its backward pass, and inside what a split backward pass leaves.
struct LayerPlaces {
  std::size_t mean1, deviation1, normed1, qkv, attention, log_sums, middle, mean2, deviation2, normed2, up, active;
  std::size_t total;
};
struct HeadPlaces {
  std::size_t mean, deviation, normed, logits, row_losses, total;
};
struct DeltaPlaces {
  std::size_t qkv, out, up, down, total;
};

class Bf16Engine final : public ModelEngine {
 public:
  // Chooses all algorithms of the kernel table that a pass will use, which takes up to a minute unless they were
  // adopted. unsupported: head sizes or widths that there are no kernels for; mismatch: the adopted ones are another
  // model's or micro-batch's.
  [[nodiscard]] static Result<std::unique_ptr<ModelEngine>> create(CudaDevice& device, const ModelSpec& model,
                                                                   const StateMap& map, MicroBatchShape shape,
                                                                   std::uint64_t seed);

  [[nodiscard]] std::size_t boundary_elements() const override { return shape_.rows() * model_.width / 2; }
  [[nodiscard]] Result<std::unique_ptr<ModelPass>> make_pass(BlockRange blocks) override;
  void parameters_changed() override { source_ = nullptr; }

 private:
  friend class Bf16Pass;
  Bf16Engine(CudaDevice& device, const ModelSpec& model, const StateMap& map, MicroBatchShape shape,
             std::uint64_t seed);
  [[nodiscard]] Status allocate();
  [[nodiscard]] Status choose_matmuls();
  [[nodiscard]] bool is_gpt2() const { return model_.family == ModelFamily::gpt2; }
  [[nodiscard]] std::uint32_t head() const { return model_.layers + 1; }
  [[nodiscard]] AttentionShape attention_shape() const;
  [[nodiscard]] std::size_t padded_vocab() const;
  [[nodiscard]] MatmulShape matmul_shape(MatmulKind kind, std::size_t in, std::size_t out, bool bias = false) const;
  [[nodiscard]] MatmulShape head_shape(MatmulKind kind) const;
  // Whether a product's epilogue multiplies GELU's slopes on faster than a kernel of its own, which sums the columns
  // for the bias on the way. By the table alone, so that all who share one do alike.
  [[nodiscard]] bool epilogue_pays() const;
  // The block's working parameters, made from its master where that has changed.
  [[nodiscard]] const __nv_bfloat16* working(std::uint32_t block, const float* parameters);

  CudaDevice& device_;
  ModelSpec model_;
  const StateMap& map_;
  const MicroBatchShape shape_;
  const std::uint64_t seed_;
  LayerTensors layer_{};
  HeadTensors head_{};
  std::size_t position_table_ = kNone;
  LayerPlaces layer_places_{};
  HeadPlaces head_places_{};
  DeltaPlaces delta_places_{};
  MatmulTable* matmuls_ = nullptr;  // the device's

  DeviceBuffer working_;      // bf16, the flat vector's geometry
  DeviceBuffer head_weight_;  // bf16, [padded_vocab, width]
  const float* source_ = nullptr;
  std::vector<bool> made_;  // by block, from source_

  DeviceBuffer rope_table_;
  DeviceBuffer narrow_, middle_gradient_, dropped_;  // [rows, width]
  DeviceBuffer wide_, active_gradient_;              // [rows, the widest inside a layer], [rows, ffn_width]
  DeviceBuffer d_boundary_[2];                       // [rows, width]
  // A layer's column sums lie beside each other until its last are there. The boundaries' belong to two layers.
  DeviceBuffer gain_chunks_[2], bias_chunks_[2];                  // [chunks, width]
  DeviceBuffer d_boundary_chunks_[2], out_chunks_, down_chunks_;  // [chunks, width]
  DeviceBuffer up_chunks_, qkv_chunks_;                           // [chunks, ffn_width], attention_backward's
  DeviceBuffer row_dots_;                                         // as log_sums
  DeviceBuffer head_gradient_;                                    // fp32, as head_weight_
  DeviceBuffer occurrence_sums_;                                  // [rows, width]: at most one group a row
};

}  // namespace planaria::cuda

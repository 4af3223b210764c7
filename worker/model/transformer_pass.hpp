// The engine of devices that offer the ops of a transformer (kernels/device.hpp): fp32 throughout, block by block.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/clock.hpp"
#include "common/result.hpp"
#include "kernels/model_engine.hpp"
#include "proto/job_spec.hpp"
#include "worker/model/transformer.hpp"

namespace planaria {

class TransformerPass final : public ModelPass {
 public:
  // The transformer must outlive this. exhausted when the memory can't be had.
  [[nodiscard]] static Result<TransformerPass> create(Transformer& transformer, BlockRange blocks);

  [[nodiscard]] Status cover(BlockRange blocks) override;
  void measure_with(const Clock& clock) override { clock_ = &clock; }
  void load(const HostBatch& batch, Step step) override;
  void forward(BlockRange blocks, const float* parameters, bool training, const float* input, float* output,
               double* losses) override;
  void backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                float* d_input, const BlockDone& block_done = {}) override;
  [[nodiscard]] Status cover_deltas(BlockRange blocks, LinearDeltas& deltas) const override;
  void backward_input(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                      float* d_input, LinearDeltas& deltas, const BlockDone& block_done = {}) override;
  void backward_weights(BlockRange blocks, GradientSums gradient, const LinearDeltas& deltas,
                        const BlockDone& block_done = {}) override;
  // On a device that queues its work, the queueing.
  [[nodiscard]] std::span<const Duration> took() const override { return took_; }

 private:
  explicit TransformerPass(Transformer& transformer) : transformer_(&transformer) {}
  void run_backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                    float* d_input, LinearDeltas* deltas, const BlockDone& block_done);
  [[nodiscard]] Instant now() const { return clock_ == nullptr ? Instant{} : clock_->now(); }
  [[nodiscard]] const float* block_at(const float* vector, BlockIndex block) const {
    return vector + transformer_->map().block(block).offset;
  }
  // The output of the block before.
  [[nodiscard]] float* input_of(std::uint32_t block) { return block == 0 ? nullptr : boundaries_[block - 1].floats(); }

  Transformer* transformer_;
  const Clock* clock_ = nullptr;
  std::vector<Duration> took_;
  MicroBatch batch_;
  std::vector<std::uint64_t> samples_;
  DeviceBuffer tokens_, targets_;
  std::vector<DeviceBuffer> boundaries_;  // [b]: the output of block b, for all but the head; empty until covered
  std::vector<DeviceBuffer> saved_;       // [b]
};

// The device's own engine where it has one, else one of its ops. The map must be the model's; device and map outlive
// the engine. exhausted when the memory can't be had; unsupported: the device can't train this model.
[[nodiscard]] Result<std::unique_ptr<ModelEngine>> make_model_engine(Device& device, const ModelSpec& model,
                                                                     const StateMap& map, MicroBatchShape shape,
                                                                     std::uint64_t seed);

}  // namespace planaria

// A micro-batch on its way through blocks of a Bf16Engine.
//
// Thread contract: as ModelPass.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/bf16_engine.hpp"
#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/norms.hpp"
#include "kernels/model_engine.hpp"

namespace planaria::cuda {

class Bf16Pass final : public ModelPass {
 public:
  [[nodiscard]] static Result<std::unique_ptr<ModelPass>> create(Bf16Engine& engine, BlockRange blocks);
  ~Bf16Pass() override;

  [[nodiscard]] Status cover(BlockRange blocks) override;
  // By the GPU's own clock.
  void measure_with(const Clock&) override { measured_ = true; }
  void load(const HostBatch& batch, Step step) override;
  void forward(BlockRange blocks, const float* parameters, bool training, const float* input, float* output,
               double* losses) override;
  void backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                float* d_input, const BlockDone& block_done) override;
  [[nodiscard]] Status cover_deltas(BlockRange blocks, LinearDeltas& deltas) const override;
  void backward_input(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                      float* d_input, LinearDeltas& deltas, const BlockDone& block_done) override;
  void backward_weights(BlockRange blocks, GradientSums gradient, const LinearDeltas& deltas,
                        const BlockDone& block_done) override;
  [[nodiscard]] std::span<const Duration> took() const override;

 private:
  using Bf16 = __nv_bfloat16;
  // A block's input that is still a sum to be made: x + delta.
  struct Stream {
    const Bf16* x = nullptr;
    const Bf16* delta = nullptr;
  };
  // The gradient of a block's output; its column sums, where whoever made it has made them.
  struct OutputGradient {
    const Bf16* values = nullptr;
    const float* chunks = nullptr;
  };
  // Where the gradient of a block's input goes, and its column sums.
  struct InputGradient {
    Bf16* values = nullptr;
    float* chunks = nullptr;
  };
  struct Timed {
    std::uint32_t block;
    cudaEvent_t begun, ended;
  };
  class BlockTimer;

  explicit Bf16Pass(Bf16Engine& engine) : engine_(engine) {}
  [[nodiscard]] cudaStream_t stream() const { return engine_.device_.stream(); }
  [[nodiscard]] cudaEvent_t take_event();
  // Sequences come first, occurrences last.
  struct BatchPlaces {
    std::uint64_t* samples;
    std::int32_t *tokens, *targets, *occurrences;
  };
  [[nodiscard]] BatchPlaces batch_places(void* base) const;
  // The same bytes of the device's memory as of the host's.
  void upload(const void* host, std::size_t bytes);
  [[nodiscard]] DeviceOccurrences upload_occurrences();
  void multiply(const MatmulShape& shape, const MatmulOperands& operands);
  void forward_embedding(const float* parameters, Bf16* output);
  [[nodiscard]] Stream forward_layer(std::uint32_t block, const float* parameters, Stream input, Bf16* output);
  void forward_head(const float* parameters, Stream input, double* losses);
  void run_backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                    float* d_input, LinearDeltas* deltas, const BlockDone& block_done);
  void backward_embedding(const Bf16* d_output, float* sums);
  void backward_layer(std::uint32_t block, const float* parameters, OutputGradient d_output, InputGradient d_input,
                      float* sums, std::byte* deltas);
  void backward_head_input(const float* parameters, InputGradient d_input, float* sums);
  void backward_head_weights(float* sums);
  void norm(std::uint32_t block, Stream x, const float* gain, const float* bias, Bf16* y, float* mean,
            float* deviation);
  // `call` without its shape and the sums that the norm's own gradients come from: those are of norm `which` of a
  // block.
  void norm_gradient(NormBackward call, std::size_t which, float* d_gain, float* d_bias);
  // `chunks`: for d's column sums where nobody has made them.
  void bias_gradient(const OutputGradient& d, std::size_t width, DeviceBuffer& chunks, float* target);
  // What of a block's part of the sums is no tensor's.
  void clear_padding(const BlockInfo& block, float* sums);
  // The chunks stay as they are until add_sums.
  void sum_later(const float* chunks, std::size_t count, std::size_t width, float* target);
  void add_sums();
  [[nodiscard]] bool drops() const { return engine_.is_gpt2() && training_ && engine_.model_.dropout > 0; }
  void drop(std::uint32_t block, std::uint32_t which, const Bf16* x, const Bf16* residual, Bf16* y);
  // The gradient through a dropout: in `kept`, unless that is null; else `d` itself where nothing is dropped.
  [[nodiscard]] OutputGradient dropped(std::uint32_t block, std::uint32_t which, OutputGradient d, std::byte* kept);

  [[nodiscard]] std::byte* saved(std::uint32_t block) const { return static_cast<std::byte*>(saved_[block].data()); }
  [[nodiscard]] Bf16* input_of(std::uint32_t block) const { return static_cast<Bf16*>(boundaries_[block - 1].data()); }
  [[nodiscard]] std::size_t elements() const { return engine_.shape_.rows() * engine_.model_.width; }

  Bf16Engine& engine_;
  bool training_ = true;
  bool begin_ = false;  // as in the sums of the backward pass under way
  Step step_;
  DeviceBuffer batch_;
  std::shared_ptr<std::byte> host_batch_;  // page-locked, of the same geometry
  cudaEvent_t uploaded_ = nullptr;         // what was last written there has been read
  TokenOccurrences occurrences_;
  std::vector<DeviceBuffer> boundaries_;  // [b]: the output of block b, for all but the head; empty until covered
  std::vector<DeviceBuffer> saved_;       // [b]
  std::vector<ChunkSum> later_;           // of the block at hand

  bool measured_ = false;
  mutable std::vector<Timed> timed_;  // not yet told
  mutable std::vector<cudaEvent_t> free_events_;
  mutable std::vector<Duration> took_;
};

}  // namespace planaria::cuda

// One micro-batch on its way through consecutive blocks of a model on one device, and the memory that takes: between
// its forward and its backward pass a ModelPass keeps what the latter needs.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/clock.hpp"
#include "common/result.hpp"
#include "proto/layout.hpp"
#include "worker/data/batch.hpp"
#include "worker/model/transformer.hpp"

namespace planaria {

// What the first part of a split backward pass leaves for the second: by block, the gradients of its linear maps'
// outputs.
struct LinearDeltas {
  std::vector<DeviceBuffer> of_block;  // empty until covered
};

class ModelPass {
 public:
  // Called after a block's gradients of this micro-batch are queued; blocks come last first.
  using BlockDone = std::function<void(BlockIndex)>;

  // The transformer must outlive this. exhausted when the memory can't be had.
  [[nodiscard]] static Result<ModelPass> create(Transformer& transformer, BlockRange blocks);
  // Makes room for more blocks. Where the system can do so, memory is taken up only by blocks that are run.
  [[nodiscard]] Status cover(BlockRange blocks);
  // From now on what each block takes is measured; the clock must outlive this.
  void measure_with(const Clock& clock) { clock_ = &clock; }

  // Takes the sequences of the next forward. Precondition: their shape is the transformer's largest.
  void load(const HostBatch& batch, Step step);

  // `parameters` and `gradient`: whole flat vectors in device memory; the gradient is accumulated. Blocks must be
  // covered. input: what the block before them made, copied; unused when they begin with the embedding. output: where
  // the last one's goes, unused when that is the head, which writes one sum a sequence to `losses` instead (host
  // memory, valid after Device::synchronize). Without `training` there is no dropout, and no backward pass may follow.
  void forward(BlockRange blocks, const float* parameters, bool training, const float* input, float* output,
               double* losses);
  // d_output: unused when the blocks end with the head. d_input: unused when they begin with the embedding.
  void backward(BlockRange blocks, const float* parameters, float* gradient, const float* d_output, float* d_input,
                const BlockDone& block_done = {});

  // The same in two parts (zero bubble: Qi et al., arXiv:2401.10241, section 2): d_input first, which the stage below
  // waits for; the gradients of the linear maps' weights at any time after. Until then the pass keeps its memory.
  // Preconditions: room was made by cover_deltas; the blocks don't begin with the embedding, for which nobody waits.
  [[nodiscard]] Status cover_deltas(BlockRange blocks, LinearDeltas& deltas) const;
  void backward_input(BlockRange blocks, const float* parameters, float* gradient, const float* d_output,
                      float* d_input, LinearDeltas& deltas, const BlockDone& block_done = {});
  void backward_weights(BlockRange blocks, float* gradient, const LinearDeltas& deltas,
                        const BlockDone& block_done = {});

  // What each block took since load(), by BlockIndex: 0 for those that weren't run. On a device that queues its work,
  // the queueing.
  [[nodiscard]] std::span<const Duration> took() const { return took_; }

 private:
  explicit ModelPass(Transformer& transformer) : transformer_(&transformer) {}
  void run_backward(BlockRange blocks, const float* parameters, float* gradient, const float* d_output, float* d_input,
                    LinearDeltas* deltas, const BlockDone& block_done);
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

}  // namespace planaria

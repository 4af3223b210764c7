// What trains a model's blocks on one device: micro-batches forward and backward through consecutive blocks.
//
// An engine decides how its device computes: which number formats activations and working parameters have, what is
// fused, what is kept for the backward pass. What the rest of a worker sees is the same for all: flat fp32 vectors of
// parameters and gradients in the state's geometry (proto/state_map.hpp), and boundaries between blocks, whose contents
// only the engine reads. Bits never depend on where a model is cut into stages.
//
// Thread contract: an engine and its passes belong to the thread that owns the device. Work may be asynchronous until
// Device::synchronize, which returns errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/clock.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "kernels/device.hpp"
#include "kernels/micro_batch.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// What the first part of a split backward pass leaves for the second: by block, the gradients of its linear maps'
// outputs.
struct LinearDeltas {
  std::vector<DeviceBuffer> of_block;  // empty until covered
};

// Where a micro-batch's gradients are added up: a whole flat vector in device memory.
struct GradientSums {
  float* values = nullptr;
  // The sums begin with this micro-batch: whatever its blocks' part held counts as 0, padding included.
  bool begin = false;
};

// One micro-batch on its way through consecutive blocks, and the memory that takes: between its forward and its
// backward pass it keeps what the latter needs.
class ModelPass {
 public:
  // Called after a block's gradients of this micro-batch are queued; blocks come last first.
  using BlockDone = std::function<void(BlockIndex)>;

  virtual ~ModelPass() = default;

  // Makes room for more blocks. Where the system can do so, memory is taken up only by blocks that are run. exhausted
  // when the memory can't be had.
  [[nodiscard]] virtual Status cover(BlockRange blocks) = 0;
  // From now on what each block takes is measured; the clock must outlive this.
  virtual void measure_with(const Clock& clock) = 0;

  // Takes the sequences of the next forward. Precondition: their shape is the engine's.
  virtual void load(const HostBatch& batch, Step step) = 0;

  // `parameters`: a whole flat vector in device memory. Blocks must be covered. input: what the block before them made,
  // copied; unused when they begin with the embedding. output: where the last one's goes, unused when that is the head,
  // which writes one sum a sequence to `losses` instead (host memory, valid after Device::synchronize). Without
  // `training` there is no dropout, and no backward pass may follow.
  virtual void forward(BlockRange blocks, const float* parameters, bool training, const float* input, float* output,
                       double* losses) = 0;
  // d_output: unused when the blocks end with the head. d_input: unused when they begin with the embedding.
  virtual void backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                        float* d_input, const BlockDone& block_done = {}) = 0;

  // The same in two parts (zero bubble: Qi et al., arXiv:2401.10241, section 2): d_input first, which the stage below
  // waits for; the gradients of the linear maps' weights at any time after, which begins the same sums or goes on with
  // them. Until then the pass keeps its memory.
  // Preconditions: room was made by cover_deltas; the blocks don't begin with the embedding, for which nobody waits.
  [[nodiscard]] virtual Status cover_deltas(BlockRange blocks, LinearDeltas& deltas) const = 0;
  virtual void backward_input(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                              float* d_input, LinearDeltas& deltas, const BlockDone& block_done = {}) = 0;
  virtual void backward_weights(BlockRange blocks, GradientSums gradient, const LinearDeltas& deltas,
                                const BlockDone& block_done = {}) = 0;

  // What each block took since load(), by BlockIndex: 0 for those that weren't run. Valid after Device::synchronize.
  [[nodiscard]] virtual std::span<const Duration> took() const = 0;
};

class ModelEngine {
 public:
  virtual ~ModelEngine() = default;

  // Floats of the boundary between two blocks, for a micro-batch of the engine's shape.
  [[nodiscard]] virtual std::size_t boundary_elements() const = 0;
  // exhausted when the memory can't be had. The engine must outlive its passes.
  [[nodiscard]] virtual Result<std::unique_ptr<ModelPass>> make_pass(BlockRange blocks) = 0;
  // Parameters that passes were given before may hold other values now. Whoever writes to such a vector says so.
  virtual void parameters_changed() = 0;
};

}  // namespace planaria

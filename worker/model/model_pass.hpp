// One micro-batch through all blocks of a model on one device, and the memory that takes.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "worker/data/batch.hpp"
#include "worker/model/transformer.hpp"

namespace planaria {

class ModelPass {
 public:
  // Called after a block's gradients of this micro-batch are queued; blocks come head first.
  using BlockDone = std::function<void(BlockIndex)>;

  // The transformer must outlive this. exhausted when the memory can't be had.
  [[nodiscard]] static Result<ModelPass> create(Transformer& transformer);

  // Takes the sequences of the next forward; `batch` must live until the pass over it is done.
  // Precondition: its shape is the transformer's largest.
  void load(const HostBatch& batch, Step step);

  // `parameters` and `gradient`: whole flat vectors in device memory; the gradient is accumulated. losses: one sum a
  // sequence, host memory, valid after Device::synchronize.
  void forward_backward(const float* parameters, float* gradient, double* losses, const BlockDone& block_done = {});
  // Without dropout and gradients.
  void evaluate(const float* parameters, double* losses);

 private:
  explicit ModelPass(Transformer& transformer) : transformer_(&transformer) {}
  void forward(const float* parameters, bool training, double* losses);
  [[nodiscard]] const float* block_at(const float* vector, BlockIndex block) const {
    return vector + transformer_->map().block(block).offset;
  }

  Transformer* transformer_;
  MicroBatch batch_;
  DeviceBuffer tokens_, targets_;
  std::vector<DeviceBuffer> boundaries_;  // [b]: the output of block b, for all but the head
  std::vector<DeviceBuffer> saved_;       // [b]
  DeviceBuffer d_boundary_[2];
};

}  // namespace planaria

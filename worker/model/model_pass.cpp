#include "worker/model/model_pass.hpp"

#include <cassert>
#include <utility>

namespace planaria {

Result<ModelPass> ModelPass::create(Transformer& transformer) {
  ModelPass pass(transformer);
  Device& device = transformer.device();
  const std::size_t rows = transformer.largest().rows();
  PLANARIA_ASSIGN(pass.tokens_, device.allocate(rows * sizeof(std::int32_t)));
  PLANARIA_ASSIGN(pass.targets_, device.allocate(rows * sizeof(std::int32_t)));
  for (std::uint32_t b = 0; b <= transformer.head().value(); ++b) {
    PLANARIA_ASSIGN(DeviceBuffer saved, device.allocate_floats(transformer.saved_elements(BlockIndex(b))));
    pass.saved_.push_back(std::move(saved));
    if (BlockIndex(b) == transformer.head()) break;
    PLANARIA_ASSIGN(DeviceBuffer boundary, device.allocate_floats(transformer.boundary_elements()));
    pass.boundaries_.push_back(std::move(boundary));
  }
  for (DeviceBuffer& buffer : pass.d_boundary_) {
    PLANARIA_ASSIGN(buffer, device.allocate_floats(transformer.boundary_elements()));
  }
  pass.batch_.shape = transformer.largest();
  pass.batch_.tokens = static_cast<const std::int32_t*>(pass.tokens_.data());
  pass.batch_.targets = static_cast<const std::int32_t*>(pass.targets_.data());
  return pass;
}

void ModelPass::load(const HostBatch& batch, Step step) {
  assert(batch.tokens.size() == batch_.shape.rows() && batch.samples.size() == batch_.shape.sequences);
  Device& device = transformer_->device();
  device.copy_in(tokens_.data(), batch.tokens.data(), batch.tokens.size() * sizeof(std::int32_t));
  device.copy_in(targets_.data(), batch.targets.data(), batch.targets.size() * sizeof(std::int32_t));
  batch_.samples = batch.samples;
  batch_.step = step;
}

void ModelPass::forward(const float* parameters, bool training, double* losses) {
  batch_.training = training;
  const std::uint32_t head = transformer_->head().value();
  for (std::uint32_t b = 0; b < head; ++b) {
    const float* input = b == 0 ? nullptr : boundaries_[b - 1].floats();
    transformer_->forward(BlockIndex(b), batch_, block_at(parameters, BlockIndex(b)), input, boundaries_[b].floats(),
                          saved_[b].floats());
  }
  transformer_->forward_head(batch_, block_at(parameters, BlockIndex(head)), boundaries_[head - 1].floats(),
                             saved_[head].floats(), losses);
}

void ModelPass::evaluate(const float* parameters, double* losses) {
  forward(parameters, false, losses);
}

void ModelPass::forward_backward(const float* parameters, float* gradient, double* losses,
                                 const BlockDone& block_done) {
  forward(parameters, true, losses);
  const BlockIndex head = transformer_->head();
  const auto d_block = [&](BlockIndex b) { return gradient + transformer_->map().block(b).offset; };
  transformer_->backward_head(batch_, block_at(parameters, head), boundaries_.back().floats(), saved_.back().floats(),
                              d_boundary_[0].floats(), d_block(head));
  if (block_done) block_done(head);
  int current = 0;
  for (std::uint32_t b = head.value(); b-- > 0; current ^= 1) {
    const BlockIndex block(b);
    const float* input = b == 0 ? nullptr : boundaries_[b - 1].floats();
    transformer_->backward(block, batch_, block_at(parameters, block), input, saved_[b].floats(),
                           d_boundary_[current].floats(), d_boundary_[current ^ 1].floats(), d_block(block));
    if (block_done) block_done(block);
  }
}

}  // namespace planaria

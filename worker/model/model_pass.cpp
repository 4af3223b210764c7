#include "worker/model/model_pass.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace planaria {

Result<ModelPass> ModelPass::create(Transformer& transformer, BlockRange blocks) {
  ModelPass pass(transformer);
  Device& device = transformer.device();
  const std::size_t rows = transformer.largest().rows();
  PLANARIA_ASSIGN(pass.tokens_, device.allocate(rows * sizeof(std::int32_t)));
  PLANARIA_ASSIGN(pass.targets_, device.allocate(rows * sizeof(std::int32_t)));
  for (DeviceBuffer& buffer : pass.d_boundary_) {
    PLANARIA_ASSIGN(buffer, device.allocate_floats(transformer.boundary_elements()));
  }
  pass.boundaries_.resize(transformer.head().value());
  pass.saved_.resize(transformer.head().value() + 1);
  pass.took_.resize(transformer.head().value() + 1);
  PLANARIA_TRY(pass.cover(blocks));
  pass.batch_.shape = transformer.largest();
  pass.batch_.tokens = static_cast<const std::int32_t*>(pass.tokens_.data());
  pass.batch_.targets = static_cast<const std::int32_t*>(pass.targets_.data());
  return pass;
}

Status ModelPass::cover(BlockRange blocks) {
  Device& device = transformer_->device();
  for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
    if (b > 0 && boundaries_[b - 1].bytes() == 0) {
      PLANARIA_ASSIGN(boundaries_[b - 1], device.allocate_floats(transformer_->boundary_elements()));
    }
    const std::size_t saved = transformer_->saved_elements(BlockIndex(b));
    if (saved > 0 && saved_[b].bytes() == 0) {
      PLANARIA_ASSIGN(saved_[b], device.allocate_floats(saved));
    }
  }
  return ok_status();
}

void ModelPass::load(const HostBatch& batch, Step step) {
  assert(batch.tokens.size() == batch_.shape.rows() && batch.samples.size() == batch_.shape.sequences);
  Device& device = transformer_->device();
  device.copy_in(tokens_.data(), batch.tokens.data(), batch.tokens.size() * sizeof(std::int32_t));
  device.copy_in(targets_.data(), batch.targets.data(), batch.targets.size() * sizeof(std::int32_t));
  std::ranges::fill(took_, Duration(0));
  samples_.assign(batch.samples.begin(), batch.samples.end());
  batch_.samples = samples_;
  batch_.step = step;
}

void ModelPass::forward(BlockRange blocks, const float* parameters, bool training, const float* input, float* output,
                        double* losses) {
  batch_.training = training;
  Device& device = transformer_->device();
  if (blocks.begin > 0) {
    device.copy(input_of(blocks.begin), input, transformer_->boundary_elements() * sizeof(float));
  }
  for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
    const BlockIndex block(b);
    const Instant begun = now();
    if (block == transformer_->head()) {
      transformer_->forward_head(batch_, block_at(parameters, block), input_of(b), saved_[b].floats(), losses);
    } else {
      transformer_->forward(block, batch_, block_at(parameters, block), input_of(b),
                            b + 1 == blocks.end ? output : boundaries_[b].floats(), saved_[b].floats());
    }
    took_[b] += now() - begun;
  }
}

void ModelPass::backward(BlockRange blocks, const float* parameters, float* gradient, const float* d_output,
                         float* d_input, const BlockDone& block_done) {
  int current = 0;
  for (std::uint32_t b = blocks.end; b-- > blocks.begin; current ^= 1) {
    const BlockIndex block(b);
    const Instant begun = now();
    float* const own = gradient + transformer_->map().block(block).offset;
    float* const to = b == blocks.begin && b > 0 ? d_input : d_boundary_[current].floats();
    if (block == transformer_->head()) {
      transformer_->backward_head(batch_, block_at(parameters, block), input_of(b), saved_[b].floats(), to, own);
    } else {
      transformer_->backward(block, batch_, block_at(parameters, block), input_of(b), saved_[b].floats(), d_output, to,
                             own);
    }
    took_[b] += now() - begun;
    if (block_done) block_done(block);
    d_output = to;
  }
}

}  // namespace planaria

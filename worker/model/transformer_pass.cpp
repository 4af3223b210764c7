#include "worker/model/transformer_pass.hpp"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

namespace planaria {
namespace {

class TransformerEngine final : public ModelEngine {
 public:
  explicit TransformerEngine(Transformer transformer) : transformer_(std::move(transformer)) {}

  [[nodiscard]] std::size_t boundary_elements() const override { return transformer_.boundary_elements(); }
  [[nodiscard]] Result<std::unique_ptr<ModelPass>> make_pass(BlockRange blocks) override {
    PLANARIA_ASSIGN(TransformerPass pass, TransformerPass::create(transformer_, blocks));
    return std::unique_ptr<ModelPass>(std::make_unique<TransformerPass>(std::move(pass)));
  }
  void parameters_changed() override {}  // it reads them where they are

 private:
  Transformer transformer_;
};

}  // namespace

Result<TransformerPass> TransformerPass::create(Transformer& transformer, BlockRange blocks) {
  TransformerPass pass(transformer);
  Device& device = transformer.device();
  const std::size_t rows = transformer.largest().rows();
  PLANARIA_ASSIGN(pass.tokens_, device.allocate(rows * sizeof(std::int32_t)));
  PLANARIA_ASSIGN(pass.targets_, device.allocate(rows * sizeof(std::int32_t)));
  pass.boundaries_.resize(transformer.head().value());
  pass.saved_.resize(transformer.head().value() + 1);
  pass.took_.resize(transformer.head().value() + 1);
  PLANARIA_TRY(pass.cover(blocks));
  pass.batch_.shape = transformer.largest();
  pass.batch_.tokens = static_cast<const std::int32_t*>(pass.tokens_.data());
  pass.batch_.targets = static_cast<const std::int32_t*>(pass.targets_.data());
  return pass;
}

Status TransformerPass::cover(BlockRange blocks) {
  Device& device = transformer_->device();
  for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
    if (b > 0 && boundaries_[b - 1].bytes() == 0) {
      PLANARIA_ASSIGN(boundaries_[b - 1], device.reserve_floats(transformer_->boundary_elements()));
    }
    const std::size_t saved = transformer_->saved_elements(BlockIndex(b));
    if (saved > 0 && saved_[b].bytes() == 0) {
      PLANARIA_ASSIGN(saved_[b], device.reserve_floats(saved));
    }
  }
  return ok_status();
}

Status TransformerPass::cover_deltas(BlockRange blocks, LinearDeltas& deltas) const {
  deltas.of_block.resize(saved_.size());
  for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
    const std::size_t elements = transformer_->delta_elements(BlockIndex(b));
    if (elements > 0 && deltas.of_block[b].bytes() == 0) {
      PLANARIA_ASSIGN(deltas.of_block[b], transformer_->device().reserve_floats(elements));
    }
  }
  return ok_status();
}

void TransformerPass::load(const HostBatch& batch, Step step) {
  assert(batch.tokens.size() == batch_.shape.rows() && batch.samples.size() == batch_.shape.sequences);
  Device& device = transformer_->device();
  device.copy_in(tokens_.data(), batch.tokens.data(), batch.tokens.size() * sizeof(std::int32_t));
  device.copy_in(targets_.data(), batch.targets.data(), batch.targets.size() * sizeof(std::int32_t));
  std::ranges::fill(took_, Duration(0));
  samples_.assign(batch.samples.begin(), batch.samples.end());
  batch_.samples = samples_;
  batch_.step = step;
}

void TransformerPass::forward(BlockRange blocks, const float* parameters, bool training, const float* input,
                              float* output, double* losses) {
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

void TransformerPass::backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                               float* d_input, const BlockDone& block_done) {
  run_backward(blocks, parameters, gradient, d_output, d_input, nullptr, block_done);
}

void TransformerPass::backward_input(BlockRange blocks, const float* parameters, GradientSums gradient,
                                     const float* d_output, float* d_input, LinearDeltas& deltas,
                                     const BlockDone& block_done) {
  assert(blocks.begin > 0);
  run_backward(blocks, parameters, gradient, d_output, d_input, &deltas, block_done);
}

void TransformerPass::run_backward(BlockRange blocks, const float* parameters, GradientSums gradient,
                                   const float* d_output, float* d_input, LinearDeltas* deltas,
                                   const BlockDone& block_done) {
  int current = 0;
  for (std::uint32_t b = blocks.end; b-- > blocks.begin; current ^= 1) {
    const BlockIndex block(b);
    const Instant begun = now();
    const float* const own = block_at(parameters, block);
    const float* const saved = saved_[b].floats();
    float* const sums = gradient.values + transformer_->map().block(block).offset;
    if (gradient.begin) transformer_->device().zero(transformer_->map().block(block).elements, sums);
    float* const to = b == blocks.begin && b > 0 ? d_input : transformer_->d_boundary(current);
    if (block == transformer_->head()) {
      if (deltas == nullptr) transformer_->backward_head_weights(batch_, saved, sums);
      transformer_->backward_head_input(batch_, own, input_of(b), saved, to, sums);
    } else if (deltas == nullptr) {
      transformer_->backward(block, batch_, own, input_of(b), saved, d_output, to, sums);
    } else {
      transformer_->backward_input(block, batch_, own, input_of(b), saved, d_output, to, sums,
                                   deltas->of_block[b].floats());
    }
    took_[b] += now() - begun;
    if (block_done) block_done(block);
    d_output = to;
  }
}

void TransformerPass::backward_weights(BlockRange blocks, GradientSums gradient, const LinearDeltas& deltas,
                                       const BlockDone& block_done) {
  for (std::uint32_t b = blocks.end; b-- > blocks.begin;) {
    const BlockIndex block(b);
    const Instant begun = now();
    float* const sums = gradient.values + transformer_->map().block(block).offset;
    if (block == transformer_->head()) {
      transformer_->backward_head_weights(batch_, saved_[b].floats(), sums);
    } else {
      transformer_->backward_weights(batch_, saved_[b].floats(), deltas.of_block[b].floats(), sums);
    }
    took_[b] += now() - begun;
    if (block_done) block_done(block);
  }
}

Result<std::unique_ptr<ModelEngine>> make_model_engine(Device& device, const ModelSpec& model, const StateMap& map,
                                                       MicroBatchShape shape, std::uint64_t seed) {
  PLANARIA_ASSIGN(auto own, device.make_engine(model, map, shape, seed));
  if (own) return own;
  TensorDevice* const tensors = device.tensor_device();
  if (tensors == nullptr) return Error(ErrorCode::unsupported, "device " + device.name() + " trains no models");
  PLANARIA_ASSIGN(Transformer transformer, Transformer::create(*tensors, model, map, shape, seed));
  return std::unique_ptr<ModelEngine>(std::make_unique<TransformerEngine>(std::move(transformer)));
}

}  // namespace planaria

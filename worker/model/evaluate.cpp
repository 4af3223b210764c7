#include "worker/model/evaluate.hpp"

#include <algorithm>
#include <vector>

#include "worker/model/transformer.hpp"

namespace planaria {
namespace {

// One window through all blocks, one boundary at a time.
class WindowPass {
 public:
  static Result<WindowPass> create(TensorDevice& device, const ModelSpec& model, const StateMap& map,
                                   std::size_t context) {
    PLANARIA_ASSIGN(Transformer transformer, Transformer::create(device, model, map, {1, context}, 0));
    WindowPass pass(std::move(transformer));
    PLANARIA_TRY(pass.allocate());
    return pass;
  }

  // The sum of the window's token losses.
  Result<double> loss(const float* parameters, std::span<const std::int32_t> tokens,
                      std::span<const std::int32_t> targets) {
    TensorDevice& device = transformer_.device();
    device.copy_in(tokens_.data(), tokens.data(), tokens.size_bytes());
    device.copy_in(targets_.data(), targets.data(), targets.size_bytes());
    const MicroBatch batch = this->batch();
    const auto blocks = transformer_.map().blocks();
    const auto head = transformer_.head().value();
    for (std::uint32_t b = 0; b < head; ++b) {
      transformer_.forward(BlockIndex(b), batch, parameters + blocks[b].offset, boundary_[(b + 1) % 2].floats(),
                           boundary_[b % 2].floats(), saved_.floats());
    }
    double loss = 0;
    transformer_.forward_head(batch, parameters + blocks[head].offset, boundary_[(head + 1) % 2].floats(),
                              saved_.floats(), &loss);
    PLANARIA_TRY(device.synchronize());
    return loss;
  }

  // Of the last window.
  Status logits(std::span<float> out) {
    TensorDevice& device = transformer_.device();
    device.copy_out(out.data(), transformer_.logits(batch(), saved_.floats()), out.size_bytes());
    return device.synchronize();
  }

 private:
  explicit WindowPass(Transformer transformer) : transformer_(std::move(transformer)) {}

  [[nodiscard]] MicroBatch batch() const {
    MicroBatch batch;
    batch.shape = transformer_.largest();
    batch.tokens = static_cast<const std::int32_t*>(tokens_.data());
    batch.targets = static_cast<const std::int32_t*>(targets_.data());
    batch.training = false;
    return batch;
  }

  Status allocate() {
    TensorDevice& device = transformer_.device();
    const std::size_t saved =
        std::max(transformer_.saved_elements(BlockIndex(1)), transformer_.saved_elements(transformer_.head()));
    PLANARIA_ASSIGN(tokens_, device.allocate(transformer_.largest().rows() * sizeof(std::int32_t)));
    PLANARIA_ASSIGN(targets_, device.allocate(transformer_.largest().rows() * sizeof(std::int32_t)));
    PLANARIA_ASSIGN(saved_, device.allocate_floats(saved));
    for (DeviceBuffer& buffer : boundary_) {
      PLANARIA_ASSIGN(buffer, device.allocate_floats(transformer_.boundary_elements()));
    }
    return ok_status();
  }

  Transformer transformer_;
  DeviceBuffer tokens_, targets_, saved_;
  DeviceBuffer boundary_[2];
};

}  // namespace

Result<Evaluation> evaluate(TensorDevice& device, const ModelSpec& model, const StateMap& map, const float* parameters,
                            const Dataset& dataset, const LogitsSink& logits) {
  const std::size_t context = dataset.context();
  PLANARIA_ASSIGN(WindowPass pass, WindowPass::create(device, model, map, context));
  std::vector<std::int32_t> tokens(context);
  std::vector<std::int32_t> targets(context);
  std::vector<float> values(logits ? context * model.vocab : 0);
  Evaluation done;
  for (; done.windows < dataset.windows(Split::train); ++done.windows) {
    dataset.read(Split::train, done.windows, tokens, targets);
    PLANARIA_ASSIGN(const double loss, pass.loss(parameters, tokens, targets));
    done.loss += loss;
    done.tokens += context;
    if (!logits) continue;
    PLANARIA_TRY(pass.logits(values));
    PLANARIA_TRY(logits(values));
  }
  done.loss /= static_cast<double>(done.tokens);
  return done;
}

}  // namespace planaria

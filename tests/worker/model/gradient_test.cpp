// Whole-model gradients against finite differences of the loss.
#include <algorithm>
#include <cmath>

#include "model_test_support.hpp"

namespace planaria {
namespace {

struct Case {
  ModelFamily family;
  bool tied;
  double dropout;
};

class GradientTest : public ::testing::TestWithParam<Case> {
 protected:
  GradientTest()
      : job_(small_job(GetParam().family, GetParam().tied, GetParam().dropout)),
        device_(cpu()),
        trainer_(trainer_of(*device_, job_)),
        elements_(trainer_->map().vector_elements()),
        start_(trainer_->parameters_on_host()) {
    // Larger weights than the initial ones: there every derivative is far from zero.
    for (float& value : start_) value *= 4.0F;
  }

  // The token-sum loss at start + distance * direction, and the parameters that fp32 made of it.
  double loss_at(const std::vector<float>& direction, double distance) {
    for (std::size_t i = 0; i < elements_; ++i) {
      trainer_->parameters()[i] = static_cast<float>(start_[i] + distance * direction[i]);
    }
    after_update(*device_, trainer_->map(), trainer_->parameters());
    const auto loss = trainer_->accumulate_gradient();
    EXPECT_TRUE(loss.ok());
    return *loss * static_cast<double>(job_.tokens_per_step());
  }

  JobSpec job_;
  std::unique_ptr<TensorDevice> device_;
  std::unique_ptr<BareTrainer> trainer_;
  std::size_t elements_;
  std::vector<float> start_;
};

// Along a random ±1 direction within each tensor. A step h is taken so that the second difference's truncation (found
// by comparing h with 2h) and the losses' rounding (2^-22 of each token's loss, adding up as a root) bound the error.
TEST_P(GradientTest, EveryTensorAgreesWithFiniteDifferences) {
  constexpr std::uint64_t kSeed = 7;
  PhiloxStream random(philox_key(kSeed, RandomPurpose::tests));
  std::vector<float> direction(elements_, 0.0F);
  const double base = loss_at(direction, 0.0);
  add_tied_gradient(*device_, trainer_->map(), trainer_->gradient());
  const std::vector<float> gradient(trainer_->gradient(), trainer_->gradient() + elements_);
  const double rounding = base * 0x1.0p-22;
  for (const BlockInfo& block : trainer_->map().blocks()) {
    for (const TensorInfo& tensor : block.tensors) {
      if (tensor.tied) continue;
      std::ranges::fill(direction, 0.0F);
      double expected = 0;
      double norm = 0;
      for (std::size_t i = block.offset + tensor.offset, end = i + tensor.elements(); i < end; ++i) {
        // Halfway between the gradient's own direction, for signal, and a random one, to see every component.
        direction[i] = random.chance(0.5) ? 1.0F : -1.0F;
        if (random.chance(0.5)) direction[i] = gradient[i] < 0 ? -1.0F : 1.0F;
        expected += static_cast<double>(gradient[i]) * direction[i];
        norm += static_cast<double>(gradient[i]) * gradient[i];
      }
      norm = std::sqrt(norm);
      const double h = 0.3 / std::max(std::abs(expected), norm);
      const double near = (loss_at(direction, h) - loss_at(direction, -h)) / (2 * h);
      const double far = (loss_at(direction, 2 * h) - loss_at(direction, -2 * h)) / (4 * h);
      const double tolerance = std::abs(near - far) + rounding / h;
      EXPECT_LE(tolerance, 0.03 * std::max(std::abs(expected), norm)) << "the check of " << tensor.name << " is blunt";
      EXPECT_NEAR(near, expected, tolerance) << block.name << "." << tensor.name << ", seed " << kSeed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GradientTest,
                         ::testing::Values(Case{ModelFamily::gpt2, true, 0.0}, Case{ModelFamily::gpt2, false, 0.0},
                                           Case{ModelFamily::gpt2, true, 0.2}, Case{ModelFamily::llama, true, 0.0},
                                           Case{ModelFamily::llama, false, 0.0}),
                         [](const auto& info) {
                           return name_of(info.param.family, info.param.tied) +
                                  (info.param.dropout > 0 ? "Dropout" : "");
                         });

}  // namespace
}  // namespace planaria

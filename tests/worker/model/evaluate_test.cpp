#include "worker/model/evaluate.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "model_test_support.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

class EvaluateTest : public ::testing::TestWithParam<ModelFamily> {
 protected:
  EvaluateTest() : job_(small_job(GetParam(), true, 0.0)), device_(cpu()), trainer_(trainer_of(*device_, job_)) {
    std::ofstream file(path_, std::ios::binary);
    for (std::uint64_t k = 0; k < 40; ++k) {
      const std::int32_t token = pattern_token(k, job_.model.vocab);
      file.put(static_cast<char>(token));
      file.put('\0');
    }
  }

  Dataset dataset(std::uint32_t context) const {
    DataSpec data;
    data.path = path_;
    data.format = DataFormat::tokens_u16;
    data.validation_fraction = 0;
    auto opened = Dataset::open(data, context, job_.model.vocab);
    EXPECT_TRUE(opened.ok()) << opened.error().describe();
    return std::move(opened).value();
  }
  // All windows' logits, one after another.
  std::vector<float> logits(std::uint32_t context, Evaluation* told = nullptr) {
    std::vector<float> all;
    const Dataset tokens = dataset(context);
    const auto done = evaluate(*device_, job_.model, trainer_->map(), trainer_->parameters(), tokens,
                               [&](std::span<const float> window) {
                                 all.insert(all.end(), window.begin(), window.end());
                                 return ok_status();
                               });
    EXPECT_TRUE(done.ok());
    if (told != nullptr) *told = *done;
    return all;
  }

  const TemporaryDirectory folder_;
  const std::string path_ = folder_.path() + "/tokens.bin";
  JobSpec job_;
  std::unique_ptr<TensorDevice> device_;
  std::unique_ptr<BareTrainer> trainer_;
};

TEST_P(EvaluateTest, TheLossIsTheCrossEntropyOfTheLogits) {
  Evaluation told;
  const std::vector<float> all = logits(16, &told);
  const std::size_t vocab = job_.model.vocab;
  ASSERT_EQ(all.size(), 2 * 16 * vocab);
  EXPECT_EQ(told.windows, 2U);
  EXPECT_EQ(told.tokens, 32U);
  double loss = 0;
  for (std::size_t t = 0; t < 32; ++t) {
    const std::span<const float> row = std::span(all).subspan(t * vocab, vocab);
    double sum = 0;
    for (const float value : row) sum += std::exp(static_cast<double>(value));
    loss += std::log(sum) - static_cast<double>(row[static_cast<std::size_t>(pattern_token(t + 1, job_.model.vocab))]);
  }
  EXPECT_NEAR(told.loss, loss / 32, 1e-6);
}

TEST_P(EvaluateTest, AShorterContextSeesThePositionsFromItsStart) {
  const std::vector<float> whole = logits(16);
  const std::vector<float> half = logits(8);
  const std::size_t first = 8 * job_.model.vocab;
  for (std::size_t i = 0; i < first; ++i) EXPECT_NEAR(half[i], whole[i], 1e-5);
}

TEST_P(EvaluateTest, WithoutAReceiverTheLossIsTheSame) {
  Evaluation told;
  logits(16, &told);
  const auto done = evaluate(*device_, job_.model, trainer_->map(), trainer_->parameters(), dataset(16));
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(done->loss, told.loss);
}

TEST_P(EvaluateTest, AReceiverThatFailsEndsIt) {
  const auto done = evaluate(*device_, job_.model, trainer_->map(), trainer_->parameters(), dataset(16),
                             [](std::span<const float>) { return Status(Error(ErrorCode::exhausted, "full")); });
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code(), ErrorCode::exhausted);
}

INSTANTIATE_TEST_SUITE_P(Families, EvaluateTest, ::testing::Values(ModelFamily::gpt2, ModelFamily::llama));

}  // namespace
}  // namespace planaria

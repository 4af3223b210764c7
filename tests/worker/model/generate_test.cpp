#include "worker/model/generate.hpp"

#include <gmock/gmock.h>

#include <set>

#include "model_test_support.hpp"

namespace planaria {
namespace {

class GenerateTest : public ::testing::Test {
 protected:
  GenerateTest() : job_(small_job(ModelFamily::llama, true)), device_(cpu()), trainer_(trainer_of(*device_, job_)) {}

  Result<std::vector<std::int32_t>> text(const std::vector<std::int32_t>& prompt, const GenerateOptions& options) {
    return generate(*device_, job_.model, trainer_->map(), trainer_->parameters(), prompt, options);
  }

  JobSpec job_;
  std::unique_ptr<TensorDevice> device_;
  std::unique_ptr<BareTrainer> trainer_;
};

TEST_F(GenerateTest, OneSeedGivesOneTextBeyondTheContext) {
  const auto first = text({1, 2}, {.tokens = 50, .seed = 9});
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->size(), 50U);
  EXPECT_EQ(*text({1, 2}, {.tokens = 50, .seed = 9}), *first);
  EXPECT_NE(*text({1, 2}, {.tokens = 50, .seed = 10}), *first);
}

TEST_F(GenerateTest, GreedyIsTopOneAndAPrefixOfItself) {
  const auto greedy = text({5}, {.tokens = 20, .temperature = 0.0});
  ASSERT_TRUE(greedy.ok());
  EXPECT_EQ(*text({5}, {.tokens = 20, .temperature = 1.0, .top_k = 1}), *greedy);
  EXPECT_EQ(std::vector<std::int32_t>(greedy->begin(), greedy->begin() + 7),
            *text({5}, {.tokens = 7, .temperature = 0.0}));
}

TEST_F(GenerateTest, TheReceiverCanEndTheText) {
  int seen = 0;
  const std::vector<std::int32_t> prompt{3};
  const auto result = generate(*device_, job_.model, trainer_->map(), trainer_->parameters(), prompt, {.tokens = 50},
                               [&](std::int32_t) { return ++seen < 4; });
  EXPECT_EQ(result->size(), 4U);
}

TEST_F(GenerateTest, BadPromptsAreRefused) {
  EXPECT_THAT(text({}, {}).error().message(), ::testing::HasSubstr("empty"));
  EXPECT_THAT(text({48}, {}).error().message(), ::testing::HasSubstr("48"));
}

TEST(ChooseToken, KeepsToTheMostLikelyAndFollowsTheWeights) {
  const std::vector<float> logits{0.0F, 2.0F, 1.0F, -1.0F};
  std::set<std::int32_t> seen;
  for (int i = 0; i < 100; ++i) seen.insert(choose_token(logits, {.temperature = 1.0, .top_k = 2}, i / 100.0));
  EXPECT_EQ(seen, (std::set<std::int32_t>{1, 2}));
  EXPECT_EQ(choose_token(logits, {.temperature = 0.0}, 0.99), 1);
  EXPECT_EQ(choose_token(std::vector<float>{1.0F, 1.0F}, {.temperature = 0.0}, 0.5), 0);
}

}  // namespace
}  // namespace planaria

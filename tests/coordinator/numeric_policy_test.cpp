#include "coordinator/core/numeric_policy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace planaria {
namespace {

using log_record::NumericDecision;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint32_t kSlots = 8;

// Workers 0 and 1 share the slots; in odd attempts 1 has the first half.
NumericDecision attempt(std::uint32_t number, std::vector<SlotRange> nonfinite, std::string decision = "recompute") {
  const WorkerId first(number % 2), second(1 - number % 2);
  return {.step = Step(5),
          .attempt = number,
          .nonfinite = std::move(nonfinite),
          .computed = {{first, {{0, 3}, {0, kSlots / 2}}, false}, {second, {{0, 3}, {kSlots / 2, kSlots}}, false}},
          .decision = std::move(decision),
          .expelled = {}};
}

NumericJudgement judge(const NumericDecision& now, const std::vector<NumericDecision>& earlier,
                       NonfinitePolicy policy = NonfinitePolicy::skip) {
  const std::vector<WorkerId> members = {WorkerId(0), WorkerId(1)};
  return judge_nonfinite(now, earlier, members, policy);
}

TEST(NumericPolicy, TheFirstAttemptsAreComputedAgain) {
  EXPECT_EQ(judge(attempt(0, {}), {}).verdict, NumericVerdict::recompute);
  EXPECT_EQ(judge(attempt(1, {{2, 3}}), {attempt(0, {})}).verdict, NumericVerdict::recompute);
}

TEST(NumericPolicy, TheSameSlotsAtOtherWorkersAreNonfiniteByNature) {
  const std::vector<NumericDecision> earlier = {attempt(0, {}), attempt(1, {{2, 3}})};
  EXPECT_EQ(judge(attempt(2, {{2, 3}}), earlier).verdict, NumericVerdict::skip);
  const NumericJudgement halts = judge(attempt(2, {{2, 3}}), earlier, NonfinitePolicy::halt);
  EXPECT_EQ(halts.verdict, NumericVerdict::halt);
  EXPECT_THAT(halts.reason, HasSubstr("by nature"));
}

TEST(NumericPolicy, TheSameSlotsAtTheSameWorkerProveNothing) {
  // A death between moved the shares: worker 1 computed slot 2 both times.
  NumericDecision now = attempt(2, {{2, 3}});
  now.computed = attempt(1, {}).computed;
  EXPECT_EQ(judge(now, {attempt(0, {}), attempt(1, {{2, 3}})}).verdict, NumericVerdict::recompute);
}

TEST(NumericPolicy, SlotsThatWereFiniteOnceAreNotNonfiniteByNature) {
  // Worker 1 spoils slot 4 in attempt 2; then, once, another spoils it in attempt 3.
  const std::vector<NumericDecision> earlier = {attempt(0, {}), attempt(1, {{2, 3}}), attempt(2, {{4, 5}})};
  NumericDecision now = attempt(3, {{4, 5}});
  now.computed = {{WorkerId(2), {{0, 3}, {0, kSlots}}, false}};
  EXPECT_NE(judge(now, earlier).verdict, NumericVerdict::skip);
}

TEST(NumericPolicy, WhoMakesSlotsNonfiniteThatAreFiniteElsewhereTwiceIsExpelled) {
  // Worker 1 has slots 0 to 3 in attempt 1 and slots 4 to 7 in attempt 2.
  const NumericJudgement judgement = judge(attempt(2, {{4, 8}}), {attempt(0, {}), attempt(1, {{0, 4}})});
  EXPECT_EQ(judgement.verdict, NumericVerdict::expel);
  EXPECT_THAT(judgement.faulty, ElementsAre(WorkerId(1)));
}

TEST(NumericPolicy, OneSlipOfEachWorkerExpelsNobody) {
  // Slot 0 at worker 1, then slot 1 at worker 0.
  const NumericJudgement judgement = judge(attempt(2, {{1, 2}}), {attempt(0, {}), attempt(1, {{0, 1}})});
  EXPECT_EQ(judgement.verdict, NumericVerdict::recompute);
  EXPECT_THAT(judgement.faulty, IsEmpty());
}

TEST(NumericPolicy, ALoneWorkerIsTakenAtItsWordTheSecondTime) {
  const std::vector<WorkerId> alone = {WorkerId(0)};
  NumericDecision now = attempt(2, {{2, 3}});
  NumericDecision before = attempt(1, {{2, 3}});
  now.computed = before.computed = {{WorkerId(0), {0, kSlots}}};
  const std::vector<NumericDecision> earlier = {before};
  EXPECT_EQ(judge_nonfinite(now, earlier, alone, NonfinitePolicy::skip).verdict, NumericVerdict::skip);
}

TEST(NumericPolicy, AttemptsThatNeverAgreeEndTheJob) {
  const std::vector<NumericDecision> earlier = {attempt(0, {}), attempt(1, {{0, 1}}), attempt(2, {{1, 2}}),
                                                attempt(3, {{2, 3}}), attempt(4, {{3, 4}})};
  EXPECT_EQ(judge(attempt(5, {{7, 8}}), earlier).verdict, NumericVerdict::halt);
}

TEST(NumericPolicy, ADecisionOfAViewThatWasNeverCommittedStands) {
  const std::vector<NumericDecision> earlier = {attempt(0, {}), attempt(1, {{2, 3}}), attempt(2, {{2, 3}}, "skip")};
  NumericDecision now = attempt(2, {{2, 3}});
  now.computed = {{WorkerId(0), {0, kSlots}}};
  EXPECT_EQ(judge(now, earlier).verdict, NumericVerdict::skip);
}

TEST(NumericPolicy, AttemptsThatWereGivenUpForOtherReasonsDontCount) {
  // Five rollbacks before: this is the first time that the step's gradient isn't finite.
  EXPECT_EQ(judge(attempt(5, {{2, 3}}), {}).verdict, NumericVerdict::recompute);
  EXPECT_EQ(judge(attempt(9, {{4, 5}}), {attempt(7, {{2, 3}})}).verdict, NumericVerdict::recompute);
}

TEST(NumericPolicy, OtherStepsDontCount) {
  NumericDecision other = attempt(1, {{2, 3}});
  other.step = Step(4);
  EXPECT_EQ(judge(attempt(2, {{2, 3}}), {other}).verdict, NumericVerdict::recompute);
}

}  // namespace
}  // namespace planaria

#include "coordinator/core/change_timing.hpp"

#include <gtest/gtest.h>

#include <array>

namespace planaria {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Instant kStart{1'000'000'000};

// Steps of ten seconds, a hundred members, of which a change costs each a second.
ChangeTiming steady() {
  ChangeTiming timing(milliseconds(0));
  timing.view_committed(100, kStart, kStart);
  for (int i = 0; i < 100; ++i) timing.member_entered(kStart + seconds(1));
  timing.step_committed(kStart + seconds(10));
  return timing;
}

TEST(ChangeTiming, AFewLossesDontTellHowFastTheyCome) {
  ChangeTiming timing = steady();
  const Instant now = kStart + seconds(11);
  for (int i = 0; i < 3; ++i) timing.member_lost(now);
  EXPECT_FALSE(timing.losses_come_fast(now));
  timing.member_lost(now);
  EXPECT_TRUE(timing.losses_come_fast(now));
  EXPECT_FALSE(timing.losses_come_fast(now + seconds(200)));
}

TEST(ChangeTiming, LossesThatCameCountMoreAndMoreAgainstThoseExpected) {
  ChangeTiming timing = steady();
  const Instant now = kStart + seconds(11);
  EXPECT_DOUBLE_EQ(timing.losses_per_s(0.1, now), 0.1);
  for (int i = 0; i < 4; ++i) timing.member_lost(now);
  EXPECT_DOUBLE_EQ(timing.losses_per_s(0.1, now), 0.4);  // all at once may have been an accident
  EXPECT_DOUBLE_EQ(timing.losses_per_s(0.1, now + seconds(390)), 0.01);
}

TEST(ChangeTiming, JoinersWaitUntilTheyLostWhatAChangeCosts) {
  const ChangeTiming timing = steady();
  const Instant now = kStart + seconds(20);
  const std::array one{now};
  EXPECT_EQ(timing.worth_for_joiners(one, now), now + seconds(100));
  const std::array two{now - seconds(30), now};
  EXPECT_EQ(timing.worth_for_joiners(two, now), now + seconds(35));
  EXPECT_EQ(timing.worth_for_joiners(two, now + seconds(40)), now + seconds(40));
}

TEST(ChangeTiming, WhereLossesAreFastJoinersComeWithTheirChange) {
  ChangeTiming timing = steady();
  Instant now = kStart + seconds(10);
  for (int i = 0; i < 8; ++i) timing.member_lost(now = now + milliseconds(100));
  const std::array early{now - seconds(200)};
  EXPECT_GT(timing.worth_for_joiners(early, now), now);
  EXPECT_EQ(timing.worth_for_joiners(early, now + seconds(600)), now + seconds(600));
}

}  // namespace
}  // namespace planaria

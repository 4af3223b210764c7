// How the interval of snapshots follows what gates wait for them.
#include "coordinator/core/snapshot_pace.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using namespace std::chrono_literals;

class Pace : public testing::Test {
 protected:
  void begin(SnapshotPaceOptions options, std::uint64_t every_steps) {
    options.heartbeat = 100ms;
    pace_.emplace(options);
    view(every_steps);
  }
  void view(std::uint64_t every_steps) {
    pace_->view_committed(every_steps, now_);
    every_ = every_steps;
    say_waited();
  }
  void say_waited() {
    pace_->member_waited(WorkerId(0), waited_);
    pace_->member_waited(WorkerId(1), waited_ / 2);
  }
  // Windows of a second a step, in which each snapshot has a gate wait for so long; until an interval is due.
  std::optional<SnapshotPace::Change> train(std::uint64_t steps, Duration of_snapshot) {
    for (std::uint64_t step = 1; step <= steps; ++step) {
      now_ = now_ + 1s;
      if (step % every_ == 0) waited_ += of_snapshot;
      say_waited();
      pace_->step_committed();
      if (auto change = pace_->look(now_)) return change;
    }
    return std::nullopt;
  }

  std::optional<SnapshotPace> pace_;
  std::uint64_t every_ = 1;
  Duration waited_{};
  Instant now_{};
};

TEST_F(Pace, StaysWhereWaitsAreWithinTheBound) {
  begin({.max_overhead = 0.01}, 1);
  EXPECT_FALSE(train(1000, 9ms));
  EXPECT_NEAR(pace_->overhead().value_or(0), 0.009, 1e-6);
}

TEST_F(Pace, GrowsByTheLeastThatIsEnough) {
  begin({.max_overhead = 0.01}, 1);
  const auto change = train(20, 35ms);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->every_steps, 4U);
  EXPECT_EQ(change->reason,
            "snapshots each 4 steps instead of after each step: waiting for them took 3.5 % of the time, more than "
            "snapshot.max_overhead = 1 %");
  view(4);
  EXPECT_FALSE(train(1000, 35ms));
}

TEST_F(Pace, OneWindowThatStandsOutIsNoReason) {
  begin({.max_overhead = 0.01}, 1);
  EXPECT_FALSE(train(4, 100ms));
  EXPECT_FALSE(train(100, 1ms));
}

TEST_F(Pace, WithoutABoundItStays) {
  begin({.max_overhead = 0}, 1);
  EXPECT_FALSE(train(1000, 500ms));
}

TEST_F(Pace, DurableSnapshotsStayPossible) {
  begin({.least_steps = 3, .saved_every = 12, .max_overhead = 0.001}, 3);
  const auto change = train(100, 500ms);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->every_steps, 12U);
  view(12);
  EXPECT_FALSE(train(1000, 500ms));
}

TEST_F(Pace, TheIntervalStaysBounded) {
  begin({.max_overhead = 0.01}, 1);
  EXPECT_EQ(train(20, 999ms).value_or(SnapshotPace::Change{}).every_steps, 128U);
  view(128);
  EXPECT_FALSE(train(5000, 999s));
}

TEST_F(Pace, ShrinksWhenThatHasBeenCheapForLong) {
  begin({.max_overhead = 0.01}, 1);
  ASSERT_TRUE(train(20, 35ms));
  view(4);
  const auto change = train(1000, 5ms);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->every_steps, 2U);
  view(2);
  EXPECT_FALSE(train(1000, 6ms)) << "at the border it stays";
  EXPECT_TRUE(train(1000, 2ms));
}

TEST_F(Pace, NeverBelowTheJobsInterval) {
  begin({.least_steps = 4, .max_overhead = 0.01}, 4);
  EXPECT_FALSE(train(2000, 0ms));
}

TEST_F(Pace, AMemberThatBeganAnewCountsFromThen) {
  begin({.max_overhead = 0.01}, 1);
  waited_ = 100s;
  say_waited();
  EXPECT_FALSE(train(4, 0ms));  // a window in which that was told
  waited_ = 0s;
  EXPECT_TRUE(train(20, 20ms));
}

TEST_F(Pace, WhatIsNotTakenUpIsProposedLaterAndLater) {
  begin({.max_overhead = 0.01}, 1);
  std::uint64_t before = 0;
  for (int i = 0; i < 4; ++i) {
    std::uint64_t steps = 0;
    while (!train(1, 100ms)) ++steps;
    EXPECT_GT(steps, before);
    before = steps;
    view(1);
  }
}

TEST_F(Pace, AnIntervalOfOtherOptionsIsNotKept) {
  begin({.least_steps = 2, .saved_every = 8, .max_overhead = 0.01}, 2);
  EXPECT_EQ(pace_->admitted(8), 8U);
  EXPECT_EQ(pace_->admitted(16), 2U);  // a step that is to be saved would have none
  EXPECT_EQ(pace_->admitted(6), 2U);
  EXPECT_EQ(pace_->admitted(1), 2U);
  EXPECT_EQ(pace_->admitted(0), 2U);
  begin({.least_steps = 2, .max_overhead = 0}, 2);
  EXPECT_EQ(pace_->admitted(8), 2U);
  begin({.least_steps = 0, .max_overhead = 0.01}, 0);
  EXPECT_EQ(pace_->admitted(8), 0U);
}

}  // namespace
}  // namespace planaria

// Large fleets: traces of capacity, the schedule of a step, and runs under each policy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "chaos/fleet/baseline_fleet.hpp"
#include "chaos/fleet/elastic_fleet.hpp"
#include "chaos/fleet/step_schedule.hpp"
#include "tests/sanitized.hpp"

namespace planaria::fleet {
namespace {

using testing::HasSubstr;

TraceOptions small_trace(TraceKind kind) {
  TraceOptions options;
  options.kind = kind;
  options.workers = 200;
  options.preemptions_per_s = 0.5;
  options.length = std::chrono::hours(2);
  return options;
}

class Traces : public testing::TestWithParam<TraceKind> {};

TEST_P(Traces, OfOneSeedAreTheSameAndOfAnotherAreNot) {
  TraceOptions options = small_trace(GetParam());
  const CapacityTrace once = draw_trace(options);
  EXPECT_EQ(once.events, draw_trace(options).events);
  options.seed = 2;
  EXPECT_NE(once.events, draw_trace(options).events);
}

TEST_P(Traces, AreReadAsTheyWereWritten) {
  const CapacityTrace drawn = draw_trace(small_trace(GetParam()));
  const auto read = parse_trace(trace_to_csv(drawn), "trace.csv");
  ASSERT_TRUE(read.ok()) << read.error().message();
  ASSERT_EQ(read->events.size(), drawn.events.size());
  for (std::size_t i = 0; i < drawn.events.size(); ++i) {
    EXPECT_EQ(read->events[i].worker, drawn.events[i].worker);
    EXPECT_EQ(read->events[i].joins, drawn.events[i].joins);
    EXPECT_NEAR(to_seconds(read->events[i].at), to_seconds(drawn.events[i].at), 1e-6);
  }
}

// 3,600 preemptions are expected; the storms vary their number far more than chance alone.
TEST_P(Traces, HaveAboutAsManyPreemptionsAsAreAskedFor) {
  const double preemptions = static_cast<double>(draw_trace(small_trace(GetParam())).preemptions());
  const double tolerance = GetParam() == TraceKind::poisson ? 0.1 : 0.6;
  EXPECT_NEAR(preemptions / 3600, 1, tolerance);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Traces, testing::Values(TraceKind::poisson, TraceKind::bursty, TraceKind::outages),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(Trace, AnOutageTakesAWholeZone) {
  TraceOptions options = small_trace(TraceKind::outages);
  options.preemptions_per_s = 1e-6;
  const CapacityTrace trace = draw_trace(options);
  std::vector<std::uint32_t> there(options.zones, 0);
  bool emptied = false;
  for (const CapacityEvent& event : trace.events) {
    there[event.zone] += event.joins ? 1 : -1;
    emptied = emptied || (!event.joins && there[event.zone] == 0);
  }
  EXPECT_TRUE(emptied);
}

TEST(Trace, CountsCapacityInWorkerSeconds) {
  const auto trace =
      parse_trace("seconds,event,worker,zone\n0,join,0,0\n2,join,1,1\n5,preempt,0,0\n10,join,2,0\n", "t");
  ASSERT_TRUE(trace.ok());
  EXPECT_DOUBLE_EQ(trace->capacity(), 5 + 8);
  EXPECT_EQ(trace->zones, 2U);
}

class WrongTrace : public testing::TestWithParam<std::pair<const char*, const char*>> {};
TEST_P(WrongTrace, IsRefusedWithItsLine) {
  const auto trace = parse_trace(GetParam().first, "t.csv");
  ASSERT_FALSE(trace.ok());
  EXPECT_THAT(trace.error().message(), HasSubstr(GetParam().second));
}
INSTANTIATE_TEST_SUITE_P(
    Files, WrongTrace,
    testing::Values(std::pair("", "t.csv:1: the first line must be"),
                    std::pair("seconds,event,worker,zone\n", "no events"),
                    std::pair("seconds,event,worker,zone\n0,leave,0,0\n", "t.csv:2: expected seconds"),
                    std::pair("seconds,event,worker,zone\n-1,join,0,0\n", "t.csv:2: expected seconds"),
                    std::pair("seconds,event,worker,zone\nnan,join,0,0\n", "t.csv:2: expected seconds"),
                    std::pair("seconds,event,worker,zone\n0,join,4000000000,0\n", "t.csv:2: expected seconds"),
                    std::pair("seconds,event,worker,zone\n0,join,1,0,5\n", "t.csv:2: expected seconds"),
                    std::pair("seconds,event,worker,zone\n1,join,1,0\n0,join,2,0\n", "t.csv:3: earlier"),
                    std::pair("seconds,event,worker,zone\n1,join,1,0\n1,join,1,0\n", "t.csv:3: worker 1 joined before"),
                    std::pair("seconds,event,worker,zone\n1,preempt,1,0\n", "t.csv:2: worker 1 isn't there")));

FleetOptions small_fleet() {
  FleetOptions options;
  options.workers = 24;
  return options;
}

const FleetModel& small_model() {
  static const FleetModel model = FleetModel::make(small_fleet()).value();
  return model;
}

TEST(FleetModel, HasAStepOfTheSecondsThatAreAskedFor) {
  EXPECT_NEAR(small_model().step_s(), 5, 0.1);
}

TEST(FleetModel, ItsExchangeIsThePlanners) {
  const Prediction& planned = small_model().best().prediction;
  std::vector<StageAssignment> stages;
  for (const PlanPipeline& pipeline : small_model().best().layout.pipelines) {
    for (const PlanStage& stage : pipeline.stages)
      stages.push_back({stage.worker, {stage.blocks, pipeline.slots}, false});
  }
  const ExchangeSeconds exchange = small_model().exchange(stages, stages);
  EXPECT_NEAR(exchange.reduce / planned.reduce_s, 1, 0.05);
  EXPECT_NEAR(exchange.gather / planned.gather_s, 1, 0.05);
}

TEST(FleetModel, AStepThatIsOnlyExchangeIsRefused) {
  FleetOptions options = small_fleet();
  options.link_gbit = 0.1;
  const auto model = FleetModel::make(options);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message(), HasSubstr("the exchange of a step takes"));
}

class Schedule : public testing::Test {
 protected:
  // Two stages of all blocks, the second one slower by far: the head is in it.
  [[nodiscard]] std::vector<StageAssignment> two_stages(SlotRange slots) const {
    const auto blocks = static_cast<std::uint32_t>(small_model().map().blocks().size());
    return {{WorkerId(0), {{0, 2}, slots}, false}, {WorkerId(1), {{2, blocks}, slots}, false}};
  }
  [[nodiscard]] double seconds(std::size_t stage) const {
    return small_model().seconds_of(two_stages({0, 1})[stage].work.blocks);
  }
  // Until the first of many slots ends.
  [[nodiscard]] double fill() const { return seconds(0) / 3 + seconds(1) + 2 * small_model().border_s(); }
  StepSchedule schedule_{small_model()};
};

TEST_F(Schedule, APipelineFillsAndThenEndsASlotEachPeriod) {
  schedule_.assign(two_stages({0, 8}));
  schedule_.start(100);
  EXPECT_NEAR(schedule_.end_s(), 100 + fill() + 7 * seconds(1), 1e-9);
  const auto half = schedule_.progress(WorkerId(0), 100 + fill() + 3.5 * seconds(1));
  ASSERT_EQ(half.size(), 1U);
  EXPECT_EQ(half[0].second, 4U);
}

TEST_F(Schedule, WhatWasDoneIsNotDoneAgain) {
  schedule_.assign(two_stages({0, 8}));
  schedule_.start(0);
  const double fenced = fill() + 5.5 * seconds(1);
  schedule_.fence(fenced);
  schedule_.reassign(two_stages({0, 8}), 100);
  schedule_.start(100);
  EXPECT_NEAR(schedule_.end_s(), 100 + 1.5 * seconds(1), 1e-9);  // the pipeline is as full as it was
  auto changed = two_stages({0, 8});
  changed[0].worker = WorkerId(2);
  schedule_.reassign(changed, 100);
  schedule_.start(100);
  EXPECT_EQ(schedule_.progress(WorkerId(1), 100).at(0).second, 0U);  // its input is made anew
}

TEST_F(Schedule, ADeathStopsItsPipelineAndAFenceAllOfSeveralStages) {
  schedule_.assign(two_stages({0, 8}));
  schedule_.start(0);
  const double then = fill() + 2.5 * seconds(1);
  schedule_.fence(then);
  EXPECT_EQ(schedule_.progress(WorkerId(1), 1e6).at(0).second, 3U);
  EXPECT_LT(schedule_.end_s(), kNever);
  schedule_.stop(WorkerId(1), then);
  EXPECT_EQ(schedule_.end_s(), kNever);
}

TEST_F(Schedule, LostWorkComesFirstAndFetchedBlocksAreAwaited) {
  auto stages = two_stages({0, 8});
  const auto blocks = stages[1].work.blocks.end;
  stages.push_back({WorkerId(0), {{0, blocks}, {8, 10}}, true});
  schedule_.assign(stages);
  schedule_.fetches(WorkerId(0), 50, {{blocks - 1, blocks}});
  schedule_.start(0);
  const double lost = 2 * small_model().seconds_of({0, blocks});
  EXPECT_NEAR(schedule_.end_s(), 50 + lost + fill() + 7 * seconds(1), 1e-9);
  EXPECT_NEAR(schedule_.end_without({.fetches = true}, 0), lost + fill() + 7 * seconds(1), 1e-9);
  EXPECT_NEAR(schedule_.end_without({.fetches = true, .recomputing = true}, 0), fill() + 7 * seconds(1), 1e-9);
}

// A sanitizer finds in a pure function's first minutes what it finds in its others.
constexpr std::chrono::minutes kLong{kSanitized ? 5 : 20};

CapacityTrace quiet_trace() {
  TraceOptions options;
  options.workers = small_fleet().workers;
  options.length = kLong;
  options.preemptions_per_s = 1e-9;
  return draw_trace(options);
}

CapacityTrace busy_trace(Duration length = kLong) {
  TraceOptions options;
  options.workers = small_fleet().workers;
  options.length = length;
  options.preemptions_per_s = 0.02;  // a death of each worker every twenty minutes
  return draw_trace(options);
}

FleetResult run(Policy policy, const CapacityTrace& trace) {
  const Progress quiet = [](Duration, std::uint64_t) {};
  return policy == Policy::planaria ? run_elastic(small_model(), trace, quiet)
                                    : run_baseline(policy, small_model(), trace);
}

class Policies : public testing::TestWithParam<Policy> {};

TEST_P(Policies, AccountForAllOfTheCapacity) {
  const CapacityTrace trace = busy_trace();
  const FleetResult result = run(GetParam(), trace);
  EXPECT_NEAR(result.capacity / trace.capacity(), 1, 1e-6);
  EXPECT_NEAR((result.work + result.losses.sum()) / result.capacity, 1, 0.01);
  EXPECT_GT(result.steps, 0U);
}

TEST_P(Policies, LoseLittleWhereNothingHappens) {
  const FleetResult result = run(GetParam(), quiet_trace());
  EXPECT_GT(result.goodput(), GetParam() == Policy::spare ? 0.7 : 0.9);
}

TEST_P(Policies, GiveTheSameResultForTheSameTrace) {
  const CapacityTrace trace = busy_trace(kLong / 4);
  EXPECT_EQ(csv_row({}, run(GetParam(), trace)), csv_row({}, run(GetParam(), trace)));
}

INSTANTIATE_TEST_SUITE_P(All, Policies,
                         testing::Values(Policy::planaria, Policy::restart, Policy::drop_replica, Policy::spare),
                         [](const auto& info) {
                           std::string name = to_string(info.param);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Fleet, NobodyRollsBackAndMoreOfTheCapacityTrainsThanUnderAnyOtherPolicy) {
  const CapacityTrace trace = busy_trace();
  const FleetResult ours = run(Policy::planaria, trace);
  EXPECT_EQ(ours.rollbacks, 0U);
  EXPECT_EQ(ours.ended, "");
  for (const Policy other : {Policy::restart, Policy::drop_replica, Policy::spare}) {
    EXPECT_GT(ours.goodput(), run(other, trace).goodput()) << to_string(other);
  }
}

}  // namespace
}  // namespace planaria::fleet

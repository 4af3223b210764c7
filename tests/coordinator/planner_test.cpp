#include "coordinator/planner/planner.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "coordinator/planner/evaluator.hpp"
#include "planner_cases.hpp"
#include "proto/job_spec.hpp"

namespace planaria {
namespace {

using ::testing::HasSubstr;

JobSpec small_job() {
  JobSpec job;
  job.model.layers = 6;
  job.batch = {64, 1, 64};
  return job;
}

ModelProfile small_model() {
  const JobSpec job = small_job();
  return model_profile(job, StateMap(job.model, job.train.tile_elements), 50e9);
}

ClusterProfile alike(std::uint32_t workers, std::uint64_t memory = 16'000'000'000) {
  ClusterProfile cluster;
  for (std::uint32_t i = 0; i < workers; ++i) {
    cluster.workers.push_back({WorkerId(i), 1, memory, fmt::format("h{}", i), "z", ""});
  }
  return cluster;
}

PlanOptions options_of(std::vector<std::uint32_t> depths = {}) {
  PlanOptions options;
  options.micro_batches = 64;
  options.slots = 64;
  options.forced_depths = std::move(depths);
  return options;
}

// Who sends whom how much, pair by pair, straight from the rules.
struct Pairs {
  std::map<std::pair<WorkerId, WorkerId>, std::uint64_t> reduce, gather;

  Pairs(const LayoutPlan& layout, const ModelProfile& model, const PlanOptions& options) {
    const auto count = static_cast<std::uint32_t>(layout.pipelines.size());
    const std::uint64_t gathered = options.shard_optimizer ? model.parameter_width : model.gradient_width;
    for (std::uint32_t block = 0; block < model.blocks.size(); ++block) {
      const std::uint64_t elements = model.blocks[block].elements;
      const std::uint64_t tiles = (elements + model.tile_elements - 1) / model.tile_elements;
      for (std::uint32_t q = 0; q < count; ++q) {
        const TileRange shard = block_shard(tiles, block, q, count);
        const auto part = [&](std::uint64_t limit) {
          return std::min(shard.end * model.tile_elements, limit) - std::min(shard.begin * model.tile_elements, limit);
        };
        const WorkerId owner = owner_of(layout.pipelines[q], block);
        for (const PlanPipeline& pipeline : layout.pipelines) {
          const std::uint64_t nodes = maximal_nodes(pipeline.slots).size();
          add(reduce, owner_of(pipeline, block), owner, nodes * part(elements) * model.gradient_width);
          add(gather, owner, owner_of(pipeline, block), part(elements) * gathered);
          if (block != 0 || model.tied_elements == 0) continue;
          const WorkerId head = pipeline.stages.back().worker;
          add(reduce, head, owner, nodes * part(model.tied_elements) * model.gradient_width);
          if (head != pipeline.stages.front().worker) add(gather, owner, head, part(model.tied_elements) * gathered);
        }
      }
    }
  }

  static WorkerId owner_of(const PlanPipeline& pipeline, std::uint32_t block) {
    return std::ranges::find_if(pipeline.stages,
                                [&](const PlanStage& stage) { return stage.blocks.contains(BlockIndex(block)); })
        ->worker;
  }
  static void add(std::map<std::pair<WorkerId, WorkerId>, std::uint64_t>& all, WorkerId from, WorkerId to,
                  std::uint64_t bytes) {
    if (from != to) all[{from, to}] += bytes;
  }
};

double longest(const std::map<std::pair<WorkerId, WorkerId>, std::uint64_t>& sent, const ClusterProfile& cluster,
               const ModelProfile& model, const PlanOptions& options) {
  const planner::Evaluator evaluator(model, cluster, options);
  const auto index = [&](WorkerId worker) {
    return static_cast<std::uint32_t>(std::ranges::find(cluster.workers, worker, &WorkerProfile::worker) -
                                      cluster.workers.begin());
  };
  std::map<WorkerId, double> out, in;
  for (const auto& [pair, bytes] : sent) {
    const double rate = evaluator.link(index(pair.first), index(pair.second)).bytes_per_s;
    out[pair.first] += static_cast<double>(bytes) / rate;
    in[pair.second] += static_cast<double>(bytes) / rate;
  }
  double most = 0;
  for (const auto& [worker, seconds] : out) most = std::max(most, seconds);
  for (const auto& [worker, seconds] : in) most = std::max(most, seconds);
  return most;
}

TEST(Prediction, OpenSumsAreThoseOfACountThatCarries) {
  for (std::uint32_t begin = 0; begin < 70; ++begin) {
    for (std::uint32_t end = begin + 1; end <= 140; ++end) {
      std::uint32_t most = 0;
      for (std::uint32_t slot = begin; slot < end; ++slot) {
        most = std::max(most, 1 + planner::count_nodes({begin, slot}));
      }
      ASSERT_EQ(planner::open_sums({begin, end}), most) << begin << " to " << end;
    }
  }
}

TEST(Prediction, BytesAndSecondsOfExchangesAreThoseOfAllPairs) {
  constexpr std::uint64_t kFirst = 300;
  fmt::print("seeds {} to {}\n", kFirst, kFirst + 99);
  for (std::uint64_t seed = kFirst; seed < kFirst + 100; ++seed) {
    PlannerCase drawn = draw_case(seed);
    for (WorkerProfile& worker : drawn.cluster.workers) worker.memory_bytes = 1'000'000'000'000;
    drawn.options.forced_depths = {2, 1};
    drawn.options.search = SearchMode::local;
    const auto planned = plan_layout(drawn.model, drawn.cluster, drawn.options);
    ASSERT_TRUE(planned) << planned.error().message();
    const Pairs pairs(planned->layout, drawn.model, drawn.options);
    SCOPED_TRACE(fmt::format("seed {}\n{}", seed, describe(drawn)));
    std::uint64_t reduce = 0, gather = 0;
    for (const auto& [pair, bytes] : pairs.reduce) reduce += bytes;
    for (const auto& [pair, bytes] : pairs.gather) gather += bytes;
    EXPECT_EQ(planned->prediction.reduce_bytes, reduce);
    EXPECT_EQ(planned->prediction.gather_bytes, gather);
    const double reduce_s = longest(pairs.reduce, drawn.cluster, drawn.model, drawn.options);
    EXPECT_GE(planned->prediction.reduce_s, reduce_s * (1 - 1e-9));
    EXPECT_LE(planned->prediction.reduce_s, reduce_s * (1 + 1e-9) + 2.1e-3);  // and one latency
  }
}

TEST(Prediction, UnevenStagesTakeTheSlowestForEachMicroBatchAndAThirdOfTheirSumForTheGaps) {
  const ModelProfile model = small_model();
  ClusterProfile cluster = alike(2);
  cluster.workers[1].speed = 2;
  const LayoutPlan layout{{{{{WorkerId(0), {0, 3}}, {WorkerId(1), {3, 8}}}, {0, 64}}}};
  const auto prediction = predict(layout, model, cluster, options_of());
  ASSERT_TRUE(prediction) << prediction.error().message();
  double first = 0, second = 0;
  for (std::uint32_t i = 0; i < 3; ++i) first += model.blocks[i].seconds();
  for (std::uint32_t i = 3; i < 8; ++i) second += model.blocks[i].seconds() / 2;
  const double boundary = static_cast<double>(model.boundary_bytes) / cluster.same_zone.bytes_per_s;
  const double slowest = std::max(first, second);
  const double expected = (first + second) / 3 + slowest * 2 / 3 + 2 * (boundary + cluster.same_zone.latency_s) +
                          63 * std::max(slowest, boundary);
  EXPECT_NEAR(prediction->compute_s, expected, expected * 1e-12);
}

TEST(Prediction, ALossCostsTheFillingOfThePipelineThatItEmpties) {
  const ModelProfile model = small_model();
  const ClusterProfile cluster = alike(2);
  const LayoutPlan layout{{{{{WorkerId(0), {0, 3}}, {WorkerId(1), {3, 8}}}, {0, 64}}}};
  PlanOptions options = options_of();
  const auto never = predict(layout, model, cluster, options);
  options.losses_per_s = 0.25;
  const auto often = predict(layout, model, cluster, options);
  ASSERT_TRUE(never && often);
  EXPECT_EQ(never->loss_s, 0);
  EXPECT_EQ(often->step_s, never->step_s);
  const double losses = 0.25 * never->step_s;
  const double refill = often->loss_s * (1 + losses) / losses;
  EXPECT_LT(refill, never->compute_s);
  EXPECT_GT(refill, never->compute_s / 64);
  EXPECT_NEAR(often->cost_s, never->cost_s + often->loss_s, never->cost_s * 1e-9);
}

// One pipeline of like stages, one block each.
TEST(Prediction, FewerMicroBatchesThanStagesLeaveLongerGaps) {
  ModelProfile model = small_model();
  for (BlockProfile& block : model.blocks) block.forward_s = 1, block.backward_s = 2;
  model.boundary_bytes = 0;
  ClusterProfile cluster = alike(8);
  cluster.same_zone.latency_s = 0;
  LayoutPlan layout;
  layout.pipelines.resize(1);
  for (std::uint32_t s = 0; s < 8; ++s) layout.pipelines[0].stages.push_back({WorkerId(s), {s, s + 1}});
  for (const auto& [slots, stage_times] : {std::pair{8U, 8 + 7.0 / 3}, {4U, 4 + 11.0 / 3}}) {
    layout.pipelines[0].slots = {0, slots};
    PlanOptions options = options_of();
    options.micro_batches = options.slots = slots;
    const auto prediction = predict(layout, model, cluster, options);
    ASSERT_TRUE(prediction) << prediction.error().message();
    EXPECT_NEAR(prediction->compute_s, 3 * stage_times, 1e-9) << slots;
  }
}

TEST(Prediction, GradientsOfWeightsWaitInTheMemoryThatIsToSpare) {
  const ModelProfile model = small_model();
  const LayoutPlan layout{{{{{WorkerId(0), {0, 2}}, {WorkerId(1), {2, 4}}, {WorkerId(2), {4, 8}}}, {0, 64}}}};
  const auto head = [&](std::uint64_t memory, std::uint32_t micro_batches) {
    PlanOptions options = options_of();
    options.micro_batches = micro_batches;
    return predict(layout, model, alike(3, memory), options)->workers[2];
  };
  const WorkerPrediction none = head(1, 64);
  EXPECT_EQ(none.allowance, Allowance{});
  const WorkerPrediction all = head(16'000'000'000, 64);
  EXPECT_EQ(all.allowance, (Allowance{.ahead = 0, .waiting = 2}));
  EXPECT_LT(none.memory_bytes, all.memory_bytes);
  EXPECT_EQ(all.memory_bytes,
            all.state_bytes + all.parameter_bytes + all.activation_bytes + all.gradient_bytes + all.boundary_bytes);
  EXPECT_EQ(head(all.memory_bytes, 64).allowance.waiting, 2U);
  EXPECT_EQ(head(all.memory_bytes - 1, 64).allowance.waiting, 1U);
  EXPECT_GT(all.gradient_bytes, none.gradient_bytes) << "a slot each: another accumulator is open";
  const WorkerPrediction long_slots = head(16'000'000'000, 256);
  EXPECT_EQ(long_slots.allowance.waiting, 2U);
  EXPECT_GT(long_slots.gradient_bytes, head(1, 256).gradient_bytes);
}

TEST(Prediction, MoreMicroBatchesFlyWhereBordersTakeLong) {
  ModelProfile model = small_model();
  for (BlockProfile& block : model.blocks) block.forward_s = 1, block.backward_s = 2;
  model.boundary_bytes = 1000;
  const LayoutPlan layout{{{{{WorkerId(0), {0, 2}}, {WorkerId(1), {2, 4}}, {WorkerId(2), {4, 8}}}, {0, 64}}}};
  const auto workers = [&](double latency_s, std::uint64_t memory) {
    ClusterProfile cluster = alike(3, memory);
    cluster.same_zone.latency_s = latency_s;
    return predict(layout, model, cluster, options_of())->workers;
  };
  const auto ahead = [&](double latency_s, std::uint32_t worker) {
    return workers(latency_s, 16'000'000'000)[worker].allowance.ahead;
  };
  // A stage takes 12 s at most; a round trip over two borders four latencies.
  EXPECT_EQ(ahead(0, 0), 1U);
  EXPECT_EQ(ahead(6, 0), 3U);
  EXPECT_EQ(ahead(6, 1), 2U);
  EXPECT_EQ(ahead(6, 2), 0U);
  EXPECT_EQ(ahead(1e6, 0), 61U) << "not more than a step has";
  const WorkerPrediction none = workers(6, 1)[0];
  const WorkerPrediction all = workers(6, 16'000'000'000)[0];
  EXPECT_EQ(none.allowance, Allowance{});
  EXPECT_EQ(all.memory_bytes,
            all.state_bytes + all.parameter_bytes + all.activation_bytes + all.gradient_bytes + all.boundary_bytes);
  EXPECT_EQ(all.boundary_bytes - none.boundary_bytes, 3000U) << "the first stage has one neighbour";
  EXPECT_EQ(workers(6, all.memory_bytes - 1)[0].allowance.ahead, 2U);
}

TEST(Planner, ForcedFormsAreKept) {
  for (const char* form : {"1", "2", "3", "2+1", "2+2", "3+2"}) {
    const auto planned = plan_layout(small_model(), alike(5), options_of(pipeline_depths(form).value()));
    ASSERT_TRUE(planned) << form << ": " << planned.error().message();
    std::string swapped(form);
    std::ranges::reverse(swapped);
    EXPECT_THAT(depths_text(planned->layout), ::testing::AnyOf(form, swapped));
    EXPECT_TRUE(check_layout(planned->layout, small_model(), alike(5), 64));
  }
}

TEST(Planner, ForcedFormForMoreWorkersThanThereAreIsRefused) {
  const auto planned = plan_layout(small_model(), alike(2), options_of({2, 1}));
  ASSERT_FALSE(planned);
  EXPECT_EQ(planned.error().code(), ErrorCode::exhausted);
  EXPECT_THAT(planned.error().message(), HasSubstr("needs 3 workers and there are 2"));
}

TEST(Planner, MemoryCapsHoldAndDeepenPipelines) {
  std::uint64_t whole = 0;
  {
    const auto one = plan_layout(small_model(), alike(1), options_of());
    ASSERT_TRUE(one);
    whole = one->prediction.workers[0].memory_bytes;
  }
  const ClusterProfile cluster = alike(4, whole * 6 / 10);
  const auto planned = plan_layout(small_model(), cluster, options_of());
  ASSERT_TRUE(planned) << planned.error().message();
  for (const WorkerPrediction& worker : planned->prediction.workers) EXPECT_LE(worker.memory_bytes, whole * 6 / 10);
  for (const PlanPipeline& pipeline : planned->layout.pipelines) EXPECT_GE(pipeline.stages.size(), 2U);
}

TEST(Planner, WhatFitsNowhereSaysWhatIsNeeded) {
  const auto planned = plan_layout(small_model(), alike(2, 20'000'000), options_of());
  ASSERT_FALSE(planned);
  EXPECT_EQ(planned.error().code(), ErrorCode::exhausted);
  EXPECT_THAT(planned.error().message(), HasSubstr("would need"));
  EXPECT_THAT(planned.error().message(), HasSubstr("add workers or memory"));
}

TEST(Planner, WorkersTooSmallForAnythingAreSpares) {
  ClusterProfile cluster = alike(3);
  cluster.workers[1].memory_bytes = 1000;
  const auto planned = plan_layout(small_model(), cluster, options_of());
  ASSERT_TRUE(planned) << planned.error().message();
  EXPECT_THAT(planned->spares, ::testing::ElementsAre(WorkerId(1)));
  EXPECT_THAT(planned->warnings, ::testing::Contains(HasSubstr("spare: worker 1")));
}

// Of a thousand pipelines the few that finish a tile would store its sums from all others, and of long ones every stage
// what it sends to its neighbours.
TEST(Planner, ManyWorkersOfWhomOnlyFewFitLeaveTheOthersSpare) {
  ModelProfile model;
  model.blocks = {{"a", 1, 2, 1000, 100, 100}, {"b", 1, 2, 1000, 100, 100}};
  model.boundary_bytes = 1000;
  model.tile_elements = 1000;
  PlanOptions options = options_of();
  options.slots = 1024;
  options.micro_batches = 1024;
  options.shard_optimizer = false;
  const auto alone = plan_layout(model, alike(1), options);
  ASSERT_TRUE(alone) << alone.error().message();
  const std::uint64_t memory = alone->prediction.workers.front().memory_bytes;
  for (const std::uint32_t workers : {10U, 60U, 1000U}) {
    const auto planned = plan_layout(model, alike(workers, memory), options);
    EXPECT_TRUE(planned) << workers << ": " << (planned ? "" : planned.error().message());
  }
}

TEST(Planner, NoWorkersIsAnErrorThatSaysSo) {
  const auto planned = plan_layout(small_model(), {}, options_of());
  ASSERT_FALSE(planned);
  EXPECT_EQ(planned.error().code(), ErrorCode::exhausted);
}

TEST(Planner, CoarseSlotsAreWarnedOf) {
  PlanOptions options = options_of({1, 1, 1});
  options.slots = 16;
  options.micro_batches = 16;
  const auto planned = plan_layout(small_model(), alike(3), options);
  ASSERT_TRUE(planned);
  EXPECT_NEAR(planned->prediction.granularity_loss, 6 / (16 / 3.0) - 1, 1e-6);
  EXPECT_THAT(planned->warnings, ::testing::Contains(HasSubstr("whole slots cost")));
}

TEST(Planner, PipelinesStayOnOneSideOfASlowLink) {
  ClusterProfile cluster = alike(4);
  cluster.between_zones = {2e6, 5e-3};
  for (std::size_t i : {1U, 3U}) cluster.workers[i].zone = "other";
  ModelProfile model = small_model();
  model.boundary_bytes *= 20;  // else the sums of the blocks are more, and stay inside
  const auto planned = plan_layout(model, cluster, options_of({2, 2}));
  ASSERT_TRUE(planned) << planned.error().message();
  for (const PlanPipeline& pipeline : planned->layout.pipelines) {
    EXPECT_EQ(pipeline.stages[0].worker.value() % 2, pipeline.stages[1].worker.value() % 2);
  }
}

TEST(Planner, SmallDriftsOfSpeedDontMoveAnything) {
  ClusterProfile cluster = alike(5);
  PlanOptions options = options_of();
  auto planned = plan_layout(small_model(), cluster, options);
  ASSERT_TRUE(planned);
  const LayoutPlan first = planned->layout;
  for (int round = 0; round < 6; ++round) {
    for (std::size_t i = 0; i < 5; ++i)
      cluster.workers[i].speed = 1 + 0.02 * ((round * 7 + static_cast<int>(i) * 3) % 5 - 2) / 2;
    options.previous = planned->layout;
    planned = plan_layout(small_model(), cluster, options);
    ASSERT_TRUE(planned);
    EXPECT_EQ(planned->layout, first) << "round " << round;
  }
  EXPECT_TRUE(planned->kept);
  EXPECT_THAT(planned->reason, HasSubstr("kept"));
}

TEST(Planner, AWorkerAtAQuarterOfItsSpeedIsPlannedAnew) {
  ClusterProfile cluster = alike(4);
  PlanOptions options = options_of();
  const auto before = plan_layout(small_model(), cluster, options);
  ASSERT_TRUE(before);
  options.previous = before->layout;
  cluster.workers[2].speed = 0.25;
  const auto after = plan_layout(small_model(), cluster, options);
  ASSERT_TRUE(after);
  EXPECT_FALSE(after->kept);
  EXPECT_LT(after->prediction.step_s, predict(before->layout, small_model(), cluster, options)->step_s * 0.95);
}

// Three workers alike, each a pipeline of its own.
std::vector<std::uint32_t> slots_shared_out(const ClusterProfile& cluster) {
  const ModelProfile model = small_model();
  const PlanOptions options = options_of();
  const auto blocks = static_cast<std::uint32_t>(model.blocks.size());
  LayoutPlan layout;
  for (std::uint32_t i = 0; i < 3; ++i) {
    layout.pipelines.push_back({{{WorkerId(i), {0, blocks}}}, {i * 8, i == 2 ? 64 : i * 8 + 8}});
  }
  auto judge = LayoutJudge::make(model, cluster, options);
  std::vector<std::uint32_t> slots;
  const auto shared = judge->share_out_slots(layout);
  for (const PlanPipeline& pipeline : shared->pipelines) slots.push_back(pipeline.slots.size());
  return slots;
}

TEST(LayoutJudge, SharesSlotsEvenlyWhereSumsTravelFastAndAlignedWhereTheyDont) {
  ClusterProfile cluster = alike(3);
  cluster.same_zone.bytes_per_s = 1e12;
  EXPECT_EQ(std::ranges::max(slots_shared_out(cluster)), 22U);
  cluster.same_zone.bytes_per_s = 1e7;
  EXPECT_THAT(slots_shared_out(cluster), testing::UnorderedElementsAre(32, 16, 16));
}

TEST(LayoutJudge, WhoNeedsTimeBesidesMicroBatchesGetsFewerSlots) {
  ClusterProfile cluster = alike(3);
  cluster.same_zone.bytes_per_s = 1e12;
  double micro_batch = 0;
  for (const BlockProfile& block : small_model().blocks) micro_batch += block.seconds();
  cluster.workers[1].beside_s = 12 * micro_batch;
  const auto slots = slots_shared_out(cluster);
  EXPECT_LE(slots[1], 14U);
  EXPECT_LE(std::ranges::max(slots), 26U);
}

TEST(LayoutJudge, RefusesWhatIsNoLayout) {
  const ModelProfile model = small_model();
  const ClusterProfile cluster = alike(2);
  const PlanOptions options = options_of();
  auto judge = LayoutJudge::make(model, cluster, options);
  ASSERT_TRUE(judge);
  EXPECT_FALSE(judge->predict({}).ok());
  EXPECT_FALSE(judge->share_out_slots({{{{{WorkerId(7), {0, 8}}}, {0, 64}}}}).ok());
}

TEST(Planner, ALayoutOfLostWorkersIsPlannedAnewNearToIt) {
  PlanOptions options = options_of();
  const auto before = plan_layout(small_model(), alike(4), options);
  ASSERT_TRUE(before);
  options.previous = before->layout;
  const auto after = plan_layout(small_model(), alike(3), options);
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_FALSE(after->kept);
  const auto same = plan_layout(small_model(), alike(4), options);
  ASSERT_TRUE(same);
  EXPECT_EQ(same->prediction.move_bytes, 0U);
}

TEST(Planner, TheSameInputGivesTheSameLayout) {
  const PlannerCase drawn = draw_case(7);
  const auto once = plan_layout(drawn.model, drawn.cluster, drawn.options);
  const auto again = plan_layout(drawn.model, drawn.cluster, drawn.options);
  ASSERT_TRUE(once && again);
  EXPECT_EQ(once->layout, again->layout);
  EXPECT_EQ(once->reason, again->reason);
}

// How long it takes is measured by tests/bench/planner_bench; here only that it ends, with a sound layout.
TEST(Planner, AThousandWorkersGetALayout) {
  ClusterProfile cluster;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    cluster.workers.push_back({WorkerId(i), 0.5 + (i * 37 % 100) / 100.0, 64'000'000'000, fmt::format("h{}", i / 8),
                               fmt::format("z{}", i / 8 / 32), ""});
  }
  JobSpec job;
  job.model.layers = 98;
  PlanOptions options;
  options.slots = 1024;
  options.micro_batches = 4096;
  const ModelProfile model = model_profile(job, StateMap(job.model, 65536), 50e9);
  const auto begin = std::chrono::steady_clock::now();
  const auto planned = plan_layout(model, cluster, options);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  ASSERT_TRUE(planned) << planned.error().message();
  fmt::print("{:.2f} s, {} layouts: {}\n", took.count(), planned->considered, planned->reason);
  EXPECT_TRUE(check_layout(planned->layout, model, cluster, options.slots));
}

}  // namespace
}  // namespace planaria

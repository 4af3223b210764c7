// The protocol cores in virtual time: right ones pass, each broken rule is noticed. A failing campaign prints its seed,
// the drawn options and the shrunk trace.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "chaos/sim/campaign.hpp"
#include "tests/sanitized.hpp"

namespace planaria::sim {
namespace {

CampaignOptions seeds(std::uint64_t first, std::uint64_t count) {
  CampaignOptions options;
  options.first_seed = first;
  options.seeds = count;
  return options;
}

std::string describe(const CampaignResult& result) {
  return result.first_failure ? result.first_failure->describe() : "";
}

// A quiet run of few workers that tests add their faults to.
SimOptions quiet(std::uint32_t workers) {
  OptionLimits limits;
  limits.min_workers = limits.max_workers = workers;
  limits.min_faults = limits.max_faults = 0;
  SimOptions options = draw_options(4711, limits);
  options.job.cluster.min_workers = 1;
  options.job.checkpoint.every_steps = 3;
  options.job.integrity.check_every = 1;
  options.shape.natural_nan.reset();
  options.shared_checkpoints = true;
  return options;
}

Fault fault(FaultKind kind, std::uint64_t step, SimPhase phase) {
  Fault fault;
  fault.kind = kind;
  fault.step = step;
  fault.phase = phase;
  fault.lasts = std::chrono::milliseconds(50);
  return fault;
}

std::string verdict(const SimOptions& options) {
  const RunResult result = run_seed(options);
  if (result.violation) return shrink(options).describe();
  return result.ending == Ending::finished ? "finished" : "ended: " + result.ending_reason;
}

TEST(Simulation, ManySeedsPass) {
  // A sanitizer looks at every load and finds in pure cores what it finds in their first runs.
  constexpr std::uint64_t kSeeds = kSanitized ? 20 : 200;
  const CampaignResult result = run_campaign(seeds(1, kSeeds));
  EXPECT_THAT(result.failing_seeds, testing::IsEmpty()) << describe(result);
  EXPECT_GE(result.finished, kSeeds * 19 / 20);
}

// Hosts of one worker and one keeper each, k + m, with a sharded optimizer.
SimOptions hosts(std::uint32_t count, std::uint32_t data, std::uint32_t parity) {
  SimOptions options = quiet(count);
  options.keepers.assign(count, std::chrono::milliseconds(1));
  options.starts.assign(count, std::chrono::milliseconds(1));
  options.job.optimizer.shard = true;
  options.job.checkpoint.every_steps = 0;
  options.job.snapshot = {1, data, parity, 0};
  options.job.train.steps = 12;
  options.shape.total_steps = Step(12);
  return options;
}

// The host of this worker and, as the next faults, those of more.
void lose_hosts(SimOptions& options, std::uint32_t count, std::uint64_t step, SimPhase phase, std::uint32_t victim) {
  for (std::uint32_t i = 0; i < count; ++i) {
    Fault lost = fault(FaultKind::kill, step, phase);
    lost.flag = true;
    lost.victim = victim + i;
    if (i > 0) lost.trigger = TriggerKind::after_previous;
    options.faults.push_back(lost);
  }
}

// What runs needed whose hosts were lost.
struct AfterLosses {
  std::map<std::uint32_t, std::uint32_t> tiers;  // views
  std::uint64_t rebuilt = 0;                     // tiles
  std::uint32_t returns = 0;
};

// At each step and phase in turns.
std::vector<RunResult> lose_at_each_phase(std::uint32_t lost, const SimOptions& options) {
  std::vector<RunResult> results;
  for (std::uint32_t phase = static_cast<std::uint32_t>(SimPhase::forward);
       phase <= static_cast<std::uint32_t>(SimPhase::commit); ++phase) {
    for (std::uint64_t step = 3; step <= 11; step += 2) {
      SimOptions run = options;
      run.seed = options.seed + step;
      lose_hosts(run, lost, step, static_cast<SimPhase>(phase), static_cast<std::uint32_t>(step) + phase);
      results.push_back(run_seed(run));
      if (results.back().violation && run.mutations.none()) ADD_FAILURE() << shrink(run).describe();
    }
  }
  return results;
}

AfterLosses after_losses(std::uint32_t lost, const SimOptions& options) {
  AfterLosses found;
  for (const RunResult& result : lose_at_each_phase(lost, options)) {
    EXPECT_EQ(result.ending, Ending::finished) << result.ending_reason;
    for (const auto& [tier, views] : result.tiers) found.tiers[tier] += views;
    found.rebuilt += result.rebuilt;
    found.returns += result.returns;
  }
  return found;
}

// Of as many hosts as there is parity, whenever they are lost, a committed step included whose snapshot isn't whole.
class LostHosts : public testing::TestWithParam<std::uint32_t> {};

TEST_P(LostHosts, AreMadeGoodWithoutGoingBack) {
  const std::uint32_t parity = GetParam();
  const AfterLosses found = after_losses(parity, hosts(3 * parity + (parity == 1 ? 1 : 0), parity + 2, parity));
  EXPECT_GT(found.rebuilt, 0U);
  EXPECT_GT(found.returns, 0U);
  EXPECT_THAT(found.tiers, testing::SizeIs(1)) << "all views are of tier 0";
}

INSTANTIATE_TEST_SUITE_P(Parity, LostHosts, testing::Values(1U, 2U));

TEST(Simulation, WorkOfACommittedStepThatIsFreedTooEarlyIsMissed) {
  SimOptions options = hosts(4, 3, 1);
  options.mutations = MutationSet(Mutation::free_finished_work);
  const auto results = lose_at_each_phase(1, options);
  EXPECT_TRUE(std::ranges::any_of(results, [](const RunResult& result) { return result.violation.has_value(); }));
}

TEST(Simulation, WhereGatesWaitForSnapshotsTheseBecomeRarerAndStillMakeALossGood) {
  SimOptions options = hosts(4, 3, 1);
  options.job.train.steps = 200;
  options.shape.total_steps = Step(200);
  options.job.cluster.rebalance_gain = 100;  // each further view is for another interval
  options.rescues.clear();
  // A snapshot takes more messages, one after the other, than a step.
  options.latency = std::chrono::milliseconds(2);
  options.micro_batch = std::chrono::microseconds(20);
  const std::uint64_t views = run_seed(options).views;
  options.job.snapshot.max_overhead = 0.01;
  EXPECT_GT(run_seed(options).views, views);
  lose_hosts(options, 1, 190, SimPhase::backward, 2);
  const RunResult result = run_seed(options);
  EXPECT_FALSE(result.violation) << shrink(options).describe();
  EXPECT_EQ(result.ending, Ending::finished);
  EXPECT_EQ(result.tiers.count(2), 0U);
  EXPECT_GT(result.rebuilt, 0U);
}

TEST(Simulation, MoreLostHostsThanParitiesCostTheStepsSinceTheCheckpoint) {
  SimOptions options = hosts(6, 4, 2);
  options.job.checkpoint.every_steps = 3;
  EXPECT_TRUE(after_losses(3, options).tiers.contains(2));
}

TEST(Simulation, EveryKindOfFaultStrikesAndEveryPhaseIsStruck) {
  if (kSanitized) GTEST_SKIP() << "too many seeds for a sanitizer's build; ManySeedsPass runs the same code";
  const CampaignResult result = run_campaign(seeds(50'000, 150));
  EXPECT_THAT(result.failing_seeds, testing::IsEmpty()) << describe(result);
  std::array<std::uint32_t, kSimPhases> by_phase{};
  for (std::size_t kind = 0; kind < kFaultKinds; ++kind) {
    EXPECT_GT(std::accumulate(result.faults[kind].begin(), result.faults[kind].end(), 0U), 0U)
        << to_string(static_cast<FaultKind>(kind));
    for (std::size_t phase = 0; phase < kSimPhases; ++phase) by_phase[phase] += result.faults[kind][phase];
  }
  EXPECT_THAT(by_phase, testing::Each(testing::Gt(0U)));
}

TEST(Simulation, LargeViewsPassOnWhatMembersSay) {
  CampaignOptions options = seeds(300, 3);
  options.limits.min_workers = options.limits.max_workers = 60;
  options.limits.min_steps = 3;
  const CampaignResult result = run_campaign(options);
  EXPECT_THAT(result.failing_seeds, testing::IsEmpty()) << describe(result);
}

TEST(Simulation, ASeedRunsTheSameOnAnyNumberOfThreads) {
  CampaignOptions options = seeds(900, 24);
  options.threads = 1;
  const CampaignResult one = run_campaign(options);
  options.threads = 3;
  const CampaignResult three = run_campaign(options);
  EXPECT_EQ(one.events, three.events);
  EXPECT_EQ(one.faults, three.faults);
  EXPECT_EQ(one.passed, three.passed);
}

TEST(Simulation, AFailingSeedIsShrunkAndTold) {
  CampaignOptions options = seeds(1, 200);
  options.threads = 1;
  options.mutations = MutationSet(Mutation::forget_fenced_state);
  const CampaignResult result = run_campaign(options);
  ASSERT_TRUE(result.first_failure);
  const Failure& failure = *result.first_failure;
  EXPECT_LT(failure.options.faults.size(), failure.faults_drawn);
  EXPECT_THAT(failure.describe(), testing::HasSubstr("seed " + std::to_string(failure.seed)));
  EXPECT_THAT(failure.describe(), testing::HasSubstr("VIOLATED"));
}

TEST(Simulation, UndisturbedRunsFinish) {
  for (const std::uint32_t workers : {1U, 2U, 5U, 16U}) EXPECT_EQ(verdict(quiet(workers)), "finished") << workers;
}

TEST(Simulation, TheCoordinatorDiesAfterAnyOfItsActions) {
  for (std::uint32_t action = 1; action < 90; ++action) {
    SimOptions options = quiet(3);
    Fault death = fault(FaultKind::kill_coordinator, 0, SimPhase::joining);
    death.after_actions = action;
    options.faults = {death, fault(FaultKind::kill, 4, SimPhase::reduce)};
    ASSERT_EQ(verdict(options), "finished") << "after " << action << " actions";
  }
}

TEST(Simulation, AllWorkersDieAndNewOnesGoOnFromTheCheckpoint) {
  SimOptions options = quiet(3);
  options.faults = {fault(FaultKind::kill_several, 9, SimPhase::backward)};
  options.faults[0].flag = true;
  options.rescues = {std::chrono::milliseconds(20), std::chrono::milliseconds(30)};
  const RunResult result = run_seed(options);
  EXPECT_FALSE(result.violation) << shrink(options).describe();
  EXPECT_EQ(result.ending, Ending::finished);
  EXPECT_EQ(result.tiers.count(2), 1U);
}

TEST(Simulation, AllWorkersDieForGoodAndTheJobWaitsWithAReason) {
  SimOptions options = quiet(3);
  options.faults = {fault(FaultKind::kill_several, 9, SimPhase::backward)};
  options.faults[0].flag = true;
  options.rescues.clear();
  EXPECT_THAT(verdict(options), testing::HasSubstr("ended: no workers"));
}

TEST(Simulation, AJoinerGetsReadyForItsFirstStageWhileTheOthersCompute) {
  SimOptions options = quiet(1);
  options.micro_batch = std::chrono::milliseconds(3);
  options.faults = {fault(FaultKind::join, 4, SimPhase::forward), fault(FaultKind::join, 9, SimPhase::forward)};
  options.rescues.clear();
  Simulation simulation(options, 100'000);
  const RunResult result = simulation.run();
  EXPECT_FALSE(result.violation);
  std::vector<std::string> rehearsals;
  for (const Trace::Line& line : result.trace) {
    if (line.text.find("trainer did Rehearse") != std::string::npos) rehearsals.push_back(line.text.substr(0, 6));
  }
  EXPECT_THAT(rehearsals, testing::ElementsAre("w1(p1)", "w2(p2)"));
}

TEST(Simulation, TheLastWorkerIsAskedToDrainAndStays) {
  SimOptions options = quiet(1);
  options.faults = {fault(FaultKind::drain, 5, SimPhase::forward)};
  options.rescues.clear();
  EXPECT_EQ(verdict(options), "finished");
}

TEST(Simulation, AGradientNonfiniteByNatureIsSkippedOrHaltsTheJob) {
  for (const NonfinitePolicy policy : {NonfinitePolicy::skip, NonfinitePolicy::halt}) {
    SimOptions options = quiet(4);
    options.shape.natural_nan = Step(7);
    options.shape.nonfinite = options.job.optimizer.nonfinite = policy;
    const RunResult result = run_seed(options);
    EXPECT_FALSE(result.violation) << shrink(options).describe();
    EXPECT_EQ(result.ending, policy == NonfinitePolicy::skip ? Ending::finished : Ending::failed);
  }
}

TEST(Simulation, AWrongValueInOneReplicaIsFoundAndAllGoBackToWhatTheyHadAlike) {
  for (const bool at_rest : {false, true}) {
    SimOptions options = quiet(4);
    options.faults = {fault(FaultKind::flip_state, 6, SimPhase::update)};
    options.faults[0].flag = at_rest;
    const RunResult result = run_seed(options);
    EXPECT_FALSE(result.violation) << shrink(options).describe();
    EXPECT_EQ(result.ending, Ending::finished);
    EXPECT_EQ(result.tiers.count(1), 1U);
  }
}

TEST(Simulation, AWrongGradientAtOneKeeperIsFoundBeforeTheUpdate) {
  SimOptions undisturbed = quiet(4);
  undisturbed.job.cluster.rebalance_gain = 100;  // each further view is the finding's
  undisturbed.rescues.clear();
  const std::uint64_t views = run_seed(undisturbed).views;
  for (const std::uint32_t victim : {0U, 1U, 2U, 3U}) {
    SimOptions options = undisturbed;
    options.faults = {fault(FaultKind::flip_gradient, 6, SimPhase::forward)};
    options.faults[0].victim = victim;
    const RunResult result = run_seed(options);
    EXPECT_FALSE(result.violation) << shrink(options).describe();
    EXPECT_EQ(result.ending, Ending::finished);
    EXPECT_EQ(result.views, views + 1);
    EXPECT_EQ(result.tiers.count(1), 0U) << "the step is computed again, from the state before it";
  }
}

// A value goes wrong at rest at step 3; another member is away while the rest compares at step 6 and goes back, and
// returns with the state of step 4 or 5.
std::uint32_t violations_of_absences(MutationSet mutations) {
  std::uint32_t violations = 0;
  for (std::uint32_t k = 0; k < 60; ++k) {
    SimOptions options = quiet(4);
    options.mutations = mutations;
    options.job.cluster.layout.clear();  // who was away brings a whole state
    options.job.integrity.check_every = 3;
    options.job.checkpoint.every_steps = 3;
    options.faults = {fault(FaultKind::flip_state, 3, SimPhase::update),
                      fault(FaultKind::freeze, 5, SimPhase::forward)};
    options.faults[0].flag = true;
    options.faults[0].victim = 0;
    options.faults[1].victim = 2;
    options.faults[1].after_actions = k % 10;
    options.faults[1].lasts = std::chrono::milliseconds(options.job.cluster.lease_ms) * (20 + k) / 20;
    const RunResult result = run_seed(options);
    if (result.violation) ++violations;
  }
  return violations;
}

TEST(Simulation, WhoMissesARollbackDoesntBringTheWrongStateBack) {
  EXPECT_EQ(violations_of_absences({}), 0U);
  EXPECT_GT(violations_of_absences(MutationSet(Mutation::trust_old_lineage)), 0U);
}

TEST(Simulation, AWorkerWhoseGradientsAreNeverFiniteIsExpelled) {
  SimOptions options = quiet(4);
  options.faults = {fault(FaultKind::nan, 6, SimPhase::forward)};
  options.faults[0].flag = true;
  options.faults[0].other = 0;
  EXPECT_EQ(verdict(options), "finished");
}

// Each protocol rule, broken on purpose, is noticed within 1,000 seeds. (The last mutations have tests of their own
// above: they show where somebody was away, or a host was lost.)
class MutatedCores : public testing::TestWithParam<std::uint8_t> {};

TEST_P(MutatedCores, AreCaught) {
  CampaignOptions options = seeds(1, 1000);
  options.mutations = MutationSet(static_cast<Mutation>(GetParam()));
  const CampaignResult result = run_campaign(options);
  EXPECT_FALSE(result.failing_seeds.empty()) << "no seed noticed it";
}

INSTANTIATE_TEST_SUITE_P(Rules, MutatedCores,
                         testing::Range<std::uint8_t>(0, static_cast<std::uint8_t>(Mutation::trust_old_lineage)),
                         [](const auto& info) { return std::string(to_string(static_cast<Mutation>(info.param))); });

}  // namespace
}  // namespace planaria::sim

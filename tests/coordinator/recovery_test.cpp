#include "coordinator/core/recovery.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "coordinator/core/layout_planning.hpp"
#include "coordinator/core/snapshot_planning.hpp"
#include "proto/duty.hpp"
#include "proto/tile_set.hpp"
#include "tests/single_stages.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;

constexpr std::uint32_t kJobSlots = 8;
const Hash128 kRight{1, 1};
const Hash128 kWrong{2, 2};

// Workers 0, 1, … in view 1, whose step 6 is under way: all hold state 5.
class Recovery : public testing::Test {
 protected:
  explicit Recovery(std::uint32_t workers = 3) {
    ViewRecord& previous = *previous_;
    previous.view = ViewNumber(1);
    std::vector<WorkerId> ids;
    for (std::uint32_t i = 0; i < workers; ++i) ids.emplace_back(i);
    previous.stages = single_stages(blocks(), ids, split_slots(kJobSlots, std::vector<double>(workers, 1.0)));
    previous.shards = split_shards(map_, previous.stages);
    previous.resume.step = Step(2);
    for (const WorkerId id : ids) {
      RecoveryMember member;
      member.member = {id, Incarnation(1), "here", {}};
      member.continuing = true;
      previous.members.push_back(member.member);
      Report& report = add(std::move(member));
      report.view = previous.view;
      report.work_step = Step(6);
      report.stages = {{previous.stages[id.value()].work, 0}};
      holds(id.value(), {Step(5)});
    }
    input_.view = ViewNumber(2);
    input_.previous = previous_;
    input_.reached = Step(5);
    input_.slots = kJobSlots;
    input_.total_steps = Step(20);
    input_.map = &map_;
    job_.model = small_model();
    job_.batch.slots = job_.batch.micro_batches = kJobSlots;
    input_.job = &job_;
    input_.block_shares.assign(blocks(), 1.0 / blocks());
  }

  [[nodiscard]] std::uint32_t blocks() const { return static_cast<std::uint32_t>(map_.blocks().size()); }
  // Makes it a member of the new view; its report, still empty.
  Report& add(RecoveryMember member) {
    auto& report = reports_[member.member.worker] = std::make_shared<Report>();
    member.report = report;
    input_.members.push_back(std::move(member));
    return *report;
  }
  Report& report(const RecoveryMember& member) { return *reports_.at(member.member.worker); }
  Report& report(std::size_t i) { return report(input_.members[i]); }
  Holdings& holdings(std::size_t i) { return report(i).holdings; }

  // The member holds all of these states, or of each these tiles.
  void holds(std::size_t i, const std::vector<Step>& stamps) { holds(i, stamps, TileSet(map_.tiles_with_state())); }
  void holds(std::size_t i, const std::vector<Step>& stamps, const TileSet& tiles) {
    holdings(i).states.clear();
    for (const Step stamp : stamps) {
      HeldState held{stamp, tiles.runs(), {}, {}};
      if (!map_.tied_tiles().empty()) held.parameters = {map_.tied_tiles()};
      holdings(i).states.push_back(std::move(held));
    }
  }
  [[nodiscard]] std::vector<BlockHash> hash(const Hash128& of_first_block) const {
    std::vector<BlockHash> hashes{{0, of_first_block}};
    for (std::uint32_t b = 1; b < map_.blocks().size(); ++b) hashes.push_back({b, kRight});
    return hashes;
  }
  [[nodiscard]] const std::vector<Distrust>& distrusted(const RecoveryDecision& decision) const {
    return decision.record.resume.distrusted;
  }

  // All finished update 6 and compared then; they had state 5 alike.
  void disagree_at_six() {
    input_.distrust_state = input_.discard_work = true;
    for (std::size_t i = 0; i < input_.members.size(); ++i) {
      holds(i, {Step(5), Step(6)});
      holdings(i).compared = ComparedState{Step(5), hash(kRight)};
      holdings(i).states[0].hashes = hash(kRight);
      holdings(i).states[1].hashes = hash(i == 1 ? kWrong : kRight);
    }
  }

  const StateMap map_{small_model(), 512};
  JobSpec job_;
  const std::shared_ptr<ViewRecord> previous_ = std::make_shared<ViewRecord>();
  std::map<WorkerId, std::shared_ptr<Report>> reports_;
  RecoveryInput input_;
};

TEST_F(Recovery, GoesOnWithTheStepWhenAllAgree) {
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.step, Step(6));
  EXPECT_EQ(decision->record.resume.tier, 0U);
  EXPECT_FALSE(decision->record.resume.discard);
  EXPECT_TRUE(decision->record.resume.fetches.empty());
}

// Of two stages the first is lost; the other's worker is its pipeline's only one after the step.
TEST_F(Recovery, WhoFetchesALostStagesBlocksTakesAPartOfItsWork) {
  const std::uint32_t half = blocks() / 2;
  const BlockRange all{0, blocks()}, upper{half, blocks()};
  ViewRecord& previous = *previous_;
  previous.stages = {{WorkerId(0), {{0, half}, {0, 4}}, false},
                     {WorkerId(1), {upper, {0, 4}}, false},
                     {WorkerId(2), {all, {4, 8}}, false}};
  previous.shards = split_shards(map_, previous.stages);
  input_.members.erase(input_.members.begin());
  for (RecoveryMember& member : input_.members) {
    report(member).stages = {{previous.stages[member.member.worker.value()].work, 0}};
  }
  holds(0, {Step(5)}, TileSet(map_.tiles_of(upper)).common(map_.tiles_with_state()));
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  std::map<WorkerId, std::uint32_t> taken;
  for (const StageAssignment& stage : decision->record.resume.stages) {
    if (stage.recompute) taken[stage.worker] += stage.work.slots.size();
  }
  EXPECT_EQ(taken[WorkerId(1)] + taken[WorkerId(2)], 4U);
  EXPECT_GE(taken[WorkerId(1)], 3U);  // it has a third less left to do of its own
}

// Workers 1, 2 and 3 of two pipelines of two stages, without tied copies.
class RecoveryOfAStage : public Recovery {
 protected:
  RecoveryOfAStage() : Recovery(4) {
    const std::uint32_t half = blocks() / 2;
    const BlockRange lower{0, half}, upper{half, blocks()};
    ViewRecord& previous = *previous_;
    previous.stages = {{WorkerId(0), {lower, {0, 4}}, false},
                       {WorkerId(1), {upper, {0, 4}}, false},
                       {WorkerId(2), {lower, {4, 8}}, false},
                       {WorkerId(3), {upper, {4, 8}}, false}};
    previous.shards = split_shards(map_, previous.stages);
    input_.members.erase(input_.members.begin());
    for (RecoveryMember& member : input_.members) {
      const StageWork& work = previous.stages[member.member.worker.value()].work;
      const TileSet kept = TileSet(map_.tiles_of(work.blocks)).common(map_.tiles_with_state());
      report(member).stages = {{work, 0}};
      report(member).holdings.states = {{Step(5), kept.runs(), {}, {}}};
    }
  }
};

TEST_F(RecoveryOfAStage, WhoWaitsForItFetchesItsBlocksForTheStepWhereThereIsMemory) {
  input_.depths = {3};  // after the step it has other ones
  report(0).stages[0].done = 4;
  const auto lost_slots = [&](std::uint64_t memory_bytes) {
    for (RecoveryMember& member : input_.members) member.resources.memory_bytes = memory_bytes;
    const auto decision = decide_recovery(input_);
    std::map<WorkerId, std::uint32_t> slots;
    for (const StageAssignment& stage : decision->record.resume.stages) {
      if (stage.recompute) slots[stage.worker] += stage.work.slots.size();
    }
    return slots;
  };
  const std::map<WorkerId, std::uint32_t> alone{{WorkerId(2), 4}}, helped{{WorkerId(1), 4}};
  EXPECT_EQ(lost_slots(0), helped);
  EXPECT_EQ(lost_slots(1 << 30), helped);
  EXPECT_EQ(lost_slots(145'000), alone);  // enough for each one's stage
}

TEST_F(RecoveryOfAStage, AKeeperGivesStateAndTakesNoWork) {
  RecoveryMember keeper;
  keeper.member = {WorkerId(4), Incarnation(1), "here", {}, {}, Role::keeper};
  keeper.continuing = true;
  previous_->members.push_back(keeper.member);
  Report& of_keeper = add(keeper);
  of_keeper.view = ViewNumber(1);
  of_keeper.holdings.states = {{Step(5), {map_.tiles_with_state()}, {}, {}}};
  for (RecoveryMember& member : input_.members) {  // whoever else had the lower blocks has lost them
    if (member.member.worker == WorkerId(2)) report(member).holdings.states.clear();
  }
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.tier, 0U);
  for (const auto& stages : {decision->record.stages, decision->record.resume.stages}) {
    EXPECT_FALSE(workers_of(stages).contains(WorkerId(4)));
  }
  EXPECT_TRUE(std::ranges::any_of(decision->record.resume.fetches,
                                  [](const StateFetch& fetch) { return fetch.from == WorkerId(4); }));
  EXPECT_TRUE(decision->record.has(WorkerId(4)));
}

// Four hosts of one worker and one keeper each, with a sharded optimizer and a whole snapshot of state 5: the first
// host is lost.
class RecoveryOfAHost : public Recovery {
 protected:
  RecoveryOfAHost() : Recovery(4) {
    ViewRecord& previous = *previous_;
    input_.sharded = previous.sharded = true;
    previous.snapshot_every = 1;
    for (std::uint32_t i = 0; i < 4; ++i) {
      RecoveryMember keeper;
      keeper.member = {WorkerId(4 + i), Incarnation(1), host(i), {}, {}, Role::keeper};
      keeper.continuing = true;
      input_.members[i].member.host = previous.members[i].host = host(i);
      previous.members.push_back(keeper.member);
      Report& report = add(std::move(keeper));
      report.view = previous.view;
      report.work_step = Step(6);
    }
    const Duties duties(map_, true, previous.stages, previous.shards);
    std::map<WorkerId, SnapshotKeeper> keepers;
    for (std::uint32_t i = 4; i < 8; ++i) keepers[WorkerId(i)] = {};
    previous.snapshots = plan_snapshots(map_, previous.members, duties, keepers, {1, 3, 1}).layout;
    for (std::uint32_t i = 0; i < 4; ++i) {
      const TileSet kept = duties.of(WorkerId(i)).kept;
      holds(i, {Step(5)}, kept);
      holdings(i).states[0].parameters = {TileRange{0, map_.tile_count()}};
      holds(4 + i, {Step(5)}, kept);
      holdings(4 + i).states[0].parameters.clear();
    }
    for (std::uint32_t s = 0; s < previous.snapshots.stripes.size(); ++s) {
      const Stripe& stripe = previous.snapshots.stripes[s];
      for (std::uint32_t f = stripe.data; f < stripe.fragments.size(); ++f) {
        holdings(stripe.fragments[f].keeper.value()).fragments.push_back({{Step(5), previous.view}, s, f, stripe});
      }
    }
    lost_ = duties.of(WorkerId(0)).kept;
    input_.members.erase(input_.members.begin() + 4);
    input_.members.erase(input_.members.begin());
  }
  static std::string host(std::uint32_t i) { return "h" + std::to_string(i); }
  // By member index, that of a host's worker or keeper.
  [[nodiscard]] std::size_t keeper(std::uint32_t host) const { return 3 + host - 1; }

  TileSet lost_;
};

TEST_F(RecoveryOfAHost, ItsStateIsMadeAgainFromFragmentsAndNothingIsRolledBack) {
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  const ViewRecord& record = decision->record;
  EXPECT_EQ(record.resume.step, Step(6));
  EXPECT_EQ(record.resume.tier, 0U);
  EXPECT_TRUE(check_view(record, map_, kJobSlots)) << check_view(record, map_, kJobSlots).error().message();
  TileSet made;
  for (const FragmentRebuild& rebuild : record.resume.rebuilds) {
    EXPECT_EQ(record.member(rebuild.worker)->role, Role::worker);
    const TileSet tiles(rebuild.tiles);
    EXPECT_FALSE(made.intersects(tiles));
    made.add(tiles);
    EXPECT_TRUE(owned_by(record.shards, rebuild.worker).contains(tiles));
  }
  EXPECT_EQ(made, lost_);
  EXPECT_THAT(record.reason, HasSubstr("made again from fragments of step 5"));
  // Keepers protect state 5 anew: what they lack they get from the workers of their hosts, or of others.
  for (std::uint32_t host = 1; host < 4; ++host) {
    const WorkerId id(4 + host);
    TileSet has(TileSet(holdings(keeper(host)).states[0].state));
    for (const StateFetch& fetch : record.resume.fetches) {
      if (fetch.worker == id) has.add(fetch.tiles);
    }
    EXPECT_TRUE(has.contains(tiles_of(record.snapshots, id)));
  }
}

// Everybody had committed step 6 when the host was lost; its snapshot wasn't complete, so that the keepers have parity
// of state 5 only.
class RecoveryBehindACommit : public RecoveryOfAHost {
 protected:
  RecoveryBehindACommit() {
    input_.reached = Step(6);
    const Duties duties(map_, true, previous_->stages, previous_->shards);
    for (std::size_t i = 0; i < 3; ++i) {
      Report& own_report = report(i);
      const StageWork own = own_report.stages[0].work;
      const TileSet kept = duties.of(input_.members[i].member.worker).kept;
      own_report.work_step = Step(7);
      own_report.released = false;
      own_report.kept = KeptWork{Step(6), 0, false, {{own, own.slots.size()}}, kept.runs()};
      holdings(i).states.push_back({Step(6), kept.runs(), {TileRange{0, map_.tile_count()}}, {}});
    }
    for (std::size_t i = 3; i < 6; ++i) report(i).work_step = Step(7);
  }
};

TEST_F(RecoveryBehindACommit, TheStepIsFinishedAgainFromTheWorkThatIsKept) {
  input_.allow_rollback = false;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok()) << decision.error().message();
  const ResumePlan& plan = decision->record.resume;
  EXPECT_TRUE(plan.returns);
  EXPECT_EQ(plan.step, Step(6));
  EXPECT_EQ(plan.tier, 0U);
  EXPECT_FALSE(plan.discard);
  EXPECT_TRUE(check_view(decision->record, map_, kJobSlots))
      << check_view(decision->record, map_, kJobSlots).error().message();
  TileSet made;
  for (const FragmentRebuild& rebuild : plan.rebuilds) {
    EXPECT_EQ(rebuild.snapshot.step, Step(5));
    made.add(TileSet(rebuild.tiles));
  }
  EXPECT_EQ(made, lost_);
  for (const StageAssignment& stage : plan.stages) {
    const bool of_the_lost = stage.work.slots.begin < previous_->stages[0].work.slots.end;
    EXPECT_EQ(stage.recompute, of_the_lost);
  }
  TileSet summed_anew;
  for (const ShardAssignment& shard : plan.shards) {
    if (!shard.ready) summed_anew.add(shard.tiles);
  }
  EXPECT_EQ(summed_anew.common(map_.tiles_with_state()), lost_);
}

TEST_F(RecoveryBehindACommit, AnUpdateThatWasLeftOutIsLeftOutAgain) {
  for (std::size_t i = 0; i < 3; ++i) report(i).kept->skipped = true;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_TRUE(decision->record.resume.returns);
  EXPECT_TRUE(decision->record.resume.skip_update);
}

TEST_F(RecoveryBehindACommit, WorkThatTwoClaimIsNotGoneOnWith) {
  report(1).kept->stages = report(0).kept->stages;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_FALSE(decision->record.resume.returns);
  EXPECT_EQ(decision->record.resume.tier, 1U);
}

TEST_F(RecoveryBehindACommit, WithoutAllOfThatWorkAllGoBackAStep) {
  report(1).kept.reset();
  input_.allow_rollback = false;
  EXPECT_EQ(decide_recovery(input_).error().code(), ErrorCode::unavailable);
  input_.allow_rollback = true;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_FALSE(decision->record.resume.returns);
  EXPECT_EQ(decision->record.resume.tier, 1U);
  EXPECT_EQ(decision->record.resume.step, Step(6));
}

TEST_F(RecoveryOfAHost, ADrainedKeeperGoesOnceASnapshotWithoutItIsComplete) {
  RecoveryMember& drained = input_.members[keeper(2)];
  drained.leaving = true;
  input_.planned = true;
  const auto stays = decide_recovery(input_);
  ASSERT_TRUE(stays.ok());
  EXPECT_TRUE(stays->record.has(WorkerId(6)));
  EXPECT_TRUE(stays->released.empty());
  for (const Stripe& stripe : stays->record.snapshots.stripes) {
    for (const StripeFragment& fragment : stripe.fragments) EXPECT_NE(fragment.keeper, WorkerId(6));
  }
  previous_->snapshots = stays->record.snapshots;
  for (std::size_t i = 0; i < 3; ++i) holds(i, {Step(5)});
  const auto goes = decide_recovery(input_);
  ASSERT_TRUE(goes.ok());
  EXPECT_EQ(goes->released, std::vector{WorkerId(6)});
}

TEST_F(RecoveryOfAHost, AKeeperWithoutTheMemoryForItsPartIsLeftOut) {
  for (std::uint32_t host = 1; host < 4; ++host) input_.members[keeper(host)].resources.memory_bytes = 1 << 20;
  input_.members[keeper(2)].resources.memory_bytes = 1000;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_TRUE(tiles_of(decision->record.snapshots, WorkerId(6)).empty());
  EXPECT_FALSE(tiles_of(decision->record.snapshots, WorkerId(5)).empty());
  EXPECT_THAT(decision->record.reason, HasSubstr("keeper 6 holds no snapshots"));
}

TEST_F(RecoveryOfAHost, WithoutEnoughFragmentsItIsLost) {
  for (std::uint32_t host = 1; host < 4; ++host) holdings(keeper(host)).fragments.clear();
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.tier, 3U);
  EXPECT_TRUE(decision->record.resume.rebuilds.empty());
}

TEST_F(RecoveryOfAHost, FragmentsAreNotBelievedOnceStatesDiffer) {
  input_.distrust_state = input_.discard_work = true;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.tier, 3U);
}

// The owner of the embedding dies before it has sent the head's copies.
TEST_F(RecoveryOfAStage, WhoLacksLittleOfItsStageKeepsItsWork) {
  ASSERT_FALSE(map_.tied_tiles().empty());
  const auto own_slots = [&](double speed) {
    for (RecoveryMember& member : input_.members) member.speed = speed;
    const auto decision = decide_recovery(input_);
    std::map<WorkerId, std::uint32_t> slots;
    for (const StageAssignment& stage : decision->record.resume.stages) {
      if (!stage.recompute) slots[stage.worker] += stage.work.slots.size();
    }
    return slots;
  };
  const std::map<WorkerId, std::uint32_t> all = {{WorkerId(1), 4}, {WorkerId(2), 4}, {WorkerId(3), 4}};
  EXPECT_EQ(own_slots(1), all);
  EXPECT_EQ(own_slots(1e9), (std::map<WorkerId, std::uint32_t>{{WorkerId(2), 4}}));  // the fetch would take longer
}

TEST_F(Recovery, MembersThatDisagreeGoBackToWhatAllHadAlike) {
  disagree_at_six();
  holdings(1).states[0].hashes = hash(kWrong);  // it went wrong after they had compared state 5
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  const ResumePlan& resume = decision->record.resume;
  EXPECT_EQ(resume.step, Step(6));
  EXPECT_TRUE(resume.discard);
  EXPECT_THAT(decision->record.reason, HasSubstr("all members had alike"));
  EXPECT_EQ(resume.tier, 1U);  // the others give up state 6 for that
  ASSERT_EQ(resume.distrusted.size(), 1U);
  EXPECT_EQ(resume.distrusted[0].worker, WorkerId(1));
  EXPECT_TRUE(resume.distrusted[0].all);
  EXPECT_FALSE(resume.fetches.empty());
  for (const StateFetch& fetch : resume.fetches) {
    EXPECT_EQ(fetch.worker, WorkerId(1));
    EXPECT_EQ(fetch.source, StateSource::peer);
    EXPECT_NE(fetch.from, WorkerId(1));
  }
  EXPECT_TRUE(check_view(decision->record, map_, kJobSlots).ok());
}

TEST_F(Recovery, TheMajorityIsNotBelieved) {
  // They compared last at step 3: any wrong value since went into everybody's sums.
  disagree_at_six();
  for (std::size_t i = 0; i < 3; ++i) holdings(i).compared = ComparedState{Step(3), hash(kRight)};
  holdings(2).checkpoints = {Step(2), Step(3)};
  input_.checkpoints_listed = false;
  const auto asks = decide_recovery(input_);
  ASSERT_FALSE(asks.ok());
  EXPECT_EQ(asks.error().code(), ErrorCode::not_found);

  input_.checkpoints_listed = true;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.tier, 2U);
  EXPECT_EQ(decision->record.resume.step, Step(4));

  holdings(2).checkpoints.clear();
  const auto anew = decide_recovery(input_);
  ASSERT_TRUE(anew.ok());
  EXPECT_EQ(anew->record.resume.tier, 3U);
  EXPECT_EQ(anew->record.resume.step, Step(1));
}

TEST_F(Recovery, NobodyHoldsTheNewestStateAndCheckpointsAreAskedForOnlyThen) {
  for (std::size_t i = 0; i < 3; ++i) holdings(i).states.clear();
  input_.allow_rollback = false;
  input_.checkpoints_listed = false;
  EXPECT_EQ(decide_recovery(input_).error().code(), ErrorCode::unavailable);
  input_.allow_rollback = true;
  EXPECT_EQ(decide_recovery(input_).error().code(), ErrorCode::not_found);
}

TEST_F(Recovery, WorkOfAnOlderViewDoesntStandForTheStepsGradient) {
  // Worker 0 is a step ahead and holds the whole gradient, but of a view that worker 1 has left behind.
  holds(0, {Step(5), Step(6)});
  report(0).reduced = {{0, map_.tile_count()}};
  report(0).view = ViewNumber(0);
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.step, Step(7));  // from worker 0's state, not by computing step 6 on it again

  report(0).view = ViewNumber(1);
  const auto finishes = decide_recovery(input_);
  ASSERT_TRUE(finishes.ok());
  EXPECT_EQ(finishes->record.resume.step, Step(6));
  EXPECT_FALSE(finishes->record.resume.compute);
}

TEST_F(Recovery, WhoMissedThatStatesProvedWrongCantBringThemBack) {
  previous_->resume.lineage = 1;
  for (std::size_t i = 0; i < 2; ++i) holdings(i).lineage = 1;
  holds(2, {Step(9)});  // frozen since before all went back
  input_.members[2].continuing = false;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.step, Step(6));
  EXPECT_EQ(decision->record.resume.lineage, 1U);
  for (const StateFetch& fetch : decision->record.resume.fetches) EXPECT_EQ(fetch.worker, WorkerId(2));
  ASSERT_EQ(distrusted(*decision).size(), 1U);
  EXPECT_EQ(distrusted(*decision)[0].worker, WorkerId(2));
  EXPECT_FALSE(decision->record.resume.fetches.empty());
}

TEST_F(Recovery, ANewcomersWrongHashCostsTheMembersNothing) {
  for (std::size_t i = 0; i < 3; ++i) holdings(i).compared = ComparedState{Step(4), hash(kRight)};
  holds(2, {Step(4)});
  holdings(2).states[0].hashes = hash(kWrong);
  input_.members[2].continuing = false;
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.tier, 0U);
  EXPECT_EQ(decision->record.resume.step, Step(6));
}

TEST_F(Recovery, WhoDiffersFromEqualOthersASecondTimeIsExpelled) {
  disagree_at_six();
  const auto first = decide_recovery(input_);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(first->expelled.empty());
  ASSERT_TRUE(first->disagreement);
  EXPECT_EQ(first->record.resume.lineage, 1U);

  input_.disagreements = {*first->disagreement};
  EXPECT_TRUE(decide_recovery(input_)->expelled.empty());  // the same disagreement, reported again

  previous_->resume.lineage = 1;
  for (std::size_t i = 0; i < 3; ++i) holdings(i).lineage = 1;
  const auto second = decide_recovery(input_);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->expelled, std::vector{WorkerId(1)});
}

TEST_F(Recovery, WhatHasNoHashIsNotBelievedOnceStatesDiffer) {
  disagree_at_six();
  // Worker 2 was fetching a block of state 5: what it has of it, nobody has compared.
  const TileRange block = map_.tiles_of({1, 2});
  ASSERT_GT(block.end - block.begin, 1U);
  HeldState& partial = holdings(2).states[0];
  partial.state = {{0, block.begin}, {block.begin + 1, map_.tiles_with_state().end}};
  partial.hashes.erase(partial.hashes.begin() + 1);
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.step, Step(6));
  const auto& given_up = distrusted(*decision);
  EXPECT_TRUE(std::ranges::any_of(given_up, [](const Distrust& d) { return d.worker == WorkerId(2) && d.all; }));
  for (const StateFetch& fetch : decision->record.resume.fetches) EXPECT_NE(fetch.from, WorkerId(2));
  EXPECT_FALSE(decision->record.resume.fetches.empty());
}

class RecoveryOfTwo : public Recovery {
 protected:
  RecoveryOfTwo() : Recovery(2) {}
};

TEST_F(RecoveryOfTwo, WhereNobodyIsAloneTheJobEndsAfterManyDisagreements) {
  disagree_at_six();
  for (std::uint32_t round = 1; round < 8; ++round) {
    previous_->resume.lineage = round;
    for (std::size_t i = 0; i < 2; ++i) holdings(i).lineage = round;
    const auto decision = decide_recovery(input_);
    ASSERT_TRUE(decision.ok());
    ASSERT_TRUE(decision->disagreement);
    EXPECT_EQ(decision->halt, round == 7) << round;
    input_.disagreements.push_back(*decision->disagreement);
    if (round == 1) input_.disagreements.front().round = 0;
    if (round == 1) input_.disagreements.push_back(*decision->disagreement);
  }
}

TEST_F(Recovery, DifferentGradientsAreComputedAnew) {
  for (std::size_t i = 0; i < 3; ++i) report(i).gradient = hash(i == 0 ? kWrong : kRight);
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_TRUE(decision->record.resume.discard);
  EXPECT_EQ(decision->record.resume.attempt, 1U);
  ASSERT_TRUE(decision->disagreement);
  EXPECT_TRUE(decision->disagreement->gradient);
}

class RecoveryOfFour : public Recovery {
 protected:
  RecoveryOfFour() : Recovery(4) {}
};

// Two of four that compute wrongly would otherwise exchange their slots, and the gradient look nonfinite by nature.
TEST_F(RecoveryOfFour, SlotsMoveByOnePipelineWhateverTheAttemptsNumber) {
  previous_->resume = {.step = Step(6), .attempt = 1, .stages = previous_->stages};
  for (RecoveryMember& member : input_.members) {
    report(member).attempt = 1;
    report(member).alarm = true;
  }
  report(0).nonfinite = {previous_->stages[0].work.slots};
  report(2).nonfinite = {previous_->stages[2].work.slots};
  for (const std::size_t by : {1U, 2U, 3U}) {
    const auto decision = decide_recovery(input_);
    ASSERT_TRUE(decision.ok());
    ASSERT_TRUE(decision->numeric);
    const auto& stages = decision->record.resume.stages;
    ASSERT_EQ(stages.size(), 4U);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(stages[i].work.slots, previous_->stages[(i + by) % 4].work.slots) << by;
    }
    input_.numeric.push_back(*decision->numeric);
    ++previous_->resume.attempt;
    for (RecoveryMember& member : input_.members) ++report(member).attempt;
  }
}

TEST_F(Recovery, LostSlotsAreSharedFinelyUnlessTheirSumsTravelForLong) {
  input_.members.pop_back();
  const auto lost_sums = [&](double speed) {
    for (RecoveryMember& member : input_.members) member.speed = speed;
    const auto decision = decide_recovery(input_);
    std::size_t sums = 0;
    for (const StageAssignment& stage : decision->record.resume.stages) {
      if (stage.recompute) sums += maximal_nodes(stage.work.slots).size();
    }
    return sums;
  };
  EXPECT_GT(lost_sums(1), lost_sums(1e9));  // with next to nothing to compute
}

TEST_F(Recovery, AMemberThatLagsFurtherDoesntHideThatTheNewestStepCanBeFinished) {
  holds(0, {Step(5), Step(6)});
  report(0).reduced = {{0, map_.tile_count()}};
  holds(2, {Step(2)});  // it was fetching
  const auto decision = decide_recovery(input_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->record.resume.step, Step(6));
}

}  // namespace
}  // namespace planaria

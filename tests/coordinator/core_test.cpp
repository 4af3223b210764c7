// The coordinator's core against workers that lie, lag or come twice: what no honest simulated worker does.
#include "coordinator/core/coordinator_core.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>

#include "proto/block_cost.hpp"
#include "tests/coordinator/final_weights.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

using namespace std::chrono_literals;

JobSpec small_job() {
  JobSpec job;
  job.model = small_model();
  job.batch.micro_batches = job.batch.slots = 8;
  job.train.steps = 20;
  job.train.tile_elements = 512;
  job.cluster.workers = 2;
  return job;
}

class Core : public testing::Test {
 protected:
  Core() { fresh(); }

  void fresh(const JobSpec& job = small_job(), std::vector<LogRecord> log = {}, ByteVector kernels = {}) {
    CoordinatorCoreConfig config;
    config.job = job;
    config.job_hash = {1, 1};
    config.kernels = std::move(kernels);
    core_ = std::make_unique<CoordinatorCore>(std::move(config));
    sent_.clear();
    on(coordinator_event::Started{std::move(log)});
  }

  void on(const CoordinatorEvent& event, Duration later = 1ms) {
    now_ = now_ + later;
    for (CoordinatorAction& action : core_->on(event, now_)) {
      if (auto* send = std::get_if<coordinator_action::Send>(&action)) sent_.push_back(std::move(*send));
      if (auto* plan = std::get_if<coordinator_action::PlanLayout>(&action)) asked_ = std::move(plan->request);
    }
  }
  void say(std::uint64_t session, WorkerMessage message) {
    WorkerEnvelope envelope;
    if (const auto id = worker_of(session)) {
      envelope.worker = *id;
      envelope.incarnation = core_->workers().at(*id).incarnation;
    }
    envelope.message = std::move(message);
    on(coordinator_event::SessionMessage{SessionId(session), std::move(envelope)});
  }
  [[nodiscard]] std::optional<WorkerId> worker_of(std::uint64_t session) const {
    for (const auto& [id, worker] : core_->workers()) {
      if (worker.session == SessionId(session)) return id;
    }
    return std::nullopt;
  }
  void join(std::uint64_t session, std::optional<Identity> identity = {}, std::uint64_t process = 0,
            std::uint64_t memory = 0, double gflops = 0, Role role = Role::worker) {
    Register message;
    message.role = role;
    message.resources.gflops = gflops;
    message.resources.memory_bytes = memory;
    message.job = Hash128{1, 1};
    message.host = "here";
    message.process_id = process != 0 ? process : session;
    message.identity = identity;
    say(session, message);
  }
  [[nodiscard]] ViewNumber prepared() const {
    for (auto send = sent_.rbegin(); send != sent_.rend(); ++send) {
      if (const auto* prepare = std::get_if<Prepare>(&send->envelope.message)) return prepare->view;
    }
    return ViewNumber(0);
  }
  [[nodiscard]] Report report(ViewNumber in, Step state) const {
    Report report;
    report.prepare = prepared();
    report.view = in;
    report.holdings.states = {
        {state, {StateMap(small_job().model, small_job().train.tile_elements).tiles_with_state()}, {}, {}}};
    report.work_step = state.next();
    return report;
  }
  // The sessions' workers hold nothing.
  void report_nothing(const std::set<std::uint64_t>& sessions = {1, 2}) {
    Report empty;
    empty.prepare = prepared();
    for (const std::uint64_t session : sessions) say(session, empty);
  }
  // Workers of sessions 1 and 2 in view 1, at step 1.
  void begin() {
    join(1);
    join(2);
    report_nothing();
    ASSERT_TRUE(core_->view());
    ASSERT_EQ(core_->view()->members.size(), 2U);
    heartbeat(1, Step(1), Phase::forward);
    heartbeat(2, Step(1), Phase::forward);
  }
  void heartbeat(std::uint64_t session, Step step, Phase phase, double speed = 0) {
    Heartbeat heartbeat;
    heartbeat.micro_batches_per_second = speed;
    heartbeat.view = core_->view()->view;
    heartbeat.step = step;
    heartbeat.phase = phase;
    heartbeat.waiting_on = std::nullopt;
    say(session, heartbeat);
  }
  [[nodiscard]] WorkerStatus status(std::uint32_t worker) const { return core_->workers().at(WorkerId(worker)).status; }

  std::unique_ptr<CoordinatorCore> core_;
  Instant now_{};
  std::vector<coordinator_action::Send> sent_;
  std::optional<LayoutRequest> asked_;
};

TEST_F(Core, AReportOfUnknownSlotsOrTilesCostsItsSenderItsPlace) {
  using Damage = void (*)(Report&);
  const Damage damages[] = {[](Report& r) {
                              r.stages = {{{{0, 3}, {0, 1'000'000}}, 0}};
                            },
                            [](Report& r) {
                              r.stages = {{{{0, 4'000'000'000U}, {0, 8}}, 0}};
                            },
                            [](Report& r) {
                              r.stages = {{{{0, 3}, {0, 8}}, 0}, {{{0, 3}, {0, 8}}, 0}};
                            },
                            [](Report& r) {
                              r.stages = {{{{0, 3}, {0, 8}}, 9}};
                            },
                            [](Report& r) {
                              r.reduced = {{0, 4'000'000'000U}};
                            },
                            [](Report& r) {
                              r.nonfinite = {{0, 4'000'000'000U}};
                            },
                            [](Report& r) {
                              r.holdings.states = {{Step(1'000'000), {}, {}, {}}};
                            },
                            [](Report& r) {
                              r.holdings.states = {{Step(1), {{5, 4'000'000'000U}}, {}, {}}};
                            },
                            [](Report& r) {
                              r.holdings.states = {{Step(2), {}, {}, {}}, {Step(1), {}, {}, {}}};
                            },
                            [](Report& r) {
                              r.kept = KeptWork{Step(1), 0, false, {{{{0, 3}, {0, 1'000'000}}, 0}}, {}};
                            },
                            [](Report& r) {
                              r.kept = KeptWork{Step(1), 0, false, {}, {{0, 4'000'000'000U}}};
                            },
                            [](Report& r) { r.gradient.resize(1000); }};
  for (const Damage damage : damages) {
    fresh();
    begin();
    on(coordinator_event::SessionLost{SessionId(1)});
    on(coordinator_event::Tick{}, 100ms);  // worker 0's grace is over: a change begins
    Report bad = report(core_->view()->view, Step(0));
    damage(bad);
    say(2, bad);
    EXPECT_EQ(status(1), WorkerStatus::lost);
  }
}

TEST_F(Core, AStrangerThatClaimsToBeAWorkerAtWorkGetsANameOfItsOwn) {
  begin();
  join(3, Identity{WorkerId(0), Incarnation(7), ViewNumber(0), ViewNumber(0)}, 4711);
  EXPECT_EQ(status(0), WorkerStatus::member);
  EXPECT_EQ(worker_of(3), WorkerId(2));
}

TEST_F(Core, AMemberThatRegistersAnewIsLostFirst) {
  begin();
  join(3, Identity{WorkerId(0), Incarnation(7), ViewNumber(0), ViewNumber(0)}, 1);
  EXPECT_EQ(worker_of(3), WorkerId(0));
  EXPECT_GT(prepared(), core_->view()->view);  // the others go on without what it was
}

TEST_F(Core, WhoIsLostAtTheSameTimeIsOneChange) {
  JobSpec job = small_job();
  job.cluster.workers = 4;
  fresh(job);
  for (const std::uint64_t session : {1U, 2U, 3U, 4U}) join(session);
  report_nothing({1, 2, 3, 4});
  ASSERT_TRUE(core_->view());
  ASSERT_EQ(core_->view()->members.size(), 4U);
  for (const std::uint64_t session : {1U, 2U}) on(coordinator_event::SessionLost{SessionId(session)}, 0ms);
  sent_.clear();
  on(coordinator_event::Tick{}, 100ms);  // the grace of both is over
  EXPECT_EQ(status(0), WorkerStatus::lost);
  EXPECT_EQ(status(1), WorkerStatus::lost);
  const auto prepares = std::ranges::count_if(
      sent_, [](const auto& send) { return std::holds_alternative<Prepare>(send.envelope.message); });
  EXPECT_EQ(prepares, 2);  // one to each who is left
  const RecoveryRecord& recovery = core_->recoveries().back();
  EXPECT_EQ(recovery.victims, (std::vector<WorkerId>{WorkerId(0), WorkerId(1)}));
  EXPECT_NE(recovery.cause.find("worker 1 lost"), std::string::npos);
}

TEST_F(Core, AnIdBeyondTheLastOneIsRefused) {
  Register message;
  message.job = Hash128{1, 1};
  message.wanted = WorkerId(4'294'967'295U);
  say(1, message);
  EXPECT_TRUE(std::holds_alternative<Refused>(sent_.back().envelope.message));
  EXPECT_TRUE(core_->workers().empty());
}

TEST_F(Core, WhoComputesALongMicroBatchIsNotBlamed) {
  begin();
  for (int seconds = 0; seconds < 30; ++seconds) {
    heartbeat(1, Step(1), Phase::forward);
    heartbeat(2, Step(1), Phase::forward);
    on(coordinator_event::Tick{}, 800ms);
  }
  EXPECT_EQ(prepared(), core_->view()->view);
  EXPECT_EQ(status(0), WorkerStatus::member);
  EXPECT_EQ(status(1), WorkerStatus::member);
}

TEST_F(Core, AtTheEndNobodyIsTakenInAnyMore) {
  begin();
  StepCommitted last;
  last.view = core_->view()->view;
  last.step = Step(20);
  say(1, last);
  Done done;
  done.view = core_->view()->view;
  done.step = Step(20);
  done.weights = all_weights(small_job());
  say(1, done);
  join(3);
  EXPECT_EQ(prepared(), core_->view()->view);
  say(2, done);
  EXPECT_EQ(core_->status(), JobStatus::finished);
}

TEST_F(Core, CommitsOfAnOlderViewAreNoNewsAfterARollback) {
  begin();
  StepCommitted commit;
  commit.view = core_->view()->view;
  commit.step = Step(7);
  say(1, commit);
  EXPECT_EQ(core_->last_commit()->step, Step(7));
  commit.step = Step(6);
  say(2, commit);
  EXPECT_EQ(core_->last_commit()->step, Step(7));
}

// What one worker would need to train the job alone.
std::uint64_t memory_alone(const JobSpec& job) {
  const StateMap map(job.model, job.train.tile_elements);
  const auto blocks = static_cast<std::uint32_t>(map.blocks().size());
  const ModelProfile model = measured_model(job, map, block_shares(job, map));
  const PlannedWorker worker{WorkerId(0), "here", {}, 1};
  const LayoutPlan alone{{{{{WorkerId(0), {0, blocks}}}, {0, job.batch.slots}}}};
  const auto predicted = predict(alone, model, measured_cluster(std::span(&worker, 1)), plan_options(job));
  return predicted->workers[0].memory_bytes;
}

class CoreWithLittleMemory : public Core {
 protected:
  // The first view is prepared for one worker, which can't hold the model. Returned: its memory; two have enough.
  std::uint64_t begin_with_too_little_memory() {
    JobSpec job = small_job();
    job.model.layers = 4;
    fresh(job);
    const std::uint64_t memory = memory_alone(job) * 7 / 10;
    join(1, {}, 0, memory);
    on(coordinator_event::Tick{}, 121s);  // the second is awaited no longer
    return memory;
  }
};

TEST_F(CoreWithLittleMemory, TheJobWaitsForMoreWorkers) {
  const std::uint64_t memory = begin_with_too_little_memory();
  report_nothing({1});
  EXPECT_EQ(core_->status(), JobStatus::waiting);
  EXPECT_EQ(core_->status_reason().find("too few workers: no layout fits into memory"), 0U) << core_->status_reason();
  const ViewNumber before = prepared();
  say(1, Heartbeat{});
  EXPECT_EQ(prepared(), before);  // nothing has changed
  join(2, {}, 0, memory);
  ASSERT_NE(prepared(), before);
  report_nothing();
  ASSERT_TRUE(core_->view());
  EXPECT_EQ(core_->status(), JobStatus::training);
  EXPECT_EQ(depths_text(plan_of(core_->view()->stages)), "2");
}

TEST_F(CoreWithLittleMemory, WhoComesWhileAChangeFindsTooLittleMemoryIsReckonedWithNext) {
  const std::uint64_t memory = begin_with_too_little_memory();
  const ViewNumber alone = prepared();
  join(2, {}, 0, memory);
  ASSERT_EQ(prepared(), alone);
  report_nothing({1});
  ASSERT_NE(prepared(), alone);
  report_nothing();
  ASSERT_TRUE(core_->view());
  EXPECT_EQ(core_->status(), JobStatus::training);
}

class CoreWithAKeeper : public Core {
 protected:
  void keeper_joins(std::uint64_t session, std::optional<Identity> identity = {}) {
    join(session, identity, 0, 0, 0, Role::keeper);
  }
  // Workers 0 and 1, and keeper 2.
  void begin_with_a_keeper() {
    JobSpec job = small_job();
    job.cluster.workers = 3;
    fresh(job);
    join(1);
    join(2);
    keeper_joins(3);
    on(coordinator_event::Tick{}, 121s);  // a third worker is awaited no longer
    report_nothing({1, 2, 3});
    ASSERT_TRUE(core_->view());
    ASSERT_EQ(core_->view()->members.size(), 3U);
  }
};

TEST_F(CoreWithAKeeper, ItIsAMemberWithoutWork) {
  begin_with_a_keeper();
  EXPECT_EQ(core_->view()->member(WorkerId(2))->role, Role::keeper);
  EXPECT_EQ(workers_of(core_->view()->stages), (std::set<WorkerId>{WorkerId(0), WorkerId(1)}));
}

TEST_F(CoreWithAKeeper, AloneItTrainsNothingAndPinsNoNumericClass) {
  keeper_joins(1);
  on(coordinator_event::Tick{}, 121s);
  EXPECT_EQ(prepared(), ViewNumber(0));
  EXPECT_EQ(core_->status(), JobStatus::starting);
  Register worker;
  worker.job = Hash128{1, 1};
  worker.numeric_class = "some";
  say(2, worker);
  EXPECT_EQ(core_->numeric_class(), "some");
  EXPECT_NE(prepared(), ViewNumber(0));
}

TEST_F(CoreWithAKeeper, WithoutWorkersTheJobWaitsUntilOneComes) {
  begin_with_a_keeper();
  for (const std::uint64_t session : {1U, 2U}) on(coordinator_event::SessionLost{SessionId(session)}, 0ms);
  for (int i = 0; i < 5; ++i) {
    heartbeat(3, Step(1), Phase::idle);
    on(coordinator_event::Tick{}, 100ms);
  }
  EXPECT_EQ(core_->status(), JobStatus::waiting);
  EXPECT_EQ(status(2), WorkerStatus::member);
  join(4);
  for (int i = 0; i < 30; ++i) {  // what the two held may come back
    report_nothing({3, 4});
    on(coordinator_event::Tick{}, 100ms);
  }
  EXPECT_EQ(core_->status(), JobStatus::training);
  EXPECT_EQ(workers_of(core_->view()->stages), std::set<WorkerId>{WorkerId(3)});
}

TEST_F(CoreWithAKeeper, AWorkerCantTakeItsPlace) {
  begin_with_a_keeper();
  join(4, Identity{WorkerId(2), Incarnation(1), ViewNumber(0), ViewNumber(0)}, 3);
  EXPECT_TRUE(std::holds_alternative<Refused>(sent_.back().envelope.message));
  EXPECT_EQ(status(2), WorkerStatus::member);
}

TEST_F(CoreWithAKeeper, SnapshotsBecomeRarerWhereGatesWaitForThem) {
  begin_with_a_keeper();
  ASSERT_EQ(core_->view()->snapshot_every, 1U);
  const ViewNumber before = prepared();
  double waited = 0;
  Step step(1);
  for (int seconds = 0; seconds < 16 && prepared() == before; ++seconds) {
    waited += 0.1;
    for (const std::uint64_t session : {1U, 2U, 3U}) {
      Heartbeat heartbeat;
      heartbeat.view = core_->view()->view;
      heartbeat.step = step;
      heartbeat.phase = Phase::forward;
      heartbeat.snapshot_wait_seconds = session == 3 ? 0 : waited;
      say(session, heartbeat);
    }
    StepCommitted commit;
    commit.view = core_->view()->view;
    commit.step = std::exchange(step, step.next());
    say(1, commit);
    on(coordinator_event::Tick{}, 990ms);
  }
  ASSERT_NE(prepared(), before);
  for (const std::uint64_t session : {1U, 2U, 3U}) {
    Report at_boundary = report(before, step);
    if (session == 3) at_boundary.holdings.states.clear();
    say(session, at_boundary);
  }
  ASSERT_NE(core_->view()->view, before);
  EXPECT_EQ(core_->view()->snapshot_every, 16U);
  EXPECT_NE(
      core_->view()->reason.find("snapshots each 16 steps instead of after each step: waiting for them took 10 %"),
      std::string::npos)
      << core_->view()->reason;
  // A loss changes nothing in that.
  on(coordinator_event::SessionLost{SessionId(1)});
  on(coordinator_event::Tick{}, 300ms);
  ASSERT_NE(prepared(), core_->view()->view);
  for (const std::uint64_t session : {2U, 3U}) {
    Report after = report(core_->view()->view, step);
    if (session == 3) after.holdings.states.clear();
    say(session, after);
  }
  ASSERT_EQ(core_->view()->view, prepared());
  EXPECT_EQ(core_->view()->snapshot_every, 16U);
}

TEST_F(Core, ThePlannersLayoutIsTakenWhenItsGainLasts) {
  begin();
  const auto beat = [&](Duration later) {
    on(coordinator_event::Tick{}, later);
    heartbeat(1, Step(1), Phase::forward, 10);
    heartbeat(2, Step(1), Phase::forward, 10);
  };
  for (int i = 0; i < 8 && !asked_; ++i) beat(900ms);
  ASSERT_TRUE(asked_);
  EXPECT_EQ(asked_->cluster.workers.size(), 2U);
  // The second has become so slow that the first is faster alone.
  PlannedLayout planned;
  planned.layout.pipelines = {{{{WorkerId(0), {0, 3}}}, {0, 8}}};
  planned.reason = "worker 1 costs more than it gives";
  const ViewNumber before = prepared();
  on(coordinator_event::LayoutPlanned{asked_->number, planned});
  const auto slow_beat = [&] {
    on(coordinator_event::Tick{}, 900ms);
    heartbeat(1, Step(1), Phase::forward, 10);
    heartbeat(2, Step(1), Phase::forward, 0.01);
  };
  for (int i = 0; i < 2; ++i) slow_beat();
  EXPECT_EQ(prepared(), before);
  for (int i = 0; i < 4; ++i) slow_beat();
  ASSERT_NE(prepared(), before);
  for (const std::uint64_t session : {1, 2}) {
    Report at_boundary = report(ViewNumber(1), Step(1));
    at_boundary.holdings.states[0].parameters = {};
    say(session, at_boundary);
  }
  ASSERT_NE(core_->view()->view, ViewNumber(1));
  EXPECT_EQ(core_->view()->members.size(), 2U);
  EXPECT_EQ(core_->view()->stages, stages_of(planned.layout));
  EXPECT_NE(core_->view()->reason.find("costs more than it gives"), std::string::npos) << core_->view()->reason;
}

TEST_F(Core, WhereLossesComeFastTheirChangesTakeJoinersAlong) {
  JobSpec job = small_job();
  job.batch.slots = job.batch.micro_batches = 16;
  job.cluster.workers = 12;
  job.cluster.lease_ms = job.cluster.prepare_timeout_ms = job.cluster.stall_timeout_ms = 3'600'000;
  fresh(job);
  std::set<std::uint64_t> alive;
  for (std::uint64_t session = 1; session <= 12; ++session) {
    join(session);
    alive.insert(session);
  }
  report_nothing(alive);
  ASSERT_TRUE(core_->view());
  StepCommitted commit;
  commit.view = core_->view()->view;
  commit.step = Step(1);
  on(coordinator_event::Tick{}, 10s);
  say(1, commit);
  const auto lose = [&](std::uint64_t session) {
    on(coordinator_event::SessionLost{SessionId(session)});
    on(coordinator_event::Tick{}, 100ms);
    alive.erase(session);
    const ViewNumber in = core_->view()->view;
    for (const std::uint64_t one : alive) say(one, report(in, Step(1)));
  };
  join(13);
  for (const std::uint64_t session : {12, 11, 10}) {  // nobody knows yet how fast they come
    lose(session);
    EXPECT_EQ(core_->view()->members.size(), session - 1);
  }
  lose(9);
  Report joins;
  joins.prepare = prepared();
  say(13, joins);
  EXPECT_EQ(core_->view()->members.size(), 9U);
  EXPECT_TRUE(core_->view()->has(WorkerId(12)));
}

TEST_F(Core, LinksFarFromThoseThatWerePlannedForCallForAnotherPlan) {
  begin();
  std::uint64_t progress = 0;
  const auto beat = [&](const std::vector<LinkMeasure>& links = {}) {
    on(coordinator_event::Tick{}, 900ms);
    for (const std::uint64_t session : {1, 2}) {
      Heartbeat heartbeat;
      heartbeat.view = core_->view()->view;
      heartbeat.step = Step(1);
      heartbeat.progress = ++progress;
      heartbeat.phase = Phase::forward;
      heartbeat.micro_batches_per_second = 10;
      if (session == 1) heartbeat.links = links;
      say(session, heartbeat);
    }
  };
  for (int i = 0; i < 8 && !asked_; ++i) beat();
  ASSERT_TRUE(asked_);
  PlannedLayout kept;
  kept.kept = true;
  on(coordinator_event::LayoutPlanned{asked_->number, kept});
  asked_.reset();
  for (int i = 0; i < 30; ++i) beat();
  EXPECT_FALSE(asked_) << "nothing is otherwise";
  beat({{WorkerId(1), 1e6, 0.01}});
  for (int i = 0; i < 15 && !asked_; ++i) beat();
  ASSERT_TRUE(asked_);
  EXPECT_EQ(asked_->cluster.same_host.bytes_per_s, 1e6);
  EXPECT_EQ(asked_->cluster.same_host.latency_s, 0.01);
}

TEST_F(Core, AViewTellsWhatItsMembersAreAllowed) {
  JobSpec job = small_job();
  job.cluster.layout = "2";
  fresh(job);
  join(1);
  join(2);
  report_nothing();
  ASSERT_TRUE(core_->view());
  const ViewRecord& view = *core_->view();
  ASSERT_EQ(view.stages.size(), 2U);
  EXPECT_EQ(view.member(view.stages[0].worker)->allowance, (Allowance{.ahead = 1, .waiting = 0}));
  EXPECT_EQ(view.member(view.stages[1].worker)->allowance, (Allowance{.ahead = 0, .waiting = 1}));
}

TEST_F(Core, TheFirstViewIsThePlannersWhereDevicesAreKnown) {
  join(1, {}, 0, 0, 10);
  EXPECT_FALSE(asked_);
  join(2, {}, 0, 0, 30);
  ASSERT_TRUE(asked_);
  EXPECT_EQ(prepared(), ViewNumber(0));  // it waits for the answer
  const auto& workers = asked_->cluster.workers;
  ASSERT_EQ(workers.size(), 2U);
  EXPECT_NEAR(workers[1].speed / workers[0].speed, 3, 1e-9);
  PlannedLayout planned;
  planned.layout.pipelines = {{{{WorkerId(0), {0, 1}}, {WorkerId(1), {1, 3}}}, {0, 8}}};
  on(coordinator_event::LayoutPlanned{asked_->number, planned});
  ASSERT_NE(prepared(), ViewNumber(0));
  report_nothing();
  ASSERT_TRUE(core_->view());
  EXPECT_EQ(core_->view()->stages, stages_of(planned.layout));
}

TEST_F(Core, ThePlannerIsNotAwaitedForEver) {
  join(1, {}, 0, 0, 10);
  join(2, {}, 0, 0, 10);
  ASSERT_TRUE(asked_);
  for (int i = 0; i < 6; ++i) {
    on(coordinator_event::Tick{}, 1s);
    say(1, Heartbeat{});
    say(2, Heartbeat{});
  }
  EXPECT_NE(prepared(), ViewNumber(0));
}

TEST_F(Core, WhereAChangeCostsMuchJoinersWaitUntilTheyLostAsMuch) {
  join(1);
  join(2);
  Report fresh;
  fresh.prepare = prepared();
  for (int i = 0; i < 3; ++i) {  // the members stand still for a second and a half
    on(coordinator_event::Tick{}, 499ms);
    say(1, Heartbeat{});
    say(2, Heartbeat{});
  }
  say(1, fresh);
  say(2, fresh);
  heartbeat(1, Step(1), Phase::forward);
  heartbeat(2, Step(1), Phase::forward);
  const ViewNumber before = prepared();
  join(3);
  const auto beat = [&] {
    on(coordinator_event::Tick{}, 498ms);
    heartbeat(1, Step(1), Phase::forward);
    heartbeat(2, Step(1), Phase::forward);
    say(3, Heartbeat{});
  };
  for (int i = 0; i < 5; ++i) beat();
  EXPECT_EQ(prepared(), before);
  join(4);  // two lose twice as much
  beat();
  EXPECT_NE(prepared(), before);
}

class CoreWithMeasuredKernels : public Core {
 protected:
  static inline const ByteVector kChosen = {1, 2, 3};

  void ask(std::uint64_t session, const std::string& numeric_class = "gpu") {
    Register question;
    question.numeric_class = numeric_class;
    say(session, question);
  }
  void come(std::uint64_t session, ByteVector kernels, Hash128 probe = {7, 7}) {
    Register worker;
    worker.job = Hash128{1, 1};
    worker.numeric_class = "gpu";
    worker.probe = probe;
    worker.kernels = std::move(kernels);
    worker.process_id = session;
    say(session, worker);
  }
  // What the session was last told to compute with; none: nothing.
  [[nodiscard]] std::optional<ByteVector> told(std::uint64_t session) const {
    for (auto send = sent_.rbegin(); send != sent_.rend(); ++send) {
      const auto* welcome = std::get_if<Welcome>(&send->envelope.message);
      if (send->session == SessionId(session) && welcome != nullptr) return welcome->kernels;
    }
    return std::nullopt;
  }
};

TEST_F(CoreWithMeasuredKernels, OneWorkerChoosesForAll) {
  ask(1);
  EXPECT_EQ(told(1), ByteVector{});
  ask(2);
  ask(2);
  ask(3);
  EXPECT_EQ(told(2), std::nullopt);
  come(1, kChosen);
  EXPECT_EQ(told(2), kChosen);
  EXPECT_EQ(told(3), kChosen);
  ask(4);
  EXPECT_EQ(told(4), kChosen);
}

TEST_F(CoreWithMeasuredKernels, WhoIsToChooseAndGoesIsFollowedByTheNext) {
  ask(1);
  ask(2);
  ask(3);
  on(coordinator_event::SessionLost{SessionId(1)});
  EXPECT_EQ(told(2), ByteVector{});
  EXPECT_EQ(told(3), std::nullopt);
  on(coordinator_event::SessionLost{SessionId(3)});
  ask(4);
  Register wrong;
  wrong.job = Hash128{2, 2};
  say(2, wrong);
  EXPECT_EQ(told(4), ByteVector{});
}

// Its link broke while it measured, so another one was told to.
TEST_F(CoreWithMeasuredKernels, WhoMeasuredBesideTheOneThatCountsIsRefused) {
  ask(1);
  ask(2);
  on(coordinator_event::SessionLost{SessionId(1)});
  come(3, kChosen);
  come(2, {4, 5});
  ASSERT_TRUE(std::holds_alternative<Refused>(sent_.back().envelope.message));
  EXPECT_FALSE(worker_of(2));
  come(4, kChosen);
  EXPECT_TRUE(worker_of(4));
}

TEST_F(CoreWithMeasuredKernels, WhoIsSilentIsNotAwaitedForEver) {
  ask(1);
  ask(2);
  ask(3);
  on(coordinator_event::Tick{}, KernelChoices::kMostChoosing - 1s);
  EXPECT_EQ(told(2), std::nullopt);
  on(coordinator_event::Tick{}, 2s);
  EXPECT_EQ(told(2), ByteVector{});
  EXPECT_EQ(told(3), std::nullopt);
}

TEST_F(CoreWithMeasuredKernels, WhoWaitsHearsOfTheJobsEnd) {
  ask(1);
  ask(2);
  on(coordinator_event::StopJob{"enough"});
  EXPECT_TRUE(std::ranges::any_of(sent_, [](const coordinator_action::Send& send) {
    return send.session == SessionId(2) && std::holds_alternative<Finish>(send.envelope.message);
  }));
}

TEST_F(CoreWithMeasuredKernels, WhoWaitsIsToldOfAnotherClass) {
  ask(1);
  ask(2);
  Register cpu;
  cpu.job = Hash128{1, 1};
  cpu.numeric_class = "cpu";
  say(3, cpu);
  EXPECT_EQ(told(2), std::nullopt);
  EXPECT_TRUE(std::ranges::any_of(sent_, [](const coordinator_action::Send& send) {
    return send.session == SessionId(2) && std::holds_alternative<Refused>(send.envelope.message);
  }));
}

TEST_F(CoreWithMeasuredKernels, AnotherClassIsRefusedBeforeItMeasures) {
  ask(1);
  come(1, kChosen);
  ask(2, "cpu");
  EXPECT_EQ(told(2), std::nullopt);
  EXPECT_TRUE(std::holds_alternative<Refused>(sent_.back().envelope.message));
}

TEST_F(CoreWithMeasuredKernels, WhoAsksForTheJobAloneDoesntWait) {
  ask(1);
  say(2, Register{});
  EXPECT_EQ(told(2), ByteVector{});
}

TEST_F(CoreWithMeasuredKernels, NobodyChoosesWhereAnEarlierRunDid) {
  fresh(small_job(), {}, kChosen);
  ask(1);
  EXPECT_EQ(told(1), kChosen);
  ask(2);
  EXPECT_EQ(told(2), kChosen);
}

TEST_F(CoreWithMeasuredKernels, ChoicesOutliveTheCoordinator) {
  fresh(small_job(), {log_record::JobRecorded{{1, 1}, "gpu", {7, 7}, kChosen}});
  ask(5);
  EXPECT_EQ(told(5), kChosen);
}

}  // namespace
}  // namespace planaria

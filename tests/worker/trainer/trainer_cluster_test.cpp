// The promise, on real tensors: whatever the split and whoever dies, the weights are those of the bare loop.
#include <set>

#include "proto/step_traffic.hpp"
#include "storage/checkpoint.hpp"
#include "storage/export.hpp"
#include "storage/pretrained.hpp"
#include "tests/sanitized.hpp"
#include "trainer_cluster.hpp"
#include "worker/model/bare_loop.hpp"
#include "worker/model/init.hpp"

namespace planaria {
namespace {

using namespace worker_action;  // NOLINT: the tests name many of them

struct Bare {
  Hash128 weights;
  double last_loss = 0;
};

Bare bare_run(const JobSpec& job, const Dataset& dataset) {
  const auto device = make_device();
  const WindowOrder order(job.train.seed, dataset.windows(Split::train));
  auto trainer =
      BareTrainer::create(*device, job, dataset_source(dataset, order, {job.batch.micro_batches, job.batch.sequences}));
  EXPECT_TRUE(trainer.ok());
  if (!job.pretrained.path.empty()) {
    const auto imported = import_model(posix_file_system(), job.pretrained.path, job.train.tile_elements);
    EXPECT_TRUE((*trainer)->start_from(imported->parameters).ok());
  }
  Bare result;
  for (std::uint64_t step = 0; step < job.train.steps; ++step) result.last_loss = (*trainer)->step()->loss;
  result.weights = weights_hash(job.model, (*trainer)->map(), (*trainer)->parameters_on_host());
  return result;
}

class TrainerClusterTest : public ::testing::Test {
 protected:
  explicit TrainerClusterTest(bool tied = true) : job_(cluster_job(tied)) { dataset_ = open_data(job_); }

  void start(std::uint32_t workers, const std::vector<std::size_t>& threads = {}, Network network = {}) {
    job_.cluster.workers = workers;
    cluster_ = std::make_unique<TrainerCluster>(job_, dataset_, folder_.path(), network);
    for (std::uint32_t i = 0; i < workers; ++i) cluster_->add_worker(i < threads.size() ? threads[i] : 1, far_);
  }
  void run_and_compare() {
    cluster_->run();
    ASSERT_TRUE(cluster_->coordinator().result().has_value());
    EXPECT_EQ(cluster_->coordinator().result()->weights, bare_run(job_, *dataset_).weights);
    EXPECT_EQ(cluster_->torn_leases(), 0U);
  }
  // Kills `victim` when its `count`-th action of this kind at `step` is about to be carried out.
  template <class Action>
  void kill_at(std::size_t victim, std::uint64_t step, int count) {
    cluster_->watch([=, seen = 0](std::size_t worker, const WorkerAction& action) mutable {
      const auto* wanted = std::get_if<Action>(&action);
      return !(worker == victim && wanted != nullptr && step_of(*wanted) == Step(step) && ++seen == count);
    });
  }
  template <class Action>
  static Step step_of(const Action& action) {
    if constexpr (requires { action.step; }) {
      return action.step;
    } else {
      return action.meta.step;
    }
  }
  std::uint64_t needed() const { return job_.train.steps * job_.batch.micro_batches; }

  TemporaryDirectory folder_;
  JobSpec job_;
  bool far_ = false;  // workers compute in memory that the host can't touch
  std::shared_ptr<const Dataset> dataset_;
  std::unique_ptr<TrainerCluster> cluster_;
};

class TrainerClusterSplit : public TrainerClusterTest, public ::testing::WithParamInterface<std::uint32_t> {};

TEST_P(TrainerClusterSplit, AnyNumberOfWorkersGivesTheBareLoopsWeights) {
  start(GetParam());
  run_and_compare();
  EXPECT_EQ(cluster_->ledgers().size(), needed());
}
INSTANTIATE_TEST_SUITE_P(Workers, TrainerClusterSplit, ::testing::Values(1, 2, 3, 4));

// Weights that somebody else exported, whoever loads which part of them.
class TrainerClusterPretrained : public TrainerClusterTest, public ::testing::WithParamInterface<const char*> {
 protected:
  TrainerClusterPretrained() {
    const StateMap map(job_.model, job_.train.tile_elements);
    std::vector<float> parameters(map.vector_elements());
    initialize_parameters(job_.model, map, 99, parameters);
    job_.pretrained.path = folder_.path() + "/hf";
    EXPECT_TRUE(export_model(posix_file_system(), job_.pretrained.path, job_.model, map, parameters).ok());
    EXPECT_TRUE(open_pretrained(posix_file_system(), job_).ok());
    job_.cluster.layout = GetParam();
  }
};

TEST_P(TrainerClusterPretrained, AnyWorkersAndPipelinesStartFromThem) {
  std::uint32_t workers = 0;
  for (const std::uint32_t depth : *pipeline_depths(GetParam())) workers += depth;
  start(workers);
  run_and_compare();
  JobSpec from_seed = job_;
  from_seed.pretrained = {};
  EXPECT_NE(bare_run(from_seed, *dataset_).weights, bare_run(job_, *dataset_).weights);
}
INSTANTIATE_TEST_SUITE_P(Layouts, TrainerClusterPretrained, ::testing::Values("1", "1+1+1", "3", "2+1"));

// Of the model's four blocks.
struct Layout {
  const char* stages;
  std::uint32_t workers;
  bool tied = true;
  bool sharded = false;
  bool far = false;
};
void PrintTo(const Layout& layout, std::ostream* out) {
  *out << layout.stages << " on " << layout.workers << (layout.tied ? ", tied" : "")
       << (layout.sharded ? ", sharded" : "") << (layout.far ? ", far" : "");
}

class TrainerClusterLayout : public TrainerClusterTest, public ::testing::WithParamInterface<Layout> {
 protected:
  TrainerClusterLayout() : TrainerClusterTest(GetParam().tied) {
    far_ = GetParam().far;
    job_.cluster.layout = GetParam().stages;
    job_.optimizer.shard = GetParam().sharded;
    job_.cluster.lease_ms = 2000;  // twice as long others are awaited who may hold what a dead stage held
    job_.checkpoint.every_steps = 1;
  }
  void expect_tier(std::uint32_t tier) const {
    for (const RecoveryRecord& recovery : cluster_->coordinator().recoveries()) {
      EXPECT_TRUE(recovery.victims.empty() || recovery.tier == tier) << recovery.tier;
    }
  }
  // Every block of every micro-batch stands in the ledgers, and how often one stands there more than once.
  std::uint64_t repeated() const {
    std::map<std::tuple<Step, MicroBatchIndex, std::uint32_t>, std::uint64_t> times;
    for (const LedgerRecord& record : cluster_->ledgers()) {
      for (std::uint32_t b = record.blocks.begin; b < record.blocks.end; ++b)
        ++times[{record.step, record.micro_batch, b}];
    }
    EXPECT_EQ(times.size(), needed() * (job_.model.layers + 2));
    std::uint64_t more = 0;
    for (const auto& [cell, count] : times) more += count - 1;
    return more;
  }
};

TEST_P(TrainerClusterLayout, AnyPipelinesGiveTheBareLoopsWeights) {
  start(GetParam().workers);
  run_and_compare();
  EXPECT_EQ(repeated(), 0U);
}

// What workers are asked to send, by step and worker.
class Sent {
 public:
  explicit Sent(const JobSpec& job)
      : map_(job.model, job.train.tile_elements), boundary_(4 * job.boundary_elements()) {}

  void count(std::size_t worker, const WorkerAction& action) {
    if (const auto* piece = std::get_if<SendPiece>(&action)) {
      at(worker, piece->meta.step).sums += bytes(piece->meta.tiles);
    } else if (const auto* reduced = std::get_if<SendReduced>(&action)) {
      at(worker, reduced->meta.step).reduced += bytes(reduced->meta.tiles);
    } else if (const auto* parameters = std::get_if<SendParameters>(&action)) {
      at(worker, parameters->meta.step).parameters += bytes(parameters->meta.tiles);
    } else if (const auto* boundary = std::get_if<SendBoundary>(&action)) {
      at(worker, boundary->meta.step).boundaries += boundary_;
    }
  }
  [[nodiscard]] std::map<WorkerId, StepTraffic> in(Step step) const {
    const auto found = sent_.find(step);
    return found == sent_.end() ? std::map<WorkerId, StepTraffic>{} : found->second;
  }
  [[nodiscard]] std::map<WorkerId, StepTraffic> predicted(const ViewRecord& view, const StepItems& items) const {
    return step_traffic(map_, view, items, boundary_);
  }

 private:
  StepTraffic& at(std::size_t worker, Step step) { return sent_[step][WorkerId(static_cast<std::uint32_t>(worker))]; }
  [[nodiscard]] std::uint64_t bytes(const std::vector<TileRange>& tiles) const {
    std::uint64_t sum = 0;
    for (const TileRange range : tiles) sum += map_.bytes(range);
    return sum;
  }
  const StateMap map_;
  const std::uint64_t boundary_;
  std::map<Step, std::map<WorkerId, StepTraffic>> sent_;
};

TEST_P(TrainerClusterLayout, AStepsBytesAreThosePredicted) {
  start(GetParam().workers);
  Sent sent(job_);
  cluster_->watch([&](std::size_t worker, const WorkerAction& action) {
    sent.count(worker, action);
    return true;
  });
  run_and_compare();
  for (std::uint64_t step = 1; step <= job_.train.steps; ++step) {
    const bool evaluates = planaria::evaluates(Step(step), job_.train.evaluate_every, Step(job_.train.steps));
    const StepItems items{.slots = job_.batch.slots,
                          .micro_batches = job_.micro_batches_per_slot(),
                          .trains = true,
                          .evaluated = evaluates ? job_.train.evaluation_batches : 0};
    EXPECT_EQ(sent.in(Step(step)), sent.predicted(*cluster_->coordinator().view(), items)) << "step " << step;
  }
}

// Others hold all that a worker holds.
class TrainerClusterReplicas : public TrainerClusterLayout {};

TEST_P(TrainerClusterReplicas, ADeathInTheMiddleOfAStageCostsOnlyItsOwnWork) {
  start(GetParam().workers);
  kill_at<ComputeMicroBatch>(GetParam().workers - 1, 3, 5);
  run_and_compare();
  expect_tier(0);
  // Its share of the step, at most.
  EXPECT_LE(repeated(), job_.batch.micro_batches * (job_.model.layers + 2));
}

// Nobody else does.
class TrainerClusterSingleCopy : public TrainerClusterLayout {};

TEST_P(TrainerClusterSingleCopy, WhatNobodyElseHoldsComesFromTheCheckpoint) {
  start(GetParam().workers);
  kill_at<ComputeMicroBatch>(GetParam().workers - 1, 4, 5);
  run_and_compare();
  expect_tier(2);
}

TEST_P(TrainerClusterLayout, TheFirstStagesDeathBetweenTwoBoundariesIsMadeGood) {
  start(GetParam().workers);
  kill_at<SendBoundary>(0, 2, 3);
  run_and_compare();
}

TEST_P(TrainerClusterLayout, ADeathBeforeTheSumsAreSentIsMadeGood) {
  start(GetParam().workers);
  kill_at<SendPiece>(GetParam().workers / 2, 4, 1);
  run_and_compare();
}

// A view's messages may be late, doubled and out of order, on real sockets, too, while a worker dies and another joins.
class TrainerClusterDisorder : public TrainerClusterTest,
                               public ::testing::WithParamInterface<std::tuple<Layout, bool, std::uint64_t>> {
 protected:
  TrainerClusterDisorder() : TrainerClusterTest(std::get<0>(GetParam()).tied) {
    const Layout& layout = std::get<0>(GetParam());
    far_ = layout.far;
    job_.cluster.layout = layout.stages;
    job_.optimizer.shard = layout.sharded;
    job_.checkpoint.every_steps = 1;
  }
};

TEST_P(TrainerClusterDisorder, ChangesNothing) {
  const auto& [layout, sockets, seed] = GetParam();
  job_.cluster.lease_ms = kSanitized ? 2000 : 500;  // what a dead shard's owner held is awaited for two of them
  start(layout.workers, {}, {.sockets = sockets, .disorder = seed});
  cluster_->watch(
      [&, seen = 0, victim = seed % layout.workers](std::size_t worker, const WorkerAction& action) mutable {
        const auto* compute = std::get_if<ComputeMicroBatch>(&action);
        if (compute == nullptr || worker != victim || compute->step != Step(3)) return true;
        if (++seen == 1) cluster_->add_worker();
        return seen != 4;
      });
  run_and_compare();
  EXPECT_GT(cluster_->repeated_messages(), 20U);
}

const Layout kReplicas[] = {{"2+1", 3}, {"1+2", 3, false}, {"2+2", 4}, {"3+2", 5}, {"2+2", 4, true, false, true}};
const Layout kSingleCopies[] = {{"2", 2},
                                {"3", 3},
                                {"4", 4, false},
                                {"1", 3, true, true},
                                {"2", 2, true, true},
                                {"3", 3, false, true},
                                {"2+1", 3, true, true},
                                {"2+2", 4, false, true},
                                {"3+2", 5, true, true},
                                {"1", 3, true, true, true},
                                {"2+1", 3, true, true, true}};
INSTANTIATE_TEST_SUITE_P(Replicas, TrainerClusterLayout, ::testing::ValuesIn(kReplicas));
INSTANTIATE_TEST_SUITE_P(SingleCopies, TrainerClusterLayout, ::testing::ValuesIn(kSingleCopies));
INSTANTIATE_TEST_SUITE_P(Replicas, TrainerClusterReplicas, ::testing::ValuesIn(kReplicas));
INSTANTIATE_TEST_SUITE_P(SingleCopies, TrainerClusterSingleCopy, ::testing::ValuesIn(kSingleCopies));

INSTANTIATE_TEST_SUITE_P(Networks, TrainerClusterDisorder,
                         ::testing::Combine(::testing::Values(Layout{"1", 3}, Layout{"2+1", 3, true, true},
                                                              Layout{"2+2", 4, false},
                                                              Layout{"2+1", 3, true, true, true}),
                                            ::testing::Bool(), ::testing::Range<std::uint64_t>(1, 4)));

TEST_F(TrainerClusterTest, AStagesWorkerTellsHowLongItComputesAndWaits) {
  job_.cluster.layout = "3";
  start(3);
  run_and_compare();
  Duration waiting{};
  for (std::size_t worker = 0; worker < 3; ++worker) {
    EXPECT_GT(cluster_->trainer(worker).counters().computing, Duration{}) << worker;
    waiting += cluster_->trainer(worker).counters().waiting;
  }
  EXPECT_GT(waiting, Duration{});
}

TEST_F(TrainerClusterTest, LossAndEvaluationAreReportedOnceAStep) {
  start(1);
  run_and_compare();
  ASSERT_EQ(cluster_->commits.size(), job_.train.steps);
  EXPECT_DOUBLE_EQ(cluster_->commits.back().loss, bare_run(job_, *dataset_).last_loss);
  for (const StepCommitted& commit : cluster_->commits) {
    EXPECT_EQ(commit.validation_loss.has_value(), commit.step == Step(3) || commit.step == Step(5));
  }
  const double final_loss = cluster_->coordinator().result()->final_validation_loss;
  EXPECT_GT(final_loss, 3.0);
  EXPECT_LT(final_loss, 6.0);
}

TEST_F(TrainerClusterTest, WorkersWithDifferentThreadsAgree) {
  start(2, {1, 2});
  run_and_compare();
}

TEST_F(TrainerClusterTest, DeathWhileComputingCostsOnlyTheVictimsSlots) {
  start(3);
  kill_at<ComputeMicroBatch>(1, 3, 3);
  run_and_compare();
  const auto records = cluster_->ledgers();
  std::set<std::tuple<Step, MicroBatchIndex>> distinct;
  for (const LedgerRecord& record : records) distinct.emplace(record.step, record.micro_batch);
  EXPECT_EQ(distinct.size(), needed());
  EXPECT_LE(records.size(), needed() + 6);
}

TEST_F(TrainerClusterTest, DeathBeforeThePiecesAreSent) {
  start(3);
  kill_at<SendPiece>(2, 2, 1);
  run_and_compare();
}

TEST_F(TrainerClusterTest, DeathBetweenTwoPieces) {
  start(3);
  kill_at<SendPiece>(0, 2, 2);
  run_and_compare();
}

TEST_F(TrainerClusterTest, DeathBeforeTheSumIsSent) {
  start(3);
  kill_at<SendReduced>(1, 4, 2);
  run_and_compare();
}

TEST_F(TrainerClusterTest, DeathBeforeTheUpdate) {
  start(3);
  kill_at<ApplyUpdate>(0, 2, 1);
  run_and_compare();
}

TEST_F(TrainerClusterTest, DeathInTheLastStep) {
  start(2);
  kill_at<ApplyUpdate>(1, 5, 1);
  run_and_compare();
}

TEST_F(TrainerClusterTest, AJoinerFetchesTheStateAndTakesPart) {
  job_.train.steps = 60;
  start(1);
  bool joined = false;
  std::uint32_t rehearsals = 0;
  cluster_->watch([&](std::size_t worker, const WorkerAction& action) {
    const auto* compute = std::get_if<ComputeMicroBatch>(&action);
    if (compute != nullptr && compute->step == Step(2) && !joined) {
      joined = true;
      cluster_->add_worker();
    }
    if (std::holds_alternative<Rehearse>(action)) {
      EXPECT_EQ(worker, 1U);
      EXPECT_EQ(cluster_->trainer(1).counters().micro_batches, 0U);
      ++rehearsals;
    }
    return true;
  });
  run_and_compare();
  EXPECT_GT(cluster_->trainer(1).counters().micro_batches, 0U);
  EXPECT_LE(rehearsals, 1U);  // none where its state came late in its first step
}

TEST_F(TrainerClusterTest, ANonfiniteGradientByAccidentIsComputedAgainElsewhereOrTwice) {
  start(2);
  cluster_->trainer(1).poison(Step(3));
  run_and_compare();
}

TEST_F(TrainerClusterTest, AWorkerThatComputesWrongValuesIsExpelledAndTheOthersGoOn) {
  start(3);
  cluster_->may_be_refused = "computes wrongly";
  cluster_->watch([&](std::size_t worker, const WorkerAction& action) {
    const auto* compute = std::get_if<ComputeMicroBatch>(&action);
    if (compute != nullptr && worker == 1 && compute->step == Step(3)) cluster_->trainer(1).poison(Step(3));
    return true;
  });
  run_and_compare();
  EXPECT_EQ(cluster_->coordinator().workers().at(WorkerId(1)).status, WorkerStatus::lost);
}

TEST_F(TrainerClusterTest, ACheckpointContinuesToTheSameWeights) {
  const std::uint64_t steps = job_.train.steps;
  start(2);
  bool stopped = false;
  cluster_->watch([&](std::size_t worker, const WorkerAction& action) {
    const auto* update = std::get_if<ApplyUpdate>(&action);
    stopped = stopped || (worker == 0 && update != nullptr && update->step == Step(steps));
    return true;
  });
  run_and_compare();
  const auto places = list_checkpoints(posix_file_system(), folder_.path("checkpoints"));
  ASSERT_TRUE(places.ok());
  ASSERT_FALSE(places->empty());
  EXPECT_EQ(places->front().step, Step(steps));
}

class UntiedClusterTest : public TrainerClusterTest {
 protected:
  UntiedClusterTest() : TrainerClusterTest(false) {}
};

TEST_F(UntiedClusterTest, UntiedHeadsTrainToTheBareLoopsWeights) {
  start(3);
  kill_at<SendReduced>(2, 3, 1);
  run_and_compare();
}

}  // namespace
}  // namespace planaria

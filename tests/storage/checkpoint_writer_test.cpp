#include "storage/checkpoint_writer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>

#include "common/file_faults.hpp"
#include "common/file_memory.hpp"
#include "tests/storage/states.hpp"

namespace planaria {
namespace {

using testing_states::kTileElements;
using testing_states::random_state;
using testing_states::same;
using testing_states::two_layer_model;

class CheckpointWriterTest : public testing::Test {
 protected:
  std::unique_ptr<CheckpointWriter> start() {
    return std::make_unique<CheckpointWriter>(faulty_, clock_, map_, model_, WriteOptions{"ck", 2, "w0"},
                                              CheckpointIdentity{job_hash_, "avx2"},
                                              [this](const CheckpointReport& report) {
                                                std::unique_lock lock(mutex_);
                                                at_gate_ = true;
                                                gate_changed_.notify_all();
                                                gate_changed_.wait(lock, [this] { return open_; });
                                                reports_.push_back({report.step, report.result.ok()});
                                              });
  }
  void set_open(bool open) {
    {
      const std::lock_guard lock(mutex_);
      open_ = open;
    }
    gate_changed_.notify_all();
  }
  void await_report_at_gate() {
    std::unique_lock lock(mutex_);
    gate_changed_.wait(lock, [this] { return at_gate_; });
  }
  std::uint64_t newest_step() {
    const auto found = load_newest_valid(memory_, "ck", map_, job_hash_, "avx2");
    return found && found->loaded ? found->loaded->state.step.value() : 0;
  }

  const ModelSpec model_ = two_layer_model();
  const StateMap map_{model_, kTileElements};
  const Hash128 job_hash_{1, 2};
  SteadyClock clock_;
  MemoryFileSystem memory_;
  FaultyFileSystem faulty_{memory_};
  std::mutex mutex_;
  std::condition_variable gate_changed_;
  bool open_ = true;  // reports wait for it
  bool at_gate_ = false;
  std::vector<std::pair<Step, bool>> reports_;
};

TEST_F(CheckpointWriterTest, SubmittedStatesAreWrittenAndReportedInOrder) {
  auto writer = start();
  for (const std::uint64_t step : {10, 20, 30}) {
    ASSERT_TRUE(writer->submit(random_state(map_, step)));
    writer->drain();
  }
  EXPECT_THAT(reports_,
              testing::ElementsAre(std::pair(Step(10), true), std::pair(Step(20), true), std::pair(Step(30), true)));
  EXPECT_EQ(newest_step(), 30U);
}

TEST_F(CheckpointWriterTest, DestructionFinishesWhatWasSubmitted) {
  auto writer = start();
  ASSERT_TRUE(writer->submit(random_state(map_, 10)));
  writer.reset();
  EXPECT_EQ(newest_step(), 10U);
}

TEST_F(CheckpointWriterTest, FullDiskIsReportedAndTheNextAttemptSucceeds) {
  auto writer = start();
  ASSERT_TRUE(writer->submit(random_state(map_, 10)));
  writer->drain();
  faulty_.fill_after(5000);
  ASSERT_TRUE(writer->submit(random_state(map_, 20)));
  writer->drain();
  EXPECT_EQ(newest_step(), 10U);
  faulty_.heal();
  ASSERT_TRUE(writer->submit(random_state(map_, 30)));
  writer->drain();
  EXPECT_THAT(reports_,
              testing::ElementsAre(std::pair(Step(10), true), std::pair(Step(20), false), std::pair(Step(30), true)));
  EXPECT_EQ(newest_step(), 30U);
}

TEST_F(CheckpointWriterTest, SlowDiskTakesOneInWaitingAndRefusesMore) {
  set_open(false);
  auto writer = start();
  ASSERT_TRUE(writer->submit(random_state(map_, 10)));
  await_report_at_gate();
  ASSERT_TRUE(writer->submit(random_state(map_, 20)));
  TrainState kept = random_state(map_, 99);
  const auto refused = writer->submit(std::move(kept));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::unavailable);
  EXPECT_TRUE(same(kept, random_state(map_, 99)));  // NOLINT(bugprone-use-after-move): a refusal takes nothing
  set_open(true);
  writer->drain();
  EXPECT_EQ(reports_.size(), 2U);
}

TEST_F(CheckpointWriterTest, BufferOfAFinishedCheckpointIsUsedAgain) {
  auto writer = start();
  TrainState state = random_state(map_, 10);
  const float* memory = state.master.data();
  ASSERT_TRUE(writer->submit(std::move(state)));
  writer->drain();
  const TrainState again = writer->buffer();
  EXPECT_EQ(again.master.data(), memory);
  EXPECT_EQ(writer->buffer().second_moment.size(), map_.vector_elements());
}

TEST(CheckpointReports, TellWhyOlderOnesStayed) {
  WrittenCheckpoint written;
  written.path = "ck/step-00000003";
  EXPECT_EQ(describe({Step(3), written}), "ck/step-00000003");
  written.pruning_failure = Error(ErrorCode::io, "read-only");
  EXPECT_EQ(describe({Step(3), written}), "ck/step-00000003; older ones could not be pruned: read-only");
  EXPECT_EQ(describe({Step(3), Error(ErrorCode::exhausted, "full")}), "full");
}

}  // namespace
}  // namespace planaria

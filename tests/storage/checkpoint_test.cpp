#include "storage/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>

#include "common/file_faults.hpp"
#include "common/file_memory.hpp"
#include "storage/export.hpp"
#include "storage/safetensors.hpp"
#include "tests/storage/states.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing_states::kTileElements;
using testing_states::random_state;
using testing_states::same;
using testing_states::two_layer_model;

constexpr std::uint64_t kFileLimit = 64 << 20;

class CheckpointTest : public testing::Test {
 protected:
  Result<WrittenCheckpoint> write(FileSystem& fs, std::uint64_t step) {
    return write_checkpoint(fs, options_, identity_, model_, map_, state(step));
  }
  void write(std::uint64_t step) {
    const auto written = write(*disk_, step);
    ASSERT_TRUE(written) << written.error().message();
    ASSERT_FALSE(written->pruning_failure);
  }
  Result<NewestCheckpoint> newest() { return load_newest_valid(*disk_, "ck", map_, identity_.job_hash, "avx2"); }
  // The step that is resumed from; 0 when there is nothing.
  std::uint64_t resumed_step() {
    const auto found = newest();
    EXPECT_TRUE(found) << found.error().message();
    if (!found || !found->loaded) return 0;
    const std::uint64_t step = found->loaded->state.step.value();
    EXPECT_TRUE(same(found->loaded->state, state(step)));
    return step;
  }
  const TrainState& state(std::uint64_t step) {
    const auto [found, added] = states_.try_emplace(step);
    if (added) found->second = random_state(map_, step);
    return found->second;
  }
  std::vector<std::string> names() {
    std::vector<std::string> names;
    const auto entries = disk_->list("ck");
    for (const auto& entry : *entries) names.push_back(entry.name);
    return names;
  }
  void damage(const std::string& path, const std::function<void(std::string&)>& how) {
    std::string content = *read_file(*disk_, path, kFileLimit);
    how(content);
    disk_->overwrite(path, content);
  }
  void expect_fallback(std::string_view reason) {
    const auto found = newest();
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_TRUE(found->loaded);
    EXPECT_EQ(found->loaded->state.step, Step(10));
    ASSERT_EQ(found->refused.size(), 1U);
    EXPECT_EQ(found->refused[0].path, "ck/step-00000020");
    EXPECT_THAT(found->refused[0].reason.message(), testing::HasSubstr(std::string(reason)));
  }

  const ModelSpec model_ = [] {
    ModelSpec model = two_layer_model();  // smaller still: some tests write it thousands of times
    model.heads = model.kv_heads = 2;
    model.width = model.ffn_width = 8;
    model.vocab = 11;
    return model;
  }();
  const StateMap map_{model_, kTileElements};
  CheckpointIdentity identity_{hash_of(std::span("job", 3)), "avx2"};
  WriteOptions options_{"ck", 3, "w0"};
  std::map<std::uint64_t, TrainState> states_;
  std::unique_ptr<MemoryFileSystem> disk_ = std::make_unique<MemoryFileSystem>();
};

TEST_F(CheckpointTest, StateComesBackBitForBitWithItsStamps) {
  write(123);
  const auto found = newest();
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_TRUE(same(found->loaded->state, random_state(map_, 123)));
  EXPECT_EQ(found->loaded->path, "ck/step-00000123");
  EXPECT_EQ(found->loaded->manifest.view, ViewNumber(7));
  EXPECT_EQ(found->loaded->manifest.weights_hash, weights_hash(model_, map_, found->loaded->state.master));
  EXPECT_TRUE(found->refused.empty());
}

TEST_F(CheckpointTest, AnotherTileSizeReadsTheSameState) {
  write(5);
  const StateMap other(model_, 1024);
  const auto found = load_newest_valid(*disk_, "ck", other, identity_.job_hash, std::nullopt);
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_TRUE(same(found->loaded->state, random_state(other, 5)));
}

TEST_F(CheckpointTest, FilesNameStateByBlockAndTensorAndLeaveTheTiedCopyOut) {
  write(1);
  const auto head = SafetensorsFile::open(*disk_, "ck/step-00000001/head.safetensors");
  ASSERT_TRUE(head);
  EXPECT_EQ(head->header().tensors.size(), 6U);
  EXPECT_NE(head->find("second_moment/norm.bias"), nullptr);
  EXPECT_EQ(head->find("master/token.weight"), nullptr);
}

TEST_F(CheckpointTest, AbsentDirectoryHasNothingToResumeFrom) {
  EXPECT_EQ(resumed_step(), 0U);
}

TEST_F(CheckpointTest, OnlyTheNewestAreKept) {
  for (std::uint64_t step = 10; step <= 50; step += 10) write(step);
  EXPECT_THAT(names(), testing::ElementsAre("step-00000030", "step-00000040", "step-00000050"));
}

TEST_F(CheckpointTest, IncompleteOldCheckpointDoesNotCountAsKept) {
  options_.keep = 2;
  write(10);
  write(20);
  ASSERT_TRUE(disk_->remove("ck/step-00000020/embed.safetensors"));
  write(30);
  EXPECT_THAT(names(), testing::ElementsAre("step-00000010", "step-00000020", "step-00000030"));
  EXPECT_EQ(resumed_step(), 30U);
}

TEST_F(CheckpointTest, WritingAfterAFallbackNeverPrunesWhatWasJustWritten) {
  options_.keep = 1;
  write(20);
  damage("ck/step-00000020/layer.0.safetensors", [](std::string& bytes) { bytes.back() ^= 1; });
  write(10);
  EXPECT_EQ(resumed_step(), 10U);
  write(20);
  EXPECT_EQ(resumed_step(), 20U);
}

TEST_F(CheckpointTest, NewerCheckpointsAreNotPrunedByAnOlderStep) {
  options_.keep = 1;
  write(20);
  write(10);
  EXPECT_THAT(names(), testing::ElementsAre("step-00000010", "step-00000020"));
}

TEST_F(CheckpointTest, SameStateOfASecondWriterIsTakenAsThere) {
  write(10);
  options_.writer = "w1";
  const auto again = write(*disk_, 10);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_TRUE(again->was_there);
  EXPECT_THAT(names(), testing::ElementsAre("step-00000010"));
}

TEST_F(CheckpointTest, AnotherStateOfTheSameStepIsRefused) {
  write(10);
  identity_.job_hash.low ^= 1;
  EXPECT_EQ(write(*disk_, 10).error().code(), ErrorCode::mismatch);
  identity_.job_hash.low ^= 1;
  EXPECT_EQ(resumed_step(), 10U);
  EXPECT_THAT(names(), testing::ElementsAre("step-00000010"));
}

TEST_F(CheckpointTest, TruncatedTensorFileFallsBackToThePreviousCheckpoint) {
  write(10);
  write(20);
  damage("ck/step-00000020/layer.1.safetensors", [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
  expect_fallback("bytes, its manifest says");
}

TEST_F(CheckpointTest, BitFlipInATensorFileFallsBackToThePreviousCheckpoint) {
  write(10);
  write(20);
  damage("ck/step-00000020/embed.safetensors", [](std::string& bytes) { bytes[bytes.size() / 2] ^= 16; });
  expect_fallback("don't match their hash");
}

TEST_F(CheckpointTest, MissingTensorFileFallsBackToThePreviousCheckpoint) {
  write(10);
  write(20);
  ASSERT_TRUE(disk_->remove("ck/step-00000020/head.safetensors"));
  expect_fallback("head.safetensors");
}

TEST_F(CheckpointTest, MissingManifestFallsBackToThePreviousCheckpoint) {
  write(10);
  write(20);
  ASSERT_TRUE(disk_->remove("ck/step-00000020/manifest.json"));
  expect_fallback("manifest.json");
}

TEST_F(CheckpointTest, RenamedCheckpointFallsBackToThePreviousOne) {
  write(5);
  write(10);
  ASSERT_TRUE(disk_->rename("ck/step-00000005", "ck/step-00000020"));
  expect_fallback("renamed");
}

TEST_F(CheckpointTest, BitFlipAnywhereInTheManifestFallsBackToThePreviousCheckpoint) {
  write(10);
  write(20);
  const std::string path = "ck/step-00000020/manifest.json";
  const std::string good = *read_file(*disk_, path, kFileLimit);
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    disk_->overwrite(path, bad);
    EXPECT_FALSE(read_manifest(*disk_, path.substr(0, 16))) << "byte " << at;
  }
  expect_fallback("manifest");
}

TEST_F(CheckpointTest, TruncatedManifestIsRefusedAtEveryLength) {
  write(10);
  const std::string good = *read_file(*disk_, "ck/step-00000010/manifest.json", kFileLimit);
  ASSERT_TRUE(parse_manifest(good));
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(parse_manifest(std::string_view(good).substr(0, length))) << length;
  }
}

TEST_F(CheckpointTest, ManifestThatNamesAFileOutsideIsRefused) {
  Manifest manifest{{}, "x", Step(1), ViewNumber(1), {}, {}, {{"../../etc/passwd", "embed", 1, {}}}};
  EXPECT_EQ(parse_manifest(render(manifest)).error().code(), ErrorCode::corrupt);
  manifest.files[0].name = "embed.safetensors";
  EXPECT_EQ(*parse_manifest(render(manifest)), manifest);
}

TEST_F(CheckpointTest, OtherJobOrNumericClassIsRefusedByName) {
  write(10);
  const auto job = load_newest_valid(*disk_, "ck", map_, Hash128{1, 2}, "avx2");
  EXPECT_EQ(job.error().code(), ErrorCode::mismatch);
  EXPECT_THAT(job.error().message(), testing::HasSubstr("is of job"));
  const auto numeric = load_newest_valid(*disk_, "ck", map_, identity_.job_hash, "avx512");
  EXPECT_THAT(numeric.error().message(), testing::HasSubstr("is of numeric class avx2, this is avx512"));
  const StateMap deeper(two_layer_model(ModelFamily::llama), kTileElements);
  EXPECT_FALSE(load_newest_valid(*disk_, "ck", deeper, identity_.job_hash, "avx2"));
}

TEST_F(CheckpointTest, FullDiskAtAnyByteLeavesTheOldCheckpointIntact) {
  write(10);
  const auto clean = names();
  const std::uint64_t size = write(*disk_, 15)->bytes;
  ASSERT_TRUE(remove_tree(*disk_, "ck/step-00000015"));
  for (std::uint64_t room = 0; room < size; room += 397) {
    FaultyFileSystem full(*disk_);
    full.fill_after(room);
    EXPECT_EQ(write(full, 20).error().code(), ErrorCode::exhausted);
    ASSERT_EQ(names(), clean) << "room for " << room;
  }
  EXPECT_EQ(resumed_step(), 10U);
}

TEST_F(CheckpointTest, DiskThatIsKnownToBeFullIsToldBeforeWriting) {
  write(10);
  FaultyFileSystem full(*disk_);
  full.fill_now();
  EXPECT_THAT(write(full, 20).error().message(), testing::HasSubstr("the checkpoint of step 20 needs"));
  full.heal();
  EXPECT_TRUE(write(full, 20));
}

TEST_F(CheckpointTest, BrokenDeviceAtEveryOperationLeavesNewestOrPrevious) {
  for (std::uint64_t at = 0;; ++at) {
    disk_ = std::make_unique<MemoryFileSystem>();
    options_.keep = 2;
    write(10);
    write(20);
    FaultyFileSystem broken(*disk_);
    broken.fail_operation(at, false);
    const bool written = write(broken, 30).ok();
    if (!broken.fired()) break;
    const std::uint64_t step = resumed_step();
    EXPECT_TRUE(step == 30 || (!written && step == 20)) << "operation " << at << " leaves " << step;
    write(40);  // what the failure left behind doesn't stand in the way
    EXPECT_EQ(resumed_step(), 40U);
  }
}

TEST_F(CheckpointTest, PowerCutAtEveryOperationLeavesNewestOrPrevious) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    for (std::uint64_t at = 0;; ++at) {
      disk_ = std::make_unique<MemoryFileSystem>();
      options_.keep = 2;
      write(10);
      write(20);
      FaultyFileSystem dying(*disk_);
      dying.fail_operation(at, true);
      const bool written = write(dying, 30).ok();
      disk_->power_cut(seed);
      const std::uint64_t step = resumed_step();
      ASSERT_TRUE(step == 30 || (!written && step == 20)) << "operation " << at << ", seed " << seed << ": " << step;
      if (!dying.fired()) break;
      write(40);
      ASSERT_EQ(resumed_step(), 40U);
      ASSERT_LE(names().size(), 3U) << "operation " << at << ", seed " << seed;
    }
  }
}

TEST_F(CheckpointTest, LeftoversOfDeadWritersGoWithTheNextCheckpoint) {
  for (const char* name : {".partial-step-00000010-w5", ".partial-step-00000030-w6", ".removing-step-00000001-w5"}) {
    ASSERT_TRUE(disk_->make_directories(join_path("ck", name)));
  }
  write(20);
  EXPECT_THAT(names(), testing::ElementsAre(".partial-step-00000030-w6", "step-00000020"));
}

TEST_F(CheckpointTest, TheOperatingSystemsFilesWorkTheSame) {
  const TemporaryDirectory directory;
  options_.root = directory.path("runs/one/checkpoints");
  for (const std::uint64_t step : {10, 20, 30, 40}) ASSERT_TRUE(write(posix_file_system(), step));
  const auto found = load_newest_valid(posix_file_system(), options_.root, map_, identity_.job_hash, "avx2");
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_TRUE(same(found->loaded->state, random_state(map_, 40)));
  EXPECT_EQ(list_checkpoints(posix_file_system(), options_.root)->size(), 3U);
}

}  // namespace
}  // namespace planaria

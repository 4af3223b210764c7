#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>

#include "cli/commands.hpp"
#include "cli/snapshot_list.hpp"
#include "proto/job_config.hpp"
#include "storage/durable_store.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;
using testing::Not;

// A run's directory with durable snapshots of one keeper, on the real file system.
class SnapshotCommand : public testing::Test {
 protected:
  void SetUp() override {
    job_.data.path = "/nowhere";
    job_.data.content_hash = Hash128{1, 2};
    std::ofstream(directory_.path("job.toml")) << job_to_toml(job_);
    const auto loaded = load_job(directory_.path("job.toml"));
    ASSERT_TRUE(loaded) << loaded.error().message();
    ASSERT_EQ(job_hash(*loaded), job_hash(job_));
  }
  void write(std::uint64_t step, TileRange tiles) {
    const SteadyClock clock;
    DurableOptions options;
    options.root = directory_.path("snapshots");
    options.keeper = "node7";
    auto store = DurableStore::open(posix_file_system(), clock, map_, {job_hash(job_), "cpu-avx2"}, options);
    ASSERT_TRUE(store) << store.error().message();
    ASSERT_TRUE((*store)->begin({Step(step), ViewNumber(2)}, 1'700'000'000'000));
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const std::vector<float> values(tile_state_bytes(map_, tile) / sizeof(float), 0.25F);
      ASSERT_TRUE(
          (*store)->append(TileIndex(tile), std::as_bytes(std::span(values)), hash_of(std::span<const float>(values))));
    }
    ASSERT_TRUE((*store)->finish());
  }
  void write_all(std::uint64_t step) { write(step, map_.tiles_with_state()); }
  void damage(std::uint64_t step) {
    std::fstream file(directory_.path("snapshots/node7/" + segment_name({Step(step), ViewNumber(2)}, 0)),
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1000);
    file.put('x');
  }
  // Exit code; what it printed is in out_ and error_.
  int run(std::string line) {
    CLI::App app;
    int code = 0;
    add_snapshot(app, code);
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    try {
      app.parse(line.replace(line.find("RUN"), 3, directory_.path()));
    } catch (const CLI::ParseError& error) {
      code = 2;
    }
    std::fflush(nullptr);
    out_ = testing::internal::GetCapturedStdout();
    error_ = testing::internal::GetCapturedStderr();
    return code;
  }

  JobSpec job_ = [] {
    JobSpec job;
    job.model.layers = 1;
    job.model.heads = job.model.kv_heads = 2;
    job.model.width = job.model.ffn_width = 16;
    job.model.vocab = 256;
    job.model.context = 16;
    job.train.tile_elements = 1024;
    return job;
  }();
  const StateMap map_{job_.model, job_.train.tile_elements};
  const TemporaryDirectory directory_;
  std::string out_, error_;
};

TEST_F(SnapshotCommand, ADirectoryThatIsNoRunsIsAnError) {
  ASSERT_TRUE(std::filesystem::remove(directory_.path("job.toml")));
  EXPECT_EQ(run("snapshot list RUN"), 3);
  EXPECT_THAT(error_, HasSubstr("it has no job.toml"));
}

TEST_F(SnapshotCommand, ARunWithoutSnapshotsSaysSo) {
  EXPECT_EQ(run("snapshot list RUN"), 0);
  EXPECT_THAT(out_, HasSubstr("no durable snapshots in"));
  EXPECT_EQ(run("snapshot verify RUN"), 3);
  EXPECT_EQ(run("snapshot restore RUN"), 3);
  EXPECT_EQ(run("snapshot list RUN --root /nowhere"), 3);
}

TEST_F(SnapshotCommand, TheListTellsWhatIsCompleteAndWhatIsMissing) {
  write_all(10);
  write(20, {0, 2});
  EXPECT_EQ(run("snapshot list RUN"), 0);
  EXPECT_THAT(out_, HasSubstr("        10       2  complete    "));
  EXPECT_THAT(out_, HasSubstr("        20       2  incomplete  "));
  EXPECT_THAT(out_, HasSubstr("2023-11-14 22:13:20"));
  EXPECT_THAT(out_, HasSubstr("tiles are missing: 2–"));
  EXPECT_EQ(run("snapshot list RUN --json"), 0);
  const auto json = nlohmann::json::parse(out_);
  ASSERT_EQ(json["snapshots"].size(), 2U);
  EXPECT_EQ(json["snapshots"][0]["complete"], false);
  EXPECT_EQ(json["snapshots"][1]["promised"], true);
  EXPECT_EQ(json["snapshots"][1]["keepers"][0]["keeper"], "node7");
}

TEST_F(SnapshotCommand, VerifyingFindsDamage) {
  write_all(10);
  write_all(20);
  EXPECT_EQ(run("snapshot verify RUN"), 0);
  EXPECT_THAT(out_, HasSubstr("step 20, view 2: sound"));
  damage(20);
  EXPECT_EQ(run("snapshot verify RUN"), 3);
  EXPECT_THAT(out_, HasSubstr("step 20, view 2: damaged, 1 tiles are lost"));
  EXPECT_EQ(run("snapshot verify RUN --step 10"), 0);
  EXPECT_EQ(run("snapshot verify RUN --step 20 --json"), 3);
  EXPECT_EQ(nlohmann::json::parse(out_)["snapshots"][0]["tiles_lost"], 1);
  EXPECT_EQ(run("snapshot verify RUN --step 30"), 3);
}

TEST_F(SnapshotCommand, RestoringMakesACheckpointOfTheNewestSoundOne) {
  write_all(10);
  write_all(20);
  write(30, {0, 2});
  EXPECT_EQ(run("snapshot restore RUN --json"), 0);
  EXPECT_EQ(nlohmann::json::parse(out_)["step"], 20);
  const auto loaded = load_checkpoint(posix_file_system(), directory_.path("checkpoints/step-00000020"), map_,
                                      job_hash(job_), "cpu-avx2");
  ASSERT_TRUE(loaded) << loaded.error().message();
  damage(20);
  EXPECT_EQ(run("snapshot restore RUN --out " + directory_.path("other")), 0);
  EXPECT_THAT(error_, HasSubstr("step 20 is damaged and was passed over"));
  EXPECT_THAT(out_, HasSubstr("other/step-00000010"));
  EXPECT_EQ(run("snapshot restore RUN --step 20"), 3);
  EXPECT_EQ(run("snapshot restore RUN --step 30"), 3);
  EXPECT_THAT(error_, HasSubstr("isn't complete"));
}

TEST(SnapshotList, BytesHaveThreeDigits) {
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1000), "1.00 kB");
  EXPECT_EQ(bytes_text(99'960), "100 kB");
  EXPECT_EQ(bytes_text(999'499), "999 kB");
  EXPECT_EQ(bytes_text(999'500), "1.00 MB");
  EXPECT_EQ(bytes_text(1'496'000'000), "1.50 GB");
  EXPECT_EQ(bytes_text(UINT64_MAX), "18.4 EB");
}

}  // namespace
}  // namespace planaria

// What a keeper saves is on disk, and what it can't save is told.
#include "worker/keeper/snapshot_saver.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <numeric>

#include "storage/durable_catalog.hpp"
#include "tests/small_model.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using namespace std::chrono_literals;
using worker_event::SnapshotWritten;

constexpr Hash128 kJob{4, 2};

class Saver : public testing::Test {
 protected:
  void start(std::uint64_t bytes_per_s = 0) {
    const SaverOptions options{.files = &posix_file_system(),
                               .root = directory_.path("snapshots"),
                               .keeper = "h0",
                               .job = kJob,
                               .bytes_per_s = bytes_per_s,
                               .keep = 2};
    saver_ = std::make_unique<SnapshotSaver>(map_, options, [this](const WorkerEvent& event) {
      const std::scoped_lock lock(mutex_);
      told_.push_back(std::get<SnapshotWritten>(event));
      changed_.notify_all();
    });
  }
  // All of the state, in two runs.
  [[nodiscard]] SnapshotToSave snapshot(std::uint64_t step) {
    SnapshotToSave wanted{{Step(step), ViewNumber(3)}, "a class", {}};
    const TileRange all = map_.tiles_with_state();
    for (const TileRange run : {TileRange{all.begin, 3}, TileRange{3, all.end}}) {
      const auto memory = *memory_->take(kTensorsOfState * map_.bytes(run));
      StoredTiles tiles{run, memory, 0, {}};
      std::byte* to = memory->bytes().data();
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        const std::span<std::byte> bytes(to, kTensorsOfState * map_.bytes({tile, tile + 1}));
        std::ranges::fill(bytes, static_cast<std::byte>(tile + step));
        tiles.hashes.push_back(hash_bytes(bytes));
        to += bytes.size();
      }
      wanted.tiles.push_back(std::move(tiles));
    }
    return wanted;
  }
  SnapshotWritten next() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 20s, [this] { return !told_.empty(); }));
    SnapshotWritten told = told_.front();
    told_.erase(told_.begin());
    return told;
  }
  [[nodiscard]] std::vector<Step> on_disk() const {
    return durable_steps(posix_file_system(), directory_.path("snapshots"), map_, kJob);
  }

  const TemporaryDirectory directory_;
  const StateMap map_{small_model(), 64};
  const std::shared_ptr<SnapshotMemory> memory_ = SnapshotMemory::within(64 << 20);
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SnapshotWritten> told_;
  std::unique_ptr<SnapshotSaver> saver_;
};

TEST_F(Saver, SavesWhatItIsGivenAndKeepsTheNewest) {
  start();
  for (const std::uint64_t step : {5, 10, 15}) {
    saver_->save(snapshot(step));
    const SnapshotWritten told = next();
    EXPECT_TRUE(told.ok) << told.detail;
    EXPECT_EQ(told.snapshot, (SnapshotName{Step(step), ViewNumber(3)}));
    EXPECT_EQ(told.bytes, kTensorsOfState * map_.bytes(map_.tiles_with_state()));
  }
  saver_.reset();  // what is pruned is pruned
  EXPECT_EQ(on_disk(), (std::vector{Step(15), Step(10)}));
}

TEST_F(Saver, DamagedStateIsToldAndTheNextOneSaved) {
  start();
  SnapshotToSave damaged = snapshot(5);
  damaged.tiles[1].hashes[0].low ^= 1;
  saver_->save(std::move(damaged));
  const SnapshotWritten told = next();
  EXPECT_FALSE(told.ok);
  EXPECT_NE(told.detail.find("hash"), std::string::npos) << told.detail;
  saver_->save(snapshot(10));
  EXPECT_TRUE(next().ok);
  EXPECT_EQ(on_disk(), std::vector{Step(10)});
}

TEST_F(Saver, WhatWaitsGivesWayAndASlowDiskDoesntHoldUpTheEnd) {
  start(1);
  saver_->save(snapshot(5));
  saver_->save(snapshot(10));
  saver_->save(snapshot(15));
  const SnapshotWritten told = next();
  EXPECT_FALSE(told.ok);
  EXPECT_NE(told.detail.find("slower"), std::string::npos) << told.detail;
  saver_.reset();
  EXPECT_TRUE(on_disk().empty());
}

}  // namespace
}  // namespace planaria

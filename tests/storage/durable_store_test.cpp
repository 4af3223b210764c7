#include "storage/durable_store.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/storage/durable_keepers.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DurableStoreTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }
  void reopen() {
    store_.reset();
    auto opened = world_.open("node7");
    ASSERT_TRUE(opened) << opened.error().message();
    store_ = std::move(opened).value();
  }
  [[nodiscard]] TileSet all() const { return TileSet(world_.map.tiles_with_state()); }
  Status try_write(std::uint64_t step) { return world_.write(*store_, named(step), all()); }
  void write(std::uint64_t step) {
    const Status written = try_write(step);
    ASSERT_TRUE(written) << written.error().message();
  }
  Result<Duration> append(std::uint32_t tile, std::uint64_t step, std::byte flip = {}) {
    auto values = world_.content(tile, Step(step));
    const Hash128 hash = hash_of(std::span<const float>(values));
    std::as_writable_bytes(std::span(values))[5] ^= flip;
    return store_->append(TileIndex(tile), std::as_bytes(std::span(values)), hash);
  }
  // Segments there, by name.
  std::vector<std::string> files() {
    std::vector<std::string> names;
    const auto entries = world_.disk->list(directory_);
    for (const DirectoryEntry& entry : *entries) {
      if (entry.name != "index") names.push_back(entry.name);
    }
    return names;
  }
  // Every finished snapshot is whole, exact, and the only thing there.
  void expect_steps(const std::vector<std::uint64_t>& steps) {
    std::vector<SnapshotName> names;
    for (const std::uint64_t step : steps) names.push_back(named(step));
    EXPECT_EQ(store_->finished(), names);
    const auto catalog = world_.catalog();
    ASSERT_TRUE(catalog) << catalog.error().message();
    ASSERT_EQ(catalog->snapshots.size(), steps.size());
    std::size_t segments = 0;
    for (const DurableSnapshot& snapshot : catalog->snapshots) {
      EXPECT_TRUE(snapshot.complete()) << testing::PrintToString(snapshot.problems);
      EXPECT_TRUE(world_.exact(snapshot));
      for (const PlacedPart& part : snapshot.parts) segments += part.segments.size();
    }
    EXPECT_EQ(files().size(), segments);
  }

  DurableKeepers world_;
  const std::string directory_ = join_path(world_.root, "node7");
  std::unique_ptr<DurableStore> store_;
};

TEST_F(DurableStoreTest, WhatWasFinishedIsThereAfterAPowerCut) {
  write(10);
  write(20);
  store_.reset();
  world_.disk->power_cut(0);
  reopen();
  expect_steps({10, 20});
}

TEST_F(DurableStoreTest, SegmentsStayBelowTheirBound) {
  write(10);
  EXPECT_GT(files().size(), 3U);
  for (const std::string& name : files()) {
    EXPECT_LE(world_.disk->info(join_path(directory_, name))->bytes, world_.options("node7").segment_bytes);
  }
}

TEST_F(DurableStoreTest, ATileLargerThanASegmentHasOneOfItsOwn) {
  store_.reset();
  DurableOptions options = world_.options("node7");
  options.segment_bytes = 1;
  auto opened = DurableStore::open(world_.files, world_.clock, world_.map, world_.identity, options);
  ASSERT_TRUE(opened);
  store_ = std::move(opened).value();
  write(10);
  EXPECT_EQ(files().size(), world_.tiles());
  expect_steps({10});
}

TEST_F(DurableStoreTest, TilesComeInAnyOrder) {
  ASSERT_TRUE(store_->begin(named(10), 0));
  for (std::uint32_t tile = world_.tiles(); tile-- > 0;) ASSERT_TRUE(append(tile, 10));
  ASSERT_TRUE(store_->finish());
  expect_steps({10});
}

TEST_F(DurableStoreTest, MisuseIsToldAndWritesNothing) {
  EXPECT_EQ(append(0, 10).error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(store_->finish().error().code(), ErrorCode::invalid_argument);
  ASSERT_TRUE(store_->begin(named(10), 0));
  EXPECT_EQ(store_->finish().error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(store_->append(TileIndex(0), {}, {}).error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(store_->append(TileIndex(world_.tiles()), {}, {}).error().code(), ErrorCode::invalid_argument);
  ASSERT_TRUE(append(0, 10));
  EXPECT_EQ(append(0, 10).error().code(), ErrorCode::invalid_argument);
  write(10);
  EXPECT_EQ(store_->begin(named(10), 0).error().code(), ErrorCode::invalid_argument);
  expect_steps({10});
}

TEST_F(DurableStoreTest, ATileThatDoesNotMatchItsHashIsRefusedAndMayComeAgain) {
  ASSERT_TRUE(store_->begin(named(10), 0));
  EXPECT_EQ(append(0, 10, std::byte{4}).error().code(), ErrorCode::corrupt);
  ASSERT_TRUE(world_.append(*store_, named(10), all()));
  ASSERT_TRUE(store_->finish());
  expect_steps({10});
}

TEST_F(DurableStoreTest, WhatIsAbandonedLeavesNothing) {
  write(10);
  ASSERT_TRUE(store_->begin(named(20), 0));
  ASSERT_TRUE(world_.append(*store_, named(20), all()));
  store_->abandon();
  expect_steps({10});
  ASSERT_TRUE(store_->begin(named(30), 0));
  ASSERT_TRUE(append(0, 30));
  ASSERT_TRUE(store_->begin(named(40), 0));
  ASSERT_TRUE(append(0, 40));
  reopen();
  expect_steps({10});
}

TEST_F(DurableStoreTest, LeftoversGoWhenItIsOpenedAndStrangersStay) {
  write(10);
  store_.reset();
  for (const char* name : {"step-00000020-view-1-0.segment", "step-00000020-view-1-1.segment.partial", "notes.txt"}) {
    ASSERT_TRUE(write_file_atomically(*world_.disk, join_path(directory_, name), "x"));
  }
  reopen();
  EXPECT_THAT(files(), testing::Contains("notes.txt"));
  ASSERT_TRUE(world_.disk->remove(join_path(directory_, "notes.txt")));
  expect_steps({10});
}

TEST_F(DurableStoreTest, RetainingRemovesWhatIsOlderAndNotNamed) {
  for (const std::uint64_t step : {10, 20, 30, 40, 50}) write(step);
  ASSERT_TRUE(store_->retain({}));
  expect_steps({10, 20, 30, 40, 50});
  ASSERT_TRUE(store_->retain(std::vector{named(40), named(20)}));
  expect_steps({20, 40, 50});
  ASSERT_TRUE(store_->retain(std::vector{named(40)}));  // 50 may become complete yet
  expect_steps({40, 50});
  reopen();
  expect_steps({40, 50});
}

TEST_F(DurableStoreTest, StepsThatProvedWrongGoAndComeAgain) {
  for (const std::uint64_t step : {10, 20, 30}) write(step);
  ASSERT_TRUE(store_->drop_after(Step(10)));
  expect_steps({10});
  reopen();
  write(20);
  ASSERT_TRUE(store_->drop_after(Step(20)));
  expect_steps({10, 20});
}

TEST_F(DurableStoreTest, ManySnapshotsLeaveFewFilesInTheIndex) {
  for (std::uint64_t step = 1; step <= 40; ++step) {
    write(step);
    ASSERT_TRUE(store_->retain(std::vector{named(step)}));
    if (step % 3 == 0) reopen();
  }
  expect_steps({40});
  EXPECT_LT(world_.disk->list(join_path(directory_, "index"))->size(), 15U);
}

TEST_F(DurableStoreTest, TheRateLimitTellsHowLongToWait) {
  store_.reset();
  DurableOptions options = world_.options("node7");
  options.bytes_per_s = tile_state_bytes(world_.map, 0);  // a tile a second
  world_.clock.set(Instant{} + std::chrono::hours(1));
  auto opened = DurableStore::open(world_.files, world_.clock, world_.map, world_.identity, options);
  ASSERT_TRUE(opened);
  ASSERT_TRUE((*opened)->begin(named(10), 0));
  const auto values = world_.content(0, Step(10));
  const auto pause = (*opened)->append(TileIndex(0), std::as_bytes(std::span(values)), hash_of(std::span(values)));
  ASSERT_TRUE(pause);
  EXPECT_GT(*pause, std::chrono::milliseconds(800));
  EXPECT_LE(*pause, std::chrono::seconds(1));
}

TEST_F(DurableStoreTest, TwoKeepersOfOneNameAreTold) {
  const auto second = world_.open("node7");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("another keeper already writes"));
}

TEST_F(DurableStoreTest, AnotherJobOrClassOrABadNameIsRefused) {
  store_.reset();
  CheckpointIdentity other = world_.identity;
  other.job_hash.low ^= 1;
  const auto open = [&](const CheckpointIdentity& identity, const std::string& keeper) {
    const auto opened = DurableStore::open(world_.files, world_.clock, world_.map, identity, world_.options(keeper));
    return opened ? ErrorCode::internal : opened.error().code();
  };
  EXPECT_EQ(open(other, "node7"), ErrorCode::mismatch);
  other = world_.identity;
  other.numeric_class = "avx512";
  EXPECT_EQ(open(other, "node7"), ErrorCode::mismatch);
  for (const char* name : {"", "..", "../node8", ".hidden", "a/b"}) {
    EXPECT_EQ(open(world_.identity, name), ErrorCode::invalid_argument) << name;
  }
}

TEST_F(DurableStoreTest, FullDiskAtAnyByteLeavesEarlierSnapshotsIntact) {
  write(10);
  std::uint64_t room = 0;
  bool fits = false;
  for (; !fits; room += 613) {
    world_.files.fill_after(room);
    const Status written = try_write(20);
    world_.files.heal();
    fits = written.ok();
    if (!fits) {
      EXPECT_EQ(written.error().code(), ErrorCode::exhausted) << written.error().message();
      reopen();
    }
    // A failed write to the index may have named the snapshot all the same; it is whole then.
    const bool named_all_the_same = !fits && store_->finished().size() == 2;
    expect_steps(fits || named_all_the_same ? std::vector<std::uint64_t>{10, 20} : std::vector<std::uint64_t>{10});
    if (named_all_the_same) break;
  }
  EXPECT_GT(room, 20'000U);
}

TEST_F(DurableStoreTest, BrokenDeviceAtEveryOperationLeavesEarlierSnapshotsAndGoesOn) {
  for (std::uint64_t at = 0;; ++at) {
    SCOPED_TRACE(at);
    DurableKeepers world;
    std::unique_ptr<DurableStore> store = *world.open("node7");
    const auto write_step = [&](std::uint64_t step) {
      return world.write(*store, named(step), TileSet(world.map.tiles_with_state()));
    };
    ASSERT_TRUE(write_step(10));
    ASSERT_TRUE(write_step(20));
    world.files.fail_operation(at, false);
    const bool written = write_step(30).ok();
    const auto seen = world.catalog();
    if (seen && !written) {
      // A reader may see what the disk doesn't have; it must not take it for promised.
      EXPECT_EQ(newest_promised(*seen, world.map, 1), std::vector{named(20)});
    }
    const bool retained = store->retain(std::vector{written ? named(30) : named(20)}).ok();
    const bool fired = world.files.fired();
    world.files.heal();
    ASSERT_TRUE(write_step(40)) << "the store goes on without being opened anew";
    store.reset();
    world.disk->power_cut(at);
    store = *world.open("node7");
    const auto finished = store->finished();
    EXPECT_TRUE(std::ranges::count(finished, named(40)) == 1);
    EXPECT_TRUE(std::ranges::count(finished, named(30)) == 1 || !written);
    EXPECT_TRUE(std::ranges::count(finished, named(10)) == 0 || !retained);
    const auto catalog = world.catalog();
    ASSERT_TRUE(catalog);
    EXPECT_EQ(catalog->snapshots.size(), finished.size());
    for (const DurableSnapshot& snapshot : catalog->snapshots) {
      EXPECT_TRUE(snapshot.complete() && world.exact(snapshot)) << testing::PrintToString(snapshot.problems);
    }
    if (!fired) break;
    ASSERT_LT(at, 1000U);
  }
}

TEST_F(DurableStoreTest, DamagedIndexIsToldAndNothingIsRemoved) {
  write(10);
  const auto before = files();
  store_.reset();
  const auto index = join_path(directory_, "index");
  const auto entries = world_.disk->list(index);
  for (const DirectoryEntry& entry : *entries) {
    if (!entry.name.starts_with("MANIFEST")) continue;
    const std::string path = join_path(index, entry.name);
    std::string bytes = *read_file(*world_.disk, path, 1 << 20);
    for (char& byte : bytes) byte = static_cast<char>(byte ^ 0x55);
    world_.disk->overwrite(path, bytes);
  }
  const auto opened = world_.open("node7");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), ErrorCode::corrupt) << opened.error().message();
  EXPECT_EQ(files(), before);
}

TEST_F(DurableStoreTest, TheOperatingSystemsFilesWorkTheSame) {
  const TemporaryDirectory directory;
  DurableOptions options = world_.options("node7");
  options.root = directory.path("snapshots");
  options.index_env = nullptr;
  const auto open = [&] {
    auto opened = DurableStore::open(posix_file_system(), world_.clock, world_.map, world_.identity, options);
    EXPECT_TRUE(opened) << opened.error().message();
    return std::move(opened).value();
  };
  {
    const auto store = open();
    for (const std::uint64_t step : {10, 20, 30}) ASSERT_TRUE(world_.write(*store, named(step), all()));
    const auto second = DurableStore::open(posix_file_system(), world_.clock, world_.map, world_.identity, options);
    EXPECT_EQ(second.error().code(), ErrorCode::unavailable) << second.error().message();
    ASSERT_TRUE(store->retain(std::vector{named(20)}));
  }
  EXPECT_THAT(open()->finished(), ElementsAre(named(20), named(30)));
  const auto catalog = read_catalog(posix_file_system(), options.root, world_.map, world_.identity.job_hash);
  ASSERT_TRUE(catalog) << catalog.error().message();
  ASSERT_EQ(catalog->snapshots.size(), 2U);
  for (const DurableSnapshot& snapshot : catalog->snapshots) {
    EXPECT_TRUE(snapshot.promised(world_.map));
    EXPECT_TRUE(verify_snapshot(posix_file_system(), world_.map, world_.identity.job_hash, snapshot).sound());
  }
}

}  // namespace
}  // namespace planaria

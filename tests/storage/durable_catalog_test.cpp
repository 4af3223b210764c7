#include "storage/durable_catalog.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "common/codec.hpp"
#include "tests/storage/durable_keepers.hpp"
#include "tests/storage/states.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kFileLimit = 16 << 20;

class DurableCatalogTest : public testing::Test {
 protected:
  // The two keepers' tiles: halves.
  [[nodiscard]] TileSet half(int index) const {
    const std::uint32_t middle = world_.tiles() / 2;
    return TileSet(index == 0 ? TileRange{0, middle} : TileRange{middle, world_.tiles()});
  }
  void write(const std::string& keeper, SnapshotName name, const TileSet& tiles) {
    auto store = world_.open(keeper);
    ASSERT_TRUE(store) << store.error().message();
    const Status written = world_.write(**store, name, tiles);
    ASSERT_TRUE(written) << written.error().message();
  }
  void write_both(std::uint64_t step, std::uint64_t view = 1) {
    write("a", named(step, view), half(0));
    write("b", named(step, view), half(1));
  }
  // Another state of the step, under right hashes.
  void write_wrong(const std::string& keeper, SnapshotName name, TileRange tiles) {
    auto store = world_.open(keeper);
    ASSERT_TRUE(store) << store.error().message();
    ASSERT_TRUE((*store)->begin(name, 0));
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const auto values = world_.content(tile, Step(name.step.value() + 777));
      ASSERT_TRUE((*store)->append(TileIndex(tile), std::as_bytes(std::span(values)), hash_of(std::span(values))));
    }
    ASSERT_TRUE((*store)->finish());
  }
  DurableCatalog catalog() {
    auto read = world_.catalog();
    EXPECT_TRUE(read) << read.error().message();
    return std::move(read).value();
  }
  std::string segment(const std::string& keeper, SnapshotName name, std::uint32_t index = 0) {
    return join_path(join_path(world_.root, keeper), segment_name(name, index));
  }
  void damage(const std::string& path, const std::function<void(std::string&)>& how) {
    std::string content = *read_file(*world_.disk, path, kFileLimit);
    how(content);
    world_.disk->overwrite(path, content);
  }
  // Writes into a keeper's index behind its back.
  void put(const std::string& keeper, const std::string& key, const std::string& value) {
    rocksdb::Options options;
    options.env = world_.env.get();
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, join_path(join_path(world_.root, keeper), "index"), &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), key, value).ok());
  }
  DurableVerdict verify(const DurableSnapshot& snapshot) {
    return verify_snapshot(*world_.disk, world_.map, world_.identity.job_hash, snapshot);
  }
  // The newest one's only reason not to be complete.
  std::string why_incomplete() {
    const DurableCatalog read = catalog();
    EXPECT_FALSE(read.snapshots.front().complete());
    const auto found = find_complete(read, read.snapshots.front().name.step);
    EXPECT_FALSE(found);
    return found ? "" : found.error().message();
  }

  DurableKeepers world_;
};

TEST_F(DurableCatalogTest, AnAbsentRootHasNone) {
  const DurableCatalog read = catalog();
  EXPECT_THAT(read.snapshots, IsEmpty());
  EXPECT_THAT(find_complete(read, std::nullopt).error().message(), HasSubstr("there is no durable snapshot"));
}

TEST_F(DurableCatalogTest, PartsOfAllKeepersAreOneSnapshot) {
  write_both(10);
  write_both(20, 3);
  const DurableCatalog read = catalog();
  ASSERT_EQ(read.snapshots.size(), 2U);
  const DurableSnapshot& newest = read.snapshots.front();
  EXPECT_EQ(newest.name, named(20, 3));
  EXPECT_EQ(newest.numeric_class, "avx2");
  EXPECT_EQ(newest.unix_ms(), 20'000);
  EXPECT_EQ(newest.parts.size(), 2U);
  EXPECT_TRUE(newest.complete());
  EXPECT_TRUE(newest.promised(world_.map));
  EXPECT_GT(newest.bytes(), kTensorsOfState * world_.map.bytes(world_.map.tiles_with_state()));
  EXPECT_THAT(newest.problems, IsEmpty());
  EXPECT_TRUE(verify(newest).sound());
}

TEST_F(DurableCatalogTest, ASnapshotWithoutAKeeperIsNotComplete) {
  write_both(10);
  write("a", named(20), half(0));
  EXPECT_THAT(why_incomplete(), HasSubstr("tiles are missing: " + std::to_string(world_.tiles() / 2)));
  EXPECT_EQ((*find_complete(catalog(), std::nullopt))->name, named(10));
}

TEST_F(DurableCatalogTest, PartsOfDifferentViewsDoNotMakeASnapshot) {
  write("a", named(10, 1), half(0));
  write("b", named(10, 2), half(1));
  EXPECT_EQ(find_complete(catalog(), Step(10)).error().code(), ErrorCode::not_found);
}

TEST_F(DurableCatalogTest, ATileThatTwoKeepersHaveAlikeIsFine) {
  write("a", named(10), half(0));
  write("b", named(10), TileSet(world_.map.tiles_with_state()));
  const DurableCatalog read = catalog();
  EXPECT_TRUE(read.snapshots.front().complete());
  EXPECT_TRUE(world_.exact(read.snapshots.front()));
}

TEST_F(DurableCatalogTest, ATileThatTwoKeepersHaveDifferentlyIsToldAsDamage) {
  write("a", named(10), TileSet(world_.map.tiles_with_state()));
  write_wrong("b", named(10), {2, 4});
  EXPECT_THAT(why_incomplete(), HasSubstr("keepers have tiles 2–3 with different hashes"));
}

TEST_F(DurableCatalogTest, ViewsThatDifferInAStepAreToldAndTheNewerOneCounts) {
  write_wrong("a", named(10, 1), world_.map.tiles_with_state());
  write("a", named(10, 2), TileSet(world_.map.tiles_with_state()));
  const DurableCatalog read = catalog();
  EXPECT_EQ((*find_complete(read, Step(10)))->name, named(10, 2));
  ASSERT_EQ(read.snapshots.size(), 2U);
  EXPECT_THAT(read.snapshots[0].problems, IsEmpty());
  EXPECT_THAT(read.snapshots[1].problems, ElementsAre(HasSubstr("are not those of the step in view 2")));
}

TEST_F(DurableCatalogTest, AnotherJobsDirectoryIsRefusedByName) {
  write_both(10);
  const auto read = read_catalog(world_.files, world_.root, world_.map, Hash128{1, 2}, world_.env.get());
  ASSERT_TRUE(read);
  EXPECT_THAT(read->snapshots, IsEmpty());
  ASSERT_EQ(read->refused.size(), 2U);
  EXPECT_EQ(read->refused[0].reason.code(), ErrorCode::mismatch);
}

TEST_F(DurableCatalogTest, MissingSegmentIsTold) {
  write_both(10);
  ASSERT_TRUE(world_.disk->remove(segment("b", named(10))));
  EXPECT_THAT(why_incomplete(), HasSubstr("b/step-00000010-view-1-0.segment"));
}

TEST_F(DurableCatalogTest, TruncatedSegmentIsToldWithoutHashing) {
  write_both(10);
  damage(segment("a", named(10)), [](std::string& bytes) { bytes.pop_back(); });
  EXPECT_THAT(why_incomplete(), HasSubstr("bytes, the index says"));
}

TEST_F(DurableCatalogTest, BitFlipAnywhereInASegmentIsFound) {
  write_both(10);
  const DurableCatalog read = catalog();
  const std::string path = segment("a", named(10));
  const std::string good = *read_file(*world_.disk, path, kFileLimit);
  for (std::size_t at = 0; at < good.size(); at += at < kSegmentHeadBytes ? 1 : 101) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    world_.disk->overwrite(path, bad);
    const DurableVerdict verdict = verify(read.snapshots.front());
    EXPECT_FALSE(verdict.sound()) << "byte " << at;
    EXPECT_FALSE(verdict.lost.empty());
    ASSERT_EQ(verdict.problems.size(), 1U);
    EXPECT_EQ(verdict.problems.front().path, path);
  }
}

TEST_F(DurableCatalogTest, SwappedSegmentsAreFound) {
  write_both(10);
  write_both(20);
  const DurableCatalog read = catalog();
  world_.disk->overwrite(segment("a", named(20)), *read_file(*world_.disk, segment("a", named(10)), kFileLimit));
  const DurableVerdict verdict = verify(read.snapshots.front());
  ASSERT_FALSE(verdict.sound());
  EXPECT_THAT(verdict.problems.front().reason.message(), HasSubstr("it was put in another's place"));
  EXPECT_TRUE(verify(read.snapshots.back()).sound());
}

TEST_F(DurableCatalogTest, SegmentsOfTwoKeepersThatWereSwappedAreFound) {
  write_both(10);
  const std::string first = *read_file(*world_.disk, segment("a", named(10)), kFileLimit);
  const std::string second = *read_file(*world_.disk, segment("b", named(10)), kFileLimit);
  ASSERT_EQ(first.size(), second.size());
  world_.disk->overwrite(segment("a", named(10)), second);
  world_.disk->overwrite(segment("b", named(10)), first);
  EXPECT_EQ(verify(catalog().snapshots.front()).problems.size(), 2U);
}

TEST_F(DurableCatalogTest, ADamagedCopyGivesWayToASoundOne) {
  write_both(10);
  write("c", named(10), TileSet(TileRange{0, 2}));
  const DurableCatalog read = catalog();
  damage(segment("a", named(10)), [](std::string& bytes) { bytes[kSegmentHeadBytes + 3] ^= 1; });
  DurableState state(*world_.disk, world_.map, world_.identity.job_hash, read.snapshots.front());
  EXPECT_TRUE(state.state({0, world_.tiles()}, false));
  const DurableVerdict verdict = verify(read.snapshots.front());
  EXPECT_FALSE(verdict.sound());
  EXPECT_EQ(verdict.damaged, TileSet(TileRange{0, 1}));
  EXPECT_TRUE(verdict.lost.empty());
}

TEST_F(DurableCatalogTest, RangesAreReadVectorByVector) {
  write_both(10);
  const DurableCatalog read = catalog();
  DurableState state(*world_.disk, world_.map, world_.identity.job_hash, read.snapshots.front());
  const std::uint32_t middle = world_.tiles() / 2;
  const TileRange tiles{middle - 2, middle + 2};  // of both keepers
  std::vector<std::byte> expected;
  for (std::size_t vector = 0; vector < kTensorsOfState; ++vector) {
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const auto values = world_.content(tile, Step(10));
      const auto bytes = std::as_bytes(std::span(values));
      const auto part = bytes.subspan(vector * bytes.size() / kTensorsOfState, bytes.size() / kTensorsOfState);
      expected.insert(expected.end(), part.begin(), part.end());
    }
  }
  const auto joined = [](const std::vector<ConstSlice>& slices) {
    std::vector<std::byte> bytes;
    for (const ConstSlice& slice : slices) bytes.insert(bytes.end(), slice.bytes.begin(), slice.bytes.end());
    return bytes;
  };
  const auto all = state.state(tiles, false);
  ASSERT_TRUE(all) << all.error().message();
  EXPECT_EQ(joined(*all), expected);
  const auto parameters = state.state(tiles, true);
  ASSERT_TRUE(parameters);
  expected.resize(expected.size() / kTensorsOfState);
  EXPECT_EQ(joined(*parameters), expected);
  EXPECT_EQ(state.state({0, world_.tiles() + 1}, false).error().code(), ErrorCode::not_found);
}

TEST_F(DurableCatalogTest, HostileRecordsCostTheirSnapshotOnly) {
  write_both(10);
  write_both(20);
  const auto key = [](DurableKeyKind kind, std::uint32_t index = 0) {
    return render(DurableKey{kind, named(20), index});
  };
  const auto text = [](const auto& value) {
    const ByteVector bytes = encode(value);
    return std::string(bytes.begin(), bytes.end());
  };
  DurableSegment outside{kSegmentHeadBytes, {{0, UINT32_MAX}}, {}};
  const std::vector<std::pair<std::string, std::string>> hostile{
      {key(DurableKeyKind::part), ""},
      {key(DurableKeyKind::part), text(DurablePart{0, UINT32_MAX, UINT32_MAX})},
      {key(DurableKeyKind::segment), "\xff\xff\xff\xff"},
      {key(DurableKeyKind::segment), text(outside)},
      {key(DurableKeyKind::segment, 99), text(outside)},
      {key(DurableKeyKind::segment), std::string(100, '\xff')},
  };
  for (const auto& [at, value] : hostile) {
    put("a", at, value);
    const DurableCatalog read = catalog();
    ASSERT_EQ(read.snapshots.size(), 2U);
    EXPECT_FALSE(read.snapshots.front().complete());
    EXPECT_THAT(read.snapshots.front().problems, testing::Contains(HasSubstr("has a damaged record")));
    EXPECT_TRUE(read.snapshots.back().complete());
    const auto writer = world_.open("a");
    EXPECT_EQ(writer.error().code(), ErrorCode::corrupt);
    EXPECT_TRUE(verify(read.snapshots.back()).sound());
  }
  put("a", "unknown key", "of a later release");
  put("a", "f", text(std::uint32_t{99}));
  EXPECT_EQ(catalog().refused.front().reason.code(), ErrorCode::mismatch);
  put("a", "f", "x");
  EXPECT_EQ(catalog().refused.front().reason.code(), ErrorCode::corrupt);
}

TEST_F(DurableCatalogTest, DamagedIndexIsRefusedAndTheOthersAreRead) {
  write_both(10);
  damage(join_path(world_.root, "a/index/CURRENT"), [](std::string& bytes) { bytes = "nonsense\n"; });
  const DurableCatalog read = catalog();
  ASSERT_EQ(read.refused.size(), 1U);
  EXPECT_EQ(read.refused.front().path, join_path(world_.root, "a"));
  ASSERT_EQ(read.snapshots.size(), 1U);
  EXPECT_THAT(find_complete(read, Step(10)).error().message(), HasSubstr("a/index"));
}

TEST_F(DurableCatalogTest, LostIndexIsToldAndItsSegmentsStay) {
  write_both(10);
  ASSERT_TRUE(remove_tree(*world_.disk, join_path(world_.root, "a/index")));
  EXPECT_THAT(find_complete(catalog(), Step(10)).error().message(), HasSubstr("a' has segments and no index"));
  EXPECT_EQ(world_.open("a").error().code(), ErrorCode::corrupt);
  EXPECT_TRUE(world_.disk->info(segment("a", named(10))));
  ASSERT_TRUE(world_.disk->make_directories(join_path(world_.root, "a/index")));
  EXPECT_EQ(world_.open("a").error().code(), ErrorCode::corrupt);
}

TEST_F(DurableCatalogTest, RetentionTakesTheNewestThatAllHavePromised) {
  for (const std::uint64_t step : {10, 20, 30, 40}) write_both(step);
  write("a", named(50), half(0));
  EXPECT_THAT(newest_promised(catalog(), world_.map, 2), ElementsAre(named(40), named(30)));
  EXPECT_THAT(newest_promised(catalog(), world_.map, 0), IsEmpty());
}

TEST_F(DurableCatalogTest, RestoredCheckpointHoldsTheState) {
  write_both(10);
  const DurableCatalog read = catalog();
  WriteOptions options;
  options.root = "run/checkpoints";
  const auto restored = restore_snapshot(*world_.disk, options, world_.identity.job_hash, world_.model, world_.map,
                                         read.snapshots.front());
  ASSERT_TRUE(restored) << restored.error().message();
  const auto loaded = load_checkpoint(*world_.disk, restored->path, world_.map, world_.identity.job_hash, "avx2");
  ASSERT_TRUE(loaded) << loaded.error().message();
  EXPECT_EQ(loaded->state.step, Step(10));
  EXPECT_EQ(loaded->state.view, ViewNumber(1));
  const TensorInfo& tensor = world_.map.blocks().front().tensors.front();
  ASSERT_GE(tensor.elements(), DurableKeepers::kTileElements);
  const auto values = world_.content(0, Step(10));
  EXPECT_TRUE(std::equal(values.begin(), values.begin() + DurableKeepers::kTileElements, loaded->state.master.begin()));
  EXPECT_TRUE(
      std::equal(values.end() - DurableKeepers::kTileElements, values.end(), loaded->state.second_moment.begin()));
}

TEST_F(DurableCatalogTest, RestoredCheckpointIsTheOneThatTrainingWouldHaveWritten) {
  const TrainState state = testing_states::random_state(world_.map, 30);
  auto store = world_.open("a");
  ASSERT_TRUE(store);
  ASSERT_TRUE((*store)->begin({state.step, state.view}, 0));
  for (std::uint32_t tile = 0; tile < world_.tiles(); ++tile) {
    const ElementRange range = world_.map.tile(TileIndex(tile));
    std::vector<float> values;
    for (const auto* vector : {&state.master, &state.first_moment, &state.second_moment}) {
      const auto begin = vector->begin() + static_cast<std::ptrdiff_t>(range.begin);
      values.insert(values.end(), begin, begin + static_cast<std::ptrdiff_t>(range.size()));
    }
    ASSERT_TRUE(
        (*store)->append(TileIndex(tile), std::as_bytes(std::span(values)), hash_of(std::span<const float>(values))));
  }
  ASSERT_TRUE((*store)->finish());
  WriteOptions options;
  options.root = "run/checkpoints";
  const auto trained = write_checkpoint(*world_.disk, options, world_.identity, world_.model, world_.map, state);
  ASSERT_TRUE(trained) << trained.error().message();
  const auto restored = restore_snapshot(*world_.disk, options, world_.identity.job_hash, world_.model, world_.map,
                                         catalog().snapshots.front());
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(restored->was_there);
  EXPECT_EQ(restored->weights_hash, trained->weights_hash);
}

TEST_F(DurableCatalogTest, DamagedSnapshotIsNotRestored) {
  write_both(10);
  const DurableCatalog read = catalog();
  damage(segment("a", named(10)), [](std::string& bytes) { bytes.back() ^= 1; });
  WriteOptions options;
  options.root = "run/checkpoints";
  const auto restored = restore_snapshot(*world_.disk, options, world_.identity.job_hash, world_.model, world_.map,
                                         read.snapshots.front());
  EXPECT_EQ(restored.error().code(), ErrorCode::corrupt);
  EXPECT_FALSE(world_.disk->info("run/checkpoints"));
}

TEST_F(DurableCatalogTest, ReadersLookWhileAKeeperWrites) {
  const TemporaryDirectory directory;
  DurableOptions options = world_.options("a");
  options.root = directory.path("snapshots");
  options.index_env = nullptr;
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (std::uint64_t step = 1; step <= 40; ++step) {
      // Opened anew each time, as that is what changes most of the index.
      const auto store = DurableStore::open(posix_file_system(), world_.clock, world_.map, world_.identity, options);
      EXPECT_TRUE(store) << store.error().message();
      if (!store) break;
      const TileSet all(world_.map.tiles_with_state());
      EXPECT_TRUE(world_.write(**store, named(step), all));
      EXPECT_TRUE((*store)->retain(std::vector{named(step - 1), named(step)}));
    }
    done = true;
  });
  SnapshotName newest;
  while (!done) {
    const auto read = read_catalog(posix_file_system(), options.root, world_.map, world_.identity.job_hash);
    EXPECT_TRUE(read) << read.error().message();
    if (!read) break;
    for (const Refusal& refusal : read->refused) {
      EXPECT_EQ(refusal.reason.code(), ErrorCode::unavailable) << refusal.reason.describe();
    }
    const auto found = find_complete(*read, std::nullopt);
    if (!found) continue;
    EXPECT_GE((*found)->name, newest);
    newest = (*found)->name;
  }
  writer.join();
}

}  // namespace
}  // namespace planaria

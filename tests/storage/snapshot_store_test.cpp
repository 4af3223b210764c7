#include "storage/snapshot_store.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/philox.hpp"
#include "storage/fragment_rebuild.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;
using Bytes = std::vector<std::byte>;

constexpr SnapshotName kName{Step(7), ViewNumber(3)};

Bytes joined(const std::vector<ConstSlice>& slices) {
  Bytes bytes;
  for (const ConstSlice& slice : slices) bytes.insert(bytes.end(), slice.bytes.begin(), slice.bytes.end());
  return bytes;
}

class Snapshots : public testing::Test {
 protected:
  // Of one step, tile after tile as they lie in fragments.
  [[nodiscard]] Bytes values(std::span<const TileRange> tiles, std::uint64_t of = 1) const {
    Bytes bytes;
    for (const TileRange run : tiles) {
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        PhiloxStream random(philox_key(of * 1000 + tile, RandomPurpose::tests));
        for (std::uint64_t i = 0; i < kTensorsOfState * map_.bytes({tile, tile + 1}); ++i) {
          bytes.push_back(static_cast<std::byte>(random.next_u32()));
        }
      }
    }
    return bytes;
  }
  [[nodiscard]] Bytes values(TileRange tiles, std::uint64_t of = 1) const { return values(std::span(&tiles, 1), of); }
  // Of the tiles that begin in these bytes; of all by default.
  [[nodiscard]] std::vector<Hash128> hashes(std::span<const TileRange> tiles, std::uint64_t offset = 0,
                                            std::uint64_t bytes = UINT64_MAX) const {
    std::vector<Hash128> hashes;
    for (const std::uint32_t tile : tiles_beginning(map_, tiles, offset, bytes)) {
      hashes.push_back(hash_bytes(values({tile, tile + 1})));
    }
    return hashes;
  }
  [[nodiscard]] std::vector<Hash128> hashes(TileRange tiles) const { return hashes(std::span(&tiles, 1)); }
  // A whole data fragment at once.
  Result<bool> add(SnapshotName name, std::uint32_t stripe, std::uint32_t fragment, const Stripe& layout) {
    const auto& tiles = layout.fragments[fragment].tiles;
    const Bytes data = values(tiles);
    return store_.add_part(layout, {name, stripe, fragment, 0, data.size()}, data, hashes(tiles));
  }
  // A worker's copy, in the keeper's memory.
  void seal(Step stamp, TileRange tiles) {
    const Bytes bytes = values(tiles);
    const auto memory = memory_->take(bytes.size());
    ASSERT_TRUE(memory) << memory.error().message();
    std::ranges::copy(bytes, (*memory)->bytes().begin());
    ASSERT_TRUE(store_.adopt(stamp, std::span(&tiles, 1), *memory, 0, hashes(tiles)));
    last_ = *memory;
  }

  const StateMap map_{small_model(2), 64};
  const std::shared_ptr<SnapshotMemory> memory_ = SnapshotMemory::within(64 << 20);
  SnapshotStore store_{map_, memory_};
  std::shared_ptr<SharedMemory> last_;
};

TEST_F(Snapshots, WhatAWorkerSealedIsReadAsItLiesInFragments) {
  seal(Step(5), {2, 6});
  seal(Step(5), {9, 11});
  const std::vector<TileRange> tiles{{3, 6}, {9, 10}};
  const Bytes all = values(tiles);
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{12}, all.size() / 2}) {
    const std::uint64_t bytes = all.size() - offset - 4;
    const auto read = store_.fragment(Step(5), tiles, offset, bytes);
    ASSERT_TRUE(read) << read.error().message();
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(offset);
    EXPECT_EQ(joined(*read), Bytes(begin, begin + static_cast<std::ptrdiff_t>(bytes)));
  }
  EXPECT_EQ(store_.fragment(Step(5), tiles, 0, all.size() + 4).error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(store_.fragment(Step(4), tiles, 0, 4).error().code(), ErrorCode::not_found);
  EXPECT_EQ(store_.tiles(Step(5)), TileSet(std::vector<TileRange>{{2, 6}, {9, 11}}));
}

TEST_F(Snapshots, StateComesAndGoesVectorByVector) {
  std::vector<float> told(3 * map_.bytes({2, 5}) / sizeof(float));
  std::iota(told.begin(), told.end(), 0.5F);
  ASSERT_TRUE(store_.store(Step(5), {2, 5}, told));
  const auto all = store_.state(Step(5), {2, 5}, false);
  ASSERT_TRUE(all);
  const auto bytes = std::as_bytes(std::span(told));
  EXPECT_EQ(joined(*all), Bytes(bytes.begin(), bytes.end()));
  const auto parameters = store_.state(Step(5), {2, 5}, true);
  ASSERT_TRUE(parameters);
  EXPECT_EQ(joined(*parameters), Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 3)));
  EXPECT_EQ(store_.store(Step(5), {2, 6}, told).error().code(), ErrorCode::corrupt);
  EXPECT_EQ(store_.store(Step(5), {map_.tile_count() - 1, map_.tile_count() + 1}, told).error().code(),
            ErrorCode::corrupt);
}

TEST_F(Snapshots, ParametersOfATiedCopyAreThoseOfItsOriginal) {
  const TileRange copies{map_.tied_tiles().begin, map_.tied_tiles().begin + 2};
  const TileRange originals = map_.originals_of(copies);
  seal(Step(5), originals);
  const auto copied = store_.state(Step(5), copies, true);
  ASSERT_TRUE(copied) << copied.error().message();
  EXPECT_EQ(joined(*copied), joined(*store_.state(Step(5), originals, true)));
  EXPECT_FALSE(store_.state(Step(5), copies, false));  // it has no state
}

TEST_F(Snapshots, WhereTilesLieIsToldInRuns) {
  seal(Step(5), {2, 6});
  const auto first = last_;
  seal(Step(5), {6, 8});
  const auto runs = store_.find(Step(5), {3, 8}, 2);
  ASSERT_TRUE(runs);
  ASSERT_EQ(runs->size(), 3U);
  EXPECT_EQ((*runs)[0].tiles, (TileRange{3, 5}));
  EXPECT_EQ((*runs)[1].tiles, (TileRange{5, 6}));
  EXPECT_EQ((*runs)[2].tiles, (TileRange{6, 8}));
  EXPECT_EQ((*runs)[1].memory, first);
  EXPECT_EQ((*runs)[1].offset, kTensorsOfState * map_.bytes({2, 5}));
  EXPECT_EQ((*runs)[1].hashes, std::vector{hash_bytes(values({5, 6}))});
  EXPECT_FALSE(store_.find(Step(5), {3, 9}, 2));
}

TEST_F(Snapshots, OneFlippedBitIsFoundAndWhatItIsInIsGone) {
  seal(Step(5), {2, 6});
  const std::vector<TileRange> other{{2, 3}}, damaged{{4, 5}};
  last_->bytes()[kTensorsOfState * map_.bytes({2, 4}) + 17] ^= std::byte{4};
  const auto read = store_.fragment(Step(5), damaged, 0, 4);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), ErrorCode::corrupt);
  EXPECT_EQ(store_.tiles(Step(5)), TileSet(std::vector<TileRange>{{2, 4}, {5, 6}}));
  EXPECT_EQ(store_.state(Step(5), {4, 5}, false).error().code(), ErrorCode::not_found);
  EXPECT_TRUE(store_.fragment(Step(5), other, 0, 4));
}

TEST_F(Snapshots, WhatWasReadStaysWhenItsStepIsGivenUp) {
  seal(Step(5), {2, 6});
  last_.reset();
  auto read = store_.state(Step(5), {2, 6}, true);
  ASSERT_TRUE(read);
  const Bytes before = joined(*read);
  store_.drop_before(Step(6));
  EXPECT_TRUE(store_.tiles(Step(5)).empty());
  EXPECT_GT(memory_->used_bytes(), 0U);
  seal(Step(6), {2, 6});  // it may not take that memory
  EXPECT_EQ(joined(*read), before);
  read = Error(ErrorCode::cancelled, "");
  store_.keep_only(std::nullopt);
  last_.reset();
  EXPECT_EQ(memory_->used_bytes(), 0U);
}

// Three hosts' data and two parities: all that one keeper and another do for a stripe, then a rebuild from any three.
TEST_F(Snapshots, ParityGivesBackAnyTwoLostFragments) {
  const Stripe stripe{3,
                      {{WorkerId(0), {{0, 4}}},
                       {WorkerId(1), {{4, 6}}},
                       {WorkerId(2), {{6, 9}}},
                       {WorkerId(3), {}},
                       {WorkerId(4), {}}}};
  const std::uint64_t longest = stripe_bytes(map_, stripe);
  SnapshotStore other(map_, memory_);
  std::vector<Bytes> fragments;
  for (std::uint32_t i = 0; i < 3; ++i) {
    fragments.push_back(values(stripe.fragments[i].tiles));
    const Bytes& whole = fragments.back();
    for (std::uint64_t at = 0; at < whole.size(); at += 300) {
      const std::uint64_t bytes = std::min<std::uint64_t>(300, whole.size() - at);
      const auto added = store_.add_part(stripe, {kName, 2, i, at, bytes}, std::span(whole).subspan(at, bytes),
                                         hashes(stripe.fragments[i].tiles, at, bytes));
      ASSERT_TRUE(added) << added.error().message();
      EXPECT_EQ(*added, i == 2 && at + bytes == whole.size());
    }
  }
  EXPECT_EQ(other.parity({kName, 2, 4, 0, 8}).error().code(), ErrorCode::not_found);
  for (const auto& [begin, end] : {std::pair{std::uint64_t{0}, longest / 2}, {longest / 2, longest}}) {
    const FragmentPart part{kName, 2, 4, begin, end - begin};
    const auto sum = store_.sum(part);
    ASSERT_TRUE(sum);
    const auto told = store_.data_hashes(part);
    ASSERT_TRUE(told);
    const auto stored = other.store_part(stripe, part, joined(*sum), *told);
    ASSERT_TRUE(stored);
    EXPECT_EQ(*stored, end == longest);
  }
  EXPECT_EQ(store_.sum({kName, 2, 4, 0, 8}).error().code(), ErrorCode::not_found);  // sent, and given up
  fragments.push_back(joined(*store_.parity({kName, 2, 3, 0, longest})));
  fragments.push_back(joined(*other.parity({kName, 2, 4, 0, longest})));
  for (std::uint32_t lost = 0; lost < 3; ++lost) {
    const Bytes expected = values(stripe.fragments[lost].tiles);
    for (std::uint32_t also = lost + 1; also < 5; ++also) {
      SCOPED_TRACE(fmt::format("without {} and {}", lost, also));
      std::vector<RebuildInput> inputs;
      for (std::uint32_t i = 0; i < 5; ++i) {
        const std::uint64_t has = std::min<std::uint64_t>(fragments[i].size(), expected.size());
        if (i != lost && i != also)
          inputs.push_back({i,
                            {std::span(fragments[i]).first(has / 8 * 4),
                             std::span(fragments[i]).subspan(has / 8 * 4, has - has / 8 * 4)}});
      }
      const auto made = rebuild_fragment(stripe, lost, expected.size(), inputs);
      ASSERT_TRUE(made) << made.error().message();
      EXPECT_EQ(*made, expected);
      const auto told = other.data_hashes({kName, 2, 4, 0, longest}, lost);
      ASSERT_TRUE(told);
      ASSERT_TRUE(other.store_bytes(Step(7), stripe.fragments[lost].tiles, *made, *told));
      Bytes wrong = *made;
      wrong[wrong.size() / 3] ^= std::byte{2};
      EXPECT_EQ(other.store_bytes(Step(8), stripe.fragments[lost].tiles, wrong, *told).error().code(),
                ErrorCode::corrupt);
      EXPECT_FALSE(other.store_bytes(Step(8), stripe.fragments[lost].tiles, *made, std::span(*told).first(1)));
      EXPECT_FALSE(rebuild_fragment(stripe, lost, expected.size(), std::span(inputs).first(2)));
    }
  }
}

TEST_F(Snapshots, DamagedParityIsGivenUp) {
  const Stripe stripe{1, {{WorkerId(0), {{0, 4}}}, {WorkerId(1), {}}}};
  ASSERT_TRUE(add(kName, 0, 0, stripe));
  const auto read = store_.parity({kName, 0, 1, 0, 64});
  ASSERT_TRUE(read);
  const_cast<std::byte&>(read->front().bytes[5]) ^= std::byte{1};
  EXPECT_EQ(store_.parity({kName, 0, 1, 0, 64}).error().code(), ErrorCode::corrupt);
  EXPECT_EQ(store_.parity({kName, 0, 1, 0, 64}).error().code(), ErrorCode::not_found);
}

TEST_F(Snapshots, FragmentsGoUnlessTheyAreNamedOrBeingBuilt) {
  const Stripe stripe{1, {{WorkerId(0), {{0, 4}}}, {WorkerId(1), {}}}};
  const Bytes data = values({0, 4});
  const SnapshotName next{Step(8), ViewNumber(3)}, half{Step(9), ViewNumber(3)};
  for (const SnapshotName name : {kName, next}) {
    ASSERT_TRUE(add(name, 0, 0, stripe));
  }
  ASSERT_TRUE(store_.add_part(stripe, {half, 0, 0, 0, 8}, std::span(data).first(8), hashes({0, 1})));
  const std::vector<HeldFragment> whole{{next, 0, 1, stripe}};
  store_.keep_fragments(whole, std::span(&half, 1));
  EXPECT_FALSE(store_.parity({kName, 0, 1, 0, 64}));
  EXPECT_TRUE(store_.parity({next, 0, 1, 0, 64}));
  EXPECT_TRUE(store_.sum({half, 0, 1, 0, 8}));
  store_.keep_fragments({}, {});
  EXPECT_EQ(memory_->used_bytes(), 0U);
}

class Damage : public Snapshots, public testing::WithParamInterface<FragmentDamage> {};

TEST_P(Damage, IsFoundWhenParityIsRead) {
  const Stripe first{1, {{WorkerId(0), {{0, 4}}}, {WorkerId(1), {}}}};
  const Stripe second{1, {{WorkerId(2), {{4, 9}}}, {WorkerId(1), {}}}};
  const SnapshotName before{Step(6), ViewNumber(3)};
  EXPECT_FALSE(store_.damage(GetParam()));
  ASSERT_TRUE(store_.add_part(first, {before, 0, 0, 0, values({0, 4}).size()}, values({0, 4}, 2), hashes({0, 4})));
  ASSERT_TRUE(add(kName, 0, 0, first));
  ASSERT_TRUE(add(kName, 1, 0, second));
  ASSERT_TRUE(store_.damage(GetParam()));
  EXPECT_EQ(store_.parity({kName, 0, 1, 0, stripe_bytes(map_, first)}).error().code(), ErrorCode::corrupt);
  const bool both = GetParam() != FragmentDamage::old;
  EXPECT_EQ(store_.parity({kName, 1, 1, 0, stripe_bytes(map_, second)}).ok(), !both);
  EXPECT_TRUE(store_.parity({before, 0, 1, 0, stripe_bytes(map_, first)}));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Damage,
                         testing::Values(FragmentDamage::flip, FragmentDamage::truncate, FragmentDamage::swap,
                                         FragmentDamage::old),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_F(Snapshots, SumsThatLackAPartAreNotGivenAway) {
  const Stripe stripe{2, {{WorkerId(0), {{0, 4}}}, {WorkerId(1), {{4, 6}}}, {WorkerId(2), {}}, {WorkerId(3), {}}}};
  const Bytes first = values({0, 4}), second = values({4, 6});
  SnapshotStore tight(map_, SnapshotMemory::within(stripe_bytes(map_, stripe)));  // for one sum of two
  EXPECT_EQ(tight.add_part(stripe, {kName, 0, 0, 0, first.size()}, first, hashes({0, 4})).error().code(),
            ErrorCode::exhausted);
  EXPECT_FALSE(tight.add_part(stripe, {kName, 0, 1, 0, second.size()}, second, hashes({4, 6})));
  EXPECT_FALSE(tight.sum({kName, 0, 3, 0, 8}));
  EXPECT_FALSE(tight.parity({kName, 0, 2, 0, 8}));
}

TEST_F(Snapshots, PartsThatLieAreRefused) {
  const Stripe stripe{1, {{WorkerId(0), {{0, 4}}}, {WorkerId(1), {}}}};
  const Bytes data = values({0, 4});
  const std::vector<Hash128> all = hashes({0, 4}), one = hashes({0, 1});
  const std::span<const std::byte> few = std::span(data).first(8);
  std::uint64_t step = 10;  // a stripe of which a part failed takes no more
  const auto name = [&] { return SnapshotName{Step(step++), ViewNumber(3)}; };
  EXPECT_FALSE(store_.add_part(stripe, {name(), 0, 0, 0, data.size()}, few, all));
  EXPECT_FALSE(store_.add_part(stripe, {name(), 0, 0, data.size(), 8}, few, {}));
  EXPECT_FALSE(store_.add_part(stripe, {name(), 0, 1, 0, 8}, few, one));
  EXPECT_FALSE(store_.add_part(stripe, {name(), 0, 0, 0, 8}, few, all));
  EXPECT_FALSE(store_.add_part(stripe, {name(), 0, 0, 0, 8}, few, {}));
  EXPECT_TRUE(store_.add_part(stripe, {name(), 0, 0, 0, 8}, few, one));
  EXPECT_FALSE(store_.store_part(stripe, {name(), 0, 0, 0, 8}, few, one));
  EXPECT_FALSE(store_.store_part(stripe, {name(), 0, 1, 0, 8}, few, all));
  EXPECT_TRUE(store_.store_part(stripe, {name(), 0, 1, 0, 8}, few, one));
}

TEST(SnapshotMemoryTest, RefusesMoreThanItsBoundAndUsesAgainWhatCameBack) {
  const auto memory = SnapshotMemory::within(1000);
  auto first = memory->take(600);
  ASSERT_TRUE(first);
  const void* const at = (*first)->bytes().data();
  const auto refused = memory->take(500);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::exhausted);
  EXPECT_THAT(refused.error().message(), HasSubstr("600 of the 1000"));
  *first = nullptr;
  EXPECT_EQ(memory->used_bytes(), 0U);
  const auto again = memory->take(600);
  ASSERT_TRUE(again);
  EXPECT_EQ((*again)->bytes().data(), at);
  ASSERT_TRUE(memory->take(400));
}

TEST(SnapshotMemoryTest, WhatIsIdleMakesRoomForOtherSizes) {
  const auto memory = SnapshotMemory::within(1000);
  ASSERT_TRUE(memory->take(900));
  ASSERT_TRUE(memory->take(950));
  EXPECT_EQ(memory->used_bytes(), 0U);
}

}  // namespace
}  // namespace planaria

#include "storage/durable_format.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/small_model.hpp"

namespace planaria {
namespace {

constexpr SnapshotName kName{Step(120), ViewNumber(7)};

class DurableFormat : public testing::Test {
 protected:
  // One segment of tiles [2, 4) and 6.
  [[nodiscard]] DurableSegment segment() const {
    return {kSegmentHeadBytes + kTensorsOfState * (map_.bytes({2, 4}) + map_.bytes({6, 7})),
            {{2, 4}, {6, 7}},
            {Hash128{1, 2}, Hash128{3, 4}, Hash128{5, 6}}};
  }
  void expect_refused(const DurablePart& part, const std::vector<DurableSegment>& segments) const {
    EXPECT_EQ(check_part(map_, part, segments).error().code(), ErrorCode::corrupt);
  }

  const StateMap map_{small_model(), 128};
  const DurablePart part_{1000, 1, 3};
};

TEST_F(DurableFormat, HeadComesBack) {
  const SegmentHead head{Hash128{1, 2}, kName, 3};
  const auto parsed = parse_segment_head(render(head));
  ASSERT_TRUE(parsed) << parsed.error().message();
  EXPECT_EQ(*parsed, head);
}

TEST_F(DurableFormat, BitFlipAnywhereInAHeadIsRefused) {
  const auto good = render(SegmentHead{Hash128{1, 2}, kName, 3});
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(parse_segment_head(bad)) << "bit " << bit;
  }
}

TEST_F(DurableFormat, TruncatedHeadIsRefusedAtEveryLength) {
  const auto good = render(SegmentHead{Hash128{1, 2}, kName, 3});
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(parse_segment_head(std::span(good).first(length))) << length;
  }
}

TEST_F(DurableFormat, KeysComeBackInTheOrderOfNumbers) {
  std::vector<std::string> keys;
  for (const std::uint64_t step : {1, 255, 256, 70'000}) {
    for (const std::uint64_t view : {1, 300}) {
      for (const std::uint32_t segment : {0, 256}) {
        const DurableKey key{DurableKeyKind::segment, {Step(step), ViewNumber(view)}, segment};
        keys.push_back(render(key));
        EXPECT_EQ(parse_durable_key(keys.back()), key);
      }
    }
  }
  EXPECT_TRUE(std::ranges::is_sorted(keys, [](const std::string& a, const std::string& b) { return a < b; }));
  const std::string part = render(DurableKey{DurableKeyKind::part, kName});
  EXPECT_EQ(parse_durable_key(part)->kind, DurableKeyKind::part);
  for (const std::string& bad : {std::string(), std::string("f"), std::string("q") + part.substr(1), part + "x",
                                 part.substr(0, part.size() - 1)}) {
    EXPECT_FALSE(parse_durable_key(bad));
  }
}

TEST_F(DurableFormat, SegmentsAreToldByTheirNames) {
  EXPECT_EQ(segment_name(kName, 0), "step-00000120-view-7-0.segment");
  EXPECT_TRUE(looks_like_segment(segment_name(kName, 0)));
  EXPECT_TRUE(looks_like_segment(segment_name(kName, 0) + std::string(kPartialSuffix)));
  EXPECT_FALSE(looks_like_segment("index"));
  EXPECT_FALSE(looks_like_segment("notes.partial"));
}

TEST_F(DurableFormat, PartThatFitsTheModelIsTaken) {
  const auto tiles = check_part(map_, part_, std::vector{segment()});
  ASSERT_TRUE(tiles) << tiles.error().message();
  EXPECT_EQ(*tiles, TileSet(std::vector<TileRange>{{2, 4}, {6, 7}}));
}

TEST_F(DurableFormat, PartsThatDoNotFitAreRefused) {
  const DurableSegment good = segment();
  expect_refused(part_, {});
  expect_refused(part_, {good, good});
  expect_refused({1000, 2, 6}, {good, good});
  expect_refused({1000, 1, 4}, {good});
  DurableSegment bad = good;
  bad.bytes += 1;
  expect_refused(part_, {bad});
  bad = good;
  bad.hashes.pop_back();
  expect_refused(part_, {bad});
  bad = good;
  bad.tiles = {{2, 5}, {6, 6}};
  expect_refused(part_, {bad});
  bad.tiles = {{0, UINT32_MAX}};
  expect_refused(part_, {bad});
  bad.tiles = {{2, 4}, {3, 4}};
  expect_refused(part_, {bad});
  expect_refused({1000, 1, 0}, {DurableSegment{kSegmentHeadBytes, {}, {}}});
}

TEST_F(DurableFormat, TilesOfATiedCopyHaveNoState) {
  ModelSpec tied = small_model();
  tied.tied_embedding = true;
  const StateMap map(tied, 128);
  ASSERT_LT(map.tiles_with_state().end, map.tile_count());
  const TileRange copy{map.tiles_with_state().end, map.tile_count()};
  std::vector<Hash128> hashes(copy.end - copy.begin);
  const DurableSegment segment{kSegmentHeadBytes + kTensorsOfState * map.bytes(copy), {copy}, hashes};
  const DurablePart part{0, 1, static_cast<std::uint32_t>(hashes.size())};
  EXPECT_EQ(check_part(map, part, std::span(&segment, 1)).error().code(), ErrorCode::corrupt);
}

}  // namespace
}  // namespace planaria

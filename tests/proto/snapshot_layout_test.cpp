#include "proto/snapshot_layout.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <set>

#include "common/philox.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

const StateMap& map() {
  static const StateMap made(small_model(3), 64);
  return made;
}

// Tiles dealt out to hosts at random, so that some have many and some none.
std::vector<ProtectedHost> random_hosts(std::uint32_t count, PhiloxStream& random) {
  std::vector<ProtectedHost> hosts;
  for (std::uint32_t i = 0; i < count; ++i)
    hosts.push_back({WorkerId(i), fmt::format("z{}", random.next_u32() % 4), {}});
  for (std::uint32_t tile = 0; tile < map().tiles_with_state().end; ++tile) {
    const std::uint32_t draw = random.next_u32();
    hosts[std::min(draw % count, draw / 7 % count)].tiles.add({tile, tile + 1});
  }
  return hosts;
}

// Who still has its fragments when the hosts of a set are lost.
std::vector<std::vector<bool>> without(const SnapshotLayout& layout, std::uint32_t lost) {
  std::vector<std::vector<bool>> present;
  for (const Stripe& stripe : layout.stripes) {
    auto& of_stripe = present.emplace_back();
    for (const StripeFragment& fragment : stripe.fragments)
      of_stripe.push_back((lost >> fragment.keeper.value() & 1) == 0);
  }
  return present;
}

bool all_recoverable(const SnapshotLayout& layout, std::uint32_t lost) {
  const auto present = without(layout, lost);
  for (std::size_t s = 0; s < layout.stripes.size(); ++s) {
    if (!recoverable(layout.stripes[s], present[s])) return false;
  }
  return true;
}

// The most hosts of which no choice loses anything, by trying all.
std::uint32_t tolerated_by_trial(const SnapshotLayout& layout, std::uint32_t hosts, std::uint32_t lost_already) {
  std::uint32_t least = hosts + 1;
  for (std::uint32_t set = 0; set < (1U << hosts); ++set) {
    if ((set & lost_already) == 0 && !all_recoverable(layout, set | lost_already)) {
      least = std::min(least, static_cast<std::uint32_t>(std::popcount(set)));
    }
  }
  return least == 0 ? 0 : least - 1;
}

TEST(SnapshotLayout, EveryTileIsInOneStripeAndToleranceIsWhatTrialsShow) {
  fmt::print("seeds 1 to 150\n");
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    PhiloxStream random(philox_key(seed, RandomPurpose::tests));
    const std::uint32_t count = 2 + random.next_u32() % 7;
    const SnapshotShape shape{1 + random.next_u32() % 5, 1 + random.next_u32() % 3};
    SCOPED_TRACE(fmt::format("seed {}: {} hosts, {}+{}", seed, count, shape.data, shape.parity));
    const auto hosts = random_hosts(count, random);
    const SnapshotLayout layout = place_snapshots(map(), hosts, shape);
    ASSERT_TRUE(check_snapshot_layout(layout, map()));
    TileSet covered;
    for (const Stripe& stripe : layout.stripes) {
      for (const StripeFragment& fragment : stripe.fragments) covered.add(TileSet(fragment.tiles));
    }
    EXPECT_EQ(covered, TileSet(map().tiles_with_state()));
    const std::uint32_t promised = tolerated_losses(layout, without(layout, 0));
    EXPECT_EQ(promised, std::min(shape.parity, count - 1));
    EXPECT_EQ(promised, tolerated_by_trial(layout, count, 0));
    const std::uint32_t lost = 1U << random.next_u32() % count;
    EXPECT_EQ(tolerated_losses(layout, without(layout, lost)), tolerated_by_trial(layout, count, lost));
  }
}

TEST(SnapshotLayout, EachHostGivesToAsManyStripesAsThereIsDataAndKeepsParityOfOthers) {
  PhiloxStream random(philox_key(1, RandomPurpose::tests));
  const SnapshotLayout layout = place_snapshots(map(), random_hosts(6, random), {4, 2});
  ASSERT_EQ(layout.stripes.size(), 6U);
  for (std::uint32_t host = 0; host < 6; ++host) {
    std::uint32_t data = 0, parity = 0;
    for (const Stripe& stripe : layout.stripes) {
      for (std::size_t i = 0; i < stripe.fragments.size(); ++i) {
        if (stripe.fragments[i].keeper == WorkerId(host)) ++(i < stripe.data ? data : parity);
      }
    }
    EXPECT_EQ(data, 4U);
    EXPECT_EQ(parity, 2U);
  }
}

TEST(SnapshotLayout, ParityOfEqualHostsIsItsPartOfWhatIsProtected) {
  const StateMap even(small_model(8), 16);
  std::vector<ProtectedHost> hosts;
  const std::uint32_t tiles = even.tiles_with_state().end;
  for (std::uint32_t i = 0; i < 5; ++i) {
    hosts.push_back({WorkerId(i), "", TileSet(TileRange{tiles * i / 5, tiles * (i + 1) / 5})});
  }
  std::uint64_t data = 0, parity = 0;
  for (const Stripe& stripe : place_snapshots(even, hosts, {3, 2}).stripes) {
    for (const StripeFragment& fragment : stripe.fragments) data += fragment_bytes(even, fragment);
    parity += stripe.parity() * stripe_bytes(even, stripe);
  }
  EXPECT_EQ(data, kTensorsOfState * even.bytes(even.tiles_with_state()));
  EXPECT_LT(static_cast<double>(parity), 1.05 * static_cast<double>(data) * 2 / 3);
}

TEST(SnapshotLayout, StripesSpreadOverZones) {
  std::vector<ProtectedHost> hosts;
  for (std::uint32_t i = 0; i < 6; ++i) {
    hosts.push_back({WorkerId(i), i < 3 ? "a" : "b", TileSet(TileRange{10 * i, 10 * i + 10})});
  }
  for (const Stripe& stripe : place_snapshots(map(), hosts, {1, 1}).stripes) {
    EXPECT_NE(stripe.fragments[0].keeper.value() < 3, stripe.fragments[1].keeper.value() < 3);
  }
}

TEST(SnapshotLayout, FewHostsStillProtectEachOther) {
  const std::vector<ProtectedHost> hosts{{WorkerId(0), "", TileSet(TileRange{0, 10})},
                                         {WorkerId(1), "", TileSet(TileRange{10, 12})}};
  const SnapshotLayout layout = place_snapshots(map(), hosts, {4, 2});
  EXPECT_EQ(tolerated_losses(layout, without(layout, 0)), 1U);
  const SnapshotLayout alone = place_snapshots(map(), std::span(hosts).first(1), {4, 2});
  ASSERT_EQ(alone.stripes.size(), 1U);
  EXPECT_EQ(alone.stripes[0].parity(), 0U);
  EXPECT_EQ(tiles_of(alone, WorkerId(0)), hosts[0].tiles);
  EXPECT_EQ(tolerated_losses(alone, without(alone, 0)), 0U);
}

TEST(SnapshotLayout, BytesOfAFragmentAreThoseOfItsTilesVectorsInOrder) {
  const std::vector<TileRange> tiles{{0, 2}, {5, 6}};
  const std::uint64_t of_vector = map().bytes({0, 1});
  const std::uint64_t all = kTensorsOfState * (map().bytes({0, 2}) + map().bytes({5, 6}));
  std::uint64_t sum = 0;
  for (const TilePiece& piece : pieces_of(map(), tiles, 0, all)) sum += piece.bytes;
  EXPECT_EQ(sum, all);
  const std::vector<TilePiece> expected{{0, 2, of_vector - 8, 8}, {1, 0, 0, 12}};
  EXPECT_EQ(pieces_of(map(), tiles, kTensorsOfState * of_vector - 8, 20), expected);
  EXPECT_TRUE(pieces_of(map(), tiles, all, 20).empty());
}

TEST(SnapshotLayout, WhatNobodyCouldRebuildIsRefused) {
  const StripeFragment data{WorkerId(0), {{0, 2}}}, parity{WorkerId(1), {}};
  const auto accepted = [](std::vector<Stripe> stripes) {
    return check_snapshot_layout({std::move(stripes)}, map()).ok();
  };
  EXPECT_TRUE(accepted({{1, {data, parity}}}));
  EXPECT_FALSE(accepted({{0, {parity}}}));
  EXPECT_FALSE(accepted({{2, {data}}}));
  EXPECT_FALSE(accepted({{1, {data, {WorkerId(0), {}}}}}));
  EXPECT_FALSE(accepted({{1, {data, {WorkerId(1), {{2, 3}}}}}}));
  EXPECT_FALSE(accepted({{1, {data, parity}}, {1, {data, parity}}}));
  EXPECT_FALSE(accepted({{1, {{WorkerId(0), {{0, map().tile_count() + 1}}}, parity}}}));
}

}  // namespace
}  // namespace planaria

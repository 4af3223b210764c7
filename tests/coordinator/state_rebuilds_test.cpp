#include "coordinator/core/state_rebuilds.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "common/philox.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

constexpr SnapshotName kName{Step(7), ViewNumber(3)};

// Hosts with even tiles and a snapshot of all.
class Rebuilds : public testing::Test {
 protected:
  Rebuilds(std::uint32_t hosts = 5, SnapshotShape shape = {3, 2}) {
    const std::uint32_t tiles = map_.tiles_with_state().end;
    for (std::uint32_t i = 0; i < hosts; ++i) {
      hosts_.push_back({WorkerId(i), "", TileSet(TileRange{tiles * i / hosts, tiles * (i + 1) / hosts})});
    }
    layout_ = place_snapshots(map_, hosts_, shape);
  }

  // What is left without some hosts.
  [[nodiscard]] StateRebuilds without(const std::set<std::uint32_t>& lost) const {
    StateRebuilds rebuilds(map_, kName.step);
    for (std::uint32_t i = 0; i < hosts_.size(); ++i) {
      if (!lost.contains(i)) rebuilds.add_state(WorkerId(i), hosts_[i].tiles);
    }
    for (std::uint32_t s = 0; s < layout_.stripes.size(); ++s) {
      const Stripe& stripe = layout_.stripes[s];
      for (std::uint32_t f = stripe.data; f < stripe.fragments.size(); ++f) {
        const WorkerId keeper = stripe.fragments[f].keeper;
        if (!lost.contains(keeper.value())) rebuilds.add_fragment(keeper, {kName, s, f, stripe});
      }
    }
    return rebuilds;
  }
  [[nodiscard]] TileSet tiles_of(const std::set<std::uint32_t>& hosts) const {
    TileSet tiles;
    for (const std::uint32_t host : hosts) tiles.add(hosts_[host].tiles);
    return tiles;
  }

  const StateMap map_{small_model(2), 64};
  std::vector<ProtectedHost> hosts_;
  SnapshotLayout layout_;
};

TEST_F(Rebuilds, WhatAnyTwoHostsHeldIsMadeFromThreeFragmentsOfOthers) {
  for (std::uint32_t a = 0; a < 5; ++a) {
    for (std::uint32_t b = a + 1; b < 5; ++b) {
      SCOPED_TRACE(fmt::format("without {} and {}", a, b));
      const StateRebuilds rebuilds = without({a, b});
      EXPECT_EQ(rebuilds.possible(), tiles_of({a, b}));
      const WorkerId taker((b + 1) % 5 == a ? (a + 1) % 5 : (b + 1) % 5);
      TileSet made;
      for (const FragmentRebuild& rebuild : rebuilds.plan({{taker, TileSet(map_.tiles_with_state())}})) {
        EXPECT_EQ(rebuild.worker, taker);
        EXPECT_EQ(rebuild.snapshot, kName);
        EXPECT_EQ(rebuild.sources.size(), 3U);
        std::set<std::uint32_t> fragments{rebuild.fragment};
        for (const FragmentSource& source : rebuild.sources) {
          EXPECT_TRUE(fragments.insert(source.fragment).second);
          EXPECT_EQ(rebuild.layout.fragments[source.fragment].keeper, source.from);
          EXPECT_TRUE(source.from != WorkerId(a) && source.from != WorkerId(b));
        }
        made.add(TileSet(rebuild.tiles));
      }
      EXPECT_EQ(made, tiles_of({a, b}));
    }
  }
}

TEST_F(Rebuilds, OfThreeLostHostsOnlyStripesWithEnoughLeftAreMade) {
  const StateRebuilds rebuilds = without({0, 1, 2});
  TileSet expected;
  for (const Stripe& stripe : layout_.stripes) {
    std::vector<bool> present;
    for (const StripeFragment& fragment : stripe.fragments) present.push_back(fragment.keeper.value() > 2);
    if (!recoverable(stripe, present)) continue;
    for (const StripeFragment& fragment : stripe.fragments) expected.add(TileSet(fragment.tiles));
  }
  EXPECT_EQ(rebuilds.possible(), expected.common(tiles_of({0, 1, 2})));
}

TEST_F(Rebuilds, EachMakesWhatItNeedsAndNobodyWhatIsHeld) {
  const TileSet lost = hosts_[2].tiles;
  const std::uint32_t middle = (lost.runs()[0].begin + lost.runs()[0].end) / 2;
  const auto plan = without({2}).plan(
      {{WorkerId(0), TileSet(TileRange{0, middle})}, {WorkerId(4), TileSet(TileRange{middle, lost.runs()[0].end})}});
  std::map<WorkerId, TileSet> made;
  for (const FragmentRebuild& rebuild : plan) made[rebuild.worker].add(TileSet(rebuild.tiles));
  EXPECT_EQ(made[WorkerId(0)], lost.common(TileRange{0, middle}));
  EXPECT_EQ(made[WorkerId(4)], lost.common(TileRange{middle, lost.runs()[0].end}));
}

TEST_F(Rebuilds, WhatContradictsOrMakesNoSenseIsLeftOut) {
  StateRebuilds rebuilds(map_, kName.step);
  rebuilds.add_state(WorkerId(1), hosts_[1].tiles);
  rebuilds.add_state(WorkerId(2), hosts_[2].tiles);
  const Stripe& stripe = layout_.stripes[0];  // data of 0, 1 and 2, parity at 3 and 4
  const auto told = [&](auto change) {
    HeldFragment held{kName, 0, 3, stripe};
    change(held);
    rebuilds.add_fragment(WorkerId(3), held);
    return !rebuilds.possible().empty();
  };
  EXPECT_FALSE(told([](HeldFragment& held) { held.snapshot.step = Step(6); }));
  EXPECT_FALSE(told([](HeldFragment& held) { held.fragment = 0; }));
  EXPECT_FALSE(told([](HeldFragment& held) { held.fragment = 77; }));
  EXPECT_FALSE(told([](HeldFragment& held) { held.layout.data = 0; }));
  EXPECT_FALSE(told([](HeldFragment& held) { held.layout.fragments[1].tiles = {{0, 1'000'000}}; }));
  EXPECT_TRUE(told([](HeldFragment&) {}));
  rebuilds.add_fragment(WorkerId(4), {kName, 0, 4, {1, {stripe.fragments[0], stripe.fragments[3]}}});
  EXPECT_EQ(rebuilds.possible(), TileSet(stripe.fragments[0].tiles));
}

TEST_F(Rebuilds, SourcesAreAskedInTurns) {
  std::map<WorkerId, std::uint32_t> asked;
  for (const FragmentRebuild& rebuild : without({0}).plan({{WorkerId(1), hosts_[0].tiles}})) {
    for (const FragmentSource& source : rebuild.sources) ++asked[source.from];
  }
  for (std::uint32_t host = 1; host < 5; ++host) EXPECT_GE(asked[WorkerId(host)], 1U);
}

// One of three data fragments has tiles, the others are zeros.
TEST(RebuildsOfFew, ZerosCountAsThere) {
  const StateMap map(small_model(2), 64);
  const SnapshotLayout layout{
      {{3, {{WorkerId(0), {{0, 2}}}, {WorkerId(1), {}}, {WorkerId(2), {}}, {WorkerId(3), {}}}}}};
  StateRebuilds rebuilds(map, kName.step);
  rebuilds.add_fragment(WorkerId(3), {kName, 0, 3, layout.stripes[0]});
  EXPECT_EQ(rebuilds.possible(), TileSet(TileRange{0, 2}));
  const auto plan = rebuilds.plan({{WorkerId(1), TileSet(TileRange{1, 2})}});
  ASSERT_EQ(plan.size(), 1U);
  EXPECT_EQ(plan[0].sources, (std::vector<FragmentSource>{{WorkerId(3), 3}}));
  EXPECT_EQ(plan[0].tiles, (std::vector<TileRange>{{1, 2}}));
}

}  // namespace
}  // namespace planaria

#include "worker/core/fragment_fetch.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/small_model.hpp"

namespace planaria {
namespace {

using worker_action::RebuildState;

struct Answer final : Payload {};

// A stripe of 2 + 1: worker 0 has lost tiles 0 to 4, worker 1 holds the shorter 5 to 8, worker 2 the parity.
class Fetch : public testing::Test {
 protected:
  [[nodiscard]] FragmentFetch fetch(std::uint32_t self, std::uint32_t chunk, TileRange wanted = {0, 5}) const {
    return {map_, rebuild_, TileSet(wanted), chunk, WorkerId(self)};
  }
  [[nodiscard]] std::uint64_t bytes(TileRange tiles) const { return kTensorsOfState * map_.bytes(tiles); }

  const StateMap map_{small_model(2), 64};
  const FragmentRebuild rebuild_{WorkerId(5),
                                 {Step(3), ViewNumber(2)},
                                 4,
                                 0,
                                 {2, {{WorkerId(0), {{0, 5}}}, {WorkerId(1), {{5, 9}}}, {WorkerId(2), {}}}},
                                 {{WorkerId(1), 1}, {WorkerId(2), 2}},
                                 {{0, 5}}};
};

TEST_F(Fetch, AsksEachSourceForTheSameBytesAsFarAsItHasThem) {
  ASSERT_TRUE(check_rebuild(rebuild_, map_));
  const auto requests = fetch(5, 2).requests();
  std::vector<std::uint64_t> data, parity;
  for (const auto& [to, request] : requests) {
    EXPECT_EQ(request.part.snapshot, rebuild_.snapshot);
    EXPECT_EQ(request.part.stripe, 4U);
    EXPECT_EQ(to, WorkerId(request.part.fragment));
    EXPECT_EQ(request.tiles.empty(), request.part.fragment == 2);
    (request.part.fragment == 1 ? data : parity).push_back(request.part.bytes);
  }
  EXPECT_EQ(parity, (std::vector{bytes({0, 2}), bytes({2, 4}), bytes({4, 5})}));
  EXPECT_EQ(data, (std::vector{bytes({5, 7}), bytes({7, 9})}));  // beyond its end it is zeros
}

TEST_F(Fetch, AChunkIsMadeWhenAllItsPartsAreHere) {
  FragmentFetch fetch = this->fetch(5, 2);
  const auto requests = fetch.requests();
  std::vector<TileRange> made;
  for (const auto& [to, request] : requests) {
    EXPECT_FALSE(fetch.wants(WorkerId(7), request.part));
    ASSERT_TRUE(fetch.wants(to, request.part));
    EXPECT_FALSE(fetch.done());
    EXPECT_EQ(request.lost, 0U);
    const std::vector<Hash128> told(request.part.fragment == 2 ? 2 : 0, Hash128{7, request.part.offset});
    if (const auto action = fetch.take({request.part, true, told}, std::make_shared<Answer>())) {
      ASSERT_EQ(action->inputs.size(), 2U);
      EXPECT_EQ(action->layout, rebuild_.layout);
      EXPECT_EQ(action->hashes, std::vector(2, Hash128{7, action->offset})) << "as the parity's keeper told";
      EXPECT_EQ(action->hashed_by, WorkerId(2));
      made.insert(made.end(), action->tiles.begin(), action->tiles.end());
      for (const RebuildState::Input& input : action->inputs) EXPECT_EQ(input.payload == nullptr, input.bytes == 0);
    }
    EXPECT_FALSE(fetch.wants(to, request.part));  // a second time
  }
  EXPECT_TRUE(fetch.done());
  EXPECT_EQ(made, (std::vector<TileRange>{{0, 2}, {2, 4}, {4, 5}}));
}

TEST_F(Fetch, WhatIsHereIsNotAskedFor) {
  FragmentFetch fetch = this->fetch(2, 2);
  EXPECT_EQ(fetch.requests().size(), 2U);  // of the data
  const auto ready = fetch.take_own();     // and the last chunk needs none of it
  ASSERT_EQ(ready.size(), 1U);
  EXPECT_EQ(ready[0].tiles, (std::vector<TileRange>{{4, 5}}));
  EXPECT_EQ(fetch.waiting_for(), WorkerId(1));
}

TEST_F(Fetch, OnlyWantedTilesAreMade) {
  FragmentFetch fetch = this->fetch(5, 8, {1, 3});
  const auto requests = fetch.requests();
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].second.part.offset, bytes({0, 1}));
  EXPECT_EQ(requests[0].second.part.bytes, bytes({1, 3}));
}

TEST_F(Fetch, PlansThatCannotWorkAreRefused) {
  const auto accepted = [&](auto change) {
    FragmentRebuild rebuild = rebuild_;
    change(rebuild);
    return check_rebuild(rebuild, map_).ok();
  };
  EXPECT_TRUE(accepted([](FragmentRebuild&) {}));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.sources.pop_back(); }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.sources[1] = r.sources[0]; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.sources[1].fragment = 0; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.sources[1].fragment = 3; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.fragment = 2; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.tiles = {{4, 6}}; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.tiles = {}; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.tiles = {{3, 4}, {1, 2}}; }));
  EXPECT_FALSE(accepted([](FragmentRebuild& r) { r.layout.data = 4; }));
}

}  // namespace
}  // namespace planaria

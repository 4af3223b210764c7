#include "coordinator/core/snapshot_status.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "coordinator/core/snapshot_planning.hpp"
#include "tests/single_stages.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

// Workers 0 to 3 and keepers 10 to 13 on hosts h0 to h3, with a sharded optimizer; the view goes on from step 5.
class Snapshots : public testing::Test {
 protected:
  Snapshots() {
    view_.view = ViewNumber(1);
    std::vector<WorkerId> workers;
    for (std::uint32_t i = 0; i < 4; ++i) workers.emplace_back(i);
    const auto blocks = static_cast<std::uint32_t>(map_.blocks().size());
    view_.stages = single_stages(blocks, workers, split_slots(8, std::vector<double>(4, 1.0)));
    view_.shards = split_shards(map_, view_.stages);
    view_.sharded = true;
    view_.snapshot_every = 1;
    view_.resume.step = Step(6);
    for (const std::uint32_t first : {0U, 10U}) {
      for (std::uint32_t i = 0; i < 4; ++i) {
        view_.members.push_back({WorkerId(first + i),
                                 Incarnation(1),
                                 "h" + std::to_string(i),
                                 {},
                                 {},
                                 first == 0 ? Role::worker : Role::keeper});
      }
    }
    place({3, 1});
  }

  void place(SnapshotShape shape, std::uint32_t keepers = 4) {
    const Duties duties(map_, view_.sharded, view_.stages, view_.shards);
    std::map<WorkerId, SnapshotKeeper> with;
    for (std::uint32_t i = 0; i < keepers; ++i) with[WorkerId(10 + i)] = {};
    view_.snapshots =
        plan_snapshots(map_, view_.members, duties, with, {view_.snapshot_every, shape.data, shape.parity}).layout;
  }
  [[nodiscard]] SnapshotStatus status(std::uint64_t committed, const std::set<WorkerId>& lost = {}) const {
    return snapshot_status(map_, view_, Step(committed), lost, false);
  }

  const StateMap map_{small_model(2), 64};
  ViewRecord view_;
};

TEST_F(Snapshots, NothingIsPromisedBeforeTheFirstGateOfTheView) {
  const SnapshotStatus status = snapshot_status(map_, view_, std::nullopt, {}, false);
  EXPECT_EQ(status.complete, std::nullopt);
  EXPECT_EQ(status.tolerated, std::nullopt);
}

TEST_F(Snapshots, AnOpenGateSaysThatTheSnapshotBeforeIsWhole) {
  EXPECT_EQ(status(6).complete, Step(5));
  EXPECT_EQ(status(9).complete, Step(8));
  EXPECT_EQ(status(6).tolerated, 1U);
  EXPECT_TRUE(status(6).alone.empty());
  view_.snapshot_every = 4;
  EXPECT_EQ(status(6).complete, Step(5));  // the view began with it
  EXPECT_EQ(status(8).complete, Step(5));
  EXPECT_EQ(status(9).complete, Step(8));
}

TEST_F(Snapshots, WhoIsLostIsPromisedNoMore) {
  const SnapshotStatus now = status(7, {WorkerId(1), WorkerId(11)});
  EXPECT_EQ(now.tolerated, 0U);
  place({2, 2});
  EXPECT_EQ(status(7).tolerated, 2U);
  EXPECT_EQ(status(7, {WorkerId(1), WorkerId(11)}).tolerated, 1U);
}

TEST_F(Snapshots, AHostWithoutAKeeperIsAlone) {
  place({2, 1}, 3);
  const SnapshotStatus now = status(7);
  EXPECT_EQ(now.tolerated, 0U);
  EXPECT_EQ(now.alone, std::vector<std::string>{"h3"});
  const auto host = std::ranges::find(now.hosts, "h3", &SnapshotHost::host);
  ASSERT_NE(host, now.hosts.end());
  EXPECT_EQ(host->keeper, std::nullopt);
  EXPECT_GT(host->state_bytes, 0U);
}

TEST_F(Snapshots, WhereAnOlderSnapshotIsNotWholeNobodyMayBeLost) {
  view_.snapshot_every = 4;
  place({2, 1}, 3);
  EXPECT_EQ(status(9).alone, (std::vector<std::string>{"h0", "h1", "h2", "h3"}));
  place({3, 1});
  EXPECT_TRUE(status(9).alone.empty());
}

TEST_F(Snapshots, WhatSeveralHostsKeepNeedsNoSnapshot) {
  view_.sharded = false;
  place({3, 1});
  EXPECT_TRUE(view_.snapshots.stripes.empty());
  EXPECT_EQ(status(7).tolerated, 3U);
  EXPECT_EQ(status(7, {WorkerId(0)}).tolerated, 2U);
}

}  // namespace
}  // namespace planaria

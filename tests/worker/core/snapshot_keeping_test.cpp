#include "worker/core/snapshot_keeping.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/small_model.hpp"

namespace planaria {
namespace {

// Hosts 0 and 1 protect each other with one parity each; this is 1's keeper.
class Keeping : public testing::Test {
 protected:
  Keeping() { keeping_.enter(view(1), kSelf); }

  [[nodiscard]] ViewRecord view(std::uint64_t number) const {
    ViewRecord record;
    record.view = ViewNumber(number);
    record.snapshot_every = 1;
    record.snapshots = place_snapshots(
        map_,
        std::vector<ProtectedHost>{{WorkerId(0), "", TileSet(TileRange{0, 2})}, {kSelf, "", TileSet(TileRange{2, 3})}},
        {1, 1});
    return record;
  }
  // Of the stripe whose parity is here, or the other.
  [[nodiscard]] std::uint32_t stripe(bool parity_here) const {
    const bool first = keeping_.layout()->stripes[0].fragments[1].keeper == kSelf;
    return first == parity_here ? 0 : 1;
  }
  void other_fragment_comes(Step step, ViewNumber view) {
    const FragmentPart part{{step, view}, stripe(true), 0, 0, kTensorsOfState * map_.bytes({0, 2})};
    ASSERT_TRUE(keeping_.take(WorkerId(0), part));
    static_cast<void>(keeping_.stored(part));
  }
  void own_is_placed(Step step, ViewNumber view) {
    static_cast<void>(keeping_.seal(step, TileSet(TileRange{2, 3})));
    ASSERT_TRUE(keeping_.take(WorkerId(0), StripeWord{{step, view}, stripe(false), StripeStatus::placed}));
  }
  [[nodiscard]] std::vector<SnapshotName> held() const {
    std::vector<SnapshotName> names;
    for (const HeldFragment& fragment : keeping_.whole()) names.push_back(fragment.snapshot);
    return names;
  }

  static constexpr WorkerId kSelf{1};
  const StateMap map_{small_model(), 512};
  SnapshotKeeping keeping_{map_};
};

using Names = std::vector<SnapshotName>;
constexpr SnapshotName name(std::uint64_t step, std::uint64_t view) {
  return {Step(step), ViewNumber(view)};
}

TEST_F(Keeping, ASnapshotIsPlacedWhenBothStripesAre) {
  EXPECT_FALSE(keeping_.placed(Step(3)));  // not begun
  EXPECT_TRUE(keeping_.begin(Step(3), {}).empty());
  other_fragment_comes(Step(3), ViewNumber(1));
  EXPECT_FALSE(keeping_.placed(Step(3)));
  own_is_placed(Step(3), ViewNumber(1));
  EXPECT_TRUE(keeping_.placed(Step(3)));
}

TEST_F(Keeping, WhatIsHereWhenASnapshotBeginsIsSentAtOnce) {
  EXPECT_EQ(keeping_.begin(Step(3), TileSet(TileRange{0, 9})).size(), 1U);
  EXPECT_TRUE(keeping_.begin(Step(3), TileSet(TileRange{0, 9})).empty());
}

TEST_F(Keeping, TheOlderGoesOnlyWhenTheNewerIsComplete) {
  for (const std::uint64_t step : {3, 4}) {
    static_cast<void>(keeping_.begin(Step(step), {}));
    other_fragment_comes(Step(step), ViewNumber(1));
  }
  EXPECT_EQ(held(), (Names{name(3, 1), name(4, 1)}));
  EXPECT_EQ(keeping_.building(), (Names{name(3, 1), name(4, 1)}));
  keeping_.complete(Step(4));
  EXPECT_EQ(held(), (Names{name(4, 1)}));
}

TEST_F(Keeping, WholeFragmentsOutliveTheirViewUntilItsStepIsCompleteInTheNext) {
  static_cast<void>(keeping_.begin(Step(3), {}));
  static_cast<void>(keeping_.begin(Step(4), {}));
  other_fragment_comes(Step(3), ViewNumber(1));  // that of step 4 never does
  keeping_.enter(view(2), kSelf);
  EXPECT_EQ(held(), (Names{name(3, 1)}));
  EXPECT_TRUE(keeping_.building().empty());
  EXPECT_FALSE(keeping_.take(WorkerId(0), FragmentPart{name(4, 1), stripe(true), 0, 0, 64}));
  static_cast<void>(keeping_.begin(Step(3), {}));
  other_fragment_comes(Step(3), ViewNumber(2));
  EXPECT_EQ(held(), (Names{name(3, 1), name(3, 2)}));
  keeping_.complete(Step(3));
  EXPECT_EQ(held(), (Names{name(3, 2)}));
}

TEST_F(Keeping, DamagedParityIsNotHeld) {
  static_cast<void>(keeping_.begin(Step(3), {}));
  other_fragment_comes(Step(3), ViewNumber(1));
  const HeldFragment parity = keeping_.whole().front();
  keeping_.lose(parity);
  EXPECT_TRUE(held().empty());
  keeping_.enter(view(2), kSelf);
  EXPECT_TRUE(held().empty());
}

TEST_F(Keeping, WhoGoesBackGivesUpWhatIsNewer) {
  for (const std::uint64_t step : {3, 4}) {
    static_cast<void>(keeping_.begin(Step(step), {}));
    other_fragment_comes(Step(step), ViewNumber(1));
  }
  keeping_.revert(Step(3), false);
  EXPECT_EQ(held(), (Names{name(3, 1)}));
  keeping_.revert(Step(3), true);
  EXPECT_TRUE(held().empty());
}

}  // namespace
}  // namespace planaria

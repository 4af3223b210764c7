// A power cut at random operations of a history of durable snapshots: files of the store and of its RocksDB alike.
//
// One history goes on over all cuts of a case, so that what a cut leaves behind is what the next one finds.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "tests/storage/durable_keepers.hpp"

namespace planaria {
namespace {

constexpr std::uint64_t kCutsOfCase = 100;
constexpr std::uint64_t kMaxOperations = 600;  // from one cut to the next: several snapshots of all keepers
constexpr std::uint32_t kKept = 2;

// One keeper, and what it has promised.
struct Keeper {
  std::string name;
  std::unique_ptr<DurableStore> store;
  std::set<SnapshotName> promised;
  std::set<SnapshotName> uncertain;  // a call that would have named or removed it didn't return well
};

class PowerCuts : public testing::TestWithParam<std::uint64_t> {
 protected:
  void start(std::uint32_t keepers) {
    for (std::uint32_t i = 0; i < keepers; ++i) keepers_.push_back({"host" + std::to_string(i), nullptr, {}, {}});
  }

  // Tiles of a keeper in a view: a rotating cut, whose borders two keepers have both.
  [[nodiscard]] TileSet tiles_of(std::size_t keeper, ViewNumber view) const {
    const auto count = static_cast<std::uint32_t>(keepers_.size());
    const auto at = static_cast<std::uint32_t>((keeper + view.value()) % count);
    const std::uint32_t begin = world_.tiles() * at / count;
    const std::uint32_t end = world_.tiles() * (at + 1) / count;
    return TileSet(TileRange{begin, std::min(end + 1, world_.tiles())});
  }

  // ---- the history, as far as the machine has power ----

  bool open_all() {
    for (Keeper& keeper : keepers_) {
      if (keeper.store) continue;
      auto opened = world_.open(keeper.name);
      if (!opened) return alive(opened.error());
      keeper.store = std::move(opened).value();
      check_opened(keeper);
    }
    return true;
  }

  bool one_snapshot() {
    if (random_->chance(0.2)) view_ = view_.next();
    step_ = Step(step_.value() + 1 + random_->below(3));
    const SnapshotName name{step_, view_};
    for (std::size_t i = 0; i < keepers_.size(); ++i) {
      if (random_->chance(0.05)) continue;  // it was too slow for this one
      Keeper& keeper = keepers_[i];
      if (random_->chance(0.05)) {
        if (!abandon(keeper, name, i)) return false;
        continue;
      }
      keeper.uncertain.insert(name);
      const Status written = world_.write(*keeper.store, name, tiles_of(i, view_));
      if (!written) return alive(written.error());
      keeper.uncertain.erase(name);
      keeper.promised.insert(name);
    }
    return random_->chance(0.5) ? retain_as_told() : retain_as_read();
  }

  bool abandon(Keeper& keeper, SnapshotName name, std::size_t index) {
    const Status begun = keeper.store->begin(name, 0);
    if (!begun) return alive(begun.error());
    const Status appended = world_.append(*keeper.store, name, tiles_of(index, view_));
    if (!appended) return alive(appended.error());
    keeper.store->abandon();
    return true;
  }

  bool retain_as_told() { return retain(complete_and_promised()); }
  bool retain_as_read() {
    const auto catalog = world_.catalog();
    if (!catalog) return alive(catalog.error());
    // While the machine dies an index may be unreadable; what is read then must not lead astray either.
    return retain(newest_promised(*catalog, world_.map, kKept));
  }
  bool retain(const std::vector<SnapshotName>& kept) {
    if (kept.empty()) return true;
    for (Keeper& keeper : keepers_) {
      if (random_->chance(0.2)) continue;  // it hears of it another time
      const SnapshotName newest = *std::ranges::max_element(kept);
      for (auto name = keeper.promised.begin(); name != keeper.promised.end() && *name < newest;) {
        const bool stays = std::ranges::find(kept, *name) != kept.end();
        if (!stays) keeper.uncertain.insert(*name);
        name = stays ? std::next(name) : keeper.promised.erase(name);
      }
      const Status retained = keeper.store->retain(kept);
      if (!retained) return alive(retained.error());
      keeper.uncertain.clear();
    }
    return true;
  }

  // Errors come from the power cut and from nothing else.
  bool alive(const Error& error) {
    EXPECT_TRUE(world_.files.fired()) << error.describe();
    return false;
  }

  // The newest kKept that every keeper has promised; newest first.
  [[nodiscard]] std::vector<SnapshotName> complete_and_promised() const {
    std::vector<SnapshotName> names;
    for (auto name = keepers_[0].promised.rbegin(); name != keepers_[0].promised.rend(); ++name) {
      const bool by_all =
          std::ranges::all_of(keepers_, [&](const Keeper& keeper) { return keeper.promised.contains(*name); });
      if (by_all && names.size() < kKept) names.push_back(*name);
    }
    return names;
  }

  // ---- after a cut ----

  // What was promised is there, what isn't known of may be, nothing else is.
  void check_opened(Keeper& keeper) {
    const auto finished = keeper.store->finished();
    for (const SnapshotName& name : keeper.promised) {
      EXPECT_TRUE(std::ranges::count(finished, name) == 1) << keeper.name << " lost step " << name.step;
    }
    for (const SnapshotName& name : finished) {
      EXPECT_TRUE(keeper.promised.contains(name) || keeper.uncertain.contains(name))
          << keeper.name << " has step " << name.step << " again";
    }
    keeper.promised = {finished.begin(), finished.end()};
    keeper.uncertain.clear();
  }

  // No file is without a name.
  void check_files(const DurableCatalog& catalog) {
    std::set<std::string> named;
    for (const DurableSnapshot& snapshot : catalog.snapshots) {
      for (const PlacedPart& part : snapshot.parts) {
        for (const PlacedSegment& segment : part.segments) named.insert(segment.path);
      }
    }
    std::set<std::string> there;
    for (const Keeper& keeper : keepers_) {
      const std::string directory = join_path(world_.root, keeper.name);
      const auto entries = world_.disk->list(directory);
      for (const DirectoryEntry& entry : *entries) {
        if (entry.name != "index") there.insert(join_path(directory, entry.name));
      }
    }
    EXPECT_EQ(there, named);
  }

  void check_disk() {
    const auto catalog = world_.catalog();
    ASSERT_TRUE(catalog) << catalog.error().message();
    for (const Refusal& refusal : catalog->refused) ADD_FAILURE() << refusal.reason.message();
    check_files(*catalog);
    const auto promised = complete_and_promised();
    const auto newest = find_complete(*catalog, std::nullopt);
    if (!promised.empty()) {
      ASSERT_TRUE(newest) << newest.error().message();
      EXPECT_GE((*newest)->name, promised.front());
    }
    std::size_t parts = 0;
    for (const DurableSnapshot& snapshot : catalog->snapshots) {
      parts += snapshot.parts.size();
      EXPECT_TRUE(snapshot.differing.empty());
      EXPECT_TRUE(world_.exact(snapshot)) << "step " << snapshot.name.step;
      EXPECT_TRUE(verify_snapshot(*world_.disk, world_.map, world_.identity.job_hash, snapshot).sound());
      for (const PlacedPart& part : snapshot.parts) {
        const auto keeper = std::ranges::find(keepers_, part.keeper, &Keeper::name);
        EXPECT_EQ(part.tiles, tiles_of(static_cast<std::size_t>(keeper - keepers_.begin()), snapshot.name.layout))
            << part.keeper << ", step " << snapshot.name.step;
      }
    }
    for (const Keeper& keeper : keepers_) parts -= keeper.promised.size();
    EXPECT_EQ(parts, 0U) << "the catalog shows what the keepers have";
  }

  void cut_power() {
    for (Keeper& keeper : keepers_) keeper.store.reset();
    world_.disk->power_cut(random_->below(4) == 0 ? 0 : random_->next_u64());
    world_.files.heal();
  }

  DurableKeepers world_;
  std::optional<PhiloxStream> random_;
  std::vector<Keeper> keepers_;
  Step step_{1};
  ViewNumber view_{1};
};

TEST_P(PowerCuts, LeaveTheNewestOrThePreviousSnapshotComplete) {
  random_.emplace(philox_key(GetParam(), RandomPurpose::tests));
  const auto keepers = static_cast<std::uint32_t>(2 + random_->below(2));
  std::printf("seed %llu: %u keepers, %llu cuts\n", static_cast<unsigned long long>(GetParam()), keepers,
              static_cast<unsigned long long>(kCutsOfCase));
  start(keepers);
  std::uint64_t snapshots = 0;
  std::uint64_t inside_opening = 0;
  for (std::uint64_t cut = 0; cut < kCutsOfCase; ++cut) {
    const std::uint64_t at = random_->below(kMaxOperations);
    SCOPED_TRACE("seed " + std::to_string(GetParam()) + ", cut " + std::to_string(cut) + ", operation " +
                 std::to_string(at));
    world_.files.fail_operation(at, true);
    const bool opened = open_all();
    inside_opening += opened ? 0 : 1;
    while (opened && one_snapshot()) ++snapshots;
    cut_power();
    ASSERT_TRUE(open_all());
    check_disk();
    if (HasFatalFailure() || HasNonfatalFailure()) return;
    // A crash of the process alone, or none, comes before the next cut.
    if (random_->chance(0.5)) {
      for (Keeper& keeper : keepers_) keeper.store.reset();
    }
  }
  std::printf("%llu snapshots, %llu cuts while opening, %llu operations\n", static_cast<unsigned long long>(snapshots),
              static_cast<unsigned long long>(inside_opening),
              static_cast<unsigned long long>(world_.files.operations()));
  EXPECT_GT(snapshots, kCutsOfCase / 2);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PowerCuts, testing::Range<std::uint64_t>(1, 11));

}  // namespace
}  // namespace planaria

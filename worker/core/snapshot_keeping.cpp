#include "worker/core/snapshot_keeping.hpp"

#include <algorithm>
#include <utility>

namespace planaria {

std::vector<HeldFragment> SnapshotKeeping::whole() const {
  std::vector<HeldFragment> held = earlier_;
  for (const auto& [step, work] : works_) {
    for (HeldFragment& fragment : work.whole()) {
      if (std::ranges::find(lost_, fragment) == lost_.end()) held.push_back(std::move(fragment));
    }
  }
  return held;
}

bool SnapshotKeeping::placed(Step step) const {
  const auto work = works_.find(step);
  return work != works_.end() && work->second.placed();
}

std::optional<WorkerId> SnapshotKeeping::waiting_for(Step step) const {
  const auto work = works_.find(step);
  return work == works_.end() ? std::nullopt : work->second.waiting_for();
}

std::vector<SnapshotName> SnapshotKeeping::building() const {
  std::vector<SnapshotName> names;
  for (const auto& [step, work] : works_) names.push_back(work.name());
  return names;
}

void SnapshotKeeping::end_works() {
  earlier_ = whole();
  works_.clear();
  lost_.clear();
}

void SnapshotKeeping::enter(const ViewRecord& view, WorkerId self) {
  end_works();
  view_ = view.view;
  self_ = self;
  layout_ = std::make_shared<const SnapshotLayout>(view.snapshots);
}

std::vector<SnapshotAction> SnapshotKeeping::begin(Step step, const TileSet& sealed) {
  const auto [work, is_new] = works_.try_emplace(step, map_, *layout_, SnapshotName{step, view_}, self_);
  return is_new ? work->second.seal(sealed) : std::vector<SnapshotAction>();
}

std::vector<SnapshotAction> SnapshotKeeping::seal(Step step, const TileSet& tiles) {
  const auto work = works_.find(step);
  return work == works_.end() ? std::vector<SnapshotAction>() : work->second.seal(tiles);
}

std::vector<SnapshotAction> SnapshotKeeping::stored(const FragmentPart& part) {
  const auto work = works_.find(part.snapshot.step);
  const bool current = work != works_.end() && work->second.name() == part.snapshot;
  return current ? work->second.stored(part) : std::vector<SnapshotAction>();
}

void SnapshotKeeping::lose(const HeldFragment& parity) {
  std::erase(earlier_, parity);
  lost_.push_back(parity);
}

void SnapshotKeeping::complete(Step step) {
  works_.erase(works_.begin(), works_.lower_bound(step));
  std::erase_if(lost_, [&](const HeldFragment& held) { return held.snapshot.step < step; });
  std::erase_if(earlier_, [&](const HeldFragment& held) { return held.snapshot.step <= step; });
}

void SnapshotKeeping::revert(Step step, bool all) {
  end_works();
  std::erase_if(earlier_, [&](const HeldFragment& held) { return all || held.snapshot.step > step; });
}

}  // namespace planaria

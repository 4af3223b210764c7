// What a keeper has of snapshots besides its host's tiles: parity of others' that is whole, and the snapshots of the
// view that are being made whole (worker/core/snapshot_work.hpp).
//
// A snapshot that isn't placed when its view ends stays unfinished; the next view makes one of the same state, with its
// own layout. Whole fragments outlive views: any k of a stripe are good, whatever view made it.
//
// Thread contract: owned by WorkerCore.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "common/result.hpp"
#include "proto/layout.hpp"
#include "worker/core/snapshot_work.hpp"

namespace planaria {

class SnapshotKeeping {
 public:
  // `map` outlives this.
  explicit SnapshotKeeping(const StateMap& map) : map_(map) {}

  // Of the view entered last; null before the first.
  [[nodiscard]] const std::shared_ptr<const SnapshotLayout>& layout() const { return layout_; }
  // The parity that is here whole.
  [[nodiscard]] std::vector<HeldFragment> whole() const;
  // The snapshot of the step is placed, as far as this keeper is concerned; one that was never begun is not.
  [[nodiscard]] bool placed(Step step) const;
  [[nodiscard]] std::optional<WorkerId> waiting_for(Step step) const;
  // Snapshots of the view whose fragments may still grow.
  [[nodiscard]] std::vector<SnapshotName> building() const;

  void enter(const ViewRecord& view, WorkerId self);
  // `sealed`: tiles of the step that are here. Nothing where it was begun before.
  [[nodiscard]] std::vector<SnapshotAction> begin(Step step, const TileSet& sealed);
  [[nodiscard]] std::vector<SnapshotAction> seal(Step step, const TileSet& tiles);
  // corrupt: as SnapshotWork::take, or no snapshot of that name is being made here.
  template <class Message>
  [[nodiscard]] Result<std::vector<SnapshotAction>> take(WorkerId from, const Message& message) {
    const auto work = works_.find(message.snapshot.step);
    if (work == works_.end()) return Error(ErrorCode::corrupt, "a message of a snapshot that isn't made here");
    return work->second.take(from, message);
  }

  // As SnapshotWork::stored; nothing where the view of its snapshot is over.
  [[nodiscard]] std::vector<SnapshotAction> stored(const FragmentPart& part);

  // Parity that was whole is gone.
  void lose(const HeldFragment& parity);
  // The step's snapshot is complete in this view: gives up what is older, and what other layouts have of it.
  void complete(Step step);
  // All go back to the step's state: gives up what is newer; with `all`, everything. The view's snapshots are over.
  void revert(Step step, bool all);

 private:
  void end_works();

  const StateMap& map_;
  ViewNumber view_;
  WorkerId self_;
  std::shared_ptr<const SnapshotLayout> layout_;
  std::map<Step, SnapshotWork> works_;  // of view_
  std::vector<HeldFragment> earlier_;   // whole ones of other views
  std::vector<HeldFragment> lost_;      // of this one's
};

}  // namespace planaria

// How fast a worker computes, for the split of slots among workers.
//
// Wall time on purpose: a worker that shares its processor is slower for the cluster, whatever its own clock says. A
// scheduler takes the processor away for longer than a small micro-batch lasts, so single micro-batches mean little:
// the rate is the median over the last steps, and an outlier among them doesn't move slots.
//
// Thread contract: one owner.
#pragma once

#include "common/clock.hpp"
#include "worker/core/recent_median.hpp"

namespace planaria {

class ComputeRate {
 public:
  // `share`: of a whole micro-batch through all blocks, added when the last pass over it ends.
  void computed(Duration took, double share) {
    micro_batches_ += share;
    seconds_ += to_seconds(took);
  }

  // A step in which nothing was computed here says nothing.
  void step_ended() {
    if (micro_batches_ > 0 && seconds_ > 0) rate_.add(micro_batches_ / seconds_);
    micro_batches_ = 0;
    seconds_ = 0;
  }

  // Micro-batches a second; 0 until a step has ended.
  [[nodiscard]] double per_second() const { return rate_.value(); }

 private:
  RecentMedian rate_;
  double micro_batches_ = 0;  // of the step that runs
  double seconds_ = 0;
};

}  // namespace planaria

// How fast a worker computes, for the split of slots among workers.
//
// Wall time on purpose: a worker that shares its processor is slower for the cluster, whatever its own clock says. A
// scheduler takes the processor away for longer than a small micro-batch lasts, so single micro-batches and short steps
// mean little: the rate is the median over the last samples, each of a step or, where steps are short, of some in a
// row, and an outlier among them doesn't move slots. Where the system limits a process' time, one that waits for others
// much computes as if there were no limit: what it could do all the time counts.
//
// Thread contract: one owner.
#pragma once

#include <algorithm>
#include <optional>

#include "common/clock.hpp"
#include "worker/core/recent_median.hpp"

namespace planaria {

class ComputeRate {
 public:
  // `share`: of a whole micro-batch through all blocks, added when the last pass over it ends.
  void computed(Duration took, Duration at_quota, double share) {
    micro_batches_ += share;
    seconds_ += to_seconds(took);
    at_quota_seconds_ += to_seconds(at_quota);
  }

  // Where a sample ends with the step: how much longer than it took its work would take if it were done all the time,
  // at least 1. A step in which nothing was computed here says nothing.
  std::optional<double> step_ended() {
    const double lasting = std::max(seconds_, at_quota_seconds_);
    if (micro_batches_ <= 0 || lasting <= 0) return std::nullopt;
    if (rate_.known() && lasting < kLeastSeconds) return std::nullopt;
    const double stretch = seconds_ > 0 ? lasting / seconds_ : 1;
    rate_.add(micro_batches_ / lasting);
    micro_batches_ = 0;
    seconds_ = 0;
    at_quota_seconds_ = 0;
    return stretch;
  }

  // Micro-batches a second; 0 until a step has ended.
  [[nodiscard]] double per_second() const { return rate_.value(); }

 private:
  // Many times what a scheduler gives and takes at once.
  static constexpr double kLeastSeconds = 0.2;

  RecentMedian rate_;
  double micro_batches_ = 0;  // of the sample, so far
  double seconds_ = 0;
  double at_quota_seconds_ = 0;
};

}  // namespace planaria

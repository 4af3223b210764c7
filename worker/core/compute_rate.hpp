// How fast a worker computes, for the split of slots among workers.
//
// Wall time on purpose: a worker that shares its processor is slower for the cluster, whatever its own clock says. A
// scheduler takes the processor away for longer than a small micro-batch lasts, so single micro-batches mean little:
// the rate is the median over the last steps, and an outlier among them doesn't move slots.
//
// Thread contract: one owner.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "common/clock.hpp"

namespace planaria {

class ComputeRate {
 public:
  static constexpr std::size_t kSteps = 9;

  // `share`: of a whole micro-batch through all blocks, added when the last pass over it ends.
  void computed(Duration took, double share) {
    micro_batches_ += share;
    seconds_ += to_seconds(took);
  }

  // A step in which nothing was computed here says nothing.
  void step_ended() {
    if (micro_batches_ > 0 && seconds_ > 0) {
      rates_[ended_ % kSteps] = micro_batches_ / seconds_;
      ++ended_;
    }
    micro_batches_ = 0;
    seconds_ = 0;
  }

  // Micro-batches a second; 0 until a step has ended.
  [[nodiscard]] double per_second() const {
    const std::size_t count = std::min(ended_, kSteps);
    if (count == 0) return 0;
    auto sorted = rates_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(count / 2);
    std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<std::ptrdiff_t>(count));
    return *middle;
  }

 private:
  std::array<double, kSteps> rates_{};
  std::size_t ended_ = 0;
  double micro_batches_ = 0;  // of the step that runs
  double seconds_ = 0;
};

}  // namespace planaria

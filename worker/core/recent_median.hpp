// The median of the last steps' figures: one that stands out doesn't move it, and a lasting change does.
//
// Thread contract: one owner.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "common/median.hpp"

namespace planaria {

class RecentMedian {
 public:
  static constexpr std::size_t kSteps = 9;

  void add(double value) { values_[added_++ % kSteps] = value; }

  // 0 when there is none.
  [[nodiscard]] double value() const {
    const std::size_t count = std::min(added_, kSteps);
    if (count == 0) return 0;
    auto values = values_;
    return median(std::span(values).first(count));
  }

 private:
  std::array<double, kSteps> values_{};
  std::size_t added_ = 0;
};

}  // namespace planaria

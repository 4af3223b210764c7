// The median of the last steps' figures: one that stands out doesn't move it, and a lasting change does.
//
// Thread contract: one owner.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace planaria {

class RecentMedian {
 public:
  static constexpr std::size_t kSteps = 9;

  void add(double value) { values_[added_++ % kSteps] = value; }

  // Of an even number the upper one; 0 when there is none.
  [[nodiscard]] double value() const {
    const std::size_t count = std::min(added_, kSteps);
    if (count == 0) return 0;
    auto sorted = values_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(count / 2);
    std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<std::ptrdiff_t>(count));
    return *middle;
  }

 private:
  std::array<double, kSteps> values_{};
  std::size_t added_ = 0;
};

}  // namespace planaria

// The median of the last figures: one that stands out doesn't move it, and a lasting change does.
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
  static constexpr std::size_t kFigures = 9;

  void add(double value) { values_[added_++ % kFigures] = value; }
  [[nodiscard]] bool known() const { return added_ > 0; }

  // 0 when there is none.
  [[nodiscard]] double value() const {
    const std::size_t count = std::min(added_, kFigures);
    if (count == 0) return 0;
    auto values = values_;
    return median(std::span(values).first(count));
  }

 private:
  std::array<double, kFigures> values_{};
  std::size_t added_ = 0;
};

}  // namespace planaria

// The median of some values; of an even number the mean of the middle two.
//
// Thread contract: pure function.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>

namespace planaria {

// Changes the values' order. Precondition: there are some.
[[nodiscard]] inline double median(std::span<double> values) {
  assert(!values.empty());
  const auto upper = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, upper);
  if (values.size() % 2 == 1) return *upper;
  return (*upper + *std::max_element(values.begin(), upper)) / 2;
}

}  // namespace planaria

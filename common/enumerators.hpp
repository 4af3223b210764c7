// All values of an enum whose last enumerator is `count_`, in order.
#pragma once

#include <array>
#include <cstddef>

namespace planaria {

template <class E>
[[nodiscard]] constexpr auto enumerators() {
  std::array<E, static_cast<std::size_t>(E::count_)> values{};
  for (std::size_t k = 0; k < values.size(); ++k) values[k] = static_cast<E>(k);
  return values;
}

}  // namespace planaria

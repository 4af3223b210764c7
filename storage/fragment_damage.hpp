// How chaos spoils what a keeper holds in memory, as broken memory or a wrong write would: nobody is told.
//
// Thread contract: plain values.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace planaria {

enum class FragmentDamage : std::uint8_t {
  flip,      // one bit
  truncate,  // the second half is gone: zeros
  swap,      // bytes of two fragments, or of the halves of one, are exchanged
  old,       // bytes of an older snapshot
  count_
};

inline constexpr std::array<std::string_view, 4> kFragmentDamageNames = {"flip", "truncate", "swap", "old"};
static_assert(kFragmentDamageNames.size() == static_cast<std::size_t>(FragmentDamage::count_));

[[nodiscard]] constexpr const char* to_string(FragmentDamage damage) {
  return damage < FragmentDamage::count_ ? kFragmentDamageNames[static_cast<std::size_t>(damage)].data() : "unknown";
}

}  // namespace planaria

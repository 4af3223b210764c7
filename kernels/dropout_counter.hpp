// How a dropout decision maps onto Philox, shared by every device: the key holds seed, purpose and step; the counter's
// high half is the sample, its low half is which (8 bits), layer (16 bits) and the element's index / 4 (40 bits).
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>

#include "common/philox.hpp"
#include "kernels/ops.hpp"

namespace planaria {

[[nodiscard]] constexpr std::uint64_t dropout_stream(const DropoutKey& key) {
  const PhiloxWords words = philox(philox_key(key.seed, RandomPurpose::dropout), key.step, 0);
  return (std::uint64_t{words[1]} << 32) | words[0];
}

[[nodiscard]] constexpr std::uint64_t dropout_counter(const DropoutKey& key) {
  return (std::uint64_t{key.which & 0xffU} << 56) | (std::uint64_t{key.layer & 0xffffU} << 40);
}

// An element survives where the upper 24 bits of its word are at least this; exact for the float given.
[[nodiscard]] constexpr std::uint32_t dropout_threshold(float probability) {
  const float scaled = probability * 0x1.0p24F;
  const auto whole = static_cast<std::uint32_t>(scaled);
  return static_cast<float>(whole) < scaled ? whole + 1 : whole;
}

}  // namespace planaria

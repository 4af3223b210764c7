#include "worker/data/sampling.hpp"

#include <bit>
#include <cassert>

#include "common/philox.hpp"

namespace planaria {

WindowOrder::WindowOrder(std::uint64_t seed, std::uint64_t windows)
    : key_(philox_key(seed, RandomPurpose::data_order)), windows_(windows) {
  assert(windows >= 1 && windows <= (1ULL << 62));
  const auto bits = static_cast<std::uint32_t>(std::bit_width(windows - 1));
  half_bits_ = bits <= 2 ? 1 : (bits + 1) / 2;
}

std::uint64_t WindowOrder::permute(std::uint64_t epoch, std::uint64_t position) const {
  const std::uint64_t mask = (1ULL << half_bits_) - 1;
  std::uint64_t value = position;
  do {
    std::uint64_t left = value >> half_bits_;
    std::uint64_t right = value & mask;
    for (std::uint64_t round = 0; round < kFeistelRounds; ++round) {
      const std::uint64_t mixed = left ^ (philox(key_, epoch, (round << 32) | right)[0] & mask);
      left = right;
      right = mixed;
    }
    value = (left << half_bits_) | right;
  } while (value >= windows_);
  return value;
}

}  // namespace planaria

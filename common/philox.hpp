// Philox4x32-10, a counter-based random generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC'11). The same (key, counter) gives the same four words on any machine, in any order of calls: randomness is a
// pure function of what it is for, never of who draws it or when.
//
// Thread contract: pure functions.
#pragma once

#include <array>
#include <cstdint>

namespace planaria {

using PhiloxWords = std::array<std::uint32_t, 4>;

// What randomness is drawn for; part of the key, so that no two purposes ever share a stream.
enum class RandomPurpose : std::uint32_t {
  parameter_init = 1,
  data_order = 2,
  dropout = 3,
  sampling = 4,
  simulation = 5,
  chaos = 6,
  tests = 7,
};

[[nodiscard]] constexpr PhiloxWords philox(std::uint64_t key, std::uint64_t counter_hi, std::uint64_t counter_lo) {
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  PhiloxWords c{static_cast<std::uint32_t>(counter_lo), static_cast<std::uint32_t>(counter_lo >> 32),
                static_cast<std::uint32_t>(counter_hi), static_cast<std::uint32_t>(counter_hi >> 32)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(product1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(product1),
         static_cast<std::uint32_t>(product0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(product0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// The key of one purpose under one seed.
[[nodiscard]] constexpr std::uint64_t philox_key(std::uint64_t seed, RandomPurpose purpose) {
  const PhiloxWords words = philox(seed, 0x706c616e61726961ULL, static_cast<std::uint64_t>(purpose));
  return (std::uint64_t{words[1]} << 32) | words[0];
}

// 24 random bits as a float in [0, 1), exact.
[[nodiscard]] constexpr float unit_float(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1.0p-24F; }

// A sequential stream over one key, for places where order is part of the definition (simulator, scenarios).
class PhiloxStream {
 public:
  explicit constexpr PhiloxStream(std::uint64_t key, std::uint64_t stream = 0) : key_(key), stream_(stream) {}

  constexpr std::uint32_t next_u32() {
    if (used_ == 4) {
      words_ = philox(key_, stream_, counter_++);
      used_ = 0;
    }
    return words_[used_++];
  }
  constexpr std::uint64_t next_u64() {
    const std::uint64_t low = next_u32();
    return (std::uint64_t{next_u32()} << 32) | low;
  }
  // Uniform in [0, bound) without modulo bias worth speaking of (multiply-shift on 64 bits). Precondition: bound > 0.
  constexpr std::uint64_t below(std::uint64_t bound) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(next_u64()) * bound) >> 64);
  }
  constexpr double unit_double() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }
  constexpr bool chance(double probability) { return unit_double() < probability; }

 private:
  std::uint64_t key_;
  std::uint64_t stream_;
  std::uint64_t counter_ = 0;
  PhiloxWords words_{};
  std::uint32_t used_ = 4;
};

}  // namespace planaria

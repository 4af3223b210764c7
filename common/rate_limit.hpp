// A bound on bytes a second, as a pure function of time: it tells when more may be moved, and never waits itself.
//
// Thread contract: one thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/clock.hpp"

namespace planaria {

class RateLimit {
 public:
  // 0 = no bound.
  explicit RateLimit(std::uint64_t bytes_per_s) : bytes_per_s_(static_cast<double>(bytes_per_s)) {}

  // Counts bytes that begin to move at `now`; more may be moved from the returned instant on, `now` or later. Time that
  // passed unused is given back up to kSlack, so that a sleeper that wakes late doesn't fall behind.
  [[nodiscard]] Instant spend(std::uint64_t bytes, Instant now) {
    if (bytes_per_s_ == 0) return now;
    const double ns = std::min(static_cast<double>(bytes) / bytes_per_s_ * 1e9, kLongestNs);
    free_at_ = std::max(free_at_, now - kSlack) + Duration(static_cast<std::int64_t>(ns));
    return std::max(free_at_, now);
  }

 private:
  static constexpr Duration kSlack = std::chrono::milliseconds(100);
  static constexpr double kLongestNs = 1e15;  // of one call: eleven days; sums don't overflow

  double bytes_per_s_;
  Instant free_at_{};
};

}  // namespace planaria

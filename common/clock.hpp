// Time as a parameter.
//
// Cores take `now` as an argument; shells read it from a Clock. Instants count nanoseconds of a monotonic clock that
// all processes of one host share, so that intervals between them are meaningful on that host only.
//
// Thread contract: Clock::now may be called from any thread.
#pragma once

#include <time.h>

#include <atomic>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace planaria {

using Duration = std::chrono::nanoseconds;

struct Instant {
  std::int64_t ns = 0;

  constexpr auto operator<=>(const Instant&) const = default;
  friend constexpr Instant operator+(Instant at, Duration d) { return {at.ns + d.count()}; }
  friend constexpr Instant operator-(Instant at, Duration d) { return {at.ns - d.count()}; }
  friend constexpr Duration operator-(Instant a, Instant b) { return Duration(a.ns - b.ns); }
};

inline constexpr Instant kFarFuture{INT64_MAX / 2};

[[nodiscard]] constexpr double to_ms(Duration d) {
  return static_cast<double>(d.count()) / 1e6;
}
[[nodiscard]] constexpr double to_seconds(Duration d) {
  return static_cast<double>(d.count()) / 1e9;
}

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual Instant now() const = 0;
};

// CLOCK_MONOTONIC.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] Instant now() const override {
    return {std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()).count()};
  }
};

// What this process has computed, as a wall clock would show it were the machine all its own: the processors' time over
// the threads that share the work.
class ProcessorClock final : public Clock {
 public:
  explicit ProcessorClock(std::size_t threads) : threads_(threads == 0 ? 1 : static_cast<std::int64_t>(threads)) {}
  [[nodiscard]] Instant now() const override {
    timespec spent{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return {(std::int64_t{spent.tv_sec} * 1'000'000'000 + spent.tv_nsec) / threads_};
  }

 private:
  std::int64_t threads_;
};

// A clock that moves only when told to; for tests and the simulator.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] Instant now() const override { return {ns_.load()}; }
  void advance(Duration d) { ns_.fetch_add(d.count()); }
  void set(Instant at) { ns_.store(at.ns); }

 private:
  std::atomic<std::int64_t> ns_{0};
};

}  // namespace planaria

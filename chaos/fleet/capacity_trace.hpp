// Which workers are there when: the life of a fleet of spot machines, drawn from a seed or read from a file.
//
// A trace says nothing of what is trained, nor of how: all policies live through the same one.
//
// File: CSV, a header line, then one event a line, by time:
//   seconds,event,worker,zone
//   0.000,join,0,2
//   41.250,preempt,0,2
// A worker joins once and is preempted at most once; who comes after it has a number of its own.
//
// Thread contract: plain values, pure functions (load_trace and save_trace touch files).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.hpp"
#include "common/result.hpp"

namespace planaria::fleet {

// Seconds of what doesn't happen.
inline constexpr double kNever = 1e300;

inline constexpr std::uint32_t kMaxTraceWorkers = 900'000;
inline constexpr std::uint32_t kMaxZones = 1'000;
inline constexpr std::size_t kMaxTraceBytes = std::size_t{256} << 20;

struct CapacityEvent {
  Duration at{};
  bool joins = true;  // else it is preempted: it dies without a word
  std::uint32_t worker = 0;
  std::uint32_t zone = 0;

  bool operator==(const CapacityEvent&) const = default;
};

enum class TraceKind : std::uint8_t {
  poisson,  // preemptions independent of each other
  bursty,   // as many, but most of them in short storms (a Markov-modulated Poisson process of two states)
  outages,  // poisson, and now and then a whole zone is gone at once, for a while
  count_
};
[[nodiscard]] const char* to_string(TraceKind kind);

struct TraceOptions {
  std::uint64_t seed = 1;
  TraceKind kind = TraceKind::poisson;
  std::uint32_t workers = 1000;  // that are there at the start, and that the cloud tries to keep there
  std::uint32_t zones = 4;
  Duration length = std::chrono::hours(1);
  double preemptions_per_s = 0.1;                       // of the whole fleet, on average
  Duration replaced_after = std::chrono::seconds(60);   // on average, exponential
  double storm_factor = 20;                             // bursty: the rate of a storm over the average
  Duration storm_lasts = std::chrono::seconds(20);      // on average
  Duration between_outages = std::chrono::minutes(20);  // on average
  Duration outage_lasts = std::chrono::minutes(5);
};

struct CapacityTrace {
  std::vector<CapacityEvent> events;  // by time
  Duration length{};
  std::uint32_t zones = 1;

  // One more than the highest number of a worker.
  [[nodiscard]] std::uint32_t workers() const;
  // Worker-seconds that were there.
  [[nodiscard]] double capacity() const;
  [[nodiscard]] std::uint64_t preemptions() const;
};

// Precondition: workers, zones and the rate are above 0; storm_factor above 1.
[[nodiscard]] CapacityTrace draw_trace(const TraceOptions& options);

[[nodiscard]] Result<CapacityTrace> parse_trace(std::string_view csv, const std::string& source);
[[nodiscard]] Result<CapacityTrace> load_trace(const std::string& path);
[[nodiscard]] std::string trace_to_csv(const CapacityTrace& trace);

}  // namespace planaria::fleet

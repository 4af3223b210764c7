// Scenario files: which faults strike a run, when and whom.
//
//   [[fault]]
//   kind = "kill"          # kill stop continue drain join slow partition heal link corrupt nan disk_full
//                          # kill_coordinator kill_host kill_keeper damage_fragment
//   at_step = 12           # from 1; or at_s = 3.5, seconds since the start
//   phase = "backward"     # fetch forward backward reduce gate update commit; with at_step, default forward
//                          # fetch: when it first moves state for this step or a later one, or who joins without
//                          # moving any first commits
//   worker = 1             # order of start, never reused
//   host = 0               # of kill_host, kill_keeper and damage_fragment
//   how = "flip"           # damage_fragment: flip truncate swap old
//   observer = 2           # with at_step: that worker's step and phase are meant, not the victim's own
//   for_s = 4.0            # stop, slow, partition, link, disk_full, kill_coordinator: then it ends by itself
//   cpu_fraction = 0.5     # slow
//   from = "0"             # partition, link: worker or "coordinator" (partition only)
//   to = "2"               # link goes one way, from → to; partition both
//   delay_ms = 20          # link; with loss (0 … 1) and rate_mbit (0 = unlimited)
//
// A fault fires once. Parsing is bounded and names every problem with its place.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.hpp"
#include "proto/control.hpp"
#include "storage/fragment_damage.hpp"

namespace planaria {

enum class FaultKind : std::uint8_t {
  kill,
  stop,
  cont,
  drain,
  join,
  slow,
  partition,
  heal,
  link,
  corrupt,
  nan,
  disk_full,
  kill_coordinator,
  kill_host,        // its keeper and its workers
  kill_keeper,      // a host's
  damage_fragment,  // parity in the memory of a host's keeper
  count_
};
// As in the file: cont is "continue".
[[nodiscard]] const char* to_string(FaultKind kind);

inline constexpr std::uint32_t kCoordinatorEnd = UINT32_MAX;  // as one end of a partition

struct Fault {
  FaultKind kind = FaultKind::kill;
  std::optional<std::uint64_t> at_step;
  Phase phase = Phase::forward;
  std::optional<double> at_s;
  std::optional<std::uint32_t> worker;
  std::optional<std::uint32_t> observer;
  std::optional<std::uint32_t> host;  // of LocalRunOptions::hosts
  FragmentDamage how = FragmentDamage::flip;
  double for_s = 0;
  double cpu_fraction = 1;
  std::optional<std::uint32_t> from;
  std::optional<std::uint32_t> to;
  double delay_ms = 0;
  double loss = 0;
  double rate_mbit = 0;
};

inline constexpr std::size_t kMaxFaults = 10'000;

struct Scenario {
  std::vector<Fault> faults;
};

[[nodiscard]] Result<Scenario> load_scenario(const std::string& path);
[[nodiscard]] Result<Scenario> parse_scenario(std::string_view text, std::string source);
// What is told before the run of faults that can't strike it: of workers that nobody starts, at steps after the last.
[[nodiscard]] std::vector<std::string> never_strike(const Scenario& scenario, std::uint32_t workers,
                                                    std::uint32_t hosts, std::uint64_t steps);
// What parse_scenario reads back as the same scenario.
[[nodiscard]] std::string scenario_to_toml(const Scenario& scenario);

}  // namespace planaria

// Draws scenarios for campaigns on real processes: each seed gives faults of many kinds that a job must survive.
//
// Unlike the simulator's, these runs are not deterministic: the seed fixes what strikes when, not how the machine
// schedules the processes.
//
// Thread contract: pure function.
#pragma once

#include <cstdint>

#include "chaos/faults/scenario.hpp"

namespace planaria {

struct RandomScenarioOptions {
  std::uint64_t seed = 1;
  std::uint64_t steps = 40;   // of the job; at least 20
  std::uint32_t workers = 4;  // started first; at least 2
  double stop_s = 2.0;        // how long a stopped worker stays so: longer than the lease
  std::uint32_t hosts = 0;    // with a keeper each, of which workers belong to one after the other; 0: none
};

// Kills in different phases, two of them at once and one while state moves; a stop long enough to be declared lost,
// with the thaw; a drain, joins, a worker that becomes slow, a kill of the coordinator. With hosts also a kill of a
// keeper, damage to the parity at one, and at last the loss of a host. At any time a worker lives.
[[nodiscard]] Scenario draw_scenario(const RandomScenarioOptions& options);

}  // namespace planaria

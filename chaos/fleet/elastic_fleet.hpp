// A fleet under the real coordinator: its state machine, its planner and its recoveries, with workers that register,
// send heartbeats, report and commit as real ones do, while tensors are seconds of a schedule (step_schedule.hpp).
//
// Time is virtual and charges what a real coordinator would need: the bytes of its messages on its link, its work per
// message and per decision, its log's sync.
//
// Thread contract: one thread.
#pragma once

#include <functional>

#include "chaos/fleet/capacity_trace.hpp"
#include "chaos/fleet/fleet_model.hpp"
#include "chaos/fleet/fleet_result.hpp"

namespace planaria::fleet {

// Called now and then with the part of the trace that is over.
using Progress = std::function<void(Duration reached, std::uint64_t steps)>;

// The same model and trace give the same result.
[[nodiscard]] FleetResult run_elastic(const FleetModel& model, const CapacityTrace& trace, const Progress& progress);

}  // namespace planaria::fleet

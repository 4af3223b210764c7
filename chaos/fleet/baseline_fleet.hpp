// What other ways to live with preemptions make of the same fleet and trace: simple models, kind to them.
//
// All train in the planner's best layout for the whole fleet, as complete replicas (pipelines) of one depth, in steps
// of the same length. Whatever a real one loses besides (slow storage, failed rendezvous, cold caches) isn't charged.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>

#include "chaos/fleet/capacity_trace.hpp"
#include "chaos/fleet/fleet_model.hpp"
#include "chaos/fleet/fleet_result.hpp"

namespace planaria::fleet {

enum class Policy : std::uint8_t {
  planaria,      // run_elastic
  restart,       // each death ends all processes; they start again from the newest checkpoint (torchrun)
  drop_replica,  // each death ends its replica and the step; the others go on, fewer samples a step (torchft)
  spare,         // a death ends the step; one of the spares, 5 % of the fleet, fetches state and takes the place
  count_
};
[[nodiscard]] const char* to_string(Policy policy);

struct BaselineCosts {
  Duration restart = std::chrono::seconds(20);     // processes start, meet and build their communicators
  Duration reconfigure = std::chrono::seconds(1);  // the survivors' communicators
  Duration checkpoint = std::chrono::seconds(1);   // that training stands still for one
  double spares = 0.05;
};

// Precondition: policy isn't `planaria`.
[[nodiscard]] FleetResult run_baseline(Policy policy, const FleetModel& model, const CapacityTrace& trace,
                                       const BaselineCosts& costs = {});

}  // namespace planaria::fleet

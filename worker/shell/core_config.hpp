// What WorkerCore needs to know of a job and of this worker.
//
// Thread contract: pure functions.
#pragma once

#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "worker/core/worker_core.hpp"

namespace planaria {

// The registration's address stays empty: it is known once the coordinator has named the worker. `evaluates`: the data
// have a validation part.
[[nodiscard]] WorkerCoreConfig core_config(const JobSpec& job, const StateMap& map, bool evaluates,
                                           Register registration);

}  // namespace planaria

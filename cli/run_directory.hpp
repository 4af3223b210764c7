// What a run left in its directory, for commands that use the result: the job and its checkpoints.
//
// Thread contract: functions without state; any thread may call.
#pragma once

#include <optional>
#include <string>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "storage/checkpoint.hpp"

namespace planaria {

struct RunModel {
  JobSpec job;
  StateMap map;
  TrainState state;
  std::vector<Refusal> refused;  // newer checkpoints that were passed over, with the reasons
};

// The job of a run's directory. not_found: it is none.
[[nodiscard]] Result<JobSpec> open_run_job(const std::string& directory);

// `step` picks a checkpoint; absent: the newest that is sound.
[[nodiscard]] Result<RunModel> open_run(const std::string& directory, std::optional<Step> step = std::nullopt);

// Tells of refused checkpoints on standard error.
void tell_refused(const std::vector<Refusal>& refused);

}  // namespace planaria

// One job run on this machine under a scenario, and its summary: what `planaria run` prints and `planaria chaos`
// checks.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "chaos/faults/scenario.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

struct LocalJobOptions {
  std::string job_file;
  std::vector<std::string> assignments;
  std::string output;  // made when missing; must not hold another run, unless it is resumed
  std::string resume;  // a run's directory or a directory of checkpoints; empty = from the start
  Scenario scenario;
  bool show = true;  // the live view, on standard error
};

// The keys of "Interfaces": job_hash, numeric_class, final_step, final_loss, final_val_loss, weights_hash,
// tokens_per_s, steps_committed, sequences_used, microbatches_computed, microbatches_recomputed, wall_s,
// workers_at_end, result_saved, views, faults_requested, faults_fired, recoveries; and `ledger`, what the workers' ledgers prove:
// {missing: micro-batches that no ledger holds, repeated: entries beyond one a micro-batch}.
[[nodiscard]] Result<nlohmann::json> run_local_job(const JobSpec& job, const LocalJobOptions& options);

// The path of this executable.
[[nodiscard]] Result<std::string> own_executable();

}  // namespace planaria

// One job run on this machine under a scenario, and its summary: what `planaria run` prints and `planaria chaos`
// checks.
//
// Thread contract: one thread; run_local_job returns when all processes have ended.
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
  std::string output;       // made when missing; must not hold another run, unless it is resumed
  std::string resume;       // a run's directory; empty = from the start
  std::uint32_t hosts = 0;  // LocalRunOptions::hosts
  Scenario scenario;
  bool show = true;  // the live view, on standard error
};

// The summary of a job that has an end, also a bad one; its keys: docs/OPERATING.md, "Run summary". A run that had
// ended before, and is resumed in its own directory, is summed up without starting anything.
[[nodiscard]] Result<nlohmann::json> run_local_job(const JobSpec& job, const LocalJobOptions& options);

// The number of the next fault for a coordinator with this status: those of earlier runs stand in its log.
[[nodiscard]] std::uint64_t next_fault_number(const nlohmann::json& status);

}  // namespace planaria

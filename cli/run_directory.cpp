#include "cli/run_directory.hpp"

#include <fmt/format.h>

#include "proto/job_config.hpp"

namespace planaria {

Result<JobSpec> open_run_job(const std::string& directory) {
  const std::string job_file = directory + "/job.toml";
  FileSystem& files = posix_file_system();
  if (const auto info = files.info(job_file); !info) {
    if (info.error().code() != ErrorCode::not_found) return info.error();
    return Error(ErrorCode::not_found,
                 directory + (files.info(directory) ? " is no run's directory: it has no job.toml"
                                                    : " isn't there: give the directory of a run"));
  }
  return load_job(job_file);
}

Result<RunModel> open_run(const std::string& directory, std::optional<Step> step) {
  FileSystem& files = posix_file_system();
  PLANARIA_ASSIGN(JobSpec job, open_run_job(directory));
  StateMap map(job.model, job.train.tile_elements);
  const std::string root = directory + "/checkpoints";
  if (step) {
    PLANARIA_ASSIGN(const auto places, list_checkpoints(files, root));
    for (const CheckpointPlace& place : places) {
      if (place.step != *step) continue;
      PLANARIA_ASSIGN(LoadedCheckpoint loaded, load_checkpoint(files, place.path, map, job_hash(job), std::nullopt));
      return RunModel{std::move(job), std::move(map), std::move(loaded.state), {}};
    }
    return Error(ErrorCode::not_found, fmt::format("{} has no checkpoint of step {}", root, step->value()));
  }
  PLANARIA_ASSIGN(NewestCheckpoint newest, load_newest_valid(files, root, map, job_hash(job), std::nullopt));
  if (!newest.loaded) return Error(ErrorCode::not_found, root + " has no checkpoint yet");
  return RunModel{std::move(job), std::move(map), std::move(newest.loaded->state), std::move(newest.refused)};
}

void tell_refused(const std::vector<Refusal>& refused) {
  for (const Refusal& refusal : refused) {
    fmt::print(stderr, "planaria: {} is damaged and was passed over: {}\n", refusal.path, refusal.reason.message());
  }
}

}  // namespace planaria

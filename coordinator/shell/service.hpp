// The coordinator as a whole: the core, its log, the control port, telemetry and HTTP, run by one loop.
//
// Everything the job needs over a restart is in DIRECTORY/coordinator: decisions, keys and the ports of the last start,
// which are taken again, so that workers find the coordinator where they knew it. DIRECTORY/coordinator.json tells
// tools the ports and the process.
//
// Thread contract: any thread may call; start and destruction belong to the owner.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/result.hpp"
#include "coordinator/http/status.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

struct CoordinatorOptions {
  JobSpec job;            // data.content_hash is filled; cluster and security say where and how to listen
  std::string directory;  // the job's output directory
};

struct CoordinatorPorts {
  std::string address;
  std::uint16_t control = 0;
  std::uint16_t http = 0;
  std::uint16_t telemetry = 0;          // workers push
  std::uint16_t telemetry_publish = 0;  // subscribers; one above telemetry when that is configured
};

struct CoordinatorOutcome {
  bool finished = false;  // the job has an end; else stop() was called and it goes on without this coordinator
  bool success = false;
  bool stopped = false;  // finished without success because an operator wished so
  std::string reason;
  std::shared_ptr<const StatusSnapshot> status;  // the last one
};

class CoordinatorService {
 public:
  // Errors: `invalid_argument` (addresses, keys, an unsafe combination of them), `unavailable` (a port or the directory
  // is in use), `mismatch` (the directory belongs to another job), `corrupt` or `io` (its log).
  [[nodiscard]] static Result<std::unique_ptr<CoordinatorService>> start(CoordinatorOptions options);
  // stop(), then everything is closed.
  ~CoordinatorService();
  CoordinatorService(const CoordinatorService&) = delete;
  CoordinatorService& operator=(const CoordinatorService&) = delete;

  [[nodiscard]] CoordinatorPorts ports() const;
  [[nodiscard]] std::shared_ptr<const StatusSnapshot> snapshot() const;

  // Blocks until the job has ended and everybody was told, or stop() was called.
  [[nodiscard]] CoordinatorOutcome wait();
  // Ends the coordinator, not the job: workers train on and register with its next start. Doesn't block.
  void stop();

  // Operators' wishes. `not_found` when there is no such worker; `unavailable` when the job is over.
  [[nodiscard]] Status drain(WorkerId worker, const std::string& reason);
  [[nodiscard]] Status stop_job(const std::string& reason);

 private:
  struct Impl;
  explicit CoordinatorService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

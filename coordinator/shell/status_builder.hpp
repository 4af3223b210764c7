// Makes StatusSnapshots: what the core knows, and what passes by it (losses, checkpoints, ledgers, telemetry).
//
// Thread contract: one thread, the service's loop; the snapshots it makes are immutable.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.hpp"
#include "coordinator/core/coordinator_core.hpp"
#include "coordinator/http/status.hpp"
#include "coordinator/log/event_log.hpp"
#include "coordinator/telemetry/telemetry_hub.hpp"

namespace planaria {

// What the reason of a job begins with that an operator ended. The log keeps the reason, so every start knows.
inline constexpr std::string_view kStoppedByOperator = "stopped by an operator";
// The status of such a job in snapshots; the core knows it as failed.
inline constexpr std::string_view kStatusStopped = "stopped";

class StatusBuilder {
 public:
  static constexpr std::size_t kMaxHistory = 2000;  // points of the loss curve; older ones are thinned
  static constexpr std::size_t kMaxEvents = 200;
  static constexpr std::size_t kMaxRows = 1000;  // of faults and checkpoints

  StatusBuilder(const JobSpec& job, const Hash128& job_hash, std::uint64_t parameters, Instant now);

  // The log of earlier starts, in order.
  void replay(const std::vector<LogEntry>& entries);

  // A message that the core has taken; and whatever followed from it.
  void observe(const WorkerEnvelope& envelope, const CoordinatorCore& core);
  void observe_commits(const CoordinatorCore& core, Instant now);
  void observe_record(const LogRecord& record);
  void announce(std::string text, std::int64_t unix_ms);
  void set_log_error(std::string error) { log_error_ = std::move(error); }

  // `telemetry` may be null.
  [[nodiscard]] std::shared_ptr<const StatusSnapshot> build(const CoordinatorCore& core, const TelemetryHub* telemetry,
                                                            std::uint64_t refused_messages, Instant now);

 private:
  struct Commit {
    Instant at;
    std::uint64_t steps = 0;
  };

  LossPoint& point(Step step);
  void thin_history();
  void add_progress(StatusSnapshot& snapshot, const CoordinatorCore& core, Instant now) const;
  void add_workers(StatusSnapshot& snapshot, const CoordinatorCore& core, const TelemetryHub* telemetry,
                   Instant now) const;

  const JobSpec job_;
  const Hash128 job_hash_;
  const std::uint64_t parameters_;
  const Instant started_at_;

  std::uint64_t serial_ = 0;
  std::string log_error_;
  std::vector<LossPoint> history_;
  std::size_t history_stride_ = 1;
  std::deque<Commit> commits_;  // of the last half minute
  std::map<std::pair<WorkerId, Incarnation>, std::uint64_t> computed_;
  std::uint64_t computed_total_ = 0;
  std::optional<double> validation_loss_;
  std::optional<log_record::Finished> finished_;
  std::deque<EventRow> events_;
  std::deque<log_record::FaultFired> faults_;
  std::deque<CheckpointRow> checkpoints_;
};

// The row of a recovery. Instants that another host's clock made are left out.
[[nodiscard]] RecoveryRow recovery_row(const RecoveryRecord& record, Instant now);

}  // namespace planaria

// What the coordinator shows of a job: one immutable value, made by the service's loop, and its JSON.
//
// `planaria status`, GET /v1/status, the stream, the status page and OUT/result.json all show this one value; what
// `planaria run --json` prints is a summary made of it.
// JSON fields and units: docs/OPERATING.md, "status". Unknown numbers are null, never 0.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.hpp"
#include "common/hash.hpp"
#include "common/ids.hpp"
#include "coordinator/core/snapshot_status.hpp"
#include "coordinator/log/event_log.hpp"
#include "proto/layout.hpp"

namespace planaria {

// What a worker did for snapshots since its start, and what it had out of its host's memory.
struct StateCopyingRow {
  std::uint64_t copies = 0;
  std::uint64_t copied_bytes = 0;
  std::uint64_t failed = 0;
  std::uint64_t attached_bytes = 0;
  double copying_s = 0;  // beside the training
  double trainer_s = 0;  // of the trainer thread itself
};

// What a keeper has in memory, and did with it since its start.
struct StateKeepingRow {
  std::uint64_t memory_bytes = 0;
  std::uint64_t memory_bound_bytes = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t damaged_tiles = 0;
  std::uint64_t damaged_parities = 0;
};

struct WorkerStatusRow {
  WorkerId worker;
  Incarnation incarnation;
  Role role = Role::worker;
  std::string status;  // joining, member, draining, left, lost
  std::string phase;
  std::string host;
  std::uint64_t process_id = 0;
  std::uint32_t threads = 0;
  bool member = false;  // of the current view
  bool connected = false;
  Step step;
  StageWork work;
  std::optional<Step> state;  // stamp of its newest complete state
  std::optional<double> micro_batches_per_second;
  std::optional<double> lease_left_ms;  // until it is declared lost, if it stays silent
  std::optional<double> heard_ms_ago;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  // By its telemetry.
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint64_t> stage_micro_batches;  // that went through its stages
  std::optional<double> computing_s;                 // micro-batches
  std::optional<double> waiting_s;                   // between micro-batches of a step and view: a pipeline's gaps
  std::optional<StateCopyingRow> copying;            // a worker's whose host has a keeper
  std::optional<StateKeepingRow> keeping;            // a keeper's
  std::uint64_t micro_batches_computed = 0;          // as reported with its commits to this coordinator
  std::uint32_t faults = 0;
};

// Intervals of one recovery; `total` runs from the first evidence to the last lost slot done, `commit` to the step's
// commit.
struct RecoveryPhases {
  std::optional<double> detect, decide, move, recompute, total, commit;
};

struct RecoveryRow {
  ViewNumber view;
  std::string cause;
  bool planned = false;
  std::vector<WorkerId> victims;
  Step at_step;
  std::uint32_t tier = 0;
  std::uint32_t lost_slots = 0;
  std::optional<double> lost_work, own_work;  // micro-batches through the whole model
  RecoveryPhases phase_ms;
  // The instants behind them, of the monotonic clock of the coordinator's host: for tools on the same host.
  std::optional<Instant> declared_at, committed_at, first_slot_started, last_slot_done, step_committed_at;
};

struct CheckpointRow {
  Step step;
  bool ok = true;
  std::string detail;
  WorkerId worker;
};

struct EventRow {
  std::int64_t unix_ms = 0;
  std::string text;
};

// One point of the loss curve.
struct LossPoint {
  Step step;
  double loss = 0;
  std::optional<double> validation_loss;
  std::optional<double> learning_rate;
  std::optional<double> gradient_norm;
};

struct StatusSnapshot {
  std::uint64_t serial = 0;  // counts snapshots of this start
  std::int64_t unix_ms = 0;

  std::string job_name;
  Hash128 job_hash;
  std::string numeric_class;  // empty until the first worker
  Generation generation;

  std::string status;  // starting, training, changing, waiting, finished, failed, stopped
  std::string reason;
  std::string log_error;  // why decisions can't be made durable now; empty = they can
  ViewNumber view;
  std::string view_reason;
  std::uint32_t slots = 0;
  std::uint64_t parameters = 0;

  Step step;  // last committed
  std::uint64_t total_steps = 0;
  std::optional<double> loss, validation_loss, learning_rate, gradient_norm;
  std::optional<double> tokens_per_second;
  std::optional<double> step_seconds;
  std::optional<double> eta_seconds;
  double wall_seconds = 0;  // since this coordinator's start

  // Exact counters, over restarts.
  std::uint64_t steps_committed = 0;
  std::uint64_t sequences_used = 0;
  std::uint64_t tokens_used = 0;
  std::uint64_t views = 0;
  // Since this coordinator's start.
  std::uint64_t micro_batches_computed = 0;
  std::uint64_t refused_messages = 0;
  std::uint64_t telemetry_samples = 0;
  std::uint64_t telemetry_dropped = 0;

  std::optional<Step> final_step;
  std::optional<Hash128> weights;
  std::optional<double> final_loss, final_validation_loss;

  std::optional<SnapshotStatus> snapshots;  // where there are keepers
  std::vector<WorkerStatusRow> workers;
  std::vector<RecoveryRow> recoveries;
  std::vector<log_record::FaultFired> faults;
  std::vector<CheckpointRow> checkpoints;
  std::vector<EventRow> events;    // the newest last
  std::vector<LossPoint> history;  // thinned, oldest first
};

enum class StatusDetail : std::uint8_t {
  brief,  // what changes often, with the newest few of each list: for the stream
  full,
};
[[nodiscard]] nlohmann::json status_json(const StatusSnapshot& snapshot, StatusDetail detail = StatusDetail::full);

[[nodiscard]] nlohmann::json snapshots_json(const std::optional<SnapshotStatus>& snapshots);
[[nodiscard]] nlohmann::json recovery_json(const RecoveryRow& recovery);
[[nodiscard]] nlohmann::json fault_json(const log_record::FaultFired& fault);

// A log record as shown to operators: {"sequence", "unix_ms", "kind", …its fields}.
[[nodiscard]] nlohmann::json event_json(const LogEntry& entry);

// Prometheus text exposition, version 0.0.4.
[[nodiscard]] std::string metrics_text(const StatusSnapshot& snapshot);

// Text of a JSON value for the wire: what isn't UTF-8 in names that peers gave is replaced.
[[nodiscard]] std::string to_text(const nlohmann::json& value);

}  // namespace planaria

#include "coordinator/http/status.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace planaria {

namespace {

using nlohmann::json;

constexpr std::size_t kBriefRows = 32;

template <class T>
json optional_json(const std::optional<T>& value) {
  if (!value) return nullptr;
  if constexpr (requires { value->value(); }) {
    return value->value();
  } else if constexpr (requires { value->hex(); }) {
    return value->hex();
  } else if constexpr (requires { value->ns; }) {
    return value->ns;
  } else {
    return *value;
  }
}

json worker_list(const std::vector<WorkerId>& workers) {
  json list = json::array();
  for (const auto worker : workers) list.push_back(worker.value());
  return list;
}

// [first, end)
template <class Range>
json range_json(Range range) {
  return {range.begin, range.end};
}

const char* role_name(Role role) {
  return role == Role::keeper ? "keeper" : "worker";
}

json copying_json(const std::optional<StateCopyingRow>& row) {
  if (!row) return nullptr;
  return {{"copies", row->copies},       {"copied_bytes", row->copied_bytes},
          {"failed", row->failed},       {"attached_bytes", row->attached_bytes},
          {"copying_s", row->copying_s}, {"trainer_s", row->trainer_s}};
}

json keeping_json(const std::optional<StateKeepingRow>& row) {
  if (!row) return nullptr;
  return {{"memory_bytes", row->memory_bytes},
          {"memory_bound_bytes", row->memory_bound_bytes},
          {"sent_bytes", row->sent_bytes},
          {"damaged_tiles", row->damaged_tiles},
          {"damaged_parities", row->damaged_parities}};
}

json worker_json(const WorkerStatusRow& row) {
  return {{"worker", row.worker.value()},
          {"incarnation", row.incarnation.value()},
          {"role", role_name(row.role)},
          {"status", row.status},
          {"phase", row.phase},
          {"host", row.host},
          {"process_id", row.process_id},
          {"threads", row.threads},
          {"member", row.member},
          {"connected", row.connected},
          {"step", row.step.value()},
          {"blocks", range_json(row.work.blocks)},
          {"slots", range_json(row.work.slots)},
          {"state", optional_json(row.state)},
          {"micro_batches_per_s", optional_json(row.micro_batches_per_second)},
          {"lease_left_ms", optional_json(row.lease_left_ms)},
          {"heard_ms_ago", optional_json(row.heard_ms_ago)},
          {"bytes_sent", row.bytes_sent},
          {"bytes_received", row.bytes_received},
          {"memory_bytes", optional_json(row.memory_bytes)},
          {"stage_microbatches", optional_json(row.stage_micro_batches)},
          {"computing_s", optional_json(row.computing_s)},
          {"waiting_s", optional_json(row.waiting_s)},
          {"copying", copying_json(row.copying)},
          {"keeping", keeping_json(row.keeping)},
          {"microbatches_computed", row.micro_batches_computed},
          {"faults", row.faults}};
}

json checkpoint_json(const CheckpointRow& row) {
  return {{"step", row.step.value()}, {"ok", row.ok}, {"detail", row.detail}, {"worker", row.worker.value()}};
}

json point_json(const LossPoint& point) {
  return {{"step", point.step.value()},
          {"loss", point.loss},
          {"val_loss", optional_json(point.validation_loss)},
          {"learning_rate", optional_json(point.learning_rate)},
          {"gradient_norm", optional_json(point.gradient_norm)}};
}

// The newest `limit` rows, or all of them.
template <class Row, class Make>
json rows_json(const std::vector<Row>& rows, std::size_t limit, Make make) {
  json list = json::array();
  for (std::size_t i = rows.size() - std::min(limit, rows.size()); i < rows.size(); ++i) list.push_back(make(rows[i]));
  return list;
}

struct RecordFields {
  json& out;

  void operator()(const log_record::GenerationStarted& r) const { out["generation"] = r.generation.value(); }
  void operator()(const log_record::JobRecorded& r) const {
    out["job_hash"] = r.job.hex();
    out["numeric_class"] = r.numeric_class;
    out["probe"] = r.probe.hex();
  }
  void operator()(const log_record::WorkerAccepted& r) const {
    out["worker"] = r.worker.value();
    out["incarnation"] = r.incarnation.value();
    out["host"] = r.host;
  }
  void operator()(const log_record::DrainAccepted& r) const {
    out["worker"] = r.worker.value();
    out["incarnation"] = r.incarnation.value();
    out["reason"] = r.reason;
  }
  void operator()(const log_record::WorkerReleased& r) const {
    out["worker"] = r.worker.value();
    out["incarnation"] = r.incarnation.value();
  }
  void operator()(const log_record::Prepared& r) const {
    out["view"] = r.view.value();
    out["excluded"] = worker_list(r.excluded);
    out["reason"] = r.reason;
  }
  void operator()(const log_record::Committed& r) const {
    const auto& view = r.record;
    out["view"] = view.view.value();
    out["reason"] = view.reason;
    out["checkpoint_writer"] = view.checkpoint_writer.value();
    json members = json::array();
    for (const auto& member : view.members) {
      json row = {{"worker", member.worker.value()},
                  {"incarnation", member.incarnation.value()},
                  {"role", role_name(member.role)},
                  {"host", member.host},
                  {"blocks", nullptr},
                  {"slots", nullptr}};
      for (const StageAssignment& stage : view.stages) {
        if (stage.worker != member.worker) continue;
        row["blocks"] = range_json(stage.work.blocks);
        row["slots"] = range_json(stage.work.slots);
      }
      members.push_back(std::move(row));
    }
    out["members"] = std::move(members);
    json lost = json::array();
    for (const auto& range : view.resume.lost_slots()) lost.push_back(range_json(range));
    out["resume"] = {{"step", view.resume.step.value()}, {"attempt", view.resume.attempt},
                     {"tier", view.resume.tier},         {"returns", view.resume.returns},
                     {"lost_slots", std::move(lost)},    {"fetches", view.resume.fetches.size()}};
  }
  void operator()(const log_record::NumericDecision& r) const {
    out["step"] = r.step.value();
    out["attempt"] = r.attempt;
    out["decision"] = r.decision;
  }
  void operator()(const log_record::Disagreement& r) const {
    out["step"] = r.step.value();
    out["about"] = r.gradient ? "gradient" : "state";
    out["block"] = r.block;
    json hashes = json::array();
    for (const auto& member : r.hashes)
      hashes.push_back({{"worker", member.worker.value()}, {"hash", member.hash.hex()}});
    out["hashes"] = std::move(hashes);
    out["decision"] = r.decision;
  }
  void operator()(const log_record::StepLogged& r) const {
    out["view"] = r.view.value();
    out["step"] = r.step.value();
    out["loss"] = r.loss;
  }
  void operator()(const log_record::WaitingStarted& r) const { out["reason"] = r.reason; }
  void operator()(const log_record::FaultFired& r) const { out["fault"] = fault_json(r); }
  void operator()(const log_record::Finished& r) const {
    out["step"] = r.step.value();
    out["weights_hash"] = r.weights.hex();
    out["success"] = r.success;
    out["reason"] = r.reason;
    out["loss"] = optional_json(r.loss);
    out["val_loss"] = optional_json(r.validation_loss);
  }
};

}  // namespace

json recovery_json(const RecoveryRow& row) {
  const auto& phases = row.phase_ms;
  return {{"view", row.view.value()},
          {"cause", row.cause},
          {"planned", row.planned},
          {"victims", worker_list(row.victims)},
          {"at_step", row.at_step.value()},
          {"tier", row.tier},
          {"lost_slots", row.lost_slots},
          {"lost_work", optional_json(row.lost_work)},
          {"own_work", optional_json(row.own_work)},
          {"phase_ms",
           {{"detect", optional_json(phases.detect)},
            {"decide", optional_json(phases.decide)},
            {"move", optional_json(phases.move)},
            {"recompute", optional_json(phases.recompute)},
            {"total", optional_json(phases.total)},
            {"commit", optional_json(phases.commit)}}},
          {"times_ns",
           {{"declared", optional_json(row.declared_at)},
            {"committed", optional_json(row.committed_at)},
            {"first_slot_started", optional_json(row.first_slot_started)},
            {"last_slot_done", optional_json(row.last_slot_done)},
            {"step_committed", optional_json(row.step_committed_at)}}}};
}

json snapshots_json(const std::optional<SnapshotStatus>& snapshots) {
  if (!snapshots) return nullptr;
  json hosts = json::array();
  for (const SnapshotHost& host : snapshots->hosts) {
    hosts.push_back({{"host", host.host},
                     {"keeper", host.keeper ? json(host.keeper->value()) : json(nullptr)},
                     {"there", host.there},
                     {"state_bytes", host.state_bytes},
                     {"parity_bytes", host.parity_bytes},
                     {"memory_bytes", host.memory_bytes}});
  }
  return {{"every_steps", snapshots->every_steps},
          {"wanted_every_steps", snapshots->wanted_every_steps},
          {"overhead", optional_json(snapshots->overhead)},
          {"complete", optional_json(snapshots->complete)},
          {"tolerated", optional_json(snapshots->tolerated)},
          {"alone", snapshots->alone},
          {"hosts", std::move(hosts)}};
}

json fault_json(const log_record::FaultFired& fault) {
  return {{"number", fault.number},
          {"kind", fault.kind},
          {"step", fault.step ? json(fault.step->value()) : json(nullptr)},
          {"phase", fault.phase.empty() ? json(nullptr) : json(fault.phase)},
          {"worker", optional_json(fault.worker)}};
}

json event_json(const LogEntry& entry) {
  json out = {{"sequence", entry.sequence}, {"unix_ms", entry.unix_ms}, {"kind", record_name(entry.record)}};
  std::visit(RecordFields{out}, entry.record);
  return out;
}

json status_json(const StatusSnapshot& s, StatusDetail detail) {
  const bool full = detail == StatusDetail::full;
  const std::size_t rows = full ? SIZE_MAX : kBriefRows;
  json workers = json::array();
  for (const auto& row : s.workers) workers.push_back(worker_json(row));
  json out = {
      {"serial", s.serial},
      {"unix_ms", s.unix_ms},
      {"job", s.job_name},
      {"job_hash", s.job_hash.hex()},
      {"numeric_class", s.numeric_class},
      {"generation", s.generation.value()},
      {"status", s.status},
      {"reason", s.reason},
      {"log_error", s.log_error.empty() ? json(nullptr) : json(s.log_error)},
      {"view", s.view.value()},
      {"view_reason", s.view_reason},
      {"slots", s.slots},
      {"parameters", s.parameters},
      {"step", s.step.value()},
      {"total_steps", s.total_steps},
      {"loss", optional_json(s.loss)},
      {"val_loss", optional_json(s.validation_loss)},
      {"learning_rate", optional_json(s.learning_rate)},
      {"gradient_norm", optional_json(s.gradient_norm)},
      {"tokens_per_s", optional_json(s.tokens_per_second)},
      {"step_s", optional_json(s.step_seconds)},
      {"eta_s", optional_json(s.eta_seconds)},
      {"wall_s", s.wall_seconds},
      {"steps_committed", s.steps_committed},
      {"sequences_used", s.sequences_used},
      {"tokens_used", s.tokens_used},
      {"views", s.views},
      {"microbatches_computed", s.micro_batches_computed},
      {"refused_messages", s.refused_messages},
      {"telemetry_samples", s.telemetry_samples},
      {"telemetry_dropped", s.telemetry_dropped},
      {"final_step", optional_json(s.final_step)},
      {"weights_hash", optional_json(s.weights)},
      {"final_loss", optional_json(s.final_loss)},
      {"final_val_loss", optional_json(s.final_validation_loss)},
      {"snapshots", snapshots_json(s.snapshots)},
      {"workers", std::move(workers)},
      {"recoveries", rows_json(s.recoveries, rows, recovery_json)},
      {"recovery_count", s.recoveries.size()},
      {"faults", rows_json(s.faults, rows, fault_json)},
      {"checkpoints", rows_json(s.checkpoints, rows, checkpoint_json)},
      {"events", rows_json(s.events, rows,
                           [](const EventRow& row) {
                             return json{{"unix_ms", row.unix_ms}, {"text", row.text}};
                           })},
  };
  if (full) {
    out["history"] = rows_json(s.history, rows, point_json);
  } else if (!s.history.empty()) {
    out["point"] = point_json(s.history.back());
  }
  return out;
}

std::string to_text(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace planaria

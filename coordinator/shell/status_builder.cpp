#include "coordinator/shell/status_builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "common/unix_time.hpp"

namespace planaria {

namespace {

constexpr Duration kRateWindow = std::chrono::seconds(30);

template <class Row>
void keep_newest(std::deque<Row>& rows, std::size_t limit) {
  while (rows.size() > limit) rows.pop_front();
}

// What a record of an earlier start says to operators, if anything.
std::optional<std::string> told(const LogRecord& record) {
  if (const auto* r = std::get_if<log_record::GenerationStarted>(&record)) {
    return fmt::format("generation {}", r->generation.value());
  }
  if (const auto* r = std::get_if<log_record::WorkerAccepted>(&record)) {
    return fmt::format("worker {} of host {} joins, incarnation {}", r->worker.value(), r->host,
                       r->incarnation.value());
  }
  if (const auto* r = std::get_if<log_record::DrainAccepted>(&record)) {
    return fmt::format("worker {} drains: {}", r->worker.value(), r->reason);
  }
  if (const auto* r = std::get_if<log_record::WorkerReleased>(&record)) {
    return fmt::format("worker {} left", r->worker.value());
  }
  if (const auto* r = std::get_if<log_record::Committed>(&record)) {
    return fmt::format("view {}: {}", r->record.view.value(), r->record.reason);
  }
  if (const auto* r = std::get_if<log_record::NumericDecision>(&record)) return r->decision;
  if (const auto* r = std::get_if<log_record::Disagreement>(&record)) return r->decision;
  if (const auto* r = std::get_if<log_record::WaitingStarted>(&record)) return r->reason;
  if (const auto* r = std::get_if<log_record::Finished>(&record)) return r->reason;
  if (const auto* r = std::get_if<log_record::FaultFired>(&record)) return describe(*r);
  return std::nullopt;
}

std::optional<double> interval(std::optional<Instant> from, std::optional<Instant> to) {
  if (!from || !to || *to < *from) return std::nullopt;
  return to_ms(*to - *from);
}

void add_telemetry(WorkerStatusRow& row, const telemetry::Sample& sample) {
  row.memory_bytes = sample.memory_resident_bytes();
  if (row.role == Role::worker) {
    row.stage_micro_batches = sample.micro_batches_computed();
    row.computing_s = sample.computing_seconds();
    row.waiting_s = sample.waiting_seconds();
  }
  if (sample.has_copying()) {
    const auto& copying = sample.copying();
    row.copying = StateCopyingRow{.copies = copying.copies(),
                                  .copied_bytes = copying.copied_bytes(),
                                  .failed = copying.failed(),
                                  .attached_bytes = copying.attached_bytes(),
                                  .copying_s = copying.copying_seconds(),
                                  .trainer_s = copying.trainer_seconds()};
  }
  if (sample.has_keeping()) {
    const auto& keeping = sample.keeping();
    row.keeping = StateKeepingRow{.memory_bytes = keeping.memory_bytes(),
                                  .memory_bound_bytes = keeping.memory_bound_bytes(),
                                  .sent_bytes = keeping.sent_bytes(),
                                  .damaged_tiles = keeping.damaged_tiles(),
                                  .damaged_parities = keeping.damaged_parities()};
  }
}

}  // namespace

RecoveryRow recovery_row(const RecoveryRecord& record, Instant now) {
  RecoveryRow row;
  row.view = record.view;
  row.cause = record.cause;
  row.planned = record.planned;
  row.victims = record.victims;
  row.at_step = record.at_step;
  row.tier = record.tier;
  row.lost_slots = record.lost_slots;
  row.lost_work = record.lost_work;
  row.own_work = record.own_work;
  if (!record.committed_at) return row;  // under way, or of an earlier start of the coordinator
  // Workers stamp with their host's clock: on another host it counts from elsewhere.
  const auto ours = [&](std::optional<Instant> at) {
    return at && record.committed_at && *at >= *record.committed_at && *at <= now ? at : std::nullopt;
  };
  const auto first_slot = ours(record.first_slot_started);
  const auto last_slot = ours(record.last_slot_done);
  const Instant began = std::min(record.evidence_at.value_or(record.declared_at), record.declared_at);
  row.phase_ms.detect = interval(began, record.declared_at);
  row.phase_ms.decide = interval(record.declared_at, record.committed_at);
  row.phase_ms.move = interval(record.committed_at, first_slot);
  row.phase_ms.recompute = interval(first_slot, last_slot);
  row.phase_ms.commit = interval(began, record.step_committed_at);
  row.declared_at = record.declared_at;
  row.committed_at = record.committed_at;
  row.first_slot_started = first_slot;
  row.last_slot_done = last_slot;
  row.step_committed_at = record.step_committed_at;
  row.phase_ms.total = interval(began, last_slot);
  return row;
}

StatusBuilder::StatusBuilder(const JobSpec& job, const Hash128& job_hash, std::uint64_t parameters, Instant now)
    : job_(job), job_hash_(job_hash), parameters_(parameters), started_at_(now) {}

void StatusBuilder::replay(const std::vector<LogEntry>& entries) {
  for (const auto& entry : entries) {
    observe_record(entry.record);
    if (auto text = told(entry.record)) announce(*std::move(text), entry.unix_ms);
    if (const auto* step = std::get_if<log_record::StepLogged>(&entry.record)) {
      point(step->step).loss = step->loss;
      thin_history();
    }
  }
}

// Points are in the order of steps; after a rollback a step comes again and takes its old place.
LossPoint& StatusBuilder::point(Step step) {
  const auto at = std::ranges::lower_bound(history_, step, {}, &LossPoint::step);
  if (at != history_.end() && at->step == step) return *at;
  return *history_.insert(at, LossPoint{step, 0, {}, {}, {}});
}

// Keeps every stride-th step, validations and the newest point; the stride doubles whenever there are too many.
void StatusBuilder::thin_history() {
  const auto on_grid = [&](const LossPoint& point) { return point.step.value() % history_stride_ == 0; };
  if (history_.size() >= 2) {
    const auto before_last = history_.end() - 2;
    if (!on_grid(*before_last) && !before_last->validation_loss) history_.erase(before_last);
  }
  if (history_.size() <= kMaxHistory) return;
  history_stride_ *= 2;
  const Step last = history_.back().step;
  std::erase_if(history_, [&](const LossPoint& p) { return !on_grid(p) && !p.validation_loss && p.step != last; });
  if (history_.size() > kMaxHistory) {
    std::erase_if(history_, [&](const LossPoint& p) { return !on_grid(p) && p.step != last; });
  }
}

void StatusBuilder::observe(const WorkerEnvelope& envelope, const CoordinatorCore& core) {
  const auto worker = core.workers().find(envelope.worker);
  const bool taken = worker != core.workers().end() && worker->second.incarnation == envelope.incarnation;
  if (!taken) return;
  if (const auto* commit = std::get_if<StepCommitted>(&envelope.message)) {
    computed_[{envelope.worker, envelope.incarnation}] += commit->micro_batches_computed;
    computed_total_ += commit->micro_batches_computed;
    // The log keeps losses only: what else a step had is known of those that are committed to this start.
    if (core.last_commit() && core.last_commit()->step == commit->step) {
      auto& at = point(commit->step);
      at.learning_rate = commit->learning_rate;
      at.gradient_norm = commit->gradient_norm;
    }
    if (commit->validation_loss) {
      validation_loss_ = commit->validation_loss;
      auto& at = point(commit->step);
      at.loss = commit->loss;
      at.validation_loss = commit->validation_loss;
      thin_history();
    }
  } else if (const auto* done = std::get_if<Done>(&envelope.message)) {
    validation_loss_ = done->final_validation_loss;
  } else if (const auto* saved = std::get_if<CheckpointSaved>(&envelope.message)) {
    checkpoints_.push_back({saved->step, saved->ok, saved->detail, envelope.worker});
    keep_newest(checkpoints_, kMaxRows);
  }
}

void StatusBuilder::observe_commits(const CoordinatorCore& core, Instant now) {
  const auto steps = core.steps_committed();
  if (!core.last_commit() || (!commits_.empty() && commits_.back().steps == steps)) return;
  commits_.push_back({now, steps});
  while (commits_.size() > 2 && commits_.front().at < now - kRateWindow) commits_.pop_front();
  const auto& commit = *core.last_commit();
  auto& at = point(commit.step);
  at.loss = commit.loss;
  thin_history();
}

void StatusBuilder::observe_record(const LogRecord& record) {
  if (const auto* finished = std::get_if<log_record::Finished>(&record)) finished_ = *finished;
  if (const auto* fault = std::get_if<log_record::FaultFired>(&record)) {
    faults_.push_back(*fault);
    keep_newest(faults_, kMaxRows);
  }
}

void StatusBuilder::announce(std::string text, std::int64_t unix_ms) {
  events_.push_back({unix_ms, std::move(text)});
  keep_newest(events_, kMaxEvents);
}

void StatusBuilder::add_progress(StatusSnapshot& s, const CoordinatorCore& core, Instant now) const {
  s.total_steps = job_.train.steps;
  s.steps_committed = core.steps_committed();
  s.sequences_used = s.steps_committed * job_.sequences_per_step();
  s.tokens_used = s.steps_committed * job_.tokens_per_step();
  if (const auto& commit = core.last_commit()) {
    s.step = commit->step;
    s.loss = commit->loss;
    const auto at = std::ranges::lower_bound(history_, commit->step, {}, &LossPoint::step);
    if (at != history_.end() && at->step == commit->step) {
      s.learning_rate = at->learning_rate;
      s.gradient_norm = at->gradient_norm;
    }
  }
  s.validation_loss = validation_loss_;
  s.wall_seconds = to_seconds(now - started_at_);
  if (commits_.size() >= 2 && !finished_) {
    // Up to now while the next commit is late, so that a standstill shows.
    const auto& first = commits_.front();
    const auto& last = commits_.back();
    const double mean = to_seconds(last.at - first.at) / static_cast<double>(last.steps - first.steps);
    const double late = std::max(0.0, to_seconds(now - last.at) - mean);
    const double step_seconds = (to_seconds(last.at - first.at) + late) / static_cast<double>(last.steps - first.steps);
    s.step_seconds = step_seconds;
    if (step_seconds > 0) s.tokens_per_second = static_cast<double>(job_.tokens_per_step()) / step_seconds;
    const auto left = s.total_steps - std::min(s.total_steps, s.step.value());
    s.eta_seconds = step_seconds * static_cast<double>(left);
  } else if (finished_ && s.wall_seconds > 0 && commits_.size() >= 2) {
    const double seconds = to_seconds(commits_.back().at - commits_.front().at);
    const auto steps = static_cast<double>(commits_.back().steps - commits_.front().steps);
    if (seconds > 0) s.tokens_per_second = steps * static_cast<double>(job_.tokens_per_step()) / seconds;
    s.eta_seconds = 0;
  }
  if (finished_) {
    s.final_loss = finished_->loss;
    s.final_validation_loss = finished_->validation_loss;
    s.final_step = finished_->step;
    if (finished_->success) s.weights = finished_->weights;
  }
}

void StatusBuilder::add_workers(StatusSnapshot& s, const CoordinatorCore& core, const TelemetryHub* telemetry,
                                Instant now) const {
  const auto samples = telemetry != nullptr ? telemetry->newest() : std::map<WorkerId, telemetry::Sample>();
  const auto& view = core.view();
  for (const auto& [id, worker] : core.workers()) {
    WorkerStatusRow row;
    row.worker = id;
    row.incarnation = worker.incarnation;
    row.role = worker.role;
    row.status = to_string(worker.status);
    row.phase = to_string(worker.heartbeat.phase);
    row.host = worker.host;
    row.process_id = worker.process_id;
    row.threads = worker.threads;
    row.connected = worker.session.has_value();
    row.step = worker.heartbeat.step;
    row.state = worker.holdings.newest();
    row.bytes_sent = worker.heartbeat.bytes_sent;
    row.bytes_received = worker.heartbeat.bytes_received;
    row.faults = worker.faults;
    if (worker.speed > 0) row.micro_batches_per_second = worker.speed;
    if (view && view->has(id) && view->member(id)->incarnation == worker.incarnation) {
      row.member = worker.status != WorkerStatus::lost && worker.status != WorkerStatus::left;
      for (const StageAssignment& stage : view->stages) {
        if (stage.worker == id) row.work = stage.work;
      }
    }
    if (worker.status != WorkerStatus::lost && worker.status != WorkerStatus::left) {
      Instant lease = worker.last_heard + std::chrono::milliseconds(job_.cluster.lease_ms);
      if (worker.suspect_until) lease = std::min(lease, *worker.suspect_until);
      row.lease_left_ms = std::max(0.0, to_ms(lease - now));
      row.heard_ms_ago = std::max(0.0, to_ms(now - worker.last_heard));
    }
    if (const auto computed = computed_.find({id, worker.incarnation}); computed != computed_.end()) {
      row.micro_batches_computed = computed->second;
    }
    if (const auto sample = samples.find(id);
        sample != samples.end() && sample->second.incarnation() == worker.incarnation.value()) {
      add_telemetry(row, sample->second);
    }
    s.workers.push_back(std::move(row));
  }
}

std::shared_ptr<const StatusSnapshot> StatusBuilder::build(const CoordinatorCore& core, const TelemetryHub* telemetry,
                                                           std::uint64_t refused_messages, Instant now) {
  auto snapshot = std::make_shared<StatusSnapshot>();
  auto& s = *snapshot;
  s.serial = ++serial_;
  s.unix_ms = unix_ms_now();
  s.job_name = job_.name;
  s.job_hash = job_hash_;
  s.numeric_class = core.numeric_class();
  s.generation = core.generation();
  const bool stopped = finished_ && !finished_->success && finished_->reason.starts_with(kStoppedByOperator);
  s.status = stopped ? kStatusStopped : to_string(core.status());
  s.reason = core.status_reason();
  s.log_error = log_error_;
  s.slots = job_.batch.slots;
  s.parameters = parameters_;
  s.views = core.views_committed();
  if (core.view()) {
    s.view = core.view()->view;
    s.view_reason = core.view()->reason;
  }
  s.snapshots = core.snapshots();
  add_progress(s, core, now);
  add_workers(s, core, telemetry, now);
  for (const auto& record : core.recoveries()) s.recoveries.push_back(recovery_row(record, now));
  s.micro_batches_computed = computed_total_;
  s.refused_messages = refused_messages;
  if (telemetry != nullptr) {
    const auto counts = telemetry->counts();
    s.telemetry_samples = counts.samples;
    s.telemetry_dropped = counts.dropped;
  }
  s.faults.assign(faults_.begin(), faults_.end());
  s.checkpoints.assign(checkpoints_.begin(), checkpoints_.end());
  s.events.assign(events_.begin(), events_.end());
  s.history = history_;
  return snapshot;
}

}  // namespace planaria

// Start, log replay, time, and the end of the job.
#include "coordinator/core/coordinator_core.hpp"

#include <algorithm>
#include <utility>

#include "proto/block_cost.hpp"

namespace planaria {
namespace {

Duration ms(std::uint32_t value) {
  return std::chrono::milliseconds(value);
}

constexpr int kPatience = 10;  // times what is usual, with a worker that lives and is busy

constexpr std::size_t kMaxFaultsFired = 100'000;  // more than any scenario has

// After `Finished` the coordinator stays this long for members that have not heard it yet.
constexpr Duration kLastCall = std::chrono::seconds(15);  // longer than a worker takes to connect again
constexpr Duration kFarewell = std::chrono::seconds(2);

}  // namespace

const char* to_string(WorkerStatus status) {
  switch (status) {
    case WorkerStatus::joining:
      return "joining";
    case WorkerStatus::member:
      return "member";
    case WorkerStatus::draining:
      return "draining";
    case WorkerStatus::left:
      return "left";
    case WorkerStatus::lost:
      return "lost";
    case WorkerStatus::count_:
      break;
  }
  return "unknown";
}

const char* to_string(JobStatus status) {
  switch (status) {
    case JobStatus::starting:
      return "starting";
    case JobStatus::training:
      return "training";
    case JobStatus::changing:
      return "changing";
    case JobStatus::waiting:
      return "waiting";
    case JobStatus::finished:
      return "finished";
    case JobStatus::failed:
      return "failed";
    case JobStatus::count_:
      break;
  }
  return "unknown";
}

CoordinatorCore::CoordinatorCore(CoordinatorCoreConfig config)
    : config_(std::move(config)),
      map_(config_.job.model, config_.job.train.tile_elements),
      block_shares_(block_shares(config_.job, map_)),
      operations_(micro_batch_operations(config_.job, map_)),
      depths_(pipeline_depths(config_.job.cluster.layout).value()),  // the job is valid
      lease_(ms(config_.job.cluster.lease_ms)),
      suspect_grace_(ms(config_.job.cluster.suspect_grace_ms)),
      pace_({.least_steps = config_.job.snapshot.every_steps,
             .saved_every = config_.job.snapshot.durable ? config_.job.checkpoint.every_steps : 0,
             .max_overhead = config_.job.snapshot.max_overhead,
             .heartbeat = ms(config_.job.cluster.heartbeat_ms)}),
      timing_(ms(config_.job.cluster.heartbeat_ms)) {
  if (!config_.kernels.empty()) static_cast<void>(kernels_.settle(config_.kernels));  // nobody waits yet
}

CoordinatorActions CoordinatorCore::on(const CoordinatorEvent& event, Instant now) {
  now_ = now;
  if (wanted_tick_ && now - *wanted_tick_ > lease_ / 4) forgive_silence(now - *wanted_tick_);
  std::visit([this](const auto& alternative) { handle(alternative); }, event);
  if (change_deferred_ || now_ >= joiners_worth_at_ || !is_routine(event)) consider_change();
  consider_exit();
  wanted_tick_ = next_tick();
  return std::exchange(actions_, {});
}

// What thousands of workers say all the time, and what no change of members follows from.
bool CoordinatorCore::is_routine(const CoordinatorEvent& event) {
  const auto* said = std::get_if<coordinator_event::SessionMessage>(&event);
  if (said == nullptr) return false;
  const WorkerMessage& message = said->envelope.message;
  return std::holds_alternative<Heartbeat>(message) || std::holds_alternative<StepCommitted>(message) ||
         std::holds_alternative<RecomputeNotice>(message);
}

// This process was stopped or starved: what others said meanwhile waits in its queues, and their silence proves
// nothing.
void CoordinatorCore::forgive_silence(Duration overslept) {
  for (auto& [id, worker] : workers_) {
    worker.last_heard = std::min(worker.last_heard + overslept, now_);
    if (worker.suspect_until) worker.suspect_until = *worker.suspect_until + overslept;
    if (worker.asked_until) worker.asked_until = *worker.asked_until + overslept;
  }
  last_progress_at_ = std::min(last_progress_at_ + overslept, now_);
  if (change_) {
    change_->started_at = change_->started_at + overslept;
    change_->rollback_at = change_->rollback_at + overslept;
  }
}

JobStatus CoordinatorCore::status() const {
  if (finished_) return finished_->success ? JobStatus::finished : JobStatus::failed;
  if (waiting_) return JobStatus::waiting;
  if (!view_) return JobStatus::starting;
  return change_ && !change_->boundary ? JobStatus::changing : JobStatus::training;
}

Instant CoordinatorCore::next_tick() const {
  const ClusterSpec& cluster = config_.job.cluster;
  Instant next = std::min({last_progress_at_ + ms(cluster.stall_timeout_ms), next_lease_check_, joiners_worth_at_});
  if (change_ && !change_->boundary) {
    next = std::min({next, change_->started_at + ms(cluster.prepare_timeout_ms), change_->rollback_at});
  }
  if (!view_) next = std::min(next, started_at_ + ms(cluster.join_timeout_ms));
  if (finished_) next = std::min({next, finished_at_ + kFarewell, finished_at_ + kLastCall});
  // Deadlines that have passed without effect are looked at again soon, not at once.
  return std::max(std::min({next, next_balance_check_, now_ + std::chrono::seconds(1)}),
                  now_ + std::chrono::milliseconds(1));
}

void CoordinatorCore::log(LogRecord record, bool sync) {
  actions_.emplace_back(coordinator_action::Log{std::move(record), sync});
}

void CoordinatorCore::send(SessionId session, CoordinatorMessage message) {
  actions_.emplace_back(coordinator_action::Send{session, {kProtocolVersion, generation_, std::move(message)}});
}

void CoordinatorCore::send(const WorkerRecord& worker, CoordinatorMessage message) {
  if (worker.session) send(*worker.session, std::move(message));
}

void CoordinatorCore::announce(std::string text) {
  actions_.emplace_back(coordinator_action::Announce{std::move(text)});
}

// ---- start ----

void CoordinatorCore::handle(const coordinator_event::Started& event) {
  for (const LogRecord& record : event.log) {
    std::visit([this](const auto& alternative) { replay(alternative); }, record);
  }
  generation_ = generation_.next();
  log(log_record::GenerationStarted{generation_});
  started_at_ = last_progress_at_ = next_balance_check_ = now_;
  next_lease_check_ = now_ + lease_;
  finished_at_ = now_;
  unfinished_prepare_ = last_number_ > (view_ ? view_->view : ViewNumber(0));
  for (auto& [id, worker] : workers_) {
    worker.last_heard = now_;  // one full lease for everybody
    worker.last_progress_at = now_;
    if (!serving(worker) || in_view(id)) continue;
    // Joiners register again; who was drained may have been told already that it can go.
    const bool drained = worker.status == WorkerStatus::draining && view_;
    worker.status = drained ? WorkerStatus::left : WorkerStatus::lost;
    if (drained) log(log_record::WorkerReleased{id, worker.incarnation});
  }
  if (view_) {
    pace_.view_committed(view_->snapshots.stripes.empty() ? 0 : view_->snapshot_every, now_);
    status_reason_ = "coordinator restarted; waiting for the members of view " + std::to_string(view_->view.value());
    announce("generation " + std::to_string(generation_.value()) + ": " + status_reason_);
  }
}

void CoordinatorCore::replay(const log_record::GenerationStarted& record) {
  generation_ = record.generation;
}

void CoordinatorCore::replay(const log_record::JobRecorded& record) {
  job_recorded_ = true;
  numeric_class_ = record.numeric_class;
  probe_ = record.probe;
  static_cast<void>(kernels_.settle(record.kernels));  // nobody waits yet
}

void CoordinatorCore::replay(const log_record::WorkerAccepted& record) {
  WorkerRecord& worker = workers_[record.worker];
  worker.worker = record.worker;
  worker.incarnation = record.incarnation;
  worker.host = record.host;
  worker.role = record.role;
  worker.status = WorkerStatus::joining;
}

void CoordinatorCore::replay(const log_record::DrainAccepted& record) {
  WorkerRecord& worker = workers_[record.worker];
  if (worker.incarnation == record.incarnation) worker.status = WorkerStatus::draining;
}

void CoordinatorCore::replay(const log_record::WorkerReleased& record) {
  WorkerRecord& worker = workers_[record.worker];
  if (worker.incarnation == record.incarnation) worker.status = WorkerStatus::left;
}

void CoordinatorCore::replay(const log_record::Prepared& record) {
  last_number_ = std::max(last_number_, record.view);
  suspicion_.add(record.suspicion);
  for (const WorkerId id : record.excluded) workers_[id].status = WorkerStatus::lost;
}

void CoordinatorCore::replay(const log_record::Committed& record) {
  view_ = std::make_shared<const ViewRecord>(record.record);
  suspicion_ = {};
  count_steps(view_->resume.step.previous());
  ++views_committed_;
  RecoveryRecord recovery;  // its instants were of an earlier start and are gone
  recovery.view = view_->view;
  recovery.cause = view_->reason;
  recovery.at_step = view_->resume.step;
  recovery.tier = view_->resume.tier;
  recovery.lost_slots = view_->resume.lost_slot_count();
  recoveries_.push_back(std::move(recovery));
  for (const Member& member : view_->members) {
    WorkerRecord& worker = workers_[member.worker];
    worker.address = member.address;
    if (worker.incarnation == member.incarnation && worker.status != WorkerStatus::draining) {
      worker.status = WorkerStatus::member;
    }
  }
}

void CoordinatorCore::replay(const log_record::NumericDecision& record) {
  note(record);
}

void CoordinatorCore::note(const log_record::NumericDecision& record) {
  if (!numeric_.empty() && numeric_.back().step != record.step) numeric_.clear();
  numeric_.push_back(record);
  expelled_.insert(record.expelled.begin(), record.expelled.end());
}

void CoordinatorCore::replay(const log_record::Disagreement& record) {
  note(record);
}

void CoordinatorCore::note(const log_record::Disagreement& record) {
  if (!disagreements_.empty() && disagreements_.back().step != record.step) disagreements_.clear();
  disagreements_.push_back(record);
  expelled_.insert(record.expelled.begin(), record.expelled.end());
}

void CoordinatorCore::replay(const log_record::StepLogged& record) {
  count_steps(record.step);
  last_step_logged_ = record.step;
  StepCommitted commit;
  commit.view = record.view;
  commit.step = record.step;
  commit.loss = record.loss;
  last_commit_ = commit;
}

void CoordinatorCore::replay(const log_record::WaitingStarted& record) {
  status_reason_ = record.reason;
}

void CoordinatorCore::replay(const log_record::FaultFired& record) {
  faults_fired_.insert(record.number);
}

void CoordinatorCore::replay(const log_record::Finished& record) {
  finished_ = record;
  if (record.success) steps_committed_ = std::max(steps_committed_, record.step.value());
}

// ---- time ----

void CoordinatorCore::handle(const coordinator_event::Tick& event) {
  if (finished_) return;
  if (event.outputs_held) {  // the time to answer begins when it is asked
    if (change_) {
      change_->started_at = now_;
      change_->rollback_at = std::max(change_->rollback_at, now_ + 2 * lease_);
    }
    for (auto& [id, worker] : workers_) {
      if (worker.suspect_until) worker.suspect_until = now_ + suspect_grace_;
      if (worker.asked_until) worker.asked_until = now_ + suspect_grace_;
    }
  }
  check_leases();
  check_change_deadline();
  check_stall();
  check_balance();
  check_snapshot_pace();
  if (const auto next = kernels_.overdue(now_)) give_job(*next, {});
}

Instant CoordinatorCore::lease_end(const WorkerRecord& worker) const {
  if (worker.asked_until) return *worker.asked_until;
  const Instant end = worker.last_heard + lease_;
  return worker.suspect_until ? std::min(end, *worker.suspect_until) : end;
}

void CoordinatorCore::check_leases() {
  if (now_ < next_lease_check_) return;
  std::vector<WorkerId> expired;
  for (const auto& [id, worker] : workers_) {
    if (serving(worker) && now_ >= lease_end(worker)) expired.push_back(id);
  }
  std::vector<Loss> losses;
  for (const WorkerId id : expired) {
    WorkerRecord& worker = workers_[id];
    // A connection that broke was its last; else what it said may wait in a queue of this process.
    if (!worker.suspect_until && !worker.asked_until) {
      worker.asked_until = now_ + suspect_grace_;
      send(worker, Probe{});
      continue;
    }
    const auto silent = static_cast<long long>(to_ms(now_ - worker.last_heard));
    losses.push_back({id, worker.suspect_until ? "its connection broke and no sign of life followed"
                                               : "no heartbeat for " + std::to_string(silent) + " ms"});
  }
  lose(losses);
  next_lease_check_ = kFarFuture;
  for (const auto& [id, worker] : workers_) {
    if (serving(worker)) next_lease_check_ = std::min(next_lease_check_, lease_end(worker));
  }
}

// It lives, by its lease, and does what may take long: it loads a state, or computes a micro-batch.
bool CoordinatorCore::is_busy(const WorkerRecord& worker, Instant since) const {
  const Phase phase = worker.heartbeat.phase;
  if (phase == Phase::fetch) return now_ < since + kPatience * ms(config_.job.cluster.prepare_timeout_ms);
  if (phase != Phase::forward && phase != Phase::backward) return false;
  if (worker.heartbeat.waiting_on) return false;
  const Duration unmeasured = kPatience * ms(config_.job.cluster.stall_timeout_ms);
  if (worker.speed <= 0) return now_ < since + unmeasured;
  return now_ < since + Duration(static_cast<std::int64_t>(kPatience * 1e9 / worker.speed));
}

void CoordinatorCore::check_change_deadline() {
  if (!change_ || change_->boundary) return;
  if (change_->reports.size() == change_->members.size()) {
    finish_change();  // it waits for holders of state
    return;
  }
  if (now_ < change_->started_at + ms(config_.job.cluster.prepare_timeout_ms)) return;
  std::vector<Loss> silent;
  for (const WorkerId id : change_->members) {
    if (change_->reports.contains(id) || is_busy(workers_[id], change_->started_at)) continue;
    silent.push_back({id, "it didn't answer a view change in time"});
  }
  lose(silent);
}

// Who waits for one that waits itself, a relay for instance, waits in truth for whom that one waits for. Of a circle,
// the next one.
WorkerId CoordinatorCore::waits_in_the_end_on(WorkerId worker) const {
  const auto next = [this](WorkerId of) {
    const auto known = workers_.find(of);
    const auto on = known == workers_.end() ? std::nullopt : known->second.heartbeat.waiting_on;
    return on && in_view(*on) ? *on : of;
  };
  WorkerId last = worker;
  constexpr int kLongestChain = 64;
  for (int hops = 0; hops < kLongestChain; ++hops) {
    if (next(last) == last) return last;
    last = next(last);
  }
  return next(worker);
}

void CoordinatorCore::check_stall() {
  if (!view_ || waiting_ || (change_ && !change_->boundary)) return;
  if (now_ < last_progress_at_ + ms(config_.job.cluster.stall_timeout_ms)) return;
  last_progress_at_ = now_;
  std::map<WorkerId, std::size_t> blamed;
  for (const Member& member : view_->members) {
    const WorkerId at_the_end = waits_in_the_end_on(member.worker);
    if (at_the_end != member.worker) ++blamed[at_the_end];
  }
  const bool busy = std::ranges::any_of(view_->members, [this](const Member& member) {
    const WorkerRecord& worker = workers_[member.worker];
    return is_busy(worker, worker.last_progress_at);
  });
  if (busy) return;  // the others wait for it rightly
  const auto most = std::ranges::max_element(blamed, {}, &std::pair<const WorkerId, std::size_t>::second);
  std::set<WorkerId> others = present();
  if (most != blamed.end()) others.erase(most->first);
  if (most != blamed.end() && !others.empty()) {
    WorkerRecord& worker = workers_[most->first];
    if (blame(worker) >= 2) {
      lose(worker, "the others wait for it and it makes no progress");
      return;
    }
  }
  start_change({.reason = "no member makes progress: a new view of the same members", .planned = false, .victims = {}});
}

// ---- the end ----

void CoordinatorCore::handle(const coordinator_event::StopJob& event) {
  if (finished_) return;
  finish_job(false, event.reason, last_step_logged_, Hash128{});
}

void CoordinatorCore::handle(const coordinator_event::FaultFired& event) {
  if (faults_fired_.size() >= kMaxFaultsFired || !faults_fired_.insert(event.fault.number).second) return;
  log(event.fault);
  announce(describe(event.fault));
}

// A commit, a view and the end imply every step before them, also those of which nobody who could tell is left.
void CoordinatorCore::count_steps(Step committed) {
  steps_committed_ = std::max(steps_committed_, committed.value());
}

void CoordinatorCore::finish_job(bool success, std::string reason, Step step, Hash128 weights) {
  finished_ = log_record::Finished{step, weights, success, reason};
  if (success) count_steps(step);
  finished_at_ = now_;
  waiting_ = false;
  change_.reset();
  status_reason_ = reason;
  if (success && result_) {
    finished_->loss = result_->final_loss;
    finished_->validation_loss = result_->final_validation_loss;
  }
  log(*finished_);
  announce(reason);
  for (auto& [id, worker] : workers_) {
    if (!serving(worker)) continue;
    send(worker, Finish{reason, success});
    worker.told_end = worker.session.has_value();
  }
  for (const auto& waiting : kernels_.abandon()) send(waiting.session, Finish{reason, success});
}

void CoordinatorCore::consider_exit() {
  if (!finished_ || exited_) return;
  const bool connected = std::ranges::any_of(workers_, [this](const auto& entry) {
    return serving(entry.second) && (entry.second.session || now_ < lease_end(entry.second));
  });
  // Workers that are started along with the coordinator of a job that had ended shall be told, too.
  const bool ended_before = finished_at_ == started_at_;
  if ((connected || ended_before) && now_ < finished_at_ + kFarewell) return;
  // A member whose connection broke just then comes back to ask; without an answer it would ask for ever.
  const bool untold = std::ranges::any_of(
      workers_, [this](const auto& entry) { return serving(entry.second) && !entry.second.told_end; });
  if (untold && now_ < finished_at_ + kLastCall) return;
  exited_ = true;
  // The next start need not wait for those who know.
  for (const auto& [id, worker] : workers_) {
    if (serving(worker) && worker.told_end) log(log_record::WorkerReleased{id, worker.incarnation}, false);
  }
  actions_.emplace_back(coordinator_action::Exit{finished_->success, finished_->reason});
}

std::optional<SnapshotStatus> CoordinatorCore::snapshots() const {
  const auto keeps = [](const Member& member) { return member.role == Role::keeper; };
  if (!view_ || std::ranges::none_of(view_->members, keeps)) return std::nullopt;
  std::set<WorkerId> lost;
  for (const Member& member : view_->members) {
    const auto worker = workers_.find(member.worker);
    const bool there = worker != workers_.end() && worker->second.incarnation == member.incarnation &&
                       serving(worker->second) && !worker->second.suspect_until;
    if (!there) lost.insert(member.worker);
  }
  const bool of_view = last_commit_ && last_commit_->view == view_->view;
  SnapshotStatus status = snapshot_status(map_, *view_, of_view ? std::optional(last_commit_->step) : std::nullopt,
                                          lost, config_.job.snapshot.durable);
  status.wanted_every_steps = config_.job.snapshot.every_steps;
  status.overhead = pace_.overhead();
  return status;
}

}  // namespace planaria

// View changes: when one starts, who takes part, how it ends.
#include <algorithm>
#include <utility>

#include "coordinator/core/coordinator_core.hpp"

namespace planaria {
namespace {

constexpr const char* kNoWorkers = "no workers: start at least cluster.min_workers";

std::string name(WorkerId worker) {
  return "worker " + std::to_string(worker.value());
}

std::string names(const std::vector<WorkerId>& workers) {
  std::string text;
  for (const WorkerId id : workers) text += (text.empty() ? "" : ", ") + name(id);
  return text;
}

}  // namespace

template <class Visit>
void CoordinatorCore::for_each_member(Visit visit) {
  auto record = workers_.begin();
  for (const Member& member : view_->members) {
    while (record != workers_.end() && record->first < member.worker) ++record;
    const bool same =
        record != workers_.end() && record->first == member.worker && record->second.incarnation == member.incarnation;
    visit(member, same ? &record->second : nullptr);
  }
}

void CoordinatorCore::consider_change() {
  change_deferred_ = false;
  joiners_worth_at_ = kFarFuture;
  if (finished_ || generation_ == Generation(0)) return;
  if (!view_) {
    consider_first_view();
    return;
  }
  if (change_) {
    if (change_->lacks_state) ask_who_may_help();
    return;
  }
  std::size_t workers_alive = 0;  // of the members
  for_each_member([&](const Member& member, const WorkerRecord* worker) {
    if (worker != nullptr && serving(*worker) && member.role == Role::worker) ++workers_alive;
  });
  const std::vector<WorkerId> joiners = pending_joiners();
  const std::size_t workers = workers_alive + workers_among(joiners);
  if (!waiting_ && workers_alive == 0) wait(kNoWorkers);
  if (waiting_) {
    const bool enough = workers >= std::max(1U, config_.job.cluster.min_workers);
    if (enough && (too_few_.empty() || too_few_ != present())) {
      start_change({.reason = joiners.empty() ? "the members that are left go on"
                                              : "capacity is back: " + names(joiners) + " joined",
                    .planned = false,
                    .victims = {}});
    }
    return;
  }
  if (unfinished_prepare_) {
    // Members may have fenced the view for a Prepare of an earlier generation: all must be asked afresh.
    const bool all_back = std::ranges::all_of(view_->members, [this](const Member& m) {
      return !in_view(m.worker) || !serving(workers_[m.worker]) || workers_[m.worker].session;
    });
    if (all_back) {
      start_change({.reason = "the coordinator restarted during a view change", .planned = false, .victims = {}});
    }
    return;
  }
  std::vector<WorkerId> drainers;
  std::optional<Step> newest;
  for_each_member([&](const Member& member, const WorkerRecord* worker) {
    if (worker == nullptr) return;
    if (worker->status == WorkerStatus::draining) drainers.push_back(member.worker);
    newest = newest ? std::max(*newest, worker->heartbeat.step) : worker->heartbeat.step;
  });
  const std::size_t staying = workers - workers_among(drainers);
  const std::size_t least = std::max(1U, config_.job.cluster.min_workers);
  if (!drainers.empty() && !too_few_.empty()) {
    std::set<WorkerId> left = present();
    for (const WorkerId id : drainers) left.erase(id);
    if (left == too_few_) {  // the reason was told
      drainers.clear();
      paced_.reset();
    }
  }
  if (!drainers.empty() && staying < least) {
    status_reason_ = names(drainers) + " can't drain yet: " + std::to_string(staying) + " worker(s) would be left of " +
                     std::to_string(least) + " needed; start another worker or stop the job";
    drainers.clear();
    paced_.reset();  // a change would have them leave
  }
  if (drainers.empty() && !rebalance_wanted_ && !paced_) {
    if (joiners.empty()) return;
    joiners_worth_at_ = joiners_worth_at(joiners);
    if (joiners_worth_at_ > now_) return;
  }
  const Step total(config_.job.train.steps);
  const bool ends =
      !done_.empty() || (last_commit_ && last_commit_->view == view_->view && last_commit_->step >= total);
  change_deferred_ = !newest || *newest == Step(0) || *newest > total || ends;
  if (change_deferred_) return;
  std::string reason;
  if (!joiners.empty()) reason = names(joiners) + " joined";
  if (!drainers.empty()) reason += (reason.empty() ? "" : "; ") + names(drainers) + " drained";
  if (reason.empty() && rebalance_wanted_) reason = better_->reason;
  if (paced_) reason += (reason.empty() ? "" : "; ") + paced_->reason;
  start_change({.reason = reason, .planned = true, .victims = {}});
}

void CoordinatorCore::consider_first_view() {
  if (change_ || (waiting_ && too_few_ == present())) return;
  const ClusterSpec& cluster = config_.job.cluster;
  const std::size_t ready = workers_among(pending_joiners());
  const bool patient = now_ < started_at_ + std::chrono::milliseconds(cluster.join_timeout_ms);
  status_reason_ = std::to_string(ready) + " of " + std::to_string(cluster.workers) + " workers are here";
  if (ready == 0 || ready < (patient ? cluster.workers : cluster.min_workers)) return;
  if (await_first_layout()) return;
  start_change({.reason = "first view", .planned = false, .victims = {}});
}

// Whoever brings state is asked before a worse tier is chosen. False: nobody does.
bool CoordinatorCore::ask_who_may_help() {
  const std::vector<WorkerId> joiners = pending_joiners();
  if (std::ranges::none_of(joiners, [this](WorkerId id) { return may_help(id); })) return false;
  start_change({.reason = "a worker that may hold the newest state is back",
                .planned = false,
                .victims = {},
                .with_joiners = true});
  return true;
}

bool CoordinatorCore::may_help(WorkerId joiner) const {
  const Holdings& holdings = workers_.at(joiner).holdings;
  return !change_->members.contains(joiner) && (!holdings.states.empty() || !holdings.checkpoints.empty());
}

void CoordinatorCore::start_change(ChangeCause cause) {
  if (!(mutated(Mutation::reuse_prepare_number) && change_)) last_number_ = last_number_.next();
  Change change;
  change.view = last_number_;
  suspicion_.add(cause.suspicion);
  change.started_at = now_;
  if (!cause.planned) change.stands_since = now_;
  change.rollback_at = now_ + 2 * lease_;
  std::vector<WorkerId> excluded;
  if (view_) {
    for_each_member([&](const Member& member, const WorkerRecord* worker) {
      if (worker == nullptr || !serving(*worker)) {
        excluded.push_back(member.worker);
        return;
      }
      change.members.insert(change.members.end(), member.worker);
      if (cause.planned && worker->status == WorkerStatus::draining) change.leaving.insert(member.worker);
    });
  }
  const bool takes_joiners =
      cause.planned || cause.with_joiners || !view_ || waiting_ || workers_among(change.members) == 0;
  if (cause.with_joiners && change_) change.rollback_at = change_->rollback_at;
  if (takes_joiners) {
    for (const WorkerId id : pending_joiners()) change.members.insert(id);
  }
  if (cause.planned) {
    Step newest = view_->resume.step;
    for (const Member& member : view_->members) {
      const Heartbeat& heartbeat = workers_[member.worker].heartbeat;
      if (heartbeat.view == view_->view) newest = std::max(newest, heartbeat.step);  // else of before a rollback
    }
    if (last_commit_ && last_commit_->view == view_->view) newest = std::max(newest, last_commit_->step.next());
    change.boundary = newest;
    if (rebalance_wanted_) {
      ++rebalances_;
    } else if (!paced_) {
      rebalances_ = 0;
    }
    if (rebalance_wanted_) change.wanted = std::exchange(better_, std::nullopt);
    rebalance_wanted_ = false;
    unbalanced_checks_ = 0;
  } else if (!view_) {
    change.wanted = change_ ? std::move(change_->wanted) : std::exchange(better_, std::nullopt);
  } else {
    rebalances_ = 0;
    // A layout that was on its way when a failure came first is still wanted, for who is left.
    if (change_ && change_->wanted) {
      better_ = std::move(change_->wanted);
      rebalance_wanted_ = true;
    }
  }
  change.snapshot_every = view_ ? pace_.admitted(view_->snapshot_every) : config_.job.snapshot.every_steps;
  if (paced_ && cause.planned) change.snapshot_every = paced_->every_steps;
  paced_.reset();  // a change for a loss leaves it: waits are measured anew
  unfinished_prepare_ = false;
  done_.clear();
  log(log_record::Prepared{change.view, excluded, cause.reason, suspicion_});
  announce("view " + std::to_string(change.view.value()) + " is prepared: " + cause.reason);

  RecoveryRecord recovery;
  recovery.view = change.view;
  recovery.cause = cause.reason;
  recovery.planned = cause.planned;
  recovery.victims = cause.victims;
  recovery.declared_at = now_;
  for (const WorkerId victim : cause.victims) {
    const WorkerRecord& worker = workers_[victim];
    const Instant at = worker.evidence_at.value_or(worker.last_heard);
    recovery.evidence_at = recovery.evidence_at ? std::min(*recovery.evidence_at, at) : at;
  }
  // A change that another death interrupted goes on under the new number; its record keeps its earlier times.
  const bool superseded =
      change_ && !recoveries_.empty() && !recoveries_.back().committed_at && !recoveries_.back().planned;
  if (superseded) {
    RecoveryRecord& earlier = recoveries_.back();
    earlier.view = change.view;
    if (!cause.victims.empty() && earlier.victims.size() < kNamedLosses) earlier.cause += "; " + cause.reason;
    earlier.victims.insert(earlier.victims.end(), cause.victims.begin(), cause.victims.end());
  } else if (change_ && !recoveries_.empty() && !recoveries_.back().committed_at) {
    recoveries_.back() = recovery;  // a planned change that a failure overtook never happened
  } else {
    recoveries_.push_back(recovery);
  }
  change.recovery = recoveries_.size() - 1;
  change_ = std::move(change);
  if (workers_among(change_->members) == 0) {
    change_.reset();
    wait(kNoWorkers);
    return;
  }
  name_excluded();
  for (const WorkerId id : change_->members) send_prepare(workers_[id]);
}

void CoordinatorCore::name_excluded() {
  change_->excluded.clear();
  if (!view_) return;
  for (const Member& member : view_->members) {
    if (!change_->members.contains(member.worker)) change_->excluded.push_back(member.worker);
  }
}

void CoordinatorCore::send_prepare(const WorkerRecord& worker) {
  send(worker, Prepare{change_->view, change_->excluded, change_->boundary, suspicion_.compare_state,
                       change_->checkpoints_listed});
}

RecoveryInput CoordinatorCore::recovery_input(const Change& change) const {
  RecoveryInput input;
  input.view = change.view;
  std::vector<WorkerId> ids;
  for (const auto& [id, report] : change.reports) ids.push_back(id);
  MeasuredBlocks measured = measure_blocks(ids);
  for (const auto& [id, report] : change.reports) {
    const WorkerRecord& worker = workers_.at(id);
    input.members.push_back({{id, worker.incarnation, worker.host, worker.address, {}, worker.role},
                             report,
                             in_view(id),
                             change.leaving.contains(id),
                             measured.speeds[input.members.size()],
                             worker.heartbeat.beside_seconds,
                             worker.resources,
                             worker.no_snapshots_until && now_ < *worker.no_snapshots_until});
  }
  if (view_) {
    input.previous = view_;
    input.reached = view_->resume.step.previous();
    if (last_commit_ && last_commit_->view == view_->view) input.reached = std::max(input.reached, last_commit_->step);
  }
  input.slots = config_.job.batch.slots;
  input.total_steps = Step(config_.job.train.steps);
  input.map = &map_;
  input.job = &config_.job;
  input.sharded = config_.job.optimizer.shard;
  input.snapshot_every = change.snapshot_every;
  input.numeric_class = numeric_class_;
  input.block_shares = std::move(measured.shares);
  input.links = measured_links(ids);
  input.depths = depths_;
  if (change.wanted) input.wanted = change.wanted->stages;
  input.nonfinite = config_.job.optimizer.nonfinite;
  input.rebalance_gain = config_.job.cluster.rebalance_gain;
  input.steps_ahead = timing_.steps_until_loss(now_);
  input.losses_per_s = losses_per_s(workers_among(ids));
  input.planned = change.boundary.has_value();
  input.discard_work = suspicion_.discard_work;
  input.distrust_state = suspicion_.distrust_state;
  input.checkpoints_listed = change.checkpoints_listed;
  input.allow_rollback = now_ >= change.rollback_at;
  input.numeric = numeric_;
  input.disagreements = disagreements_;
  input.mutations = config_.mutations;
  return input;
}

void CoordinatorCore::finish_change() {
  if (!change_) return;
  const RecoveryInput input = recovery_input(*change_);
  const std::size_t staying = workers_among(change_->members) - workers_among(change_->leaving);
  if (staying < config_.job.cluster.min_workers) {
    wait(std::to_string(staying) +
         " worker(s) are here, cluster.min_workers = " + std::to_string(config_.job.cluster.min_workers));
    return;
  }
  auto decision = decide_recovery(input);
  if (!decision && decision.error().code() == ErrorCode::not_found) {
    change_->checkpoints_listed = true;
    change_->reports.clear();
    change_->started_at = now_;
    status_reason_ = decision.error().message();
    for (const WorkerId id : change_->members) send_prepare(workers_[id]);
    return;
  }
  if (!decision && decision.error().code() == ErrorCode::exhausted) {
    wait_for_capacity(decision.error().message());
    return;
  }
  if (!decision) {
    status_reason_ = decision.error().message();  // asked again at each tick until rollback is allowed
    change_->lacks_state = true;
    return;
  }
  if (decision->record.resume.tier > 0 && ask_who_may_help()) return;  // it came while the others reported
  if (decision->disagreement) {
    note(*decision->disagreement);
    log(*decision->disagreement);
  }
  if (decision->numeric) {
    note(*decision->numeric);
    log(*decision->numeric);
  }
  if (decision->halt) {
    finish_job(false, decision->record.reason, last_step_logged_, Hash128{});
    return;
  }
  if (!decision->expelled.empty()) {
    expel(decision->expelled, decision->record.reason);
    return;
  }
  commit(std::move(*decision));
}

// Workers that could have a part: members that serve and who waits to become one.
std::set<WorkerId> CoordinatorCore::present() const {
  std::set<WorkerId> workers;
  for (const auto& [id, worker] : workers_) {
    if (serving(worker) && in_view(id)) workers.insert(id);
  }
  for (const WorkerId id : pending_joiners()) workers.insert(id);
  std::erase_if(workers, [this](WorkerId id) { return !is_worker(id); });
  return workers;
}

// Without those that drain no layout fits: they stay. Without anybody draining, the job waits for more workers.
void CoordinatorCore::wait_for_capacity(const std::string& why) {
  const bool drains = !change_->leaving.empty();
  too_few_ = change_->members;  // who came meanwhile was not reckoned with
  std::erase_if(too_few_, [this](WorkerId id) { return change_->leaving.contains(id) || !is_worker(id); });
  if (!drains) {
    wait("too few workers: " + why);
    return;
  }
  status_reason_ = names({change_->leaving.begin(), change_->leaving.end()}) + " can't drain yet: " + why;
  start_change({.reason = status_reason_, .planned = false, .victims = {}});
}

// Their loss starts the change anew, without them.
void CoordinatorCore::expel(const std::vector<WorkerId>& workers, const std::string& why) {
  std::vector<Loss> losses;
  for (const WorkerId id : workers) {
    blame(workers_[id]);
    losses.push_back({id, "it computes wrongly: " + why});
  }
  lose(losses);
}

// Two members that live but can't reach each other have lost a connection and what it carried: a new view of the same
// members connects them afresh. When that doesn't help, the stall watch decides who goes.
void CoordinatorCore::consider_new_connections(WorkerRecord& heard) {
  constexpr std::uint32_t kMaxReconnects = 4;
  if (!heard.unreachable_since || now_ < *heard.unreachable_since + suspect_grace_) return;
  heard.unreachable_since.reset();
  if (finished_ || waiting_ || (change_ && !change_->boundary) || !in_view(heard.worker)) return;
  if (++reconnects_ > kMaxReconnects) return;
  start_change({.reason = "a peer lost its connection to " + name(heard.worker) + ", which lives: new connections",
                .planned = false,
                .victims = {}});
}

void CoordinatorCore::commit(RecoveryDecision decision) {
  const Change change = std::move(*change_);
  change_.reset();
  suspicion_ = {};
  waiting_ = false;
  const std::shared_ptr<const ViewRecord> previous = view_;
  auto record = std::make_shared<ViewRecord>(std::move(decision.record));
  record->reason = recoveries_[change.recovery].cause + ": " + record->reason;
  view_ = std::move(record);
  ++views_committed_;
  count_steps(view_->resume.step.previous());
  last_progress_at_ = now_;
  timing_.view_committed(view_->members.size(), change.stands_since, now_);
  balance_later(change.boundary.has_value());
  pace_.view_committed(view_->snapshots.stripes.empty() ? 0 : view_->snapshot_every, now_);
  if (view_->snapshot_every != change.snapshot_every) {
    announce("snapshots are not made more rarely: keepers lack the memory for that, or none are needed");
  }
  status_reason_ = view_->reason;
  log(log_record::Committed{*view_});
  announce("view " + std::to_string(view_->view.value()) + " is committed: " + view_->reason);

  RecoveryRecord& recovery = recoveries_[change.recovery];
  recovery.view = view_->view;
  recovery.committed_at = now_;
  recovery.at_step = view_->resume.step;
  recovery.tier = view_->resume.tier;
  recovery.lost_slots = view_->resume.lost_slot_count();
  recovery.lost_work = decision.lost_work;
  recovery.own_work = decision.own_work;

  // Who is in the previous view is told what changed.
  std::map<ViewNumber, std::shared_ptr<const PackedView>> packed;  // by base
  const auto packed_for = [&](const Report& report) {
    const bool has_previous = previous && report.view == previous->view;
    auto& bytes = packed[has_previous ? previous->view : ViewNumber(0)];
    if (!bytes) bytes = std::make_shared<PackedView>(pack_view(*view_, has_previous ? previous.get() : nullptr));
    return bytes;
  };
  const std::set<WorkerId> at_work = workers_of(view_->stages);
  for (const Member& member : view_->members) {
    WorkerRecord& worker = workers_[member.worker];
    if (worker.status == WorkerStatus::joining) worker.status = WorkerStatus::member;
    worker.last_progress_at = now_;
    worker.unreachable_since.reset();
    const bool idle = member.role == Role::worker && !at_work.contains(member.worker);
    if (!idle) worker.idle_since.reset();
    if (idle && !worker.idle_since) worker.idle_since = now_;
    send(worker, CommitView{packed_for(*change.reports.at(member.worker))});
  }
  for (const WorkerId id : decision.released) {
    WorkerRecord& worker = workers_[id];
    worker.status = WorkerStatus::left;
    log(log_record::WorkerReleased{id, worker.incarnation});
    send(worker, Released{});
  }
}

void CoordinatorCore::wait(std::string reason) {
  if (!waiting_ || status_reason_ != reason) {
    log(log_record::WaitingStarted{reason});
    announce("waiting: " + reason);
  }
  waiting_ = true;
  status_reason_ = std::move(reason);
  change_.reset();
}

}  // namespace planaria

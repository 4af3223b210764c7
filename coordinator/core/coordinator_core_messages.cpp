// Sessions, registration, leases and what workers say.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "coordinator/core/coordinator_core.hpp"
#include "storage/export.hpp"

namespace planaria {
namespace {

// Damaged payloads laid at one incarnation's door before it is expelled.
constexpr std::uint32_t kMaxFaults = 3;
constexpr WorkerId kLastWorker(999'999);
constexpr Duration kKeeperRest = std::chrono::minutes(1);    // of snapshots, after it failed to take or keep state
constexpr double kLongestWait = 1e9;                         // seconds
constexpr Duration kFaultMemory = std::chrono::minutes(10);  // what is longer ago than that is forgiven

// Layouts are cut by these: no other numbers than a machine can have.
bool is_speed(double micro_batches) {
  return std::isfinite(micro_batches) && micro_batches > 1e-6 && micro_batches < 1e9;
}
bool is_gflops(double gflops) {
  return std::isfinite(gflops) && gflops > 1e-3 && gflops < 1e9;
}

std::string name(WorkerId worker) {
  return "worker " + std::to_string(worker.value());
}

}  // namespace

bool CoordinatorCore::in_view(WorkerId worker) const {
  const Member* member = view_ ? view_->member(worker) : nullptr;
  if (member == nullptr) return false;
  const auto record = workers_.find(worker);
  return record != workers_.end() && record->second.incarnation == member->incarnation;
}

bool CoordinatorCore::serving(const WorkerRecord& worker) const {
  return worker.status != WorkerStatus::lost && worker.status != WorkerStatus::left;
}

std::vector<WorkerId> CoordinatorCore::pending_joiners() const {
  std::vector<WorkerId> joiners;
  for (const auto& [id, worker] : workers_) {
    const bool waits = worker.status == WorkerStatus::joining || worker.status == WorkerStatus::draining;
    if (waits && worker.session && !in_view(id)) joiners.push_back(id);
  }
  return joiners;
}

Instant CoordinatorCore::joiners_worth_at(const std::vector<WorkerId>& joiners) const {
  std::vector<Instant> accepted;
  for (const WorkerId id : joiners) accepted.push_back(workers_.at(id).accepted_at);
  return timing_.worth_for_joiners(accepted, now_);
}

void CoordinatorCore::handle(const coordinator_event::SessionMessage& event) {
  const WorkerEnvelope& envelope = event.envelope;
  if (envelope.protocol != kProtocolVersion) {
    send(event.session, Refused{"protocol version " + std::to_string(envelope.protocol) + "; this coordinator speaks " +
                                    std::to_string(kProtocolVersion) + ": use the same release everywhere",
                                true});
    return;
  }
  if (const auto* registration = std::get_if<Register>(&envelope.message)) {
    register_worker(event.session, *registration);
    return;
  }
  const auto session = sessions_.find(event.session);
  if (session == sessions_.end()) return;
  WorkerRecord& worker = *session->second;
  if (envelope.worker != worker.worker || envelope.incarnation != worker.incarnation ||
      worker.session != event.session || !serving(worker)) {
    if (worker.status != WorkerStatus::left) {
      send(event.session,
           Fenced{envelope.incarnation, name(envelope.worker) + ", incarnation " +
                                            std::to_string(envelope.incarnation.value()) + ", is no member any more"});
    }
    return;
  }
  worker.last_heard = now_;
  worker.suspect_until.reset();
  worker.asked_until.reset();
  worker.evidence_at.reset();
  consider_new_connections(worker);
  std::visit([&](const auto& alternative) { message(worker, alternative); }, envelope.message);
}

void CoordinatorCore::handle(const coordinator_event::SessionLost& event) {
  pass_on_choosing(event.session);
  const auto session = sessions_.find(event.session);
  if (session == sessions_.end()) return;
  WorkerRecord& worker = *session->second;
  sessions_.erase(session);
  if (worker.session != event.session) return;
  worker.session.reset();
  if (serving(worker)) suspect(worker, "its control connection broke");
}

// ---- registration ----

std::optional<Refused> CoordinatorCore::objection(const Register& message) const {
  if (message.protocol != kProtocolVersion) {
    return Refused{"protocol version " + std::to_string(message.protocol) + "; this coordinator speaks " +
                       std::to_string(kProtocolVersion) + ": use the same release everywhere",
                   true};
  }
  const std::string& token = config_.job.security.join_token;
  if (message.join_token != token)
    return Refused{"the join token is wrong: set security.join_token to the job's", true};
  if (message.job && *message.job != config_.job_hash) {
    return Refused{"the job differs: hash " + message.job->hex() + " here, " + config_.job_hash.hex() +
                       " at the coordinator: check model, data, optimizer, batch and seed",
                   true};
  }
  const bool computes = message.role == Role::worker;
  // Who asks for kernels before it has proved them is told at once that they can't be its own.
  const bool other_class = message.numeric_class != numeric_class_ && (message.job || !message.numeric_class.empty());
  if (job_recorded_ && computes && (other_class || (message.job && message.probe != probe_))) {
    return another_class(message.numeric_class);
  }
  if (message.kernels.size() > Register::kMostKernelBytes) return Refused{"more kernels than any model has", true};
  if (job_recorded_ && computes && message.job && message.kernels != kernels_.chosen()) {
    return Refused{"its device chose kernels by itself, while another chose those of the job: start it again", true};
  }
  if (const Status sound = check_holdings(message.holdings); !sound) return Refused{sound.error().message(), true};
  if (message.wanted && *message.wanted > kLastWorker) {
    return Refused{"the highest worker id is " + std::to_string(kLastWorker.value()), true};
  }
  const auto known = message.identity ? workers_.find(message.identity->worker) : workers_.end();
  if (known != workers_.end() && known->second.role != message.role) {
    return Refused{"a keeper and a worker can't take each other's place", true};
  }
  if (message.identity && expelled_.contains(message.identity->worker)) {
    return Refused{"this worker computes wrongly: see the coordinator's log, and its hardware", true};
  }
  return std::nullopt;
}

Refused CoordinatorCore::another_class(const std::string& numeric_class) const {
  return {"another numeric class: \"" + numeric_class + "\" here, \"" + numeric_class_ +
              "\" in the job's record: its sums would have other bits",
          true};
}

void CoordinatorCore::register_worker(SessionId session, const Register& message) {
  if (const auto refused = objection(message)) {
    announce("refused a worker of host " + message.host + ": " + refused->reason);
    send(session, *refused);
    pass_on_choosing(session);
    return;
  }
  if (finished_) {
    send(session, Finish{finished_->reason, finished_->success});
    // Who is started anew under a number takes the place of its holder.
    const auto told = message.identity ? std::optional(message.identity->worker) : message.wanted;
    const auto known = told ? workers_.find(*told) : workers_.end();
    if (known != workers_.end()) known->second.told_end = true;
    return;
  }
  if (!message.job) {  // it needs the job first; it registers again with its hash and probe
    if (message.numeric_class.empty()) {
      give_job(session, {});
    } else if (auto kernels = kernels_.ask(session, message.numeric_class, now_)) {
      give_job(session, std::move(*kernels));
    }
    return;
  }
  if (!job_recorded_ && message.role == Role::worker) {
    job_recorded_ = true;
    numeric_class_ = message.numeric_class;
    probe_ = message.probe;
    log(log_record::JobRecorded{config_.job_hash, numeric_class_, probe_, message.kernels});
    for (const auto& waiting : kernels_.settle(message.kernels)) {
      if (waiting.numeric_class == numeric_class_) {
        give_job(waiting.session, message.kernels);
      } else {
        send(waiting.session, another_class(waiting.numeric_class));
      }
    }
  }
  // Who it says that it is: null when nobody is known under that number.
  WorkerRecord* claimed = nullptr;
  if (message.identity) {
    const auto known = workers_.find(message.identity->worker);
    if (known != workers_.end()) claimed = &known->second;
  }
  if (claimed != nullptr && claimed->incarnation == message.identity->incarnation) {
    if (serving(*claimed)) {
      attach(*claimed, session, message);
      catch_up(*claimed);
      return;
    }
    // It was drained and didn't hear that it may go.
    if (claimed->status == WorkerStatus::left) {
      send(session, Released{});
      return;
    }
  }
  if (claimed != nullptr && serving(*claimed)) {
    // It was accepted anew on this very session and has not heard it yet.
    if (claimed->session == session) {
      attach(*claimed, session, message);
      return;
    }
    if (!same_process(*claimed, message)) {
      claimed = nullptr;  // somebody else is at work under that number
    } else if (in_view(claimed->worker)) {
      lose(*claimed, "it registers anew");  // what the member was is gone
    }
  }
  WorkerRecord& worker = accept_worker(claimed, message);
  attach(worker, session, message);
  // Its earlier incarnation, which was asked, can't answer any more.
  if (change_ && change_->members.contains(worker.worker)) {
    change_->reports.erase(worker.worker);
    send_prepare(worker);
  }
}

void CoordinatorCore::give_job(SessionId session, ByteVector kernels) {
  send(session, Welcome{{}, {}, config_.job_key, config_.frame_key, config_.job_toml, std::move(kernels)});
}

// Who waits for the kernels that this one was to choose isn't left waiting.
void CoordinatorCore::pass_on_choosing(SessionId session) {
  if (const auto next = kernels_.give_up(session, now_)) give_job(*next, {});
}

bool CoordinatorCore::same_process(const WorkerRecord& worker, const Register& message) {
  return worker.host == message.host && worker.process_id == message.process_id;
}

// `earlier` is what is known of this worker from before, or null.
WorkerRecord& CoordinatorCore::accept_worker(const WorkerRecord* earlier, const Register& message) {
  WorkerId id = workers_.empty() ? WorkerId(0) : workers_.rbegin()->first.next();
  if (earlier != nullptr) {
    id = earlier->worker;
  } else if (message.wanted && !workers_.contains(*message.wanted)) {
    id = *message.wanted;
  }
  WorkerRecord& worker = workers_[id];
  const Incarnation incarnation = worker.incarnation.next();
  worker = WorkerRecord{};
  worker.worker = id;
  worker.incarnation = incarnation;
  worker.accepted_at = now_;
  worker.role = message.role;
  log(log_record::WorkerAccepted{id, incarnation, message.host, message.role});
  announce(name(id) + (message.role == Role::keeper ? ", a keeper," : "") + " of host " + message.host + " joins" +
           (incarnation.value() > 1 ? ", incarnation " + std::to_string(incarnation.value()) : ""));
  return worker;
}

void CoordinatorCore::attach(WorkerRecord& worker, SessionId session, const Register& message) {
  if (worker.session && *worker.session != session) sessions_.erase(*worker.session);
  worker.session = session;
  sessions_[session] = &worker;
  worker.host = message.host;
  worker.threads = message.threads;
  worker.process_id = message.process_id;
  worker.resources = message.resources;
  if (!is_gflops(worker.resources.gflops)) worker.resources.gflops = 0;
  worker.address = message.address;
  worker.holdings = message.holdings;
  worker.last_heard = now_;
  worker.last_progress_at = now_;
  worker.suspect_until.reset();
  worker.asked_until.reset();
  worker.evidence_at.reset();
  next_lease_check_ = std::min(next_lease_check_, now_ + lease_);
  send(worker, Welcome{worker.worker, worker.incarnation, config_.job_key, config_.frame_key, {}, {}});
}

// Tells a worker that comes back what it may have missed.
void CoordinatorCore::catch_up(WorkerRecord& worker) {
  // First the view that it may have missed: a later Prepare's boundary is one of that view.
  // It is refused there as over when it has it.
  if (in_view(worker.worker)) send(worker, CommitView{std::make_shared<PackedView>(pack_view(*view_, nullptr))});
  if (change_ && change_->members.contains(worker.worker)) send_prepare(worker);
}

// ---- life and death ----

void CoordinatorCore::suspect(WorkerRecord& worker, const std::string& why) {
  if (mutated(Mutation::lease_ignored)) {
    lose(worker, why);
    return;
  }
  if (!worker.evidence_at) worker.evidence_at = now_;
  if (worker.suspect_until) return;
  worker.suspect_until = now_ + suspect_grace_;
  next_lease_check_ = std::min(next_lease_check_, *worker.suspect_until);
  send(worker, Probe{});
}

std::uint32_t CoordinatorCore::blame(WorkerRecord& worker) {
  if (now_ >= worker.last_fault_at + kFaultMemory) worker.faults = 0;
  worker.last_fault_at = now_;
  return ++worker.faults;
}

void CoordinatorCore::lose(const std::vector<Loss>& losses) {
  if (finished_) return;
  std::vector<WorkerId> victims;
  std::string reason;
  bool entered = true;  // all that the change at hand counts on are members already
  for (const auto& [id, why] : losses) {
    WorkerRecord& worker = workers_[id];
    if (!serving(worker)) continue;
    worker.status = WorkerStatus::lost;
    done_.erase(id);
    announce(name(id) + " is lost: " + why);
    if (in_view(id)) {
      if (worker.role == Role::worker) timing_.member_lost(now_);
      victims.push_back(id);
      if (victims.size() <= kNamedLosses) reason += (reason.empty() ? "" : "; ") + name(id) + " lost: " + why;
    } else if (change_ && change_->members.erase(id) > 0) {
      change_->reports.erase(id);
      entered = false;
    }
  }
  if (victims.size() > kNamedLosses) reason += "; and " + std::to_string(victims.size() - kNamedLosses) + " more";
  if (!victims.empty()) {
    const bool with_joiners = timing_.losses_come_fast(now_);
    start_change(
        {.reason = std::move(reason), .planned = false, .victims = std::move(victims), .with_joiners = with_joiners});
  } else if (!entered) {  // who had not become a member yet: the change goes on without it
    name_excluded();
    if (workers_among(change_->members) == 0) {
      change_.reset();
    } else if (change_->reports.size() == change_->members.size()) {
      finish_change();
    }
  }
}

void CoordinatorCore::accept_drain(WorkerRecord& worker, const std::string& reason) {
  if (worker.status == WorkerStatus::draining || !serving(worker)) return;
  worker.status = WorkerStatus::draining;
  log(log_record::DrainAccepted{worker.worker, worker.incarnation, reason});
  announce(name(worker.worker) + " drains: " + reason);
  const bool others_serve = view_ && std::ranges::any_of(view_->members, [&](const Member& member) {
                              return member.worker != worker.worker && member.role == Role::worker &&
                                     in_view(member.worker) && serving(workers_[member.worker]);
                            });
  if (in_view(worker.worker) || !others_serve || (change_ && change_->members.contains(worker.worker))) return;
  worker.status = WorkerStatus::left;  // it never became a member: nobody needs it
  log(log_record::WorkerReleased{worker.worker, worker.incarnation});
  send(worker, Released{});
}

void CoordinatorCore::handle(const coordinator_event::DrainWorker& event) {
  const auto worker = workers_.find(event.worker);
  if (worker != workers_.end() && !finished_) accept_drain(worker->second, event.reason);
}

// ---- what members say ----

Status CoordinatorCore::check_holdings(const Holdings& holdings) const {
  constexpr std::size_t kMaxCheckpoints = 100'000;
  const Step total(config_.job.train.steps);
  constexpr std::size_t kMaxStates = 16;
  const auto sound = [&](const HeldState& held) {
    const auto known = [&](const TileRange& range) {
      return range.begin < range.end && range.end <= map_.tile_count();
    };
    return held.stamp <= total && std::ranges::all_of(held.state, known) &&
           std::ranges::all_of(held.parameters, known) && held.hashes.size() <= map_.blocks().size();
  };
  const bool beyond =
      holdings.compared && (holdings.compared->step > total || holdings.compared->blocks.size() > map_.blocks().size());
  if (beyond || holdings.states.size() > kMaxStates || !std::ranges::all_of(holdings.states, sound) ||
      !std::ranges::is_sorted(holdings.states, std::ranges::less_equal{}, &HeldState::stamp) ||
      holdings.checkpoints.size() > kMaxCheckpoints ||
      std::ranges::any_of(holdings.checkpoints, [&](Step step) { return step > total; })) {
    return Error(ErrorCode::corrupt, "it names state of steps that the job doesn't have");
  }
  // A keeper has one of each stripe of a few snapshots at most.
  constexpr std::size_t kMaxHeldFragments = 4096;
  if (holdings.fragments.size() > kMaxHeldFragments) {
    return Error(ErrorCode::corrupt, "it names more fragments than a keeper holds");
  }
  return ok_status();
}

// Recovery plans memory and loops by these numbers.
Status CoordinatorCore::check_report(Role role, const Report& report) const {
  if (role == Role::keeper && !(report.stages.empty() && report.reduced.empty() && !report.kept)) {
    return Error(ErrorCode::corrupt, "a keeper has no work");
  }
  PLANARIA_TRY(check_holdings(report.holdings));
  PLANARIA_TRY(check_work(report.stages, report.reduced));
  if (report.kept) PLANARIA_TRY(check_work(report.kept->stages, report.kept->reduced));
  if (report.gradient.size() > map_.blocks().size()) return Error(ErrorCode::corrupt, "it names unknown blocks");
  for (const SlotRange range : report.nonfinite) {
    if (range.begin > range.end || range.end > config_.job.batch.slots) {
      return Error(ErrorCode::corrupt, "it names unknown slots");
    }
  }
  return ok_status();
}

Status CoordinatorCore::check_work(std::span<const StageProgress> stages, std::span<const TileRange> reduced) const {
  const std::uint32_t slots = config_.job.batch.slots;
  const std::uint64_t blocks = map_.blocks().size();
  std::uint64_t cells = 0;
  for (const StageProgress& stage : stages) {
    if (stage.work.empty() || stage.work.blocks.end > blocks || stage.work.slots.end > slots ||
        stage.done > stage.work.slots.size()) {
      return Error(ErrorCode::corrupt, "it names work that there isn't");
    }
    cells += stage.work.cells();
  }
  if (cells > blocks * slots) return Error(ErrorCode::corrupt, "it tells of more work than there is");
  for (const TileRange range : reduced) {
    if (range.begin > range.end || range.end > map_.tile_count()) {
      return Error(ErrorCode::corrupt, "it names unknown tiles");
    }
  }
  return ok_status();
}

void CoordinatorCore::message(WorkerRecord&, const Register&) {}  // handled before: it names the session

void CoordinatorCore::message(WorkerRecord& worker, const Heartbeat& message) {
  if (message.progress != worker.heartbeat.progress || message.step != worker.heartbeat.step) {
    worker.last_progress_at = now_;
    last_progress_at_ = now_;
  }
  const bool enters = timing_.awaits_members() && message.view == view_->view && worker.heartbeat.view != message.view;
  worker.heartbeat = message;
  if (const auto links = std::exchange(worker.heartbeat.links, {}); !links.empty()) {
    note_links(worker.links, links, now_);
    std::erase_if(worker.links, [&](const auto& link) { return !workers_.contains(link.first); });
  }
  if (enters) timing_.member_entered(now_);
  const auto no_time = [](float seconds) { return !std::isfinite(seconds) || seconds < 0 || seconds > 1e6F; };
  if (std::ranges::any_of(message.block_seconds, no_time)) worker.heartbeat.block_seconds.clear();
  if (no_time(static_cast<float>(message.beside_seconds))) worker.heartbeat.beside_seconds = 0;
  if (is_speed(message.micro_batches_per_second)) worker.speed = message.micro_batches_per_second;
  const double waited = message.snapshot_wait_seconds;
  const bool plausible = std::isfinite(waited) && waited >= 0 && waited < kLongestWait;
  if (plausible && view_ && message.view == view_->view) {
    pace_.member_waited(worker.worker, Duration(static_cast<std::int64_t>(waited * 1e9)));
  }
}

void CoordinatorCore::message(WorkerRecord& worker, const Report& message) {
  if (const Status sound = check_report(worker.role, message); !sound) {
    lose(worker, "its report makes no sense: " + sound.error().message());
    return;
  }
  worker.holdings = message.holdings;
  if (!change_ || message.prepare != change_->view || !change_->members.contains(worker.worker)) return;
  const bool early = change_->boundary && in_view(worker.worker) && message.work_step <= *change_->boundary;
  if (early) return;  // of a boundary that was moved since
  if (!change_->stands_since && in_view(worker.worker)) change_->stands_since = now_;
  change_->reports[worker.worker] = std::make_shared<const Report>(message);
  if (change_->reports.size() == change_->members.size()) finish_change();
}

void CoordinatorCore::message(WorkerRecord&, const BoundaryPassed& message) {
  if (!change_ || !change_->boundary || message.prepare != change_->view || message.step <= *change_->boundary) return;
  change_->boundary = message.step;
  change_->reports.clear();
  for (const WorkerId id : change_->members) send_prepare(workers_[id]);
}

void CoordinatorCore::message(WorkerRecord& worker, const Evidence& message) {
  if (!view_ || message.view != view_->view || finished_) return;
  const auto about = workers_.find(message.about);
  if (about == workers_.end()) return;
  const bool changing = change_ && !change_->boundary;
  const std::string who = name(message.about);
  switch (message.kind) {
    case EvidenceKind::peer_unreachable:
      if (about->second.worker != worker.worker && in_view(message.about) && serving(about->second)) {
        suspect(about->second, "a peer can't reach it");
        if (!about->second.unreachable_since) about->second.unreachable_since = now_;
      }
      return;
    case EvidenceKind::corrupt_payload:
      if (changing) return;
      if (blame(about->second) >= kMaxFaults) {
        lose(about->second, "it sent damaged data " + std::to_string(kMaxFaults) + " times");
      } else {
        start_change({.reason = "damaged data from " + who + ": the step's sums are sent anew",
                      .planned = false,
                      .victims = {}});
      }
      return;
    case EvidenceKind::nonfinite:
      if (!changing)
        start_change({.reason = "the gradient of step " + std::to_string(message.step.value()) + " is nonfinite",
                      .planned = false,
                      .victims = {}});
      return;
    case EvidenceKind::gradient_mismatch:
    case EvidenceKind::state_mismatch: {
      const bool differs = message.kind == EvidenceKind::state_mismatch;
      const log_record::Suspicion suspicion{.compare_state = true, .discard_work = true, .distrust_state = differs};
      // Said while a change is under way it is news all the same: who is wrong may die before it is asked.
      const bool news = suspicion_.distrust_state < differs || !suspicion_.compare_state;
      if (!changing || news) {
        start_change({.reason = "members disagree at step " + std::to_string(message.step.value()) + ": " + who + ": " +
                                message.detail,
                      .planned = false,
                      .victims = {},
                      .suspicion = suspicion});
      }
      return;
    }
    case EvidenceKind::fetch_failed:
      // Asked again at once it would fail again, and all wait for it.
      if (worker.role == Role::keeper && message.about == worker.worker) worker.no_snapshots_until = now_ + kKeeperRest;
      if (changing) return;
      // The next plan would have it fetched from there again: not for ever.
      if (message.about != worker.worker && blame(about->second) >= kMaxFaults) {
        lose(about->second, "it didn't give the state that it told of " + std::to_string(kMaxFaults) + " times");
        return;
      }
      start_change({.reason = "state could not be fetched from " + who + ": " + message.detail,
                    .planned = false,
                    .victims = {}});
      return;
    case EvidenceKind::count_:
      return;
  }
}

void CoordinatorCore::message(WorkerRecord&, const StepCommitted& message) {
  last_progress_at_ = now_;
  // After a rollback a later view's earlier step is news; who comes back repeats what it knew before.
  const auto place = [](const StepCommitted& commit) { return std::pair(commit.view, commit.step); };
  if (last_commit_ && place(message) <= place(*last_commit_)) return;
  last_commit_ = message;
  last_step_logged_ = message.step;
  for (RecoveryRecord& recovery : recoveries_) {
    if (!recovery.step_committed_at && recovery.committed_at && recovery.at_step <= message.step) {
      recovery.step_committed_at = now_;
    }
  }
  reconnects_ = 0;
  timing_.step_committed(now_);
  pace_.step_committed();
  count_steps(message.step);
  log(log_record::StepLogged{message.view, message.step, message.loss}, false);
}

void CoordinatorCore::message(WorkerRecord&, const RecomputeNotice& message) {
  for (RecoveryRecord& recovery : recoveries_) {
    if (recovery.view != message.view) continue;
    if (!recovery.first_slot_started || message.first_slot_started < *recovery.first_slot_started) {
      recovery.first_slot_started = message.first_slot_started;
    }
    if (message.last_slot_done && (!recovery.last_slot_done || *message.last_slot_done > *recovery.last_slot_done)) {
      recovery.last_slot_done = message.last_slot_done;
    }
  }
}

void CoordinatorCore::message(WorkerRecord& worker, const AttachNotice& message) {
  announce(fmt::format("{} took up {:.1f} MB of state from the memory of its host's keeper, in {:.1f} ms",
                       name(worker.worker), static_cast<double>(message.bytes) / 1e6, 1e3 * message.seconds));
}

void CoordinatorCore::message(WorkerRecord& worker, const CheckpointSaved& message) {
  const std::string step = std::to_string(message.step.value());
  if (message.ok) {
    announce("checkpoint of step " + step + " is durable, written by " + name(worker.worker));
    if (std::ranges::find(worker.holdings.checkpoints, message.step) == worker.holdings.checkpoints.end()) {
      worker.holdings.checkpoints.push_back(message.step);
    }
    if (message.step == Step(config_.job.train.steps)) result_unsaved_.clear();
  } else {
    if (message.step == Step(config_.job.train.steps)) {
      result_unsaved_ = message.detail;
      status_reason_ = "all steps are done, but the result isn't saved yet: " + message.detail;
    }
    announce("checkpoint of step " + step + " FAILED on " + name(worker.worker) + ": " + message.detail);
  }
}

// It is durable when all of its parts are.
void CoordinatorCore::message(WorkerRecord& worker, const SnapshotSaved& message) {
  const std::string step = std::to_string(message.snapshot.step.value());
  if (!message.ok) {
    announce("durable snapshot of step " + step + " FAILED on " + name(worker.worker) + ": " + message.detail);
    return;
  }
  if (saving_.snapshot != message.snapshot) saving_ = {message.snapshot, {}, 0};
  if (!saving_.keepers.insert(worker.worker).second) return;
  saving_.bytes += message.bytes;
  if (!view_ || view_->view != message.snapshot.layout) return;
  const bool all = std::ranges::all_of(view_->members, [&](const Member& member) {
    return saving_.keepers.contains(member.worker) || tiles_of(view_->snapshots, member.worker).empty();
  });
  if (!all) return;
  announce(fmt::format("snapshot of step {} is durable, written by {} keepers: {:.1f} MB", step, saving_.keepers.size(),
                       static_cast<double>(saving_.bytes) / 1e6));
}

void CoordinatorCore::message(WorkerRecord& worker, const DrainRequest& message) {
  accept_drain(worker, message.reason);
}

Status CoordinatorCore::check_weights(const Done& message) const {
  for (const BlockWeights& block : message.weights) {
    if (block.block >= map_.blocks().size() ||
        block.tensors.size() != tensor_count(config_.job.model, map_, BlockIndex(block.block))) {
      return Error(ErrorCode::corrupt, "it names weights that there aren't");
    }
  }
  return ok_status();
}

void CoordinatorCore::message(WorkerRecord& worker, const Done& message) {
  if (!view_ || message.view != view_->view || !in_view(worker.worker) || finished_) return;
  if (const Status sound = check_weights(message); !sound) {
    lose(worker, "its result makes no sense: " + sound.error().message());
    return;
  }
  done_[worker.worker] = message;
  last_progress_at_ = now_;
  if (done_.size() < view_->members.size()) return;
  std::vector<std::vector<Hash128>> weights(map_.blocks().size());
  for (const auto& [id, done] : done_) {
    for (const BlockWeights& block : done.weights) {
      if (weights[block.block].empty()) weights[block.block] = block.tensors;
      if (weights[block.block] == block.tensors) continue;
      done_.clear();
      start_change({.reason = "members disagree about the final weights: " + name(id),
                    .planned = false,
                    .victims = {},
                    .suspicion = {.compare_state = true, .discard_work = true, .distrust_state = false}});
      return;
    }
  }
  for (std::uint32_t block = 0; block < weights.size(); ++block) {
    if (weights[block].size() == tensor_count(config_.job.model, map_, BlockIndex(block))) continue;
    done_.clear();
    start_change(
        {.reason = "nobody told the final weights of " + map_.blocks()[block].name, .planned = false, .victims = {}});
    return;
  }
  result_ = JobResult{message.step, weights_hash(config_.job.model, map_, weights), message.final_loss,
                      message.final_validation_loss};
  // Who only took part in the evaluation after the last step doesn't know that step's loss.
  for (const auto& [id, done] : done_) {
    if (done.final_loss) result_->final_loss = done.final_loss;
  }
  std::string reason = "finished step " + std::to_string(message.step.value());
  if (!result_unsaved_.empty()) reason += ", but its result isn't saved: " + result_unsaved_;
  finish_job(true, std::move(reason), message.step, result_->weights);
}

}  // namespace planaria

// Sessions, views and their changes.
#include <algorithm>
#include <utility>

#include "worker/core/worker_core.hpp"

namespace planaria {
namespace {

// Sooner than the coordinator gives up a worker whose connection broke, then with patience.
constexpr Duration kFirstRegisterDelay = std::chrono::milliseconds(10);
constexpr Duration kLastRegisterDelay = std::chrono::milliseconds(500);
constexpr std::size_t kMaxEvidence = 64;

}  // namespace

using namespace worker_action;  // NOLINT: the file is about emitting these

// ---- session ----

Holdings WorkerCore::holdings() const {
  Holdings holdings;
  holdings.states = states_.report();
  holdings.compared = compared_;
  holdings.lineage = lineage_;
  holdings.checkpoints.assign(checkpoints_.begin(), checkpoints_.end());
  if (keeping_) holdings.fragments = keeping_->whole();
  return holdings;
}

Register WorkerCore::registration() const {
  Register message = config_.registration;
  message.holdings = holdings();
  message.identity = identity_;
  return message;
}

void WorkerCore::send_control(WorkerMessage message) {
  if (connected_) emit(SendControl{std::move(message)});
}

void WorkerCore::send_register() {
  send_control(registration());
}

void WorkerCore::handle(const worker_event::ControlConnected&) {
  connected_ = true;
  send_register();
}

void WorkerCore::handle(const worker_event::ControlLost&) {
  connected_ = false;
}

void WorkerCore::handle(const worker_event::Control& event) {
  if (event.generation < generation_ && !mutated(Mutation::accept_old_generation)) {
    refuse("a message of an older coordinator generation");
    return;
  }
  generation_ = std::max(generation_, event.generation);
  std::visit([this](const auto& message) { control(message); }, event.message);
}

void WorkerCore::control(const Welcome& message) {
  const bool known = identity_ && identity_->worker == message.worker && identity_->incarnation == message.incarnation;
  if (!known) {
    leave_view();
    identity_ = Identity{message.worker, message.incarnation, ViewNumber(0), ViewNumber(0)};
  }
  // What was said while the coordinator was away may be lost: say it again.
  reported_ = false;
  done_sent_ = false;
  exchange_.alarmed = false;
  register_delay_ = kFirstRegisterDelay;
  if (last_commit_.step != Step(0)) send_control(last_commit_);
  for (const Evidence& evidence : evidence_) send_control(evidence);
  if (draining_) send_control(DrainRequest{drain_reason_});
  next_heartbeat_ = now_;
  send_heartbeat();
}

void WorkerCore::control(const Refused& message) {
  if (!message.permanent && (!states_.empty() || view_)) {
    // What this worker holds may be the only copy: it stays and asks again.
    emit(Note{"refused for now: " + message.reason + "; registering again"});
    register_again_at_ = now_ + register_delay_;
    register_delay_ = std::min(register_delay_ * 2, kLastRegisterDelay);
    return;
  }
  stopped_ = true;
  emit(Stop{false, message.reason, message.permanent});
}

void WorkerCore::control(const Probe&) {
  send_heartbeat();
}

void WorkerCore::control(const Fenced& message) {
  // One answer is enough to the many messages that were on their way: the next ones name an incarnation that is over.
  if (!identity_ || message.incarnation != identity_->incarnation) return refuse("a fence that is over");
  emit(Note{"fenced: " + message.reason + "; registering again with the state at hand"});
  leave_view();
  if (mutated(Mutation::forget_fenced_state)) states_.keep_only(std::nullopt);
  send_register();
}

void WorkerCore::control(const Released&) {
  stopped_ = true;
  emit(Stop{true, "drained: " + drain_reason_, false});
}

void WorkerCore::control(const Finish& message) {
  stopped_ = true;
  emit(Stop{message.success, message.reason, false});
}

void WorkerCore::handle(const worker_event::DrainWanted& event) {
  if (draining_) return;
  draining_ = true;
  drain_reason_ = event.reason;
  if (!identity_ || mutated(Mutation::release_drained_early)) {
    stopped_ = true;
    emit(Stop{true, "drained: " + event.reason, false});
    return;
  }
  send_control(DrainRequest{drain_reason_});
}

void WorkerCore::handle(const worker_event::Tick&) {
  if (now_ >= register_again_at_) {
    register_again_at_ = kFarFuture;
    send_register();
  }
  if (now_ >= next_heartbeat_) send_heartbeat();
}

void WorkerCore::send_heartbeat() {
  if (!identity_) return;
  next_heartbeat_ = now_ + config_.heartbeat;
  Heartbeat heartbeat;
  heartbeat.view = view();
  heartbeat.step = work_.step;
  heartbeat.phase = phase();
  heartbeat.progress = progress_;
  heartbeat.waiting_on = waiting_on();
  heartbeat.micro_batches_per_second = compute_rate_.per_second();
  heartbeat.block_seconds = block_times_.seconds();
  heartbeat.beside_seconds = beside_.value();
  heartbeat.snapshot_wait_seconds = to_seconds(snapshot_wait_);
  send_control(std::move(heartbeat));
}

std::optional<WorkerId> WorkerCore::waiting_on() const {
  if (!in_view() || work_.step == Step(0) || rehearsing_ > 0) return std::nullopt;
  const auto word = exchange_.ack_sent    ? owes(exchange_.acks)
                    : exchange_.gate_sent ? owes(exchange_.gates)
                                          : std::nullopt;
  if (word) return word;
  if (const auto owes = waiting_for_snapshot()) return owes;
  if (exchange_.updated && !exchange_.ack_sent) return waiting_for_parameters();
  if (exchange_.gate_sent) return std::nullopt;
  if (!work_.computed()) return waiting_for_input();
  for (const StageAssignment& stage : exchange_.stages) {
    if (stage.worker == self() || stage.work.empty() || unready_shards(self(), stage.work.blocks).empty()) continue;
    if (!has_piece_of(stage.work)) return stage.worker;
  }
  const TileSet missing = own_duty().summed.without(work_.reduced);
  for (const ShardAssignment& shard : exchange_.shards) {
    if (shard.owner != self() && missing.intersects(shard.tiles)) return shard.owner;
  }
  return std::nullopt;
}

// Whether a sum that holds the first slot of the stage has arrived.
bool WorkerCore::has_piece_of(const StageWork& stage) const {
  for (std::uint32_t level = 0; (1U << level) <= config_.slots; ++level) {
    if (exchange_.pieces.contains({stage.blocks, {level, stage.slots.begin >> level}})) return true;
  }
  return false;
}

// Who owes parameters that the next step needs.
std::optional<WorkerId> WorkerCore::waiting_for_parameters() const {
  const TileSet missing = own_duty().used.without(states_.parameters(work_.step));
  for (const ShardAssignment& shard : view_->shards) {
    const bool owes = !sent_by(*config_.map, std::span(&shard, 1), shard.owner, missing).empty();
    if (owes && shard.owner != self()) return shard.owner;
  }
  return std::nullopt;
}

// Whose output the stage that is furthest behind lacks.
std::optional<WorkerId> WorkerCore::waiting_for_input() const {
  if (outstanding_ > 0) return std::nullopt;
  for (const StepWork::Stage& own : work_.stages) {
    if (own.computed() || !can_compute(own)) continue;
    for (const StageAssignment& stage : exchange_.stages) {
      const bool below = stage.work.blocks.end == own.work.blocks.begin && stage.work.slots.contains(own.forward.slot);
      const bool above = stage.work.blocks.begin == own.work.blocks.end && stage.work.slots.contains(own.backward.slot);
      if (stage.worker != self() && (own.in_flight >= own.depth ? above : below)) return stage.worker;
    }
  }
  return std::nullopt;
}

void WorkerCore::report_evidence(EvidenceKind kind, WorkerId about, std::string detail) {
  evidence_.push_back({view(), kind, about, work_.step, std::move(detail)});
  if (evidence_.size() > kMaxEvidence) evidence_.pop_front();
  send_control(evidence_.back());
}

void WorkerCore::refuse(const std::string& why) {
  ++refused_;
  emit(Note{"refused: " + why});
}

// ---- view changes ----

void WorkerCore::leave_view() {
  if (view_) {
    std::vector<WorkerId> peers = others();
    emit(FenceView{std::max(view_->view, identity_->prepared), std::move(peers)});
  }
  abandon_checkpoint("the worker lost its place in the view");
  view_.reset();
  duties_.reset();
  evidence_.clear();
  fenced_ = false;
  prepare_.reset();
  reported_ = false;
  exchange_ = ExchangeState{};
  fetch_.reset();
  rebuilds_.clear();
  parts_.clear();
  early_.clear();
  waiting_requests_.clear();
  if (work_.step != Step(0)) emit(ReleaseStep{work_.step});
  release_kept();
  work_ = StepWork{};
  done_sent_ = false;
}

void WorkerCore::control(const Prepare& message) {
  if (!identity_) return refuse("Prepare before Welcome");
  const bool moved_boundary = prepare_ && prepare_->view == message.view && prepare_->boundary && message.boundary &&
                              *message.boundary > *prepare_->boundary;
  const bool repeated = prepare_ && prepare_->view == message.view && !moved_boundary;
  if (repeated) {
    reported_ = false;  // asked again: the answer may have been lost, or more is wanted
    prepare_->want_checkpoints = message.want_checkpoints;
    checkpoints_fresh_ = false;
    return;
  }
  if (!moved_boundary && (message.view <= identity_->prepared || message.view <= view())) {
    return refuse("Prepare for a view that is over");
  }
  if (message.boundary && view_) {
    const bool passed = work_.step > message.boundary->next() ||
                        (work_.step == message.boundary->next() && work_.begun()) ||
                        (committed_ && *committed_ > *message.boundary);
    if (passed) {
      send_control(BoundaryPassed{message.view, work_.step});
      return;
    }
  }
  prepare_ = message;
  reported_ = false;
  checkpoints_fresh_ = false;
  if (message.want_state_hash) {  // of what is in memory now, not of what was written then
    states_.forget_hashes();
    states_hashed_ = false;
  }
  identity_->prepared = message.view;
  done_sent_ = false;  // the change voids it
  if (message.boundary || !view_ || fenced_) return;
  fenced_ = true;
  emit(FenceView{message.view.previous(), message.excluded});
}

void WorkerCore::pump_report() {
  if (!prepare_ || reported_ || !connected_) return;
  const bool at_boundary = !view_ || fenced_ || holding();
  if (!at_boundary) return;
  // Fresh and quiet: nothing that the report speaks of is still being changed by the trainer.
  if (reducing_ > 0 || measuring_ || updating_ || loading_ || storing_ > 0 || (!view_ && outstanding_ > 0)) return;
  if (hashing_states_ > 0 || listing_checkpoints_ || expects_copies()) return;
  if (prepare_->want_state_hash && !states_hashed_) {
    states_hashed_ = true;
    for (const HeldState& held : states_.report()) {
      ++hashing_states_;
      emit(HashState{held.stamp, sharded_});
    }
  }
  if (prepare_->want_checkpoints && !checkpoints_fresh_) {
    listing_checkpoints_ = true;
    emit(ListCheckpoints{});
  }
  if (hashing_states_ > 0 || listing_checkpoints_) return;
  reported_ = true;
  Report report;
  report.prepare = prepare_->view;
  report.view = view();
  report.holdings = holdings();
  report.work_step = work_.step;
  report.attempt = work_.attempt;
  report.released = !work_.begun();
  for (const StepWork::Stage& stage : work_.stages) report.stages.push_back({stage.work, stage.done});
  report.reduced = work_.reduced.runs();
  report.gradient = gradient_hashes();
  report.alarm = !work_.finite;
  report.nonfinite = work_.nonfinite_slots({0, config_.slots});
  if (kept_) {
    KeptWork& kept =
        report.kept.emplace(KeptWork{kept_->step, kept_->attempt, kept_->skipped, {}, kept_->reduced.runs()});
    for (const StepWork::Stage& stage : kept_->stages) kept.stages.push_back({stage.work, stage.done});
  }
  if (mutated(Mutation::stale_report) && last_report_) {
    const ViewNumber prepare = report.prepare;
    report = *last_report_;
    report.prepare = prepare;
  }
  last_report_ = report;
  send_control(std::move(report));
}

// Of the sums of squares of each block that was measured here as a whole.
std::vector<BlockHash> WorkerCore::gradient_hashes() const {
  std::vector<BlockHash> hashes;
  for (std::uint32_t block = 0; block < block_count(); ++block) {
    const TileSet tiles = TileSet(config_.map->tiles_of({block, block + 1})).common(config_.map->tiles_with_state());
    if (tiles.empty() || !work_.measured.contains(tiles)) continue;
    const TileRange run = tiles.runs().front();
    const std::span<const double> sums(work_.sums.data() + run.begin, run.end - run.begin);
    hashes.push_back({block, hash_bytes(std::as_bytes(sums))});
  }
  return hashes;
}

void WorkerCore::handle(const worker_event::StateHashed& event) {
  ++progress_;
  if (hashing_states_ > 0) --hashing_states_;
  states_.set_hashes(event.stamp, event.hashes);
  if (event.stamp == work_.step) exchange_.hashed = true;
}

void WorkerCore::control(const CommitView& message) {
  if (!identity_ || message.packed->view <= view()) return refuse("a commit of a view that is over");
  auto unpacked = unpack_view(*message.packed, view_ ? &*view_ : nullptr);
  if (!unpacked) return refuse("a commit: " + unpacked.error().message());
  const ViewRecord& record = *unpacked;
  const Member* me = record.member(self());
  if (me == nullptr || me->incarnation != identity_->incarnation)
    return refuse("a commit of a view without this worker");
  // A higher number was promised since, or this one never was: its plan doesn't rest on this worker's report.
  if (identity_->prepared != record.view) return refuse("a commit of a view that was not reported for");
  if (auto checked = check_view(record, *config_.map, config_.slots); !checked) {
    return refuse("a malformed view: " + checked.error().message());
  }
  if (view_ && !fenced_) emit(FenceView{view_->view, {}});
  view_ = std::move(*unpacked);
  evidence_.clear();
  fenced_ = false;
  prepare_.reset();
  reported_ = false;
  done_sent_ = false;
  early_.clear();
  waiting_requests_.clear();
  identity_->view = view_->view;
  duties_.emplace(*config_.map, view_->sharded, view_->stages, view_->shards);
  std::vector<WorkerId> members;
  keepers_.clear();
  for (const Member& member : view_->members) {
    members.push_back(member.worker);
    if (member.role == Role::keeper) keepers_.push_back(member.worker);
  }
  relays_.emplace(std::move(members), config_.direct_members);
  ++progress_;
  sharded_ = view_->sharded;
  keepers_have_all_ = tiles_of(view_->snapshots) == TileSet(config_.map->tiles_with_state());
  emit(EnterView{view_->view, view_->members});
  resume(*view_);
}

void WorkerCore::resume(const ViewRecord& record) {
  const ResumePlan& plan = record.resume;
  const auto collection = std::exchange(collection_, std::nullopt);
  give_up_states(plan);
  lineage_ = plan.lineage;
  if (plan.returns) return_to(plan.step);
  commit_by_plan(plan);
  // Also of who was away while the others went back, and knows of commits that are no more.
  if (committed_ && *committed_ >= plan.step) committed_ = plan.step.previous();
  if (kept_ && (plan.tier > 0 || kept_->step.next() != plan.step)) release_kept();
  // Who fetches in each view what others made may not come to an update of its own for long.
  const Step base = plan.step.previous();
  if (!keeping_ && base > Step(0)) give_up_state_before(base.previous());
  const bool epilogue = plan.step > config_.total_steps;
  const bool keep =
      work_.step == plan.step && work_.attempt == plan.attempt && !plan.discard && !epilogue && goes_on_with_work(plan);
  if (!keep || mutated(Mutation::repeat_finished_work)) {
    if (work_.step != Step(0) &&
        (!committed_ || work_.step > *committed_ || epilogue || plan.discard || plan.tier > 0)) {
      emit(ReleaseStep{work_.step});
    }
    reset_work(plan.step, plan.attempt);
  }
  recompute_.reset();
  if (plan.tier > 0 && compared_ && compared_->step >= plan.step) compared_.reset();
  weights_.reset();
  exchange_ = ExchangeState{};
  exchange_.stages = plan.stages;
  exchange_.shards = plan.shards;
  exchange_.compute = plan.compute || epilogue;
  exchange_.skip_update = plan.skip_update;
  adopt_stages();
  start_fetches(plan);
  copy_tied();
  make_snapshots(plan);
  if (!collection || checkpoint_pending_ != collection->step) return;
  if (collection->step == plan.step.previous() && view_->checkpoint_writer == self()) {
    save_checkpoint(collection->step, final_loss_);
  } else {
    collection_ = collection;
    abandon_checkpoint("the view changed while its parts were collected");
  }
}

// Every member reported what it holds of the step: the plan commits it. Who made it in an earlier view may not know
// its losses any more; others tell them.
void WorkerCore::commit_by_plan(const ResumePlan& plan) {
  const bool open = work_.step != Step(0) && (!committed_ || *committed_ < work_.step);
  if (!open || plan.tier > 0 || plan.step != work_.step.next() || !states_.has(work_.step)) return;
  if (work_.losses_complete()) {
    finish_step();
  } else {
    committed_ = work_.step;
    end_work();
  }
}

// Into a step that was committed.
void WorkerCore::return_to(Step step) {
  if (work_.step == step || !kept_ || kept_->step != step) return;
  if (work_.step != Step(0)) emit(ReleaseStep{work_.step});
  emit(ReturnToStep{step});
  work_ = std::move(*kept_);
  kept_.reset();
}

// What descends from wrong values, and what is newer than the state to which all go back.
void WorkerCore::give_up_states(const ResumePlan& plan) {
  const auto distrust = std::ranges::find(plan.distrusted, self(), &Distrust::worker);
  const bool distrusted = distrust != plan.distrusted.end();
  if (keeping_ && (distrusted || plan.tier > 0 || plan.lineage != lineage_)) {
    keeping_->revert(plan.step.previous(), plan.lineage != lineage_ || (distrusted && distrust->all));
  }
  if (!distrusted && plan.tier == 0) return;
  const std::optional<Step> kept = distrusted && distrust->all ? std::nullopt : std::optional(plan.step.previous());
  if (states_.keep_only(kept)) emit(RevertState{kept});
}

// Every stage with sums is still this worker's. (It may have missed a view that gave its work to others.)
bool WorkerCore::goes_on_with_work(const ResumePlan& plan) const {
  return std::ranges::all_of(work_.stages, [&](const StepWork::Stage& held) {
    return !held.begun(work_.items) || std::ranges::any_of(plan.stages, [&](const StageAssignment& stage) {
      return stage.worker == self() && stage.work == held.work;
    });
  });
}

void WorkerCore::start_fetches(const ResumePlan& plan) {
  const Step base = plan.step.previous();
  const auto lacking = [&](const StateFetch& fetch) {
    const TileSet& held = fetch.parameters_only ? states_.parameters(base) : states_.state(base);
    return TileSet(fetch.tiles).without(held);
  };
  fetch_.reset();
  rebuilds_.clear();
  attaching_ = Attaching{};
  Part wanted{base, {}, {}}, loaded{base, {}, {}};
  StateSource source = StateSource::peer;
  for (const StateFetch& fetch : plan.fetches) {
    if (fetch.worker != self()) continue;
    const TileSet tiles = lacking(fetch);
    if (fetch.source == StateSource::peer) {
      (fetch.parameters_only ? wanted.parameters : wanted.state).add(tiles);
      for (const TileRange run : tiles.runs()) fetch_from(fetch.from, base, run, fetch.parameters_only);
    } else {
      source = fetch.source;
      (fetch.parameters_only ? loaded.parameters : loaded.state).add(tiles);
    }
  }
  std::vector<RebuildState> ready;
  for (const FragmentRebuild& each : plan.rebuilds) {
    const TileSet tiles = TileSet(each.tiles).without(states_.state(base));
    if (each.worker != self() || tiles.empty()) continue;
    wanted.state.add(tiles);
    FragmentFetch& fetch = rebuilds_.emplace_back(*config_.map, each, tiles, config_.state_chunk_tiles, self());
    for (auto& made : fetch.take_own()) ready.push_back(std::move(made));
    for (const auto& [to, request] : fetch.requests()) emit(SendSmall{to, view_->view, request});
  }
  if (!loaded.state.empty() || !loaded.parameters.empty()) {
    if (source == StateSource::initialize) {
      emit(InitializeState{loaded.state.runs(), loaded.parameters.runs()});
    } else {
      emit(LoadCheckpoint{base, loaded.state.runs(), loaded.parameters.runs()});
    }
    loading_ = std::move(loaded);
  }
  if (loading_ || !wanted.state.empty() || !wanted.parameters.empty()) fetch_ = std::move(wanted);
  for (RebuildState& made : ready) rebuild(std::move(made));
}

}  // namespace planaria

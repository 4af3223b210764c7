#include "worker/core/worker_core.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "proto/evaluation.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

WorkerCore::WorkerCore(WorkerCoreConfig config)
    : config_(std::move(config)), states_(*config_.map), block_times_(config_.map->blocks().size()) {
  for (const Step step : config_.registration.holdings.checkpoints) checkpoints_.insert(step);
  if (config_.registration.role == Role::keeper) keeping_.emplace(*config_.map);
}

WorkerActions WorkerCore::on(const WorkerEvent& event, Instant now) {
  now_ = now;
  if (stopped_) return {};
  std::visit([this](const auto& alternative) { handle(alternative); }, event);
  pump();
  return std::exchange(actions_, {});
}

Phase WorkerCore::phase() const {
  if (done_sent_) return Phase::finished;
  if (!view_ || work_.step == Step(0)) return Phase::idle;
  if (rehearsing_ > 0) return Phase::forward;  // it takes as long, and who waits for it knows
  const auto computing = [this](const StepWork::Stage& stage) { return !stage.computed() && can_compute(stage); };
  if (fetch_ && (outstanding_ == 0 || std::ranges::none_of(work_.stages, computing))) return Phase::fetch;
  if (exchange_.ack_sent) return Phase::commit;
  if (exchange_.update_asked) return Phase::update;
  if (exchange_.gate_sent) return Phase::gate;
  if (!exchange_.compute || work_.computed()) return Phase::reduce;
  return Phase::forward;
}

void WorkerCore::pump() {
  std::size_t before = 0;
  do {
    before = actions_.size();
    if (stopped_) return;
    serve_waiting_requests();
    pump_compute();
    if (in_view()) {
      pump_rehearsal();
      pump_pieces();
      pump_reduce();
      pump_gate();
      pass_on(exchange_.gates);
      pump_update();
      pass_on(exchange_.acks);
      pump_commit();
    }
    pump_report();
    pump_done();
  } while (actions_.size() != before);
}

bool WorkerCore::holding() const {
  return prepare_ && prepare_->boundary && committed_ && *committed_ >= *prepare_->boundary;
}

bool WorkerCore::may_vote() const {
  const TileSet& kept = own_duty().kept;
  return kept.without(states_.state(work_.step.previous())).without(states_.state(work_.step)).empty();
}

bool WorkerCore::can_compute(const StepWork::Stage& stage) const {
  return states_.parameters(work_.step.previous()).contains(config_.map->tiles_of(stage.work.blocks));
}

// What is saved is compared before: a damaged state must not become the durable one.
bool WorkerCore::compares(Step step) const {
  const auto due = [&](std::uint64_t every) { return every != 0 && step.value() % every == 0; };
  return step <= config_.total_steps &&
         (due(config_.integrity_every) || due(config_.checkpoint_every) || step == config_.total_steps);
}

std::vector<WorkerId> WorkerCore::others() const {
  std::vector<WorkerId> workers;
  for (const Member& member : view_->members) {
    if (member.worker != self()) workers.push_back(member.worker);
  }
  return workers;
}

// ---- gate, update, commit ----

void WorkerCore::pump_gate() {
  if (work_.step == Step(0) || measuring_ || exchange_.gate_sent || holding()) return;
  const Duty& own = own_duty();
  if (is_epilogue()) {
    if (!work_.losses_complete()) return;
  } else {
    if (!work_.reduced.contains(own.summed)) return;
    if (own.kept.intersects(head_tiles()) && !work_.losses_complete()) return;
    if (const TileSet rest = own.kept.without(work_.measured); !rest.empty()) {
      measuring_ = true;
      emit(MeasureGradient{work_.step, work_.attempt, rest.runs()});
      return;
    }
  }
  if (!may_vote() && !mutated(Mutation::joiner_votes_without_state)) return;
  if (snapshot_holds_gate() && !mutated(Mutation::gate_without_snapshot)) return;
  exchange_.gate_sent = true;
  GateWord word{self(), {}, {}, {}, {}};
  if (!is_epilogue()) {
    word.tiles = duties_->first_kept_by(self()).runs();
    for (const TileRange tiles : word.tiles) {
      word.sums.insert(word.sums.end(), work_.sums.begin() + tiles.begin, work_.sums.begin() + tiles.end);
    }
    word.kept = work_.hash_of_sums(own.kept);
  }
  word.told = hash_of_sums(word.sums);
  exchange_.gates.of[self()] = std::move(word);
}

void WorkerCore::handle(const worker_event::GradientMeasured& event) {
  ++progress_;
  measuring_ = false;
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  auto sum = event.sums.begin();
  for (const TileRange tiles : event.tiles) {
    work_.measured.add(tiles);
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      work_.sums[tile] = *sum++;
      work_.finite = work_.finite && std::isfinite(work_.sums[tile]);
    }
  }
}

void WorkerCore::pump_update() {
  if (!exchange_.gate_sent || exchange_.ack_sent || exchange_.alarmed || updating_) return;
  if (!exchange_.update_asked) {
    const std::size_t missing = mutated(Mutation::gate_without_all) ? 1 : 0;
    const bool all = exchange_.gates.of.size() + missing >= view_->members.size();
    if (!all) consider_keepers_wait();
    if (!all || !gates_hold()) return;
    apply_update();
  }
  if (updating_) return;
  if (!exchange_.updated) pass_on_parameters();
  acknowledge();
}

// Who owes its word is a keeper: the snapshot before isn't placed yet.
void WorkerCore::consider_keepers_wait() {
  const std::size_t missing = view_->members.size() - exchange_.gates.of.size();
  if (keeping_ || exchange_.keepers_owe_since || missing > keepers_.size()) return;
  const auto owe =
      std::ranges::count_if(keepers_, [this](WorkerId keeper) { return !exchange_.gates.of.contains(keeper); });
  if (static_cast<std::size_t>(owe) == missing) exchange_.keepers_owe_since = now_;
}

// All sums of squares are known, equal where several members keep a tile, and finite.
bool WorkerCore::gates_hold() {
  if (!work_.losses_complete()) return false;
  std::optional<WorkerId> differs = take_sums();
  if (!differs && !is_epilogue()) differs = who_keeps_others();
  if (differs && !mutated(Mutation::ignore_different_sums)) {
    exchange_.alarmed = true;
    report_evidence(EvidenceKind::gradient_mismatch, *differs,
                    "its sums of the step's gradient differ from others': one of them is wrong");
    return false;
  }
  if (!work_.finite && !exchange_.skip_update) {
    exchange_.alarmed = true;
    report_evidence(EvidenceKind::nonfinite, self(), "the gradient norm of the step is not finite");
    return false;
  }
  return true;
}

// Takes the sums that the members tell; who tells others than are known here, if somebody does.
std::optional<WorkerId> WorkerCore::take_sums() {
  for (const auto& [worker, gate] : exchange_.gates.of) {
    auto sum = gate.sums.begin();
    for (const TileRange tiles : gate.tiles) {
      for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile, ++sum) {
        const bool differs = work_.measured.contains(TileIndex(tile)) &&
                             std::bit_cast<std::uint64_t>(work_.sums[tile]) != std::bit_cast<std::uint64_t>(*sum);
        if (differs) return worker;
        work_.sums[tile] = *sum;
        work_.finite = work_.finite && std::isfinite(*sum);
      }
    }
  }
  return std::nullopt;
}

// Who keeps others than those that were told, if somebody does.
std::optional<WorkerId> WorkerCore::who_keeps_others() const {
  std::map<std::vector<TileRange>, Hash128> hashes;  // many members keep the same tiles
  for (const auto& [worker, gate] : exchange_.gates.of) {
    const TileSet& kept = duty(worker).kept;
    if (kept.runs() == gate.tiles) continue;  // it told of them all itself
    const auto [hash, is_new] = hashes.try_emplace(kept.runs());
    if (is_new) hash->second = work_.hash_of_sums(kept);
    if (hash->second != gate.kept) return worker;
  }
  return std::nullopt;
}

void WorkerCore::apply_update() {
  exchange_.update_asked = true;
  if (exchange_.keepers_owe_since) snapshot_wait_ += now_ - *exchange_.keepers_owe_since;
  release_kept();  // the gate was open: the snapshot of the step before is complete
  if (is_epilogue()) return;
  if (keeping_) {
    give_up_older_snapshots();
  } else {
    give_up_state_before(work_.step.previous());
  }
  if (mutated(Mutation::release_before_commit)) emit(ReleaseStep{work_.step});
  const TileSet tiles = own_duty().kept.without(states_.state(work_.step));
  const TileSet copies =
      tied_to(*config_.map, own_duty().kept).common(own_duty().used).without(states_.parameters(work_.step));
  updating_ = Updating{tiles, copies};
  emit(ApplyUpdate{work_.step, tiles.runs(), copies.runs(), work_.sums, exchange_.skip_update});
  for (const auto& [meta, payload] : std::exchange(exchange_.parameters, {})) store_parameters(meta, payload);
}

void WorkerCore::give_up_state_before(Step stamp) {
  if (!mutated(Mutation::serve_torn_state)) states_.drop_before(stamp);
  emit(DropState{stamp});
}

void WorkerCore::handle(const worker_event::UpdateDone& event) {
  ++progress_;
  if (event.beside > Duration{}) beside_.add(to_seconds(event.beside));
  if (!updating_) return;
  states_.add_state(event.step, updating_->tiles);
  states_.add_parameters(event.step, updating_->copies);
  updating_.reset();
  last_commit_.learning_rate = event.learning_rate;
  last_commit_.gradient_norm = event.gradient_norm;
  hand_to_keeper();
}

// To members that compute with what they don't keep.
void WorkerCore::pass_on_parameters() {
  exchange_.updated = true;
  if (is_epilogue()) return;
  const TileSet all(TileRange{0, config_.map->tile_count()});
  const TileSet own = sent_by(*config_.map, view_->shards, self(), all);
  if (own.empty()) return;
  for (const WorkerId to : others()) {
    const Duty& theirs = duty(to);
    const TileSet tiles = own.common(theirs.used).without(theirs.made);
    if (!tiles.empty()) emit(SendParameters{to, view_->view, Parameters{work_.step, tiles.runs()}});
  }
}

void WorkerCore::acknowledge() {
  if (storing_ > 0 || hashing_states_ > 0) return;
  const Step step = work_.step;
  if (!is_epilogue()) {
    const Duty& own = own_duty();
    if (!states_.state(step).contains(own.kept) || !states_.parameters(step).contains(own.used)) return;
    if (compares(step) && !exchange_.hashed) {
      ++hashing_states_;
      emit(HashState{step, view_->sharded});
      return;
    }
  }
  exchange_.ack_sent = true;
  exchange_.acks.of[self()] = {self(), exchange_.hashed ? states_.hashes(step) : std::vector<BlockHash>{}};
}

void WorkerCore::pump_commit() {
  if (!exchange_.ack_sent || exchange_.alarmed) return;
  if (!all_said(exchange_.acks) && !mutated(Mutation::commit_without_acks)) return;
  if (!acknowledged_alike()) return;
  finish_step();
  begin_step(work_.step.next());
}

bool WorkerCore::acknowledged_alike() {
  if (!compares(work_.step)) return true;
  std::map<std::uint32_t, Hash128> alike;
  for (const BlockHash& own : states_.hashes(work_.step)) alike[own.block] = own.hash;
  for (const auto& [worker, ack] : exchange_.acks.of) {
    for (const BlockHash& other : ack.hashes) {
      if (alike.try_emplace(other.block, other.hash).first->second == other.hash) continue;
      exchange_.alarmed = true;
      report_evidence(EvidenceKind::state_mismatch, worker,
                      "what it holds of " + config_.map->blocks()[other.block].name + " has another hash");
      return false;
    }
  }
  compared_ = ComparedState{work_.step, {}};
  for (const auto& [block, hash] : alike) compared_->blocks.push_back({block, hash});
  return true;
}

// What every member does once a step is committed, in its view or by the next view's plan.
void WorkerCore::finish_step() {
  const Step step = work_.step;
  ++progress_;
  committed_ = step;
  double train = 0;
  double validation = 0;
  fold_losses(work_.losses, train, validation);
  if (is_epilogue()) {
    final_validation_loss_ = config_.evaluation_tokens == 0 ? 0 : validation / double(config_.evaluation_tokens);
  } else {
    last_commit_.view = view_->view;
    last_commit_.step = step;
    last_commit_.loss = config_.sequence_tokens == 0 ? 0 : train / double(config_.sequence_tokens);
    last_commit_.validation_loss.reset();
    if (evaluates(step, config_.evaluate_every, config_.total_steps) && config_.evaluation_tokens != 0) {
      last_commit_.validation_loss = validation / double(config_.evaluation_tokens);
    }
    last_commit_.skipped = exchange_.skip_update;
    last_commit_.micro_batches_computed = work_.micro_batches_computed;
    final_loss_ = last_commit_.loss;
    send_control(last_commit_);
    const bool due = step == config_.total_steps || (is_due(step) && !keepers_save(step));
    if (due && view_->checkpoint_writer == self()) {
      if (compared_ && compared_->step == step) {
        save_checkpoint(step, last_commit_.loss);
      } else if (step < config_.total_steps) {  // else it is saved after the final evaluation
        send_control(CheckpointSaved{step, false, "the view changed before the members had compared it"});
      }
    }
  }
  end_work();
}

// Of a committed step: while no snapshot has its state, what is lost of it can be made again from its work.
void WorkerCore::end_work() {
  release_kept();
  const Step step = work_.step;
  const bool keeps =
      !keeping_ && !is_epilogue() && work_.computed() && view_->protects(step) && !view_->snapshots.stripes.empty();
  if (!keeps) return emit(ReleaseStep{step});
  kept_ = work_;
  kept_->skipped = exchange_.skip_update;
  if (mutated(Mutation::free_finished_work)) return emit(ReleaseStep{step});
  emit(KeepStep{step});
}

void WorkerCore::release_kept() {
  if (!kept_) return;
  emit(ReleaseStep{kept_->step});
  kept_.reset();
}

void WorkerCore::reset_work(Step step, std::uint32_t attempt) {
  const bool evaluation = evaluates(step, config_.evaluate_every, config_.total_steps);
  work_.reset(step, attempt,
              {.slots = config_.slots,
               .micro_batches = config_.micro_batches_per_slot,
               .trains = step <= config_.total_steps,
               .evaluated = evaluation ? config_.evaluation_batches : 0},
              config_.map->tile_count());
  recompute_.reset();
}

void WorkerCore::begin_step(Step step) {
  if (const auto stretch = compute_rate_.step_ended()) block_times_.sample_ended(*stretch);
  reset_work(step, 0);
  exchange_ = ExchangeState{};
  fetch_.reset();  // what is left of it was for work that wasn't needed in the end
  rebuilds_.clear();
  if (step > config_.total_steps.next()) {
    work_.step = Step(0);  // after the epilogue: nothing is left to do
    return;
  }
  exchange_.stages = view_->stages;
  exchange_.shards = view_->shards;
  make_snapshot(step);
  adopt_stages();
  for (const worker_event::Data& event : std::exchange(early_, {})) handle(event);
}

// Stages that this worker had stay as they are, with their sums; the others are new.
void WorkerCore::adopt_stages() {
  std::vector<StepWork::Stage> stages;
  for (const StageAssignment& assignment : exchange_.stages) {
    if (assignment.worker != self() || assignment.work.empty()) continue;
    const auto held = std::ranges::find(work_.stages, assignment.work, &StepWork::Stage::work);
    stages.push_back(held != work_.stages.end() ? *held : work_.new_stage(assignment));
    const Allowance& allowance = view_->member(self())->allowance;
    stages.back().depth = 1 + stages_above(exchange_.stages, assignment.work) + allowance.ahead;
    stages.back().waiting = std::min(stages_below(exchange_.stages, assignment.work), allowance.waiting);
    finish_slots(stages.back(), std::nullopt);
  }
  work_.stages = std::move(stages);
  if (exchange_.compute) request_inputs();
}

}  // namespace planaria

#include "worker/core/worker_core.hpp"

#include <algorithm>
#include <utility>

#include "worker/core/evaluation.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

namespace {

// Micro-batches given to the trainer ahead of its completions: two hide the core's latency, more would delay the
// slots that a recovery puts first.
constexpr std::uint32_t kComputeAhead = 2;
constexpr Duration kCheckpointRetryDelay = std::chrono::seconds(2);

}  // namespace

WorkerCore::WorkerCore(WorkerCoreConfig config) : config_(std::move(config)) {
  for (const Step step : config_.registration.holdings.checkpoints) checkpoints_.insert(step);
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
  if (!state_ || fetch_stamp_) return Phase::fetch;
  if (exchange_.ack_sent) return Phase::commit;
  if (updating_) return Phase::update;
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
      pump_pieces();
      pump_reduce();
      pump_gate();
      pump_update();
      pump_commit();
    }
    pump_report();
    pump_done();
  } while (actions_.size() != before);
}

bool WorkerCore::holding() const {
  return prepare_ && prepare_->boundary && committed_ && *committed_ >= *prepare_->boundary;
}

bool WorkerCore::has_update() const {
  return is_epilogue() || (state_ && *state_ == work_.step);
}

std::vector<WorkerId> WorkerCore::others() const {
  std::vector<WorkerId> workers;
  for (const Member& member : view_->members) {
    if (member.worker != self()) workers.push_back(member.worker);
  }
  return workers;
}

std::vector<TileRange> WorkerCore::own_shards(bool ready) const {
  std::vector<TileRange> tiles;
  for (const ShardAssignment& shard : exchange_.shards) {
    if (shard.owner == self() && shard.ready == ready) tiles.push_back(shard.tiles);
  }
  return tiles;
}

// ---- compute ----

void WorkerCore::pump_compute() {
  if (!view_ || !has_base() || holding() || !exchange_.compute) return;
  while (outstanding_ < kComputeAhead) {
    const auto unfinished = [this](const StepWork::Range& range) {
      return range.issued < range.slots.size() * config_.micro_batches_per_slot;
    };
    // Lost slots come first: the others wait for them.
    auto range = std::ranges::find_if(work_.ranges, [&](const auto& r) { return r.recompute && unfinished(r); });
    if (range == work_.ranges.end()) range = std::ranges::find_if(work_.ranges, unfinished);
    if (range == work_.ranges.end()) return;
    const std::uint32_t slot = range->slots.begin + range->issued / config_.micro_batches_per_slot;
    const std::uint32_t position = range->issued % config_.micro_batches_per_slot;
    ++range->issued;
    ++work_.micro_batches_issued;
    ++outstanding_;
    emit(ComputeMicroBatch{work_.step, work_.attempt, SlotIndex(slot), position, range->recompute});
  }
}

void WorkerCore::handle(const worker_event::MicroBatchDone& event) {
  if (outstanding_ > 0) --outstanding_;
  ++progress_;
  compute_rate_.micro_batch(event.took);
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  if (!is_epilogue()) ++work_.micro_batches_computed;
  const auto range = std::ranges::find_if(work_.ranges, [&](const StepWork::Range& r) {
    return event.slot.value() >= r.slots.begin && event.slot.value() < r.slots.end;
  });
  if (range == work_.ranges.end()) return;
  if (range->recompute && view_ && !recompute_) {
    recompute_ = RecomputeNotice{view_->view, work_.step, now_ - event.took, std::nullopt};
    send_control(*recompute_);
  }
  // Slots finish in order; one that was issued for an earlier view of the epilogue may come a second time.
  if (!event.slot_finished || event.slot.value() != range->slots.begin + range->done) return;
  work_.losses[event.slot.value()] = event.loss;
  fold_finished_slot(*range, event.slot);
  const bool all_recomputed =
      std::ranges::all_of(work_.ranges, [](const auto& r) { return !r.recompute || r.done == r.slots.size(); });
  if (range->recompute && recompute_ && all_recomputed) {
    recompute_->last_slot_done = now_;
    send_control(*recompute_);
  }
}

// Adds the last nodes of a run while they are the two children of one.
void WorkerCore::fold_siblings(std::vector<TreeNode>& nodes, std::vector<TreeAddition>& additions) const {
  while (nodes.size() >= 2) {
    const TreeNode left = nodes[nodes.size() - 2];
    const TreeNode right = nodes.back();
    if (left.sibling() != right || left.index > right.index) break;
    if (mutated(Mutation::fold_out_of_order)) {
      additions.push_back({right, left, left.parent()});
    } else {
      additions.push_back({left, right, left.parent()});
    }
    nodes.pop_back();
    nodes.back() = left.parent();
  }
}

void WorkerCore::fold_finished_slot(StepWork::Range& range, SlotIndex slot) {
  ++range.done;
  if (is_epilogue()) return;
  range.nodes.push_back({0, slot.value()});
  FoldNodes fold{work_.step, {}};
  fold_siblings(range.nodes, fold.additions);
  if (!fold.additions.empty()) emit(std::move(fold));
}

// ---- reduce ----

// Neighbouring ranges, of which one was taken over from a lost worker, fold together once both are finished: fewer sums
// have to travel.
void WorkerCore::fold_across_ranges() {
  std::vector<TreeNode> nodes;
  for (StepWork::Range& range : work_.ranges) {
    nodes.insert(nodes.end(), range.nodes.begin(), range.nodes.end());
    range.nodes.clear();
  }
  std::ranges::sort(nodes, {}, [](TreeNode node) { return node.slots().begin; });
  FoldNodes fold{work_.step, {}};
  std::vector<TreeNode> folded;
  for (const TreeNode node : nodes) {
    folded.push_back(node);
    fold_siblings(folded, fold.additions);
  }
  if (!work_.ranges.empty()) work_.ranges.front().nodes = std::move(folded);
  if (!fold.additions.empty()) emit(std::move(fold));
}

void WorkerCore::pump_pieces() {
  const bool own_work_done = exchange_.compute && has_base() && work_.computed();
  if (exchange_.pieces_sent || !own_work_done) return;
  exchange_.pieces_sent = true;
  if (!is_epilogue()) fold_across_ranges();
  for (const WorkerId to : others()) {
    std::vector<TileRange> tiles;
    for (const ShardAssignment& shard : exchange_.shards) {
      if (shard.owner == to && !shard.ready) tiles.push_back(shard.tiles);
    }
    if (is_epilogue()) tiles.clear();
    if (tiles.empty() && !is_epilogue()) continue;
    for (const StepWork::Range& range : work_.ranges) {
      for (const TreeNode node : is_epilogue() ? maximal_nodes(range.slots) : range.nodes) {
        Piece piece{work_.step, work_.attempt, node, tiles, {}};
        for (std::uint32_t slot = node.slots().begin; slot < node.slots().end; ++slot) {
          piece.losses.push_back(*work_.losses[slot]);
        }
        if (is_epilogue()) {
          emit(SendSmall{to, view_->view, std::move(piece)});
        } else {
          emit(SendPiece{to, view_->view, std::move(piece)});
        }
      }
    }
  }
}

void WorkerCore::pump_reduce() {
  if (is_epilogue()) return;
  const std::vector<TileRange> tiles = own_shards(false);
  const bool reduced = std::ranges::all_of(tiles, [this](TileRange range) { return work_.holds_reduced(range); });
  if (!reduced && !reducing_ && exchange_.pieces_sent && !exchange_.alarmed) {
    std::uint32_t own = 0;
    for (const StepWork::Range& range : work_.ranges) own += range.slots.size();
    const std::uint32_t missing = mutated(Mutation::reduce_incomplete_cover) ? config_.slots / 4 : 0;
    if (own + exchange_.slots_covered + missing < config_.slots) return;
    ReduceShards reduce{work_.step, work_.attempt, tiles, {}};
    std::vector<TreeNode> cover;
    for (const StepWork::Range& range : work_.ranges) {
      for (const TreeNode node : range.nodes) {
        reduce.inputs.push_back({node, nullptr, {}});
        cover.push_back(node);
      }
    }
    for (const auto& [node, input] : exchange_.pieces) {
      reduce.inputs.push_back(input);
      cover.push_back(node);
    }
    for (const auto& input : exchange_.repeated) reduce.inputs.push_back(input);
    if (!finish_tree(cover, config_.slots) && missing == 0) {
      exchange_.alarmed = true;
      refuse("pieces of a step cover its slots twice");
      return;
    }
    reducing_ = true;
    reducing_tiles_ = tiles;
    emit(std::move(reduce));
    return;
  }
  const bool owns = !tiles.empty() || !own_shards(true).empty();
  if (!reduced || reducing_ || exchange_.reduced_sent || !owns || !work_.losses_complete()) return;
  exchange_.reduced_sent = true;
  Reduced message{work_.step, work_.attempt, {}, {}};
  for (const bool ready : {false, true}) {
    for (const TileRange range : own_shards(ready)) message.tiles.push_back(range);
  }
  for (const auto& loss : work_.losses) message.losses.push_back(*loss);
  for (const WorkerId to : others()) emit(SendReduced{to, view_->view, message});
}

void WorkerCore::handle(const worker_event::ShardsReduced& event) {
  ++progress_;
  reducing_ = false;
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  work_.mark_reduced(reducing_tiles_);
}

// ---- gate, update, commit ----

void WorkerCore::pump_gate() {
  if (work_.step == Step(0) || measuring_ || holding()) return;
  const bool complete = work_.losses_complete() && (is_epilogue() || work_.gradient_complete());
  if (!complete) return;
  if (!work_.digest) {
    if (is_epilogue() && !has_base()) return;
    measuring_ = true;
    MeasureGradient measure{work_.step, work_.attempt, {}};
    for (const auto& loss : work_.losses) measure.losses.push_back(*loss);
    emit(std::move(measure));
    return;
  }
  const bool may_vote = has_base() || has_update() || mutated(Mutation::joiner_votes_without_state);
  if (exchange_.gate_sent || !may_vote) return;
  exchange_.gate_sent = true;
  send_to_others(Gate{work_.step, work_.attempt, *work_.digest, work_.finite});
}

void WorkerCore::handle(const worker_event::GradientMeasured& event) {
  ++progress_;
  measuring_ = false;
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  work_.digest = event.digest;
  work_.finite = event.finite;
  work_.gradient_norm = event.gradient_norm;
}

void WorkerCore::pump_update() {
  if (!exchange_.gate_sent || updating_ || exchange_.ack_sent || exchange_.alarmed) return;
  const std::size_t missing = mutated(Mutation::gate_without_all) ? 1 : 0;
  if (exchange_.gates.size() + 1 + missing < view_->members.size()) return;
  for (const auto& [worker, gate] : exchange_.gates) {
    if (gate.digest == *work_.digest) continue;
    exchange_.alarmed = true;
    report_evidence(EvidenceKind::gradient_mismatch, worker, "its gradient digest of the step differs");
    return;
  }
  if (!work_.finite && !exchange_.skip_update) {
    exchange_.alarmed = true;
    report_evidence(EvidenceKind::nonfinite, self(), "the gradient norm of the step is not finite");
    return;
  }
  if (!has_update()) {
    if (!has_base()) return;
    updating_ = true;
    if (!mutated(Mutation::serve_torn_state)) {
      previous_.reset();
      previous_hash_.reset();
    }
    // What is saved is compared before: a damaged state must not become the durable one.
    const std::uint64_t step = work_.step.value();
    const auto due = [step](std::uint64_t every) { return every != 0 && step % every == 0; };
    const bool compare =
        due(config_.integrity_every) || due(config_.checkpoint_every) || work_.step == config_.total_steps;
    if (mutated(Mutation::release_before_commit)) emit(ReleaseStep{work_.step});
    emit(ApplyUpdate{work_.step, exchange_.skip_update, compare});
    return;
  }
  exchange_.ack_sent = true;
  send_to_others(Ack{work_.step, is_epilogue() ? std::nullopt : state_hash_});
}

void WorkerCore::handle(const worker_event::UpdateDone& event) {
  ++progress_;
  updating_ = false;
  previous_ = state_;
  previous_hash_ = state_hash_;
  state_ = event.step;
  state_hash_ = event.state_hash;
  last_commit_.learning_rate = event.learning_rate;
}

void WorkerCore::pump_commit() {
  if (!exchange_.ack_sent || exchange_.alarmed) return;
  if (exchange_.acks.size() + 1 < view_->members.size() && !mutated(Mutation::commit_without_acks)) return;
  for (const auto& [worker, ack] : exchange_.acks) {
    if (!ack.state_hash || !state_hash_ || is_epilogue() || *ack.state_hash == *state_hash_) continue;
    exchange_.alarmed = true;
    report_evidence(EvidenceKind::state_mismatch, worker, "its parameters of the step have another hash");
    return;
  }
  if (state_hash_ && !is_epilogue()) compared_ = ComparedState{work_.step, *state_hash_};
  finish_step();
  begin_step(work_.step.next());
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
    last_commit_.gradient_norm = work_.gradient_norm;
    last_commit_.skipped = exchange_.skip_update;
    last_commit_.micro_batches_computed = work_.micro_batches_computed;
    final_loss_ = last_commit_.loss;
    send_control(last_commit_);
    const bool due =
        step == config_.total_steps || (config_.checkpoint_every != 0 && step.value() % config_.checkpoint_every == 0);
    if (due && view_->checkpoint_writer == self()) {
      checkpoint_pending_ = step;
      emit(SaveCheckpoint{step, view_->view, last_commit_.loss});
    }
  }
  emit(ReleaseStep{step});
}

void WorkerCore::reset_work(Step step, std::uint32_t attempt) {
  work_.reset(step, attempt, config_.slots, config_.tiles);
  recompute_.reset();
}

void WorkerCore::begin_step(Step step) {
  compute_rate_.step_ended();
  reset_work(step, 0);
  exchange_ = ExchangeState{};
  if (step > config_.total_steps.next()) {
    work_.step = Step(0);  // after the epilogue: nothing is left to do
    return;
  }
  exchange_.slots = view_->slots;
  exchange_.shards = view_->shards;
  for (const SlotAssignment& assignment : view_->slots) {
    if (assignment.worker == self() && !assignment.slots.empty())
      work_.ranges.push_back({assignment.slots, false, 0, 0, {}});
  }
  for (const worker_event::Data& event : std::exchange(early_, {})) handle(event);
}

// ---- the end ----

void WorkerCore::pump_done() {
  if (!view_ || !committed_ || *committed_ <= config_.total_steps || done_sent_) return;
  if (!weights_) {
    if (!hashing_weights_) emit(HashWeights{config_.total_steps});
    hashing_weights_ = true;
    return;
  }
  if (checkpoint_pending_ && view_->checkpoint_writer == self()) {
    if (now_ < checkpoint_retry_at_) return;
    checkpoint_retry_at_ = kFarFuture;
    emit(SaveCheckpoint{*checkpoint_pending_, view_->view, final_loss_});
    return;
  }
  if (!in_view()) return;
  // A writer that took over after the last step's commit saves it as well: the result must be durable somewhere.
  if (view_->checkpoint_writer == self() && !checkpoints_.contains(config_.total_steps) &&
      checkpoint_retries_ <= config_.checkpoint_retries) {
    checkpoint_pending_ = config_.total_steps;
    emit(SaveCheckpoint{config_.total_steps, view_->view, final_loss_});
    return;
  }
  done_sent_ = true;
  send_control(Done{view_->view, config_.total_steps, *weights_, final_loss_, final_validation_loss_});
  if (mutated(Mutation::exit_before_finished)) {
    stopped_ = true;
    emit(Stop{true, "left before Finished", false});
  }
}

void WorkerCore::handle(const worker_event::WeightsHashed& event) {
  if (event.step == config_.total_steps) weights_ = event.weights;
  hashing_weights_ = false;
}

void WorkerCore::handle(const worker_event::CheckpointsListed& event) {
  listing_checkpoints_ = false;
  checkpoints_fresh_ = true;
  checkpoints_.clear();
  for (const Step step : event.steps) {
    if (!damaged_checkpoints_.contains(step)) checkpoints_.insert(step);
  }
}

void WorkerCore::handle(const worker_event::CheckpointWritten& event) {
  send_control(CheckpointSaved{event.step, event.ok, event.detail});
  if (event.ok) {
    checkpoints_.insert(event.step);
    damaged_checkpoints_.erase(event.step);
  }
  if (checkpoint_pending_ != event.step) return;
  if (event.ok || event.step != config_.total_steps || ++checkpoint_retries_ > config_.checkpoint_retries) {
    checkpoint_pending_.reset();
  } else {
    checkpoint_retry_at_ = now_ + kCheckpointRetryDelay;  // the last one matters: the result lives in memory only
  }
}

}  // namespace planaria

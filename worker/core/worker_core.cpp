#include "worker/core/worker_core.hpp"

#include <algorithm>
#include <utility>

#include "proto/block_cost.hpp"
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

BlockIndex WorkerCore::block_of(TileRange shard) const {
  const auto after = std::ranges::upper_bound(config_.blocks, shard.begin, {}, &TileRange::begin);
  return BlockIndex(static_cast<std::uint32_t>(after - config_.blocks.begin() - 1));
}

// ---- compute ----

void WorkerCore::pump_compute() {
  if (!view_ || !has_base() || holding() || !exchange_.compute) return;
  while (outstanding_ < kComputeAhead && issue_next()) {
  }
}

// Lost work comes first: the others wait for it. Then what makes room before what takes it.
bool WorkerCore::issue_next() {
  for (const bool recompute : {true, false}) {
    for (const bool backward : {true, false}) {
      for (StepWork::Stage& stage : work_.stages) {
        if (stage.recompute == recompute && (backward ? issue_backward(stage) : issue_forward(stage))) return true;
      }
    }
  }
  return false;
}

bool WorkerCore::issue_forward(StepWork::Stage& stage) {
  const SlotItem item = stage.forward;
  if (item.slot >= stage.work.slots.end) return false;
  const bool training = work_.items.is_training(item);
  const bool at_head = holds_head(stage.work.blocks);
  if (training && !at_head && stage.in_flight >= stage.depth) return false;
  PayloadRef input;
  if (stage.work.blocks.begin != 0) {
    auto from_below = take_input({BoundaryKind::activation, stage.work.blocks.begin, item});
    if (!from_below) return false;
    input = std::move(*from_below);
  }
  stage.forward = work_.items.next(item, stage.work.slots.end, false);
  const bool both = training && at_head;
  if (both) {
    stage.backward = work_.items.next(item, stage.work.slots.end, true);
  } else if (training) {
    ++stage.in_flight;
  }
  issue(stage, item, both ? Pass::both : Pass::forward, std::move(input));
  return true;
}

bool WorkerCore::issue_backward(StepWork::Stage& stage) {
  const SlotItem item = stage.backward;
  if (holds_head(stage.work.blocks) || item >= stage.forward || item.slot >= stage.work.slots.end) return false;
  auto from_above = take_input({BoundaryKind::gradient, stage.work.blocks.end, item});
  if (!from_above) return false;
  stage.backward = work_.items.next(item, stage.work.slots.end, true);
  --stage.in_flight;
  issue(stage, item, Pass::backward, std::move(*from_above));
  return true;
}

void WorkerCore::issue(const StepWork::Stage& stage, SlotItem item, Pass pass, PayloadRef input) {
  ++work_.micro_batches_issued;
  ++outstanding_;
  emit(ComputeMicroBatch{work_.step, work_.attempt, stage.work, item, pass, stage.recompute, std::move(input)});
  if (pass == Pass::forward && !holds_head(stage.work.blocks)) {
    offer({BoundaryKind::activation, stage.work.blocks.end, item});
  }
  if (pass != Pass::forward && stage.work.blocks.begin != 0) {
    offer({BoundaryKind::gradient, stage.work.blocks.begin, item});
  }
}

void WorkerCore::handle(const worker_event::MicroBatchDone& event) {
  if (outstanding_ > 0) --outstanding_;
  ++progress_;
  compute_rate_.computed(event.took, event.pass == Pass::forward ? 0 : share_of(config_.block_shares, event.blocks));
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  const auto stage = std::ranges::find_if(work_.stages, [&](const StepWork::Stage& s) {
    return s.work.blocks == event.blocks && s.work.slots.contains(event.item.slot);
  });
  if (stage == work_.stages.end()) return;
  // Items end in order; one that was issued for an earlier view of the epilogue may come a second time.
  const auto ends = [&](SlotItem& next, bool backward) {
    if (next != event.item) return false;
    next = work_.items.next(event.item, stage->work.slots.end, backward);
    return true;
  };
  const bool forward = event.pass != Pass::backward && ends(stage->forward_end, false);
  const bool backward =
      event.pass != Pass::forward && work_.items.is_training(event.item) && ends(stage->backward_end, true);
  if (!forward && !backward) return;
  if (event.pass == Pass::both) ++work_.micro_batches_computed;
  if (!event.finite) work_.nonfinite[event.item.slot] = true;
  if (stage->recompute && view_ && !recompute_) {
    recompute_ = RecomputeNotice{view_->view, work_.step, now_ - event.took, std::nullopt};
    send_control(*recompute_);
  }
  finish_slots(*stage, event.loss);
  const bool all_recomputed =
      std::ranges::all_of(work_.stages, [](const auto& s) { return !s.recompute || s.computed(); });
  if (stage->recompute && recompute_ && !recompute_->last_slot_done && all_recomputed) {
    recompute_->last_slot_done = now_;
    send_control(*recompute_);
  }
}

// Takes slots off the list whose items have all ended; in the epilogue many have none.
void WorkerCore::finish_slots(StepWork::Stage& stage, const std::optional<SlotLoss>& newest) {
  const std::uint32_t reached = std::min(stage.forward_end.slot, stage.backward_end.slot);
  while (stage.work.slots.begin + stage.done < reached) {
    const SlotIndex slot(stage.work.slots.begin + stage.done);
    if (holds_head(stage.work.blocks)) {
      work_.losses[slot.value()] = newest && newest->slot == slot ? *newest : SlotLoss{.slot = slot};
    }
    fold_finished_slot(stage, slot);
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

void WorkerCore::fold_finished_slot(StepWork::Stage& stage, SlotIndex slot) {
  ++stage.done;
  if (is_epilogue()) return;
  stage.nodes.push_back({0, slot.value()});
  FoldNodes fold{work_.step, stage.work.blocks, {}};
  fold_siblings(stage.nodes, fold.additions);
  if (!fold.additions.empty()) emit(std::move(fold));
}

// ---- reduce ----

// Neighbouring stages of the same blocks, of which one was taken over from a lost worker, fold together once both are
// finished: fewer sums have to travel.
void WorkerCore::fold_across_stages() {
  std::map<BlockRange, std::vector<StepWork::Stage*>> alike;
  for (StepWork::Stage& stage : work_.stages) alike[stage.work.blocks].push_back(&stage);
  for (const auto& [blocks, stages] : alike) {
    std::vector<TreeNode> nodes;
    for (StepWork::Stage* stage : stages) {
      nodes.insert(nodes.end(), stage->nodes.begin(), stage->nodes.end());
      stage->nodes.clear();
    }
    std::ranges::sort(nodes, {}, [](TreeNode node) { return node.slots().begin; });
    FoldNodes fold{work_.step, blocks, {}};
    std::vector<TreeNode> folded;
    for (const TreeNode node : nodes) {
      folded.push_back(node);
      fold_siblings(folded, fold.additions);
    }
    stages.front()->nodes = std::move(folded);
    if (!fold.additions.empty()) emit(std::move(fold));
  }
}

// Shards that the worker still has to finish, inside the blocks.
std::vector<TileRange> WorkerCore::unready_shards(WorkerId owner, BlockRange blocks) const {
  std::vector<TileRange> tiles;
  const TileRange inside{config_.blocks[blocks.begin].begin, config_.blocks[blocks.end - 1].end};
  for (const ShardAssignment& shard : exchange_.shards) {
    if (shard.owner == owner && !shard.ready && inside.begin <= shard.tiles.begin && shard.tiles.end <= inside.end) {
      tiles.push_back(shard.tiles);
    }
  }
  return tiles;
}

void WorkerCore::pump_pieces() {
  const bool own_work_done = exchange_.compute && has_base() && work_.computed();
  if (exchange_.pieces_sent || !own_work_done) return;
  exchange_.pieces_sent = true;
  if (!is_epilogue()) fold_across_stages();
  for (const WorkerId to : others()) {
    for (const StepWork::Stage& stage : work_.stages) send_pieces(stage, to);
  }
}

void WorkerCore::send_pieces(const StepWork::Stage& stage, WorkerId to) {
  const bool tells_losses = holds_head(stage.work.blocks);
  std::vector<TileRange> tiles;
  if (!is_epilogue()) tiles = unready_shards(to, stage.work.blocks);
  if (is_epilogue() ? !tells_losses : tiles.empty()) return;
  for (const TreeNode node : is_epilogue() ? maximal_nodes(stage.work.slots) : stage.nodes) {
    Piece piece{work_.step, work_.attempt, stage.work.blocks, node, tiles, {}, work_.nonfinite_slots(node.slots())};
    for (std::uint32_t slot = node.slots().begin; tells_losses && slot < node.slots().end; ++slot) {
      piece.losses.push_back(*work_.losses[slot]);
    }
    if (is_epilogue()) {
      emit(SendSmall{to, view_->view, std::move(piece)});
    } else {
      emit(SendPiece{to, view_->view, std::move(piece)});
    }
  }
}

// The sums of a block's gradient that are here.
std::vector<ReduceShards::Input> WorkerCore::inputs_of(BlockIndex block) const {
  std::vector<ReduceShards::Input> inputs;
  for (const StepWork::Stage& stage : work_.stages) {
    if (!stage.work.blocks.contains(block)) continue;
    for (const TreeNode node : stage.nodes) inputs.push_back({{stage.work.blocks, node}, nullptr, {}});
  }
  for (const auto& [node, input] : exchange_.pieces) {
    if (node.blocks.contains(block)) inputs.push_back(input);
  }
  return inputs;
}

// Every shard as soon as its block's sums are all here; shards with the same sums go together.
void WorkerCore::start_reducing() {
  const std::uint32_t missing = mutated(Mutation::reduce_incomplete_cover) ? config_.slots / 4 : 0;
  std::vector<ReduceShards> reductions;
  for (const TileRange shard : unready_shards(self(), all_blocks())) {
    if (work_.holds_reduced(shard) || exchange_.reducing.contains(shard.begin)) continue;
    std::vector<ReduceShards::Input> inputs = inputs_of(block_of(shard));
    std::uint32_t covered = 0;
    std::vector<TreeNode> cover;
    for (const ReduceShards::Input& input : inputs) {
      covered += input.node.node.slots().size();
      cover.push_back(input.node.node);
    }
    if (covered + missing < config_.slots) continue;
    if (!finish_tree(cover, config_.slots) && missing == 0) {
      exchange_.alarmed = true;
      return refuse("pieces of a step cover its slots twice");
    }
    exchange_.reducing.insert(shard.begin);
    const bool alike =
        !reductions.empty() && std::ranges::equal(reductions.back().inputs, inputs, {}, &ReduceShards::Input::node,
                                                  &ReduceShards::Input::node);
    if (alike) {
      reductions.back().tiles.push_back(shard);
    } else {
      reductions.push_back({work_.step, work_.attempt, {shard}, std::move(inputs)});
    }
  }
  for (ReduceShards& reduction : reductions) {
    for (const ReduceShards::Input& again : exchange_.repeated) {
      if (again.node.blocks.contains(block_of(reduction.tiles.front()))) reduction.inputs.push_back(again);
    }
    ++reducing_;
    emit(std::move(reduction));
  }
}

void WorkerCore::pump_reduce() {
  if (is_epilogue()) return;
  if (exchange_.pieces_sent && !exchange_.alarmed) start_reducing();
  if (reducing_ > 0 || exchange_.reduced_sent) return;
  Reduced message{work_.step, work_.attempt, {}, {}, work_.nonfinite_slots({0, config_.slots})};
  bool of_head = false;
  for (const ShardAssignment& shard : exchange_.shards) {
    if (shard.owner != self()) continue;
    if (!work_.holds_reduced(shard.tiles)) return;
    of_head = of_head || shard.tiles.begin >= config_.blocks.back().begin;
    message.tiles.push_back(shard.tiles);
  }
  // With the head's gradient come the losses: who holds the one can tell the others.
  if (message.tiles.empty() || (of_head && !work_.losses_complete())) return;
  exchange_.reduced_sent = true;
  if (work_.losses_complete()) {
    for (const auto& loss : work_.losses) message.losses.push_back(*loss);
  }
  for (const WorkerId to : others()) emit(SendReduced{to, view_->view, message});
}

void WorkerCore::handle(const worker_event::ShardsReduced& event) {
  ++progress_;
  if (reducing_ > 0) --reducing_;
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  work_.mark_reduced(event.tiles);
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
  const bool evaluation = evaluates(step, config_.evaluate_every, config_.total_steps);
  work_.reset(step, attempt,
              {.slots = config_.slots,
               .micro_batches = config_.micro_batches_per_slot,
               .trains = step <= config_.total_steps,
               .evaluated = evaluation ? config_.evaluation_batches : 0},
              config_.tiles);
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
  exchange_.stages = view_->stages;
  exchange_.shards = view_->shards;
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
    stages.back().depth = 1 + stages_above(exchange_.stages, assignment.work);
    finish_slots(stages.back(), std::nullopt);
  }
  work_.stages = std::move(stages);
  if (exchange_.compute) request_inputs();
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

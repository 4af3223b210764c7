#include "worker/core/worker_core.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "proto/block_cost.hpp"
#include "proto/evaluation.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

namespace {

// Micro-batches given to the trainer ahead of its completions: two hide the core's latency, more would delay the
// slots that a recovery puts first.
constexpr std::uint32_t kComputeAhead = 2;
// A rehearsal may come when the others have almost finished: they wait for a part of it, which must be little beside
// what they compute.
constexpr double kRehearsedBeside = 8;
constexpr Duration kCheckpointRetryDelay = std::chrono::seconds(2);

}  // namespace

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

// ---- compute ----

void WorkerCore::pump_compute() {
  if (!view_ || work_.step == Step(0) || holding() || !exchange_.compute) return;
  while (outstanding_ < kComputeAhead && issue_next()) {
  }
}

// Who joins computes nothing in its first step: once its state is here it gets ready for the stage of the next one.
void WorkerCore::pump_rehearsal() {
  const bool idle = work_.step != Step(0) && !is_epilogue() && exchange_.compute && work_.stages.empty() && !holding();
  const bool others_compute = !work_.begun() && exchange_.pieces.empty() && exchange_.gates.of.empty();
  if (!idle || !others_compute || outstanding_ > 0 || fetch_ || loading_ || storing_ > 0) return;
  if (practised_.contains(own_duty().used)) return;  // spares have nothing to get ready for, at each event
  std::map<WorkerId, double> computes;               // whole micro-batches' time
  double most = 0;
  for (const StageAssignment& stage : exchange_.stages) {
    double& time = computes[stage.worker];
    time +=
        stage.work.slots.size() * config_.micro_batches_per_slot * share_of(config_.block_shares, stage.work.blocks);
    most = std::max(most, time);
  }
  for (const StageAssignment& stage : view_->stages) {
    const TileRange tiles = config_.map->tiles_of(stage.work.blocks);
    if (stage.worker != self() || stage.work.empty() || practised_.contains(tiles)) continue;
    if (most < kRehearsedBeside * share_of(config_.block_shares, stage.work.blocks)) continue;
    practised_.add(tiles);
    ++rehearsing_;
    emit(Rehearse{work_.step, stage.work, own_duty().kept.runs()});
  }
}

void WorkerCore::handle(const worker_event::Rehearsed&) {
  ++progress_;
  if (rehearsing_ > 0) --rehearsing_;
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
  if (item.slot >= stage.work.slots.end || !can_compute(stage)) return false;
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
  emit(ComputeMicroBatch{work_.step, work_.attempt, stage.work, item, pass, stage.recompute, stage.waiting,
                         std::move(input)});
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
  compute_rate_.computed(event.took, event.at_quota,
                         event.pass == Pass::forward ? 0 : share_of(config_.block_shares, event.blocks));
  block_times_.computed(event.blocks, event.block_took);
  practised_.add(config_.map->tiles_of(event.blocks));
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
    recompute_ = RecomputeNotice{view_->view, work_.step, now_ - event.elapsed, std::nullopt};
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
  const TileRange inside = config_.map->tiles_of(blocks);
  for (const ShardAssignment& shard : exchange_.shards) {
    if (shard.owner == owner && !shard.ready && inside.begin <= shard.tiles.begin && shard.tiles.end <= inside.end) {
      tiles.push_back(shard.tiles);
    }
  }
  return tiles;
}

void WorkerCore::pump_pieces() {
  const bool own_work_done = exchange_.compute && work_.step != Step(0) && work_.computed();
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

// Of how many slots sums of the block's gradient are here.
std::uint32_t WorkerCore::slots_summed(BlockIndex block) const {
  std::uint32_t slots = block.value() < exchange_.piece_slots.size() ? exchange_.piece_slots[block.value()] : 0;
  for (const StepWork::Stage& stage : work_.stages) {
    if (!stage.work.blocks.contains(block)) continue;
    for (const TreeNode node : stage.nodes) slots += node.slots().size();
  }
  return slots;
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
    if (work_.reduced.contains(shard) || exchange_.reducing.contains(shard.begin)) continue;
    if (slots_summed(block_of(shard)) + missing < config_.slots) continue;
    std::vector<ReduceShards::Input> inputs = inputs_of(block_of(shard));
    std::vector<TreeNode> cover;
    for (const ReduceShards::Input& input : inputs) cover.push_back(input.node.node);
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
  if (reducing_ == 0 && !exchange_.reduced_sent) send_reduced();
}

// Each member gets the sums that it updates with.
void WorkerCore::send_reduced() {
  const TileSet own = owned_by(exchange_.shards, self());
  // With the head's gradient come the losses: who holds the one can tell the others.
  const bool waits_for_losses = own.intersects(head_tiles()) && !work_.losses_complete();
  if (!work_.reduced.contains(own) || waits_for_losses) return;
  exchange_.reduced_sent = true;
  for (const WorkerId to : others()) {
    const TileSet tiles = own.common(duty(to).summed);
    if (tiles.empty()) continue;
    emit(SendReduced{to, view_->view, Reduced{work_.step, work_.attempt, tiles.runs(), work_.known_losses()}});
  }
}

void WorkerCore::handle(const worker_event::ShardsReduced& event) {
  ++progress_;
  if (reducing_ > 0) --reducing_;
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  for (const TileRange tiles : event.tiles) work_.reduced.add(tiles);
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

// ---- the end ----

void WorkerCore::pump_done() {
  if (!view_ || !committed_ || *committed_ <= config_.total_steps || done_sent_) return;
  if (!weights_) {
    if (!hashing_weights_) emit(HashWeights{config_.total_steps});
    hashing_weights_ = true;
    return;
  }
  if (checkpoint_pending_ && view_->checkpoint_writer == self()) {
    if (now_ < checkpoint_retry_at_ || !in_view()) return;
    checkpoint_retry_at_ = kFarFuture;
    save_checkpoint(*checkpoint_pending_, final_loss_);
    return;
  }
  if (!in_view()) return;
  // A writer that took over after the last step's commit saves it as well: the result must be durable somewhere.
  if (view_->checkpoint_writer == self() && !checkpoints_.contains(config_.total_steps) &&
      checkpoint_retries_ <= config_.checkpoint_retries) {
    save_checkpoint(config_.total_steps, final_loss_);
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

// ---- checkpoints ----

// The writer has them all: what it doesn't keep itself, it asks from the owners of the shards.
void WorkerCore::save_checkpoint(Step step, std::optional<double> loss) {
  const TileSet own = states_.state(step);
  checkpoint_pending_ = step;
  emit(BeginCheckpoint{step, view_->view, loss, own.runs()});
  collection_ = Collection{step, TileSet(config_.map->tiles_with_state()).without(own)};
  if (collection_->missing.intersects(owned_by(view_->shards, self()))) {
    return abandon_checkpoint("its writer is fetching a part of it");
  }
  for (const ShardAssignment& shard : view_->shards) {
    if (shard.owner == self()) continue;
    for (const TileRange tiles : collection_->missing.common(shard.tiles).runs()) {
      emit(SendSmall{shard.owner, view_->view, StateRequest{step, tiles, false, true}});
    }
  }
  write_whole_checkpoint();
}

void WorkerCore::add_to_checkpoint(const StateTiles& meta, const PayloadRef& payload) {
  if (!collection_ || collection_->step != meta.stamp || meta.parameters_only) return;
  if (meta.tiles.empty() || !collection_->missing.contains(meta.tiles)) return;
  if (!meta.available) return abandon_checkpoint("another worker holds that state no more");
  ++progress_;
  collection_->missing.remove(meta.tiles);
  emit(AddToCheckpoint{meta.stamp, meta.tiles, payload});
  write_whole_checkpoint();
}

void WorkerCore::write_whole_checkpoint() {
  if (!collection_->missing.empty()) return;
  const bool compared = compared_ && compared_->step == collection_->step;
  emit(WriteCheckpoint{collection_->step, compared ? compared_->blocks : std::vector<BlockHash>{}, view_->sharded});
  collection_.reset();
}

void WorkerCore::abandon_checkpoint(const std::string& why) {
  const auto collection = std::exchange(collection_, std::nullopt);
  if (collection) handle(worker_event::CheckpointWritten{collection->step, false, why});
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

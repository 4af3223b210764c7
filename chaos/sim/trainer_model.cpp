#include "chaos/sim/trainer_model.hpp"

#include <algorithm>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/invariants.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"
#include "proto/evaluation.hpp"

namespace planaria::sim {

using namespace worker_action;  // NOLINT: the file carries these out

namespace {

using std::chrono::microseconds;

// A fold or copy of one tile range, and what a whole state costs.
constexpr Duration kCopy = microseconds(30);
constexpr Duration kPass = microseconds(150);

}  // namespace

TrainerModel::TrainerModel(World& world, WorkerProcess& process) : world_(world), process_(process) {}

void TrainerModel::fail(const std::string& invariant, const std::string& detail) {
  world_.fail(invariant, process_.name() + ": " + detail);
}

// ---- the queue ----

void TrainerModel::submit(WorkerAction action) {
  queue_.push_back(std::move(action));
  start_next();
}

void TrainerModel::start_next() {
  while (!running_ && !frozen_ && !queue_.empty()) {
    WorkerAction action = std::move(queue_.front());
    queue_.pop_front();
    const bool sends = std::holds_alternative<SendPiece>(action) || std::holds_alternative<SendReduced>(action) ||
                       std::holds_alternative<SendBoundary>(action) || std::holds_alternative<SendState>(action) ||
                       std::holds_alternative<SendParameters>(action) || std::holds_alternative<SendFragment>(action) ||
                       std::holds_alternative<SendParity>(action) ||
                       std::holds_alternative<SendFragmentReply>(action) ||
                       std::holds_alternative<SnapshotState>(action);
    if (sends) {
      process_.simulation().start_send(process_, action);
      continue;
    }
    begin(action);
    const Instant ends = world_.now() + duration_of(action);
    running_ = Running{std::move(action), world_.now(), ends};
    world_.queue.at(ends, [this, epoch = epoch_] {
      if (epoch == epoch_) finish();
    });
  }
}

void TrainerModel::finish() {
  const Running running = std::move(*running_);
  running_.reset();
  ++epoch_;
  complete(running.action, running.ends - running.started);
  start_next();
}

void TrainerModel::freeze() {
  frozen_ = true;
  ++epoch_;
  if (running_) left_ = running_->ends - world_.now();
}

void TrainerModel::thaw() {
  frozen_ = false;
  if (!running_) return start_next();
  running_->ends = world_.now() + left_;
  world_.queue.at(running_->ends, [this, epoch = epoch_] {
    if (epoch == epoch_) finish();
  });
}

void TrainerModel::kill() {
  ++epoch_;
  frozen_ = true;
  queue_.clear();
  running_.reset();
}

std::optional<Pass> TrainerModel::pass() const {
  const auto* compute = running_ ? std::get_if<ComputeMicroBatch>(&running_->action) : nullptr;
  if (compute == nullptr) return std::nullopt;
  if (compute->pass != Pass::both) return compute->pass;
  const bool turned = world_.now() - running_->started >= (running_->ends - running_->started) / 3;
  return turned ? Pass::backward : Pass::forward;
}

Duration TrainerModel::duration_of(const WorkerAction& action) {
  Duration base = kCopy;
  const auto through = [this](BlockRange blocks, std::int64_t thirds) {
    return world_.options.micro_batch * thirds * blocks.size() / (3 * world_.options.shape.blocks.size());
  };
  if (const auto* compute = std::get_if<ComputeMicroBatch>(&action)) {
    base = through(compute->work.blocks, compute->pass == Pass::both ? 3 : compute->pass == Pass::backward ? 2 : 1);
  } else if (const auto* rehearse = std::get_if<Rehearse>(&action)) {
    base = through(rehearse->work.blocks, 3);
  } else if (std::holds_alternative<ReduceShards>(action) || std::holds_alternative<MeasureGradient>(action) ||
             std::holds_alternative<HashState>(action) || std::holds_alternative<ListCheckpoints>(action) ||
             std::holds_alternative<HashWeights>(action) || std::holds_alternative<BeginCheckpoint>(action)) {
    base = kPass;
  } else if (std::holds_alternative<ApplyUpdate>(action) || std::holds_alternative<InitializeState>(action)) {
    base = kPass * 2;
  } else if (std::holds_alternative<LoadCheckpoint>(action)) {
    base = kPass * 20;
  } else if (std::holds_alternative<ReleaseStep>(action) || std::holds_alternative<DropState>(action) ||
             std::holds_alternative<KeepStep>(action) || std::holds_alternative<ReturnToStep>(action)) {
    base = microseconds(1);
  }
  const double factor = process_.slowness() * (0.9 + 0.2 * world_.noise.unit_double());
  return Duration(static_cast<std::int64_t>(static_cast<double>(base.count()) * factor));
}

void TrainerModel::begin(const WorkerAction& action) {
  Oracle& oracle = process_.simulation().oracle();
  if (const auto* compute = std::get_if<ComputeMicroBatch>(&action)) {
    oracle.micro_batch_starts(process_, *compute);
  } else if (const auto* apply = std::get_if<ApplyUpdate>(&action)) {
    oracle.update_starts(process_, *apply);
  }
}

void TrainerModel::complete(const WorkerAction& action, Duration took) {
  if (world_.trace.on() && !std::holds_alternative<ComputeMicroBatch>(action)) {
    world_.trace.add(world_.now(), [&] { return process_.name() + " trainer did " + describe(action); });
  }
  if (const auto* compute_action = std::get_if<ComputeMicroBatch>(&action)) {
    compute(*compute_action, took);
  } else if (std::holds_alternative<Rehearse>(action)) {
    process_.post(worker_event::Rehearsed{});
  } else if (const auto* fold_action = std::get_if<FoldNodes>(&action)) {
    fold(*fold_action);
  } else if (const auto* reduce_action = std::get_if<ReduceShards>(&action)) {
    reduce(*reduce_action);
  } else if (const auto* store = std::get_if<StoreReduced>(&action)) {
    store_reduced(*store);
  } else if (const auto* measure_action = std::get_if<MeasureGradient>(&action)) {
    measure(*measure_action);
  } else if (const auto* update_action = std::get_if<ApplyUpdate>(&action)) {
    update(*update_action);
  } else if (const auto* store_action = std::get_if<StoreState>(&action)) {
    store_state(*store_action);
  } else if (const auto* parameters = std::get_if<StoreParameters>(&action)) {
    store_parameters(*parameters);
  } else if (const auto* tied = std::get_if<CopyTied>(&action)) {
    copy_tied(*tied);
  } else if (const auto* initialize = std::get_if<InitializeState>(&action)) {
    load(Step(0), &world_.reference.state(Step(0)), initialize->state, initialize->parameters);
  } else if (const auto* checkpoint = std::get_if<LoadCheckpoint>(&action)) {
    const TermVector* stored = process_.simulation().disks().load(process_.disk(), checkpoint->step);
    load(checkpoint->step, stored, checkpoint->state, checkpoint->parameters);
  } else if (const auto* drop = std::get_if<DropState>(&action)) {
    std::erase_if(states_, [&](const BufferRef& state) { return state->stamp < drop->before; });
  } else if (const auto* revert = std::get_if<RevertState>(&action)) {
    std::erase_if(states_, [&](const BufferRef& state) { return state->stamp != revert->stamp; });
  } else if (std::holds_alternative<ListCheckpoints>(action)) {
    process_.post(worker_event::CheckpointsListed{process_.simulation().disks().list(process_.disk())});
  } else if (const auto* hash = std::get_if<HashState>(&action)) {
    hash_state(*hash);
  } else if (const auto* weights = std::get_if<HashWeights>(&action)) {
    hash_weights(*weights);
  } else if (const auto* begin = std::get_if<BeginCheckpoint>(&action)) {
    begin_checkpoint(*begin);
  } else if (const auto* more = std::get_if<AddToCheckpoint>(&action)) {
    add_to_checkpoint(*more);
  } else if (const auto* write = std::get_if<WriteCheckpoint>(&action)) {
    write_checkpoint(*write);
  } else if (const auto* part = std::get_if<AddFragmentPart>(&action)) {
    add_part(*part);
  } else if (const auto* own = std::get_if<StoreFragmentPart>(&action)) {
    store_part(*own);
  } else if (const auto* keep = std::get_if<KeepFragments>(&action)) {
    keep_fragments(*keep);
  } else if (const auto* saved = std::get_if<SaveSnapshot>(&action)) {
    save_snapshot(*saved);
  } else if (const auto* lost = std::get_if<RebuildState>(&action)) {
    rebuild(*lost);
  } else if (const auto* free = std::get_if<ReleaseStep>(&action)) {
    release(free->step);
  } else if (const auto* aside = std::get_if<KeepStep>(&action)) {
    put_aside(aside->step);
  } else if (const auto* again = std::get_if<ReturnToStep>(&action)) {
    take_up(again->step);
  }
}

// ---- gradients ----

void TrainerModel::compute(const ComputeMicroBatch& action, Duration took) {
  const JobShape& shape = world_.options.shape;
  const BufferRef state = state_buffer(action.step.previous());
  if (state == nullptr || !state->parameters.contains(shape.map->tiles_of(action.work.blocks))) {
    return fail("2: a gradient is computed without the parameters it needs", describe(WorkerAction(action)));
  }
  if (now_.boundaries_step != action.step) now_.boundaries.clear();
  now_.boundaries_step = action.step;
  worker_event::MicroBatchDone done{
      action.step, action.attempt, action.work.blocks, action.item, action.pass, {}, true, took, took, {}};
  if (action.pass != Pass::backward && !forward(action, state->tiles)) return;
  if (action.pass != Pass::forward && !backward(action, state->tiles, done.finite)) return;
  if (action.item.position >= shape.micro_batches_per_slot) {
    done.took = {};
  } else if (action.pass != Pass::forward) {
    done.block_took.assign(action.work.blocks.size(), took / action.work.blocks.size());
  }
  done.loss = losses_[action.item.slot];
  process_.post(done);
}

std::optional<Term> TrainerModel::input_of(const ComputeMicroBatch& action, BoundaryKind kind, std::uint32_t block) {
  if (action.input != nullptr) return static_cast<const TermPayload&>(*action.input).tiles.at(0);
  const auto own = now_.boundaries.find({kind, block, action.item});
  if (own != now_.boundaries.end()) return own->second->tiles.at(0);
  fail("8: a pass begins from a boundary that isn't there", describe(WorkerAction(action)));
  return std::nullopt;
}

bool TrainerModel::forward(const ComputeMicroBatch& action, const TermVector& state) {
  const JobShape& shape = world_.options.shape;
  const BlockRange blocks = action.work.blocks;
  const auto [slot, position] = action.item;
  const bool training = position < shape.micro_batches_per_slot;
  const SlotRange riding = evaluation_batches_of(SlotIndex(slot), shape.slots, shape.evaluated);
  Term term = training ? training_tokens(action.step, slot * shape.micro_batches_per_slot + position)
                       : validation_tokens(riding.begin + position - shape.micro_batches_per_slot);
  if (blocks.begin > 0) {
    const auto input = input_of(action, BoundaryKind::activation, blocks.begin);
    if (!input) return false;
    term = *input;
  }
  std::vector<Term> inputs;
  for (std::uint32_t block = blocks.begin; block < blocks.end; ++block) {
    inputs.push_back(term);
    const Hash128 parameters = block_digest(shape, state, block);
    term = block + 1 == shape.blocks.size() ? loss_term(parameters, term) : forward_through(parameters, term);
  }
  if (training) in_flight_[{blocks, action.item}] = std::move(inputs);
  if (blocks.end < shape.blocks.size()) {
    auto made = std::make_shared<Buffer>();
    made->tiles = {term};
    now_.boundaries[{BoundaryKind::activation, blocks.end, action.item}] = std::move(made);
    return true;
  }
  SlotLoss& loss = losses_[slot];
  const bool epilogue = action.step > shape.total_steps;
  if (position == (epilogue ? shape.micro_batches_per_slot : 0)) loss = SlotLoss{.slot = SlotIndex(slot)};
  (training ? loss.train : loss.validation) += number_of(term.id);
  return true;
}

bool TrainerModel::backward(const ComputeMicroBatch& action, const TermVector& state, bool& finite) {
  const JobShape& shape = world_.options.shape;
  const BlockRange blocks = action.work.blocks;
  const auto [slot, position] = action.item;
  const auto flying = in_flight_.find({blocks, action.item});
  if (flying == in_flight_.end()) {
    fail("4: a backward pass without its forward pass", describe(WorkerAction(action)));
    return false;
  }
  NodeSum& sum = now_.nodes[{blocks, {0, slot}}];
  if (position == 0) {
    if (sum.buffer != nullptr) {
      fail("4: a slot's sum is begun while it exists", describe(WorkerAction(action)));
      return false;
    }
    sum.buffer = std::make_shared<Buffer>();
    sum.step = action.step;
    sum.attempt = action.attempt;
    for (std::uint32_t tile = 0; tile < shape.tiles; ++tile) sum.buffer->tiles.push_back(zero_sum(tile));
  }
  if (sum.buffer == nullptr || sum.step != action.step || sum.attempt != action.attempt ||
      sum.next_position != position) {
    fail("4: a sum takes a micro-batch other than its next", describe(WorkerAction(action)));
    return false;
  }
  Term d_output;
  if (blocks.end < shape.blocks.size()) {
    const auto input = input_of(action, BoundaryKind::gradient, blocks.end);
    if (!input) return false;
    d_output = *input;
  } else {
    d_output = loss_term(block_digest(shape, state, blocks.end - 1), flying->second.back());
  }
  bool sound = !shape.nonfinite_by_nature(action.step, slot * shape.micro_batches_per_slot + position);
  if (nan_armed_ != NanFault::none) {
    if (nan_armed_ == NanFault::once) {
      nan_armed_ = NanFault::none;
      process_.simulation().oracle().nonfinite_once(action.step, action.attempt, slot);
    }
    sound = false;
  }
  for (std::uint32_t block = blocks.end; block-- > blocks.begin;) {
    const Hash128 parameters = block_digest(shape, state, block);
    const Term& input = flying->second[block - blocks.begin];
    Term gradient = block_gradient(parameters, input, d_output);
    gradient.finite = sound;
    for (std::uint32_t tile = shape.blocks[block].begin; tile < shape.blocks[block].end; ++tile) {
      sum.buffer->tiles[tile] = accumulate(sum.buffer->tiles[tile], gradient);
    }
    d_output = backward_through(parameters, input, d_output);
  }
  in_flight_.erase(flying);
  if (blocks.begin > 0) {
    auto made = std::make_shared<Buffer>();
    made->tiles = {d_output};
    now_.boundaries[{BoundaryKind::gradient, blocks.begin, action.item}] = std::move(made);
  }
  ++micro_batches_computed_;
  process_.simulation().oracle().micro_batch_ends(process_, action);
  if (++sum.next_position < shape.micro_batches_per_slot) return true;
  sum.finished = true;
  sum.incarnation = process_.incarnation();
  for (std::uint32_t block = blocks.begin; block < blocks.end; ++block) {
    if (finished_.insert({action.step, action.attempt, block, slot}).second) continue;
    fail("13: a survivor computes a finished slot again", describe(WorkerAction(action)));
    return false;
  }
  if (action.attempt > 0) finite = std::ranges::all_of(sum.buffer->tiles, &Term::finite);
  return true;
}

void TrainerModel::fold(const FoldNodes& action) {
  for (const TreeAddition& addition : action.additions) {
    const auto left = now_.nodes.find({action.blocks, addition.left});
    const auto right = now_.nodes.find({action.blocks, addition.right});
    if (left == now_.nodes.end() || right == now_.nodes.end() || !left->second.finished || !right->second.finished ||
        left->second.step != action.step || right->second.step != action.step ||
        left->second.attempt != right->second.attempt) {
      return fail("3: a fold of sums that aren't there", describe(WorkerAction(action)));
    }
    NodeSum sum;
    sum.buffer = std::make_shared<Buffer>();
    sum.step = action.step;
    sum.attempt = left->second.attempt;
    sum.finished = true;
    sum.incarnation = left->second.incarnation;
    for (std::size_t tile = 0; tile < left->second.buffer->tiles.size(); ++tile) {
      sum.buffer->tiles.push_back(add(left->second.buffer->tiles[tile], right->second.buffer->tiles[tile]));
    }
    now_.nodes.erase(left);
    now_.nodes.erase(right);
    now_.nodes[{action.blocks, addition.sum}] = std::move(sum);
  }
}

void TrainerModel::reduce(const ReduceShards& action) {
  std::vector<TreeNode> cover;
  std::map<TreeNode, const TermVector*> values;
  for (const ReduceShards::Input& input : action.inputs) {
    cover.push_back(input.node.node);
    if (input.payload != nullptr) {
      values[input.node.node] = &static_cast<const TermPayload&>(*input.payload).tiles;
      continue;
    }
    const auto own = now_.nodes.find(input.node);
    if (own == now_.nodes.end() || !own->second.finished || own->second.step != action.step ||
        own->second.attempt != action.attempt) {
      return fail("3: a shard is reduced from an own sum that isn't there", describe(WorkerAction(action)));
    }
    values[input.node.node] = &own->second.buffer->tiles;
  }
  const auto additions = finish_tree(cover, world_.options.shape.slots);
  if (!additions) {
    return fail("3: a shard is reduced from an inexact cover", additions.error().message());
  }
  open_reduced(action.step);
  for (const TileRange range : action.tiles) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) {
      std::map<TreeNode, Term> terms;
      for (const auto& [node, tiles] : values) terms[node] = (*tiles)[tile];
      for (const TreeAddition& addition : additions.value()) {
        terms[addition.sum] = add(terms[addition.left], terms[addition.right]);
      }
      hold_reduced(tile, additions.value().empty() ? terms.begin()->second : terms[additions.value().back().sum]);
    }
    now_.reduced_held.add(range);
  }
  process_.post(worker_event::ShardsReduced{action.step, action.attempt, action.tiles});
}

void TrainerModel::open_reduced(Step step) {
  if (now_.reduced != nullptr && now_.reduced_step == step) return;
  if (now_.reduced != nullptr) {
    fail("8: the reduced gradient is overwritten before its step is committed", to_string(step));
  }
  now_.reduced = std::make_shared<Buffer>();
  now_.reduced->tiles.resize(world_.options.shape.tiles);
  now_.right_gradient.reset();
  now_.reduced_step = step;
  now_.reduced_held = TileSet();
}

void TrainerModel::hold_reduced(std::uint32_t tile, const Term& value) {
  now_.reduced->tiles[tile] = value;
  if (now_.right_gradient != nullptr) now_.right_gradient->tiles[tile] = value;
}

void TrainerModel::store_reduced(const StoreReduced& action) {
  open_reduced(action.step);
  const auto& payload = static_cast<const TermPayload&>(*action.payload);
  for (const TileRange range : action.tiles) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) {
      hold_reduced(tile, payload.tiles[tile]);
    }
    now_.reduced_held.add(range);
  }
}

bool TrainerModel::holds_gradient(Step step, const std::vector<TileRange>& tiles) const {
  TileSet needed(tiles);
  needed.add(tied_to(*world_.options.shape.map, needed));
  return now_.reduced != nullptr && now_.reduced_step == step && now_.reduced_held.contains(needed);
}

void TrainerModel::measure(const MeasureGradient& action) {
  if (!holds_gradient(action.step, action.tiles)) {
    return fail("3: an incomplete gradient is measured", describe(WorkerAction(action)));
  }
  if (flip_armed_ == FlipFault::in_gradient) {
    flip_armed_ = FlipFault::none;
    auto wrong = std::make_shared<Buffer>(*now_.reduced);
    if (damage(*wrong, TileSet(action.tiles), EvidenceKind::gradient_mismatch)) {
      now_.right_gradient = std::exchange(now_.reduced, std::move(wrong));
      wrong_since_ = process_.core().view_record()->view;
    }
  }
  worker_event::GradientMeasured measured{action.step, action.attempt, action.tiles, {}};
  for (const TileRange range : action.tiles) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) {
      measured.sums.push_back(sum_of_squares(whole_gradient(*world_.options.shape.map, now_.reduced->tiles, tile)));
    }
  }
  process_.post(std::move(measured));
}

void TrainerModel::release(Step step) {
  process_.simulation().oracle().step_released(process_, step);
  if (!process_.core().view_record()) forget_ledger();  // it lost its place in the view, and its work with it
  if (kept_step_ == step) kept_ = StepMemory{};
  std::erase_if(now_.nodes, [&](const auto& node) { return node.second.step == step; });
  if (now_.boundaries_step == step) {
    now_.boundaries.clear();
    in_flight_.clear();
  }
  if (now_.reduced_step != step) return;
  now_.reduced.reset();
  now_.right_gradient.reset();
}

void TrainerModel::put_aside(Step step) {
  kept_ = std::exchange(now_, StepMemory{});
  kept_step_ = step;
  in_flight_.clear();
}

void TrainerModel::take_up(Step step) {
  if (kept_step_ != step) return fail("1: a step is taken up again that wasn't put aside", to_string(step));
  now_ = std::exchange(kept_, StepMemory{});
  in_flight_.clear();
  std::erase_if(finished_, [&](const auto& finished) { return std::get<Step>(finished) > step; });
}

// ---- state ----

BufferRef TrainerModel::find_state(Step stamp) const {
  const auto found = std::ranges::find(states_, stamp, [](const BufferRef& state) { return state->stamp; });
  return found == states_.end() ? nullptr : *found;
}

Buffer& TrainerModel::open_state(Step stamp) {
  if (const BufferRef held = find_state(stamp)) return *held;
  auto fresh = std::make_shared<Buffer>();
  fresh->stamp = stamp;
  fresh->tiles.resize(world_.options.shape.tiles);
  states_.push_back(fresh);
  return *fresh;
}

void TrainerModel::add_tiles(Buffer& state, const TileSet& tiles, const TileSet& parameters) {
  state.state.add(tiles);
  state.parameters.add(tiles);
  state.parameters.add(parameters);
  reached_[state.stamp].add(tiles);
  process_.simulation().oracle().state_written(process_, state);
}

TileSet TrainerModel::state_tiles(Step stamp) const {
  const BufferRef held = find_state(stamp);
  return held == nullptr ? TileSet() : held->state;
}

TileSet TrainerModel::parameter_tiles(Step stamp) const {
  const BufferRef held = find_state(stamp);
  return held == nullptr ? TileSet() : held->parameters;
}

bool TrainerModel::reached(Step step, const TileSet& tiles) const {
  TileSet missing = tiles;
  for (const Step at : {step, step.next()}) {
    if (const auto found = reached_.find(at); found != reached_.end()) missing.remove(found->second);
  }
  return missing.empty();
}

void TrainerModel::update(const ApplyUpdate& action) {
  const StateMap& map = *world_.options.shape.map;
  const Hash128 norm = norm_of(action.sums);
  if (!action.tiles.empty()) {
    const BufferRef source = find_state(action.step.previous());
    const TileSet tiles(action.tiles);
    if (source == nullptr || !source->state.contains(tiles)) {
      return fail("2: an update without the state before it", describe(WorkerAction(action)));
    }
    if (!action.skip && !holds_gradient(action.step, action.tiles)) {
      return fail("6: an update without its gradient", describe(WorkerAction(action)));
    }
    // In a later view it may be the only one that keeps it.
    if (!action.skip && now_.right_gradient != nullptr && in_view_of_flip()) {
      return fail("6: an update from a gradient that its other keepers don't have", describe(WorkerAction(action)));
    }
    Buffer& target = open_state(action.step);
    for (const TileRange range : action.tiles) {
      for (std::uint32_t tile = range.begin; tile < range.end; ++tile) {
        const Term& before = source->tiles[tile];
        target.tiles[tile] =
            action.skip ? before : updated(before, whole_gradient(map, now_.reduced->tiles, tile), norm, action.step);
      }
    }
    add_tiles(target, tiles, {});
  }
  if (!action.copies.empty()) copy_tied({action.step, action.copies});
  process_.post(worker_event::UpdateDone{action.step, 1e-3, number_of(norm)});
}

// Wrong values show where several compare.
void TrainerModel::hash_state(const HashState& action) {
  const BufferRef state = find_state(action.stamp);
  worker_event::StateHashed hashed{action.stamp, {}};
  if (state == nullptr) return process_.post(hashed);
  const bool flips = (flip_armed_ == FlipFault::in_update || flip_armed_ == FlipFault::at_rest) &&
                     action.stamp == process_.core().work().step;
  const auto damage_state = [&] { damage(*state, state->state, EvidenceKind::state_mismatch); };
  if (flips && flip_armed_ == FlipFault::in_update) damage_state();
  const JobShape& shape = world_.options.shape;
  for (std::uint32_t block = 0; block < shape.blocks.size(); ++block) {
    const TileSet kept = TileSet(shape.blocks[block]).common(shape.map->tiles_with_state());
    if (!state->parameters.contains(shape.blocks[block])) continue;
    if (!action.parameters_only && !state->state.contains(kept)) continue;
    hashed.hashes.push_back(block_hash(shape, state->tiles, block));
  }
  if (flips && flip_armed_ == FlipFault::at_rest) damage_state();
  if (flips) flip_armed_ = FlipFault::none;
  process_.post(std::move(hashed));
}

// Of one of the tiles that several members keep.
bool TrainerModel::damage(Buffer& buffer, const TileSet& tiles, EvidenceKind notices) {
  const auto& view = process_.core().view_record();
  if (!view) return false;
  TileSet seen, several;
  const Duties duties(*world_.options.shape.map, view->sharded, view->stages, view->shards);
  for (const Member& member : view->members) {
    const TileSet kept = duties.of(member.worker).kept;
    several.add(seen.common(kept));
    seen.add(kept);
  }
  const TileSet candidates = several.common(tiles);
  if (candidates.empty()) return false;
  std::uint64_t chosen = world_.noise.below(candidates.size());
  for (const TileRange run : candidates.runs()) {
    const std::uint32_t size = run.end - run.begin;
    if (chosen < size) {
      Term& victim = buffer.tiles[run.begin + chosen];
      victim.id = mix(Operation::damage, victim.id, {world_.noise.next_u64(), 1});
      break;
    }
    chosen -= size;
  }
  process_.simulation().oracle().value_damaged(notices);
  return true;
}

void TrainerModel::store_state(const StoreState& action) {
  process_.simulation().oracle().state_fetched(process_, action.stamp, action.tiles);
  Buffer& state = open_state(action.stamp);
  const auto& payload = static_cast<const TermPayload&>(*action.payload);
  for (std::uint32_t tile = action.tiles.begin; tile < action.tiles.end; ++tile) {
    state.tiles[tile] = payload.tiles[tile];
  }
  add_tiles(state, TileSet(action.tiles), {});
  process_.post(worker_event::StateStored{action.stamp, {action.tiles}, false, true, ""});
}

void TrainerModel::store_parameters(const StoreParameters& action) {
  Buffer& state = open_state(action.stamp);
  const auto& payload = static_cast<const TermPayload&>(*action.payload);
  for (const TileRange range : action.tiles) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) state.tiles[tile] = payload.tiles[tile];
  }
  add_tiles(state, {}, TileSet(action.tiles));
  process_.post(worker_event::StateStored{action.stamp, action.tiles, true, true, ""});
}

void TrainerModel::copy_tied(const CopyTied& action) {
  const StateMap& map = *world_.options.shape.map;
  const BufferRef state = find_state(action.stamp);
  const TileSet tiles(action.tiles);
  if (state == nullptr || !state->parameters.contains(originals_of(map, tiles))) {
    return fail("8: a tied copy is made of what isn't there", describe(WorkerAction(action)));
  }
  for (const TileRange range : action.tiles) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) {
      state->tiles[tile] = state->tiles[map.originals_of({tile, tile + 1}).begin];
    }
  }
  add_tiles(*state, {}, tiles);
}

// `tiles` null: they can't be read.
void TrainerModel::load(Step stamp, const TermVector* tiles, const std::vector<TileRange>& state,
                        const std::vector<TileRange>& parameters) {
  if (tiles == nullptr) {
    return process_.post(worker_event::StateLoaded{stamp, false, "the checkpoint can't be read", {}});
  }
  Buffer& target = open_state(stamp);
  for (const auto* part : {&state, &parameters}) {
    for (const TileRange range : *part) {
      for (std::uint32_t tile = range.begin; tile < range.end; ++tile) target.tiles[tile] = (*tiles)[tile];
    }
  }
  add_tiles(target, TileSet(state), TileSet(parameters));
  process_.post(worker_event::StateLoaded{stamp, true, "", {}});
}

// ---- fragments of snapshots ----

TrainerModel::Parity& TrainerModel::open_parity(const SnapshotLayout& layout, const FragmentPart& part, bool encodes) {
  Parity& parity = parities_[{part.snapshot, part.stripe}];
  if (parity.sums == nullptr) {
    parity.sums = std::make_shared<Buffer>();
    parity.sums->stamp = part.snapshot.step;
    parity.sums->tiles.resize(world_.options.shape.tiles);
    parity.layout = layout.stripes[part.stripe];
    parity.fragment = encodes ? parity.layout.data : part.fragment;
  }
  return parity;
}

void TrainerModel::parity_whole(const ParityKey& key, Parity& parity) {
  parity.whole = true;
  parities_held_.insert({key.first, key.second, parity.fragment});
}

void TrainerModel::add_part(const AddFragmentPart& action) {
  Parity& parity = open_parity(*action.layout, action.part, true);
  const auto& payload = static_cast<const TermPayload&>(*action.payload);
  for (const TileRange run : parity.layout.fragments[action.part.fragment].tiles) {
    std::copy(payload.tiles.begin() + run.begin, payload.tiles.begin() + run.end,
              parity.sums->tiles.begin() + run.begin);
  }
  parity.bytes += action.part.bytes;
  std::uint64_t all = 0;
  for (std::uint32_t i = 0; i < parity.layout.data; ++i) {
    all += fragment_bytes(*world_.options.shape.map, parity.layout.fragments[i]);
  }
  if (parity.bytes == all) parity_whole({action.part.snapshot, action.part.stripe}, parity);
  process_.post(worker_event::FragmentStored{action.part, true, ""});
}

void TrainerModel::store_part(const StoreFragmentPart& action) {
  Parity& parity = open_parity(*action.layout, action.part, false);
  parity.sums->tiles = static_cast<const TermPayload&>(*action.payload).tiles;
  parity.bytes += action.part.bytes;
  if (parity.bytes == stripe_bytes(*world_.options.shape.map, parity.layout)) {
    parity_whole({action.part.snapshot, action.part.stripe}, parity);
  }
  process_.post(worker_event::FragmentStored{action.part, true, ""});
}

void TrainerModel::keep_fragments(const KeepFragments& action) {
  std::erase_if(parities_, [&](const auto& entry) {
    const ParityKey& key = entry.first;
    const std::uint32_t own = entry.second.fragment;
    if (std::ranges::find(action.building, key.first) != action.building.end()) return false;
    return std::ranges::none_of(action.whole, [&](const HeldFragment& held) {
      return held.snapshot == key.first && held.stripe == key.second && held.fragment == own;
    });
  });
}

void TrainerModel::save_snapshot(const SaveSnapshot& action) {
  const BufferRef state = find_state(action.snapshot.step);
  if (state == nullptr || !state->state.contains(TileSet(action.tiles))) {
    return fail("10: a durable snapshot of state that isn't held", describe(WorkerAction(action)));
  }
  process_.simulation().disks().save_part(process_, action.snapshot, TileSet(action.tiles), state->tiles);
}

BufferRef TrainerModel::parity_buffer(const FragmentPart& part, bool whole) const {
  const auto found = parities_.find({part.snapshot, part.stripe});
  if (found == parities_.end()) return nullptr;
  const bool asked = !whole || (found->second.whole && found->second.fragment == part.fragment);
  return asked ? found->second.sums : nullptr;
}

const TermVector* TrainerModel::parity(const HeldFragment& held) const {
  const auto found = parities_.find({held.snapshot, held.stripe});
  const bool here = found != parities_.end() && found->second.whole && found->second.fragment == held.fragment &&
                    found->second.layout == held.layout;
  return here ? &found->second.sums->tiles : nullptr;
}

// Any k fragments of one state give back the others; of different ones they give bits that are nobody's.
void TrainerModel::rebuild(const RebuildState& action) {
  std::vector<std::pair<std::uint32_t, const TermVector*>> inputs;
  std::set<std::uint32_t> there;
  for (std::uint32_t i = 0; i < action.layout.data; ++i) {
    if (action.layout.is_zeros(i)) there.insert(i);
  }
  for (const RebuildState::Input& input : action.inputs) {
    const TermVector* terms = nullptr;
    if (input.payload != nullptr) {
      terms = &static_cast<const TermPayload&>(*input.payload).tiles;
    } else if (input.bytes > 0 && input.fragment < action.layout.data) {
      const BufferRef own = find_state(action.snapshot.step);
      if (own != nullptr && own->state.contains(TileSet(action.layout.fragments[input.fragment].tiles))) {
        terms = &own->tiles;
      }
    } else if (input.bytes > 0) {
      terms = parity({action.snapshot, action.stripe, input.fragment, action.layout});
    }
    if (terms == nullptr && input.bytes > 0) {
      return fail("11: a fragment is used that isn't held", describe(WorkerAction(action)));
    }
    if (terms != nullptr) inputs.emplace_back(input.fragment, terms);
    there.insert(input.fragment);
  }
  if (there.size() < action.layout.data || there.contains(action.fragment)) {
    return fail("11: lost state is made from too few fragments", describe(WorkerAction(action)));
  }
  const TermVector* sums = nullptr;
  for (const auto& [fragment, terms] : inputs) {
    if (fragment >= action.layout.data) sums = terms;
  }
  bool alike = sums != nullptr;
  for (const auto& [fragment, terms] : inputs) {
    for (std::uint32_t i = 0; alike && i < action.layout.data; ++i) {
      if (fragment < action.layout.data && fragment != i) continue;
      for (const TileRange run : action.layout.fragments[i].tiles) {
        alike = alike && std::equal(terms->begin() + run.begin, terms->begin() + run.end, sums->begin() + run.begin);
      }
    }
  }
  Buffer& state = open_state(action.snapshot.step);
  for (const TileRange run : action.tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      Term made = alike ? (*sums)[tile] : Term{};
      if (!alike) made.id = mix(Operation::damage, {tile, 2}, {});
      state.tiles[tile] = made;
    }
  }
  process_.simulation().oracle().state_made_again(process_, action);
  add_tiles(state, TileSet(action.tiles), {});
  process_.post(worker_event::StateStored{action.snapshot.step, action.tiles, false, true, ""});
}

void TrainerModel::hash_weights(const HashWeights& action) {
  const JobShape& shape = world_.options.shape;
  worker_event::WeightsHashed hashed{action.step, {}};
  if (const BufferRef state = find_state(action.step)) {
    for (std::uint32_t block = 0; block < shape.blocks.size(); ++block) {
      if (!state->parameters.contains(shape.blocks[block])) continue;
      hashed.weights.push_back(block_weights(shape, state->tiles, block));
    }
  }
  process_.post(std::move(hashed));
}

void TrainerModel::begin_checkpoint(const BeginCheckpoint& action) {
  collected_ = Buffer{TermVector(world_.options.shape.tiles), action.step, {}, {}};
  if (action.tiles.empty()) return;
  const BufferRef state = find_state(action.step);
  if (state == nullptr || !state->state.contains(TileSet(action.tiles))) {
    return fail("10: a checkpoint of state that isn't held", to_string(action.step));
  }
  for (const TileRange range : action.tiles) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) collected_->tiles[tile] = state->tiles[tile];
  }
}

void TrainerModel::add_to_checkpoint(const AddToCheckpoint& action) {
  if (!collected_ || collected_->stamp != action.step) {
    return fail("10: state for a checkpoint that wasn't begun", to_string(action.step));
  }
  const auto& payload = static_cast<const TermPayload&>(*action.payload);
  for (std::uint32_t tile = action.tiles.begin; tile < action.tiles.end; ++tile) {
    collected_->tiles[tile] = payload.tiles[tile];
  }
}

void TrainerModel::write_checkpoint(const WriteCheckpoint& action) {
  if (!collected_ || collected_->stamp != action.step) {
    return fail("10: a checkpoint is written that wasn't begun", to_string(action.step));
  }
  const JobShape& shape = world_.options.shape;
  fill_tied(*shape.map, collected_->tiles);
  const bool sound = std::ranges::all_of(action.expected, [&](const BlockHash& expected) {
    return block_hash(shape, collected_->tiles, expected.block) == expected;
  });
  if (!sound) {
    return process_.post(worker_event::CheckpointWritten{action.step, false, "its parts aren't what was compared"});
  }
  process_.simulation().disks().save(process_, action.step, std::move(collected_->tiles));
  collected_.reset();
}

BufferRef TrainerModel::boundary_buffer(Step step, const BoundaryId& id) {
  const auto found = now_.boundaries.find(id);
  return now_.boundaries_step != step || found == now_.boundaries.end() ? nullptr : found->second;
}

BufferRef TrainerModel::node_buffer(Step step, StageNode node) {
  const auto found = now_.nodes.find(node);
  if (found == now_.nodes.end() || found->second.step != step || !found->second.finished) return nullptr;
  return found->second.buffer;
}

BufferRef TrainerModel::reduced_buffer(Step step) {
  if (now_.reduced_step != step) return nullptr;
  // The flip is one keeper's: the others are sent what they can tell it from.
  return now_.right_gradient != nullptr && in_view_of_flip() ? now_.right_gradient : now_.reduced;
}

bool TrainerModel::in_view_of_flip() const {
  const auto& view = process_.core().view_record();
  return view && view->view == wrong_since_;
}

std::optional<Step> TrainerModel::newest_state() const {
  std::optional<Step> newest;
  for (const BufferRef& state : states_) newest = std::max(newest.value_or(state->stamp), state->stamp);
  return newest;
}

bool TrainerModel::holds_slot(Step step, std::uint32_t attempt, const StageWork& work, Incarnation incarnation) const {
  return std::ranges::any_of(now_.nodes, [&](const auto& entry) {
    const auto& [at, sum] = entry;
    return sum.finished && sum.step == step && sum.attempt == attempt && sum.incarnation == incarnation &&
           at.blocks.begin < work.blocks.end && work.blocks.begin < at.blocks.end &&
           !at.node.slots().common(work.slots).empty();
  });
}

}  // namespace planaria::sim

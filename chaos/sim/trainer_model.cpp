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

// ---- what outlives the job ----

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

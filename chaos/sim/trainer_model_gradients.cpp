// Boundaries, sums and the reduced gradient, as terms.
#include <algorithm>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/invariants.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"
#include "chaos/sim/trainer_model.hpp"

namespace planaria::sim {

using namespace worker_action;  // NOLINT: the file carries these out

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

}  // namespace planaria::sim

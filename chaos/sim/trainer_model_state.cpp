// States, as terms: updates, hashes, what is stored and what goes wrong.
#include <algorithm>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/invariants.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"
#include "chaos/sim/trainer_model.hpp"

namespace planaria::sim {

using namespace worker_action;  // NOLINT: the file carries these out

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

}  // namespace planaria::sim

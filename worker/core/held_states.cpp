#include "worker/core/held_states.hpp"

#include <utility>

namespace planaria {

const HeldStates::Generation& HeldStates::find(Step stamp) const {
  static const Generation kNothing;
  const auto found = generations_.find(stamp);
  return found == generations_.end() ? kNothing : found->second;
}

const TileSet& HeldStates::state(Step stamp) const {
  return find(stamp).state;
}

const TileSet& HeldStates::parameters(Step stamp) const {
  return find(stamp).parameters;
}

const std::vector<BlockHash>& HeldStates::hashes(Step stamp) const {
  return find(stamp).hashes;
}

bool HeldStates::can_serve(Step stamp, TileRange tiles, bool parameters_only) const {
  if (!parameters_only) return state(stamp).contains(tiles);
  TileSet has = parameters(stamp);
  has.add(tied_to(map_, has));
  return has.contains(tiles);
}

void HeldStates::add_state(Step stamp, const TileSet& tiles) {
  Generation& generation = generations_[stamp];
  generation.state.add(tiles);
  generation.parameters.add(tiles);
}

void HeldStates::add_parameters(Step stamp, const TileSet& tiles) {
  generations_[stamp].parameters.add(tiles);
}

void HeldStates::remove_state(Step stamp, const TileSet& tiles) {
  if (!has(stamp)) return;
  generations_[stamp].state.remove(tiles);
  generations_[stamp].parameters.remove(tiles);
}

void HeldStates::set_hashes(Step stamp, std::vector<BlockHash> hashes) {
  if (has(stamp)) generations_[stamp].hashes = std::move(hashes);
}

void HeldStates::forget_hashes() {
  for (auto& [stamp, generation] : generations_) generation.hashes.clear();
}

void HeldStates::drop_before(Step stamp) {
  generations_.erase(generations_.begin(), generations_.lower_bound(stamp));
}

void HeldStates::drop_empty_before(Step stamp) {
  std::erase_if(generations_, [&](const auto& held) {
    return held.first < stamp && held.second.state.empty() && held.second.parameters.empty();
  });
}

bool HeldStates::keep_only(std::optional<Step> stamp) {
  return std::erase_if(generations_, [&](const auto& held) { return held.first != stamp; }) > 0;
}

std::vector<HeldState> HeldStates::report() const {
  std::vector<HeldState> states;
  for (const auto& [stamp, held] : generations_) {
    states.push_back({stamp, held.state.runs(), held.parameters.without(held.state).runs(), held.hashes});
  }
  return states;
}

}  // namespace planaria

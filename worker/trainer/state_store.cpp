#include "worker/trainer/state_store.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "storage/checkpoint.hpp"

namespace planaria {

StateStore::StateStore(Device& device, std::shared_ptr<BufferPool> pool, const StateMap& map)
    : device_(device), pool_(std::move(pool)), map_(map) {}

Result<StateGeneration> StateStore::fresh(Step stamp) {
  StateGeneration generation{.stamp = stamp, .master = {}, .first_moment = {}, .second_moment = {}};
  PLANARIA_ASSIGN(generation.master, pool_->take());
  PLANARIA_ASSIGN(generation.first_moment, pool_->take());
  PLANARIA_ASSIGN(generation.second_moment, pool_->take());
  return generation;
}

void StateStore::publish(StateGeneration generation, bool alone) {
  const std::scoped_lock lock(mutex_);
  std::erase_if(generations_, [&](const StateGeneration& g) { return alone || g.stamp == generation.stamp; });
  if (alone) building_.reset();
  generations_.push_back(std::move(generation));
}

void StateStore::keep_only(Step stamp) {
  const std::scoped_lock lock(mutex_);
  promote_locked(stamp);
  const StateGeneration* kept = find_locked(stamp);
  std::erase_if(generations_, [&](const StateGeneration& g) { return &g != kept; });
}

Status StateStore::store(Step stamp, TileRange tiles, std::span<const float> values) {
  std::unique_lock lock(mutex_);
  if (!building_ || building_->generation.stamp != stamp) {
    // A whole one that nobody has read yet is on offer to the others: it may be the only copy left.
    if (building_) promote_locked(building_->generation.stamp);
    building_.reset();
    lock.unlock();
    PLANARIA_ASSIGN(StateGeneration generation, fresh(stamp));
    for (float* vector : generation.vectors()) device_.zero(pool_->elements(), vector);
    lock.lock();
    building_ = Building{std::move(generation), std::vector<bool>(map_.tile_count(), false), map_.tile_count()};
  }
  lock.unlock();
  const auto runs = state_runs(map_, tiles);
  if (values.size() != 3 * total_elements(runs)) {
    return Error(ErrorCode::corrupt, "state tiles arrived with " + std::to_string(values.size()) + " values");
  }
  const float* source = values.data();
  for (float* vector : building_->generation.vectors()) {
    for (const ElementRange& run : runs) {
      device_.copy_in(vector + run.begin, source, run.size() * sizeof(float));
      source += run.size();
    }
  }
  PLANARIA_TRY(device_.synchronize());
  lock.lock();
  for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
    if (!building_->present[tile]) --building_->missing;
    building_->present[tile] = true;
  }
  return ok_status();
}

void StateStore::promote_locked(Step stamp) {
  if (!building_ || building_->generation.stamp != stamp || building_->missing != 0) return;
  fill_tied_copy(map_, std::span(building_->generation.master.floats(), pool_->elements()));
  generations_.push_back(std::move(building_->generation));
  building_.reset();
}

const StateGeneration* StateStore::find_locked(Step stamp) const {
  const auto found = std::find_if(generations_.rbegin(), generations_.rend(),
                                  [&](const StateGeneration& g) { return g.stamp == stamp; });
  return found == generations_.rend() ? nullptr : &*found;
}

const StateGeneration* StateStore::find(Step stamp) {
  const std::scoped_lock lock(mutex_);
  promote_locked(stamp);
  return find_locked(stamp);
}

std::optional<StateLease> StateStore::lease(Step stamp) {
  const std::scoped_lock lock(mutex_);
  promote_locked(stamp);
  const StateGeneration* found = find_locked(stamp);
  if (found == nullptr) return std::nullopt;
  return StateLease{ValueSource{found->master.floats(), found->master.lease()},
                    ValueSource{found->first_moment.floats(), found->first_moment.lease()},
                    ValueSource{found->second_moment.floats(), found->second_moment.lease()}};
}

Hash128 hash_state(const StateMap& map, const StateGeneration& generation) {
  Hasher hasher;
  for (std::uint32_t i = 0; i < map.tile_count(); ++i) {
    const TileIndex tile(i);
    if (map.is_tied(tile)) continue;
    const ElementRange elements = map.tile(tile);
    for (const float* vector : generation.vectors()) {
      hasher.update(hash_of(std::span<const float>(vector + elements.begin, elements.size())));
    }
  }
  return hasher.digest();
}

}  // namespace planaria

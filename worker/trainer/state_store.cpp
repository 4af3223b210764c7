#include "worker/trainer/state_store.hpp"

#include <utility>

#include "proto/duty.hpp"
#include "worker/trainer/host_staging.hpp"

namespace planaria {

StateStore::StateStore(Device& device, std::shared_ptr<BufferPool> pool, const StateMap& map)
    : device_(device), pool_(std::move(pool)), map_(map) {}

Result<StateGeneration*> StateStore::open(Step stamp) {
  {
    const std::scoped_lock lock(mutex_);
    if (const auto found = generations_.find(stamp); found != generations_.end()) return &found->second;
  }
  StateGeneration fresh;
  PLANARIA_ASSIGN(fresh.master, pool_->take());
  PLANARIA_ASSIGN(fresh.first_moment, pool_->take());
  PLANARIA_ASSIGN(fresh.second_moment, pool_->take());
  const std::scoped_lock lock(mutex_);
  return &(generations_[stamp] = std::move(fresh));
}

void StateStore::add(Step stamp, const TileSet& state, const TileSet& parameters) {
  ++additions_;
  const std::scoped_lock lock(mutex_);
  StateGeneration& generation = generations_.at(stamp);
  generation.state.add(state);
  generation.parameters.add(state);
  generation.parameters.add(parameters);
}

const StateGeneration* StateStore::find(Step stamp) const {
  const std::scoped_lock lock(mutex_);
  const auto found = generations_.find(stamp);
  return found == generations_.end() ? nullptr : &found->second;
}

void StateStore::drop_before(Step stamp) {
  const std::scoped_lock lock(mutex_);
  generations_.erase(generations_.begin(), generations_.lower_bound(stamp));
}

void StateStore::keep_only(std::optional<Step> stamp) {
  const std::scoped_lock lock(mutex_);
  std::erase_if(generations_, [&](const auto& generation) { return generation.first != stamp; });
}

Status StateStore::store(Step stamp, std::span<const TileRange> tiles, bool parameters_only,
                         std::span<const float> values) {
  const std::vector<ElementRange> runs = element_runs(map_, tiles);
  const std::size_t vectors = parameters_only ? 1 : 3;
  if (values.size() != vectors * total_elements(runs)) {
    return Error(ErrorCode::corrupt, "state tiles arrived with " + std::to_string(values.size()) + " values");
  }
  PLANARIA_ASSIGN(StateGeneration * generation, open(stamp));
  const float* source = values.data();
  for (std::size_t v = 0; v < vectors; ++v) {
    for (const ElementRange& run : runs) {
      device_.copy_in(generation->vectors()[v] + run.begin, source, run.size() * sizeof(float));
      source += run.size();
    }
  }
  PLANARIA_TRY(device_.synchronize());
  const TileSet stored(tiles);
  add(stamp, parameters_only ? TileSet() : stored, stored);
  return ok_status();
}

std::optional<StateLease> StateStore::lease(const StateTiles& tiles) const {
  const std::scoped_lock lock(mutex_);
  const auto found = generations_.find(tiles.stamp);
  if (found == generations_.end()) return std::nullopt;
  const StateGeneration& held = found->second;
  const std::span<const TileRange> range(&tiles.tiles, 1);
  const bool here = (tiles.parameters_only ? held.parameters : held.state).contains(tiles.tiles);
  TileSet servable = held.parameters;
  servable.add(tied_to(map_, servable));
  if (!here && !(tiles.parameters_only && servable.contains(tiles.tiles))) return std::nullopt;
  StateLease lease{{{held.master.floats(), held.master.lease()}},
                   here ? element_runs(map_, range) : original_runs(map_, range)};
  if (tiles.parameters_only) return lease;
  lease.vectors.push_back({held.first_moment.floats(), held.first_moment.lease()});
  lease.vectors.push_back({held.second_moment.floats(), held.second_moment.lease()});
  return lease;
}

Status StateStore::copy_tied(Step stamp, std::span<const TileRange> tiles) {
  float* master = generations_.at(stamp).master.floats();
  for (const TileRange& copies : tiles) {
    for (std::uint32_t tile = copies.begin; tile < copies.end; ++tile) {
      const ElementRange to = map_.tile(TileIndex(tile));
      const std::uint64_t from = map_.tile(TileIndex(map_.originals_of({tile, tile + 1}).begin)).begin;
      device_.copy(master + to.begin, master + from, to.size() * sizeof(float));
    }
  }
  PLANARIA_TRY(device_.synchronize());  // from here on others may read them
  add(stamp, {}, TileSet(tiles));
  return ok_status();
}

namespace {

// values_of(vector, elements): the elements' values in host memory, until the next ones of that vector.
template <class ValuesOf>
Result<std::vector<BlockHash>> hash_whole_blocks(const StateMap& map, std::size_t vectors, const TileSet& held,
                                                 const TileSet& parameters, ValuesOf values_of) {
  std::vector<BlockHash> hashes;
  std::vector<std::span<const float>> values(vectors);
  for (std::uint32_t block = 0; block < map.blocks().size(); ++block) {
    const TileRange tiles = map.tiles_of({block, block + 1});
    const TileSet with_state = TileSet(tiles).common(map.tiles_with_state());
    if (!held.contains(with_state) || !parameters.contains(tiles)) continue;
    const BlockInfo& info = map.blocks()[block];
    for (std::size_t v = 0; v < vectors; ++v) {
      PLANARIA_ASSIGN(values[v], values_of(v, ElementRange{info.offset, info.offset + info.elements}));
    }
    Hasher hasher;
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const ElementRange elements = map.tile(TileIndex(tile));
      for (std::size_t v = 0; v < (map.is_tied(TileIndex(tile)) ? 1 : vectors); ++v) {
        hasher.update(hash_of(values[v].subspan(elements.begin - info.offset, elements.size())));
      }
    }
    hashes.push_back({block, hasher.digest()});
  }
  return hashes;
}

}  // namespace

std::vector<BlockHash> hash_blocks(const StateMap& map, std::span<const float* const> vectors, const TileSet& held,
                                   const TileSet& parameters) {
  const auto values_of = [&](std::size_t v, ElementRange elements) -> Result<std::span<const float>> {
    return std::span(vectors[v] + elements.begin, elements.size());
  };
  return hash_whole_blocks(map, vectors.size(), held, parameters, values_of).value();
}

Result<std::vector<BlockHash>> hash_blocks(Device& device, const StateMap& map, std::span<const float* const> vectors,
                                           const TileSet& held, const TileSet& parameters) {
  std::vector<HostLook> looks(vectors.size(), HostLook(device));
  return hash_whole_blocks(map, vectors.size(), held, parameters,
                           [&](std::size_t v, ElementRange elements) { return looks[v].at(vectors[v], elements); });
}

}  // namespace planaria

// The optimizer's state on one worker: complete generations by their stamp, and the one that is being fetched.
//
// An update reads one generation and writes another, so the state before it stays whole until the update after it.
// Generations are buffers of the pool: one that is still being sent when its turn to be overwritten comes is left
// alone and another one taken. A fetched state becomes visible when all its tiles are there and it is first used, in
// front of one with the same stamp; what was there before goes with the next update.
//
// Thread contract: lease() may be called from any thread, everything else from the device's thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "common/hash.hpp"
#include "kernels/device.hpp"
#include "proto/state_map.hpp"
#include "worker/trainer/buffer_pool.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

struct StateGeneration {
  Step stamp;
  Buffer master;
  Buffer first_moment;
  Buffer second_moment;

  [[nodiscard]] std::array<float*, 3> vectors() const {
    return {master.floats(), first_moment.floats(), second_moment.floats()};
  }
};

// A generation that can't change while this lives: master, first and second moment.
using StateLease = std::array<ValueSource, 3>;

class StateStore {
 public:
  // `map` outlives this.
  StateStore(Device& device, std::shared_ptr<BufferPool> pool, const StateMap& map);

  // Buffers for a generation, contents undefined.
  [[nodiscard]] Result<StateGeneration> fresh(Step stamp);
  // Makes it visible, in place of one with its stamp; with `alone` nothing else is kept.
  void publish(StateGeneration generation, bool alone);
  // Gives up everything but `stamp`: the update after it begins.
  void keep_only(Step stamp);

  // Writes fetched values of tiles (all three vectors, tied copies left out).
  [[nodiscard]] Status store(Step stamp, TileRange tiles, std::span<const float> values);

  // Null when it isn't there. Valid until the next publish or keep_only.
  [[nodiscard]] const StateGeneration* find(Step stamp);
  [[nodiscard]] std::optional<StateLease> lease(Step stamp);

 private:
  struct Building {
    StateGeneration generation;
    std::vector<bool> present;
    std::uint32_t missing = 0;
  };
  void promote_locked(Step stamp);
  [[nodiscard]] const StateGeneration* find_locked(Step stamp) const;

  Device& device_;
  const std::shared_ptr<BufferPool> pool_;
  const StateMap& map_;

  std::mutex mutex_;
  std::deque<StateGeneration> generations_;  // newest last; pushing keeps references valid
  std::optional<Building> building_;
};

// The hash of a state: XXH3-128 over, for each tile that is not a tied copy, the hashes of its master, first and
// second moment.
[[nodiscard]] Hash128 hash_state(const StateMap& map, const StateGeneration& generation);

}  // namespace planaria

// The optimizer's state on one worker: generations by their step, each with the tiles that are there.
//
// An update reads one generation and writes the next, so the state before it stays as it was until the update after it.
// Fetched tiles gather in the generation of their step. Generations are buffers of the pool: one that is still being
// sent when it is given up is left alone until the last lease is gone.
//
// Thread contract: lease() may be called from any thread, everything else from the device's thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "common/hash.hpp"
#include "kernels/device.hpp"
#include "proto/data_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"
#include "worker/trainer/buffer_pool.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

struct StateGeneration {
  Buffer master;
  Buffer first_moment;
  Buffer second_moment;
  TileSet state;       // tiles of which all three vectors hold values
  TileSet parameters;  // tiles of which the master does

  [[nodiscard]] std::array<float*, 3> vectors() const {
    return {master.floats(), first_moment.floats(), second_moment.floats()};
  }
};

// Values that can't change while this lives.
struct StateLease {
  std::vector<ValueSource> vectors;  // master, first and second moment, or the master alone
  std::vector<ElementRange> runs;    // where the tiles lie in each; a tied copy may be read from the original
};

class StateStore {
 public:
  // `map` outlives this.
  StateStore(Device& device, std::shared_ptr<BufferPool> pool, const StateMap& map);

  // The generation of the step, made when there is none. What is written to it counts once it was added.
  [[nodiscard]] Result<StateGeneration*> open(Step stamp);
  void add(Step stamp, const TileSet& state, const TileSet& parameters);
  // How often anything was added: whoever derives values from masters sees by it that they may be others.
  [[nodiscard]] std::uint64_t additions() const { return additions_; }
  // Null when it isn't there.
  [[nodiscard]] const StateGeneration* find(Step stamp) const;

  void drop_before(Step stamp);
  // Nothing stays without a stamp.
  void keep_only(std::optional<Step> stamp);

  // Copies received values of tiles in and adds them: all three vectors, or the master alone.
  [[nodiscard]] Status store(Step stamp, std::span<const TileRange> tiles, bool parameters_only,
                             std::span<const float> values);

  // Makes tied copies from the originals, and waits for the device. Precondition: those are held.
  [[nodiscard]] Status copy_tied(Step stamp, std::span<const TileRange> tiles);

  [[nodiscard]] std::optional<StateLease> lease(const StateTiles& tiles) const;

 private:
  Device& device_;
  const std::shared_ptr<BufferPool> pool_;
  const StateMap& map_;

  std::uint64_t additions_ = 0;
  mutable std::mutex mutex_;
  std::map<Step, StateGeneration> generations_;
};

// The hashes of the blocks that are whole: XXH3-128 over the hashes of its tiles' vectors, tile by tile; of tied copies
// the master's. `vectors`: master, first and second moment, or the master alone, in host memory. `held`: tiles whose
// vectors these are, `parameters`: whose masters.
[[nodiscard]] std::vector<BlockHash> hash_blocks(const StateMap& map, std::span<const float* const> vectors,
                                                 const TileSet& held, const TileSet& parameters);
// The same of vectors in device memory, to which nothing that is queued writes.
[[nodiscard]] Result<std::vector<BlockHash>> hash_blocks(Device& device, const StateMap& map,
                                                         std::span<const float* const> vectors, const TileSet& held,
                                                         const TileSet& parameters);

}  // namespace planaria

// What a worker that holds the whole model says of its final weights; the hashes mean nothing.
//
// Thread contract: pure functions.
#pragma once

#include <vector>

#include "proto/control.hpp"
#include "proto/state_map.hpp"
#include "storage/export.hpp"

namespace planaria {

inline std::vector<BlockWeights> all_weights(const JobSpec& job) {
  const StateMap map(job.model, job.train.tile_elements);
  std::vector<BlockWeights> weights;
  for (std::uint32_t block = 0; block < map.blocks().size(); ++block) {
    const std::uint32_t tensors = tensor_count(job.model, map, BlockIndex(block));
    weights.push_back({block, std::vector<Hash128>(tensors, Hash128{7, 8})});
  }
  return weights;
}

// The whole's hash that follows from it.
inline Hash128 hash_of_all_weights(const JobSpec& job) {
  const StateMap map(job.model, job.train.tile_elements);
  std::vector<std::vector<Hash128>> hashes;
  for (const BlockWeights& block : all_weights(job)) hashes.push_back(block.tensors);
  return weights_hash(job.model, map, hashes);
}

}  // namespace planaria

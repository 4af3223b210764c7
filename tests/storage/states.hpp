// Small models and states for the tests of this folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/philox.hpp"
#include "proto/state_map.hpp"
#include "storage/checkpoint.hpp"

namespace planaria::testing_states {

inline constexpr std::uint32_t kTileElements = 256;

inline ModelSpec two_layer_model(ModelFamily family = ModelFamily::gpt2, bool tied = true) {
  ModelSpec model;
  model.family = family;
  model.layers = 2;
  model.heads = 4;
  model.kv_heads = family == ModelFamily::llama ? 2 : 4;
  model.width = 24;
  model.ffn_width = 40;
  model.vocab = 61;
  model.context = 16;
  model.tied_embedding = tied;
  return model;
}

// Random values where a tensor is, zeros in the padding, and the tied copy equal to the embedding.
inline std::vector<float> random_vector(const StateMap& map, std::uint64_t seed) {
  std::vector<float> values(map.vector_elements());
  PhiloxStream random(philox_key(seed, RandomPurpose::tests));
  for (const BlockInfo& block : map.blocks()) {
    for (const TensorInfo& tensor : block.tensors) {
      for (std::uint64_t i = 0; !tensor.tied && i < tensor.elements(); ++i) {
        values[block.offset + tensor.offset + i] = unit_float(random.next_u32()) - 0.5F;
      }
    }
  }
  return values;
}

inline TrainState random_state(const StateMap& map, std::uint64_t step) {
  TrainState state{Step(step),
                   ViewNumber(7),
                   2.5,
                   random_vector(map, step),
                   random_vector(map, step + 1000),
                   random_vector(map, step + 2000)};
  fill_tied_copy(map, state.master);
  return state;
}

inline bool same(const TrainState& a, const TrainState& b) {
  return a.step == b.step && a.master == b.master && a.first_moment == b.first_moment &&
         a.second_moment == b.second_moment;
}

}  // namespace planaria::testing_states

// Initial parameters: a pure function of (seed, block, tensor, element), the same whoever computes which part.
//
// GPT-2's scheme for both families: norm gains 1, biases 0, all matrices normal with deviation 0.02, those that write
// into the residual stream (attention.out, mlp.down) 0.02 / sqrt(2 · layers). Element e of tensor k of block b takes
// lane e mod 4 of Philox(philox_key(seed, parameter_init), b·2^32 + k, e / 4): words 0 and 1 give lanes 0 and 1 by
// Box-Muller, words 2 and 3 lanes 2 and 3, in double with own logarithm and cosine, rounded to fp32 once.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>

#include "common/ids.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// Writes a block's whole vector (host memory), padding zeroed; a tied tensor gets the embedding's values.
// Precondition: out.size() == map.block(block).elements.
void initialize_block(const ModelSpec& model, const StateMap& map, std::uint64_t seed, BlockIndex block,
                      std::span<float> out);

// The same for the whole flat vector. Precondition: out.size() == map.vector_elements().
void initialize_parameters(const ModelSpec& model, const StateMap& map, std::uint64_t seed, std::span<float> out);

}  // namespace planaria

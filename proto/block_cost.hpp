// What each block of a model costs to compute, counted from its shape in floating-point operations.
//
// A linear layer's forward takes 2·rows·in·out, causal attention's 2·T·T·width a sequence (half of the full square, for
// both products), a backward twice its forward. The embedding is a copy: it counts as one operation an element that is
// moved.
//
// Thread contract: pure functions.
#pragma once

#include <span>
#include <vector>

#include "proto/job_spec.hpp"
#include "proto/layout.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// Operations of a micro-batch's forward pass, by BlockIndex. Preconditions: validate(job) holds; the map is the job's.
[[nodiscard]] std::vector<double> forward_operations(const JobSpec& job, const StateMap& map);

// Of a micro-batch, forward and backward.
[[nodiscard]] double micro_batch_operations(const JobSpec& job, const StateMap& map);

// Each block's part of a whole micro-batch, by BlockIndex: they add up to 1.
[[nodiscard]] std::vector<double> block_shares(const JobSpec& job, const StateMap& map);

[[nodiscard]] double share_of(std::span<const double> block_shares, BlockRange blocks);

}  // namespace planaria

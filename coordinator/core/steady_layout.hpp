// How the members of a view share blocks and slots: pipelines of given depths, blocks and slots by the workers' speeds.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/layout.hpp"

namespace planaria {

struct SteadyLayoutInput {
  std::span<const WorkerId> workers;      // at least one; they fill the pipelines in this order if all else is equal
  std::span<const double> speeds;         // whole micro-batches a second, of each, > 0
  std::span<const double> block_shares;   // of a micro-batch's time
  std::span<const std::uint32_t> depths;  // stages of each pipeline, from the first again after the last; none: all 1
  std::uint32_t slots = 1;
  // Of each worker and block, the part of its state that is there, 0 to 1; none: nothing is anywhere.
  std::vector<std::vector<double>> held;
};

// In a pipeline the blocks are cut so that the slowest stage is as fast as can be, each stage at least one block; the
// last pipeline may be shorter. Who holds most of a stage's blocks gets it. Slots are dealt by the pipelines' speeds.
[[nodiscard]] std::vector<StageAssignment> steady_stages(const SteadyLayoutInput& input);

}  // namespace planaria

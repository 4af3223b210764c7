// How the members of a view share blocks and slots, decided at once: pipelines of given depths, or those of the view
// before, mended; blocks and slots by the workers' speeds. Whether another form of layout is better the planner finds
// out in its own time (coordinator/planner).
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/layout.hpp"

namespace planaria {

struct SteadyLayoutInput {
  std::span<const WorkerId> workers;     // at least one; they fill the pipelines in this order if all else is equal
  std::span<const double> speeds;        // whole micro-batches a second, of each, > 0
  std::span<const double> block_shares;  // of a micro-batch's time
  std::span<const std::uint32_t>
      depths;  // stages of each pipeline, from the first again after the last; none: `previous`
  std::uint32_t slots = 1;
  // Of each worker and block, the part of its state that is there, 0 to 1; none: nothing is anywhere.
  std::vector<std::vector<double>> held = {};
  // Without depths: what is mended. None: pipelines of one stage.
  std::span<const StageAssignment> previous = {};
  bool enter = true;        // who has no place may get one; where nobody has one, all do
  bool whole_only = false;  // only pipelines that lack nobody go on, where there are any
};

// In a pipeline the blocks are cut so that the slowest stage is as fast as can be, each stage at least one block. Slots
// are dealt by the pipelines' speeds. With given depths the last pipeline may be shorter, and who holds most of a
// stage's blocks gets it.
//
// Mending: pipelines keep their workers. Who enters takes the places of those who are gone, who
// holds most of a place's blocks first; places that stay free vanish, and pipelines without any worker. Those that are
// left lengthen pipelines until all are as deep as most were (as the deepest of equally many), then make others of that
// depth; a twentieth of all workers or more that would still stand aside lengthen pipelines up to the deepest.
[[nodiscard]] std::vector<StageAssignment> steady_stages(const SteadyLayoutInput& input);

// The depths, from the first again after the last, of pipelines of so many workers; the last may be shorter.
[[nodiscard]] std::vector<std::uint32_t> repeated_depths(std::span<const std::uint32_t> depths, std::size_t workers,
                                                         std::size_t blocks);

}  // namespace planaria

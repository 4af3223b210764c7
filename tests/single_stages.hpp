// Pipelines of one stage, a worker each: data parallelism, as most tests want it.
//
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "proto/layout.hpp"

namespace planaria {

// Precondition: as many ranges as workers.
inline std::vector<StageAssignment> single_stages(std::uint32_t blocks, std::span<const WorkerId> workers,
                                                  std::span<const SlotRange> slots) {
  std::vector<StageAssignment> stages;
  for (std::size_t i = 0; i < workers.size(); ++i) stages.push_back({workers[i], {{0, blocks}, slots[i]}, false});
  return stages;
}

}  // namespace planaria

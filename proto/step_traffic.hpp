// The bytes of tensors that workers send each other in a step of a steady layout: counted, not estimated.
//
// Sums: a worker sends each shard's owner its maximal aligned subtrees of the slots that it computes, the fp32 gradient
// of the owner's tiles for each. Then the owner's finished sums go to who updates with them, and parameters to who
// computes with what it doesn't keep (proto/duty.hpp). Between stages at different workers go a micro-batch's
// activations, and their gradients where it trains. Heads of messages and frames, gates and acknowledgements aren't
// counted.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <map>

#include "proto/evaluation.hpp"
#include "proto/layout.hpp"

namespace planaria {

struct StepTraffic {
  std::uint64_t sums = 0;
  std::uint64_t reduced = 0;
  std::uint64_t parameters = 0;
  std::uint64_t boundaries = 0;

  [[nodiscard]] std::uint64_t total() const { return sums + reduced + parameters + boundaries; }
  bool operator==(const StepTraffic&) const = default;
};

// What each worker sends; who sends nothing isn't in it. `boundary_bytes`: of one micro-batch between two blocks.
[[nodiscard]] std::map<WorkerId, StepTraffic> step_traffic(const StateMap& map, const ViewRecord& layout,
                                                           const StepItems& items, std::uint64_t boundary_bytes);

}  // namespace planaria

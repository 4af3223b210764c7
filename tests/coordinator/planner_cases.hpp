// Random small clusters and models, and the best of all their layouts, found by looking at all of them.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>

#include "coordinator/planner/evaluator.hpp"

namespace planaria {

struct PlannerCase {
  ModelProfile model;
  ClusterProfile cluster;
  PlanOptions options;
};

// 3–6 workers, 4–8 blocks, 4–16 slots; speeds, memory, hosts, zones and links vary.
[[nodiscard]] PlannerCase draw_case(std::uint64_t seed);
[[nodiscard]] std::string describe(const PlannerCase& drawn);

// The least cost over every grouping of any of the workers to pipelines, every order in them, every split of blocks
// and of slots, in every order of pipelines. What can't beat `known` by its computing time alone is passed over.
[[nodiscard]] planner::Score best_of_all(planner::Evaluator& evaluator, planner::Score known);

}  // namespace planaria

// The searches over groupings of workers to pipelines.
//
// Thread contract: functions use the evaluator's scratch memory; one thread at a time.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "coordinator/planner/evaluator.hpp"

namespace planaria::planner {

struct Found {
  Candidate candidate;
  Score score;
};

// What was looked at, by the form of the layout: the best of each, for the explanation. Keys are sorted depths.
using Alternatives = std::map<std::vector<std::uint32_t>, Found>;

struct Search {
  Found best;
  Alternatives alternatives;
  bool proven = false;       // nothing better exists
  std::uint64_t scored = 0;  // layouts
};

// Layouts built from few orders of the workers (by place, by speed) and many forms, the best of them improved by
// moving workers, cuts and slots, until nothing helps or the work allowed, counted in blocks · pipelines, is spent.
// `starts` are looked at, too. Deterministic: candidates are met in one order, and only a better one replaces another.
[[nodiscard]] Search search_locally(Evaluator& evaluator, const std::vector<Candidate>& starts);

// Every grouping, order, split of blocks and split of slots, but for those that a bound proves worse than the best so
// far: a pipeline's least seconds for its slots, and the bytes that its workers must at least receive. Begins with
// what search_locally() found, and returns that, unproven, where there are too many to look at.
[[nodiscard]] Search search_exactly(Evaluator& evaluator, const std::vector<Candidate>& starts);

// Whether search_exactly would try.
[[nodiscard]] bool few_enough(const Evaluator& evaluator);

}  // namespace planaria::planner

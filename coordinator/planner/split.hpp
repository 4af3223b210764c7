// The two splits inside a grouping: blocks over the stages of a pipeline, slots over the pipelines.
//
// Thread contract: pure functions; those that take an Evaluator by reference use its scratch memory.
#pragma once

#include "coordinator/planner/evaluator.hpp"

namespace planaria::planner {

// Chooses the stages' blocks for the line's workers and slots: least seconds, with memory caps held as far as the guide
// guess_memory() tells. Every split is tried where there are few; else the minimax split is found by bisection over the
// slowest stage, which fixes a greedy one, and its cuts are then moved while that helps.
// False when there are more workers than blocks.
bool split_blocks(const Evaluator& evaluator, Line& line, std::uint32_t pipelines);

// Slots one by one to the pipeline that is done first, in units of `unit` slots, so that every range is aligned to it;
// each pipeline gets at least one unit. False when there are more pipelines than units.
bool share_slots(const Evaluator& evaluator, Candidate& candidate, std::uint32_t unit = 1);

// The best-scoring split of slots among: shares in aligned units, and, where the tables stay small, splits of fewest
// tree nodes that slow the slowest pipeline by no more than a few per cent. Keeps blocks and order.
// Precondition: the candidate has shares. Returns its score.
Score tune_slots(Evaluator& evaluator, Candidate& candidate);

}  // namespace planaria::planner

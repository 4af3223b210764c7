// What every layout of a job must do in the same order to reach the same bits after the last micro-batch: the tree
// over slots, the tied embedding, the norm, the clip coefficient, the update, the losses.
//
// The tree: leaf s is slot s; node (l, k) of level l covers slots [k·2^l, (k+1)·2^l) and is left + right with the
// lower slots on the left. Its root is the step's gradient (and, in double, the step's loss).
//
// Thread contract: pure functions; those that take a device run on its thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/ids.hpp"
#include "kernels/device.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// Finished nodes that wait for slot `slot` when slots are folded in ascending order from an aligned start: each bit
// set at the bottom of the slot's number is one subtree that slot completes. Device::fold over those nodes, oldest
// first, then the slot's own gradient, gives the node of the joined range.
[[nodiscard]] constexpr std::uint32_t subtrees_completed(std::uint32_t slot) {
  std::uint32_t count = 0;
  for (; (slot & 1U) != 0; slot >>= 1) ++count;
  return count;
}

// The root of the tree over one number a slot. Precondition: the count is a power of two.
[[nodiscard]] double tree_sum(std::span<const double> slots);

// Adds the tied copy's gradient to the embedding's: once, after both trees, before the norm. Nothing when untied.
// `gradient` and `parameters` below are whole flat vectors (device memory).
void add_tied_gradient(Device& device, const StateMap& map, float* gradient);
// Copies the updated embedding into the head's tied copy. Nothing when untied.
void after_update(Device& device, const StateMap& map, float* parameters);

// Sums of squares of the tiles in a range that lies in one block, in order; those of tied tiles are 0 (the tensor
// counts once). `gradient`: the range's first element. sums: range size, host memory, valid after synchronize.
void tile_sums(Device& device, const StateMap& map, TileRange range, const float* gradient, double* sums);

// The sum over all tiles in ascending order. Precondition: sums.size() == map.tile_count().
[[nodiscard]] double sum_of_tiles(const StateMap& map, std::span<const double> sums);

struct ClipDecision {
  double norm = 0;     // of the mean gradient, before clipping
  float scale = 0;     // takes a token-sum gradient to the clipped mean gradient
  bool finite = true;  // false: optimizer.nonfinite says what happens; scale is 0
};

// `tokens`: targets of the whole step (N_t). clip_norm 0: no clipping.
[[nodiscard]] ClipDecision clip_decision(double sum_of_squares, std::uint64_t tokens, double clip_norm);

// The step's scalars; weight_decay is that of decaying ranges.
[[nodiscard]] AdamwStep adamw_step(const OptimizerSpec& optimizer, std::uint64_t total_steps, Step step, float scale);

// The elements of the tiles [range) that the optimizer updates, cut where weight decay begins or ends, ascending.
// Tied tiles are left out. Padding inside blocks is part of a range; its gradient and moments are zero for ever.
[[nodiscard]] std::vector<UpdateRange> update_ranges(const StateMap& map, TileRange range);

}  // namespace planaria

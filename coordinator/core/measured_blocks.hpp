// What blocks cost and how fast workers are, from what each worker measured of the blocks that it computes.
//
// Model: a micro-batch takes worker w cost[b] / speed[w] seconds in block b. Speeds follow from costs and costs, by the
// median over workers, from speeds, in turns. Where blocks are computed by different workers only, the costs that are
// counted from the model's shape tell how they compare.
//
// Thread contract: pure functions.
#pragma once

#include <span>
#include <vector>

namespace planaria {

struct MeasuredBlocks {
  std::vector<double> shares;  // of a whole micro-batch's time, by block: they add up to 1
  std::vector<double> speeds;  // whole micro-batches a second, by worker; 0 = not known
};

// counted: shares by the model's shape, all > 0. seconds: by worker, then by block, of one micro-batch; 0, or no entry,
// is not measured.
[[nodiscard]] MeasuredBlocks measured_blocks(const std::vector<double>& counted,
                                             std::span<const std::span<const float>> seconds);

// Fills in speeds that are not known from what devices do with products of matrices (0 = not known either): as those
// with a known speed compare to theirs, by the median; where none is known, from the operations of a micro-batch. A
// short look at a device may promise too much (a quota that isn't used up yet), and all would wait for a worker that
// was given too much work: nobody is believed to be faster than the fastest that was measured.
void estimate_speeds(std::vector<double>& speeds, std::span<const double> gflops, double operations);

}  // namespace planaria

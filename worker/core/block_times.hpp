// How long each block takes this worker, for the cut of blocks among workers.
//
// As with the compute rate, wall time counts and single micro-batches mean little: a sample (ComputeRate) tells the
// mean over its micro-batches, and the median over the last samples in which the block was computed here is what is
// said.
//
// Thread contract: one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/clock.hpp"
#include "proto/state_map.hpp"
#include "worker/core/recent_median.hpp"

namespace planaria {

class BlockTimes {
 public:
  explicit BlockTimes(std::size_t blocks) : blocks_(blocks), seconds_(blocks, 0) {}

  // What each of the blocks took for one micro-batch, forward and backward; nothing where it wasn't measured.
  void computed(BlockRange blocks, std::span<const Duration> took) {
    for (std::size_t i = 0; i < took.size() && blocks.begin + i < blocks_.size(); ++i) {
      Block& block = blocks_[blocks.begin + i];
      block.seconds += to_seconds(took[i]);
      ++block.micro_batches;
    }
  }

  // `stretch`: by which a micro-batch takes longer where it is computed all the time.
  void sample_ended(double stretch) {
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      Block& block = blocks_[b];
      if (block.micro_batches == 0) continue;
      block.means.add(stretch * block.seconds / block.micro_batches);
      block.seconds = 0;
      block.micro_batches = 0;
      seconds_[b] = static_cast<float>(block.means.value());
    }
  }

  // Seconds of one micro-batch, by BlockIndex; 0 = not known.
  [[nodiscard]] const std::vector<float>& seconds() const { return seconds_; }

 private:
  struct Block {
    double seconds = 0;  // of the sample, so far
    std::uint32_t micro_batches = 0;
    RecentMedian means;
  };

  std::vector<Block> blocks_;
  std::vector<float> seconds_;
};

}  // namespace planaria

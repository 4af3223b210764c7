#include "coordinator/core/steady_layout.hpp"

#include <algorithm>
#include <cassert>
#include <limits>

namespace planaria {
namespace {

struct Cut {
  std::vector<BlockRange> stages;
  double slowest = 0;  // seconds a micro-batch
};

// The minimax partition of blocks over stages in order: slowest[k][b] is the best for the first k stages and b blocks.
Cut cut_blocks(std::span<const double> shares, std::span<const double> speeds) {
  const std::size_t blocks = shares.size();
  const std::size_t stages = speeds.size();
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> before(blocks + 1, 0);
  for (std::size_t b = 0; b < blocks; ++b) before[b + 1] = before[b] + shares[b];
  std::vector<std::vector<double>> slowest(stages + 1, std::vector<double>(blocks + 1, kNever));
  std::vector<std::vector<std::size_t>> from(stages + 1, std::vector<std::size_t>(blocks + 1, 0));
  slowest[0][0] = 0;
  for (std::size_t k = 1; k <= stages; ++k) {
    for (std::size_t end = k; end <= blocks; ++end) {
      for (std::size_t begin = k - 1; begin < end; ++begin) {
        const double time = std::max(slowest[k - 1][begin], (before[end] - before[begin]) / speeds[k - 1]);
        if (time >= slowest[k][end]) continue;
        slowest[k][end] = time;
        from[k][end] = begin;
      }
    }
  }
  Cut cut{std::vector<BlockRange>(stages), slowest[stages][blocks]};
  std::size_t end = blocks;
  for (std::size_t k = stages; k > 0; --k) {
    cut.stages[k - 1] = {static_cast<std::uint32_t>(from[k][end]), static_cast<std::uint32_t>(end)};
    end = from[k][end];
  }
  return cut;
}

}  // namespace

std::vector<StageAssignment> steady_stages(const SteadyLayoutInput& input) {
  assert(!input.workers.empty() && input.workers.size() == input.speeds.size());
  struct Pipeline {
    std::size_t first = 0;
    std::vector<BlockRange> stages;
  };
  std::vector<Pipeline> pipelines;
  std::vector<double> speeds;
  for (std::size_t first = 0; first < input.workers.size();) {
    const std::size_t wanted = input.depths.empty() ? 1 : input.depths[pipelines.size() % input.depths.size()];
    const std::size_t depth = std::min({wanted, input.block_shares.size(), input.workers.size() - first});
    Cut cut = cut_blocks(input.block_shares, input.speeds.subspan(first, depth));
    pipelines.push_back({first, std::move(cut.stages)});
    speeds.push_back(1 / cut.slowest);
    first += depth;
  }
  const std::vector<SlotRange> slots = split_slots(input.slots, speeds);
  std::vector<StageAssignment> stages;
  for (std::size_t p = 0; p < pipelines.size(); ++p) {
    for (std::size_t k = 0; k < pipelines[p].stages.size(); ++k) {
      stages.push_back({input.workers[pipelines[p].first + k], {pipelines[p].stages[k], slots[p]}, false});
    }
  }
  return stages;
}

}  // namespace planaria

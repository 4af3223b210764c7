#include "coordinator/core/steady_layout.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>

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

// The stages of each pipeline.
std::vector<std::size_t> depths_of(const SteadyLayoutInput& input) {
  std::vector<std::size_t> depths;
  for (std::size_t left = input.workers.size(); left > 0; left -= depths.back()) {
    const std::size_t wanted = input.depths.empty() ? 1 : input.depths[depths.size() % input.depths.size()];
    depths.push_back(std::min({wanted, input.block_shares.size(), left}));
  }
  return depths;
}

// Which worker has which place in the pipelines, one after another: places and workers that have most in common first.
// Where nobody holds anything, or all hold all, the order stays.
std::vector<std::size_t> seat(const SteadyLayoutInput& input, std::span<const std::size_t> depths) {
  constexpr std::size_t kMaxWorkers = 512;  // every pair of place and worker is looked at
  const std::size_t count = input.workers.size();
  std::vector<std::size_t> seats(count);
  std::iota(seats.begin(), seats.end(), 0);
  if (input.held.empty() || count > kMaxWorkers) return seats;
  struct Match {
    double common = 0;
    std::size_t place = 0;
    std::size_t worker = 0;
  };
  std::vector<Match> matches;
  std::size_t place = 0;
  for (const std::size_t depth : depths) {
    const std::vector<double> alike(depth, 1.0);
    for (const BlockRange blocks : cut_blocks(input.block_shares, alike).stages) {
      for (std::size_t worker = 0; worker < count; ++worker) {
        Match match{0, place, worker};
        for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
          match.common += input.held[worker][b] * input.block_shares[b];
        }
        matches.push_back(match);
      }
      ++place;
    }
  }
  // Of equal ones, a worker's own place comes first, so that nobody moves without need.
  std::ranges::stable_sort(matches, [](const Match& a, const Match& b) {
    if (a.common != b.common) return a.common > b.common;
    return (a.place == a.worker) > (b.place == b.worker);
  });
  std::vector<bool> seated(count, false), taken(count, false);
  for (const Match& match : matches) {
    if (seated[match.worker] || taken[match.place]) continue;
    seated[match.worker] = taken[match.place] = true;
    seats[match.place] = match.worker;
  }
  return seats;
}

}  // namespace

std::vector<StageAssignment> steady_stages(const SteadyLayoutInput& input) {
  assert(!input.workers.empty() && input.workers.size() == input.speeds.size());
  const std::vector<std::size_t> depths = depths_of(input);
  const std::vector<std::size_t> seats = seat(input, depths);
  std::vector<std::vector<BlockRange>> pipelines;
  std::vector<double> speeds;
  std::size_t first = 0;
  for (const std::size_t depth : depths) {
    std::vector<double> of_stages;
    for (std::size_t k = 0; k < depth; ++k) of_stages.push_back(input.speeds[seats[first + k]]);
    Cut cut = cut_blocks(input.block_shares, of_stages);
    pipelines.push_back(std::move(cut.stages));
    speeds.push_back(1 / cut.slowest);
    first += depth;
  }
  const std::vector<SlotRange> slots = split_slots(input.slots, speeds);
  std::vector<StageAssignment> stages;
  auto seated = seats.begin();
  for (std::size_t p = 0; p < pipelines.size(); ++p) {
    for (const BlockRange& blocks : pipelines[p])
      stages.push_back({input.workers[*seated++], {blocks, slots[p]}, false});
  }
  return stages;
}

}  // namespace planaria

#include "coordinator/core/steady_layout.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <utility>

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

// Which worker has which place in the pipelines, one after another: places and workers that have most in common first.
// Where nobody holds anything, or all hold all, the order stays.
std::vector<std::size_t> seat(const SteadyLayoutInput& input, std::span<const std::uint32_t> depths) {
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

// A pipeline's workers, in the order of its stages, as indices of the input's.
using Line = std::vector<std::size_t>;

std::vector<Line> lines_of_depths(const SteadyLayoutInput& input) {
  const auto depths = repeated_depths(input.depths, input.workers.size(), input.block_shares.size());
  const std::vector<std::size_t> seats = seat(input, depths);
  std::vector<Line> lines;
  auto next = seats.begin();
  for (const std::uint32_t depth : depths) {
    lines.emplace_back(next, next + depth);
    next += depth;
  }
  return lines;
}

// The previous pipelines, mended.
class Mending {
 public:
  explicit Mending(const SteadyLayoutInput& input) : in_(input) {}

  std::vector<Line> lines() {
    find_places();
    fill_free_places();
    for (std::vector<Place>& places : pipelines_) {
      Line line;
      for (const Place& place : places) {
        if (place.worker) line.push_back(*place.worker);
      }
      if (!line.empty()) lines_.push_back(std::move(line));
    }
    add_pipelines();
    return lines_;
  }

 private:
  struct Place {
    BlockRange blocks;
    std::optional<std::size_t> worker;
  };

  // A layout's stages come pipeline by pipeline, each from the first block on.
  void find_places() {
    std::vector<bool> placed(in_.workers.size(), false);
    std::unordered_map<std::uint32_t, std::size_t> index;
    for (std::size_t i = 0; i < in_.workers.size(); ++i) index[in_.workers[i].value()] = i;
    for (const StageAssignment& stage : in_.previous) {
      Place place{stage.work.blocks, std::nullopt};
      if (const auto found = index.find(stage.worker.value()); found != index.end()) {
        place.worker = found->second;
        placed[found->second] = true;
      }
      if (place.blocks.begin == 0) pipelines_.emplace_back();
      pipelines_.back().push_back(place);
      usual_depth_ = std::max(usual_depth_, pipelines_.back().size());
    }
    for (std::size_t i = 0; i < in_.workers.size(); ++i) {
      if (!placed[i]) free_.push_back(i);
    }
  }

  [[nodiscard]] double common(std::size_t worker, BlockRange blocks) const {
    if (in_.held.empty()) return 0;
    double sum = 0;
    for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) sum += in_.held[worker][b] * in_.block_shares[b];
    return sum;
  }

  void fill_free_places() {
    for (std::vector<Place>& places : pipelines_) {
      for (Place& place : places) {
        if (place.worker || free_.empty()) continue;
        const auto best =
            std::ranges::max_element(free_, {}, [&](std::size_t worker) { return common(worker, place.blocks); });
        place.worker = *best;
        free_.erase(best);
      }
    }
  }

  // Who had no stage in the layout before had none for a reason.
  void add_pipelines() {
    std::erase_if(free_, [&](std::size_t worker) { return !in_.fresh.empty() && !in_.fresh[worker]; });
    const auto depth = static_cast<std::ptrdiff_t>(usual_depth_);
    for (auto at = free_.begin(); free_.end() - at >= depth; at += depth) lines_.emplace_back(at, at + depth);
  }

  const SteadyLayoutInput& in_;
  std::vector<std::vector<Place>> pipelines_;
  std::size_t usual_depth_ = 1;
  std::vector<std::size_t> free_;
  std::vector<Line> lines_;
};

}  // namespace

std::vector<std::uint32_t> repeated_depths(std::span<const std::uint32_t> depths, std::size_t workers,
                                           std::size_t blocks) {
  std::vector<std::uint32_t> repeated;
  for (std::size_t left = workers; left > 0; left -= repeated.back()) {
    const std::size_t wanted = depths.empty() ? 1 : depths[repeated.size() % depths.size()];
    repeated.push_back(static_cast<std::uint32_t>(std::min({wanted, blocks, left})));
  }
  return repeated;
}

std::vector<StageAssignment> steady_stages(const SteadyLayoutInput& input) {
  assert(!input.workers.empty() && input.workers.size() == input.speeds.size());
  const std::vector<Line> lines =
      input.depths.empty() && !input.previous.empty() ? Mending(input).lines() : lines_of_depths(input);
  std::vector<std::vector<BlockRange>> cuts;
  std::vector<double> speeds;
  for (const Line& line : lines) {
    std::vector<double> of_stages;
    for (const std::size_t worker : line) of_stages.push_back(input.speeds[worker]);
    Cut cut = cut_blocks(input.block_shares, of_stages);
    cuts.push_back(std::move(cut.stages));
    speeds.push_back(1 / cut.slowest);
  }
  const std::vector<SlotRange> slots = split_slots(input.slots, speeds);
  std::vector<StageAssignment> stages;
  for (std::size_t p = 0; p < lines.size(); ++p) {
    for (std::size_t k = 0; k < lines[p].size(); ++k) {
      stages.push_back({input.workers[lines[p][k]], {cuts[p][k], slots[p]}, false});
    }
  }
  return stages;
}

}  // namespace planaria

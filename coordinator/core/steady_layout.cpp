#include "coordinator/core/steady_layout.hpp"

#include <algorithm>
#include <cassert>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <utility>

namespace planaria {
namespace {

// One worker in so many shall not stand aside only because pipelines have their depth.
constexpr std::size_t kWorkersAPlaceIsMadeFor = 20;

struct Cut {
  std::vector<BlockRange> stages;
  double slowest = 0;  // seconds a micro-batch
};

// The minimax partition of blocks over stages in order.
Cut cut_blocks(std::span<const double> shares, std::span<const double> speeds) {
  const std::size_t blocks = shares.size();
  const std::size_t stages = speeds.size();
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> before(blocks + 1, 0);
  for (std::size_t b = 0; b < blocks; ++b) before[b + 1] = before[b] + shares[b];
  // The best for the first k stages and `end` blocks, and where its last stage begins.
  struct Best {
    double slowest = kNever;
    std::size_t from = 0;
  };
  std::vector<Best> table((stages + 1) * (blocks + 1));
  const auto best = [&](std::size_t k, std::size_t end) -> Best& { return table[k * (blocks + 1) + end]; };
  best(0, 0).slowest = 0;
  for (std::size_t k = 1; k <= stages; ++k) {
    for (std::size_t end = k; end <= blocks; ++end) {
      Best& least = best(k, end);
      for (std::size_t begin = end; begin-- > k - 1;) {  // of equal cuts the one that begins first stays
        const double stage = (before[end] - before[begin]) / speeds[k - 1];
        if (stage > least.slowest) break;  // and takes longer with more blocks
        const double time = std::max(best(k - 1, begin).slowest, stage);
        if (time <= least.slowest) least = {time, begin};
      }
    }
  }
  Cut cut{std::vector<BlockRange>(stages), best(stages, blocks).slowest};
  std::size_t end = blocks;
  for (std::size_t k = stages; k > 0; --k) {
    const std::size_t begin = best(k, end).from;
    cut.stages[k - 1] = {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
    end = begin;
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
    const auto is_whole = [](const std::vector<Place>& places) { return std::ranges::all_of(places, has_worker); };
    if (in_.whole_only && std::ranges::any_of(pipelines_, is_whole)) {
      std::erase_if(pipelines_, std::not_fn(is_whole));
      free_.clear();
    }
    const bool some_left = std::ranges::any_of(
        pipelines_, [](const std::vector<Place>& places) { return std::ranges::any_of(places, has_worker); });
    if (some_left && !in_.enter) free_.clear();
    fill_free_places();
    for (std::vector<Place>& places : pipelines_) {
      std::erase_if(places, std::not_fn(has_worker));
    }
    std::erase_if(pipelines_, [](const std::vector<Place>& places) { return places.empty(); });
    lengthen_pipelines(usual_depth_);
    const std::size_t left = free_.size() % usual_depth_;
    const std::vector<std::size_t> others(free_.begin(), free_.end() - static_cast<std::ptrdiff_t>(left));
    free_.erase(free_.begin(), free_.end() - static_cast<std::ptrdiff_t>(left));
    if (left * kWorkersAPlaceIsMadeFor >= in_.workers.size()) lengthen_pipelines(deepest_);
    std::vector<Line> lines;
    for (const std::vector<Place>& places : pipelines_) lines.push_back(line_of(places));
    const auto depth = static_cast<std::ptrdiff_t>(usual_depth_);
    for (auto at = others.begin(); at != others.end(); at += depth) lines.emplace_back(at, at + depth);
    return lines;
  }

 private:
  struct Place {
    BlockRange blocks;  // empty: none before
    std::optional<std::size_t> worker;
  };
  static bool has_worker(const Place& place) { return place.worker.has_value(); }
  static Line line_of(const std::vector<Place>& places) {
    Line line;
    for (const Place& place : places) line.push_back(*place.worker);
    return line;
  }

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
    }
    std::map<std::size_t, std::size_t> counts;  // by depth
    for (const std::vector<Place>& places : pipelines_) ++counts[places.size()];
    for (const auto& [depth, count] : counts) {
      if (count >= counts[usual_depth_]) usual_depth_ = depth;
    }
    if (!counts.empty()) deepest_ = counts.rbegin()->first;
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

  // The shortest first, until all are so deep.
  void lengthen_pipelines(std::size_t depth) {
    while (!free_.empty() && !pipelines_.empty()) {
      const auto shortest = std::ranges::min_element(pipelines_, {}, &std::vector<Place>::size);
      if (shortest->size() >= depth) return;
      insert(*shortest, free_.front());
      free_.erase(free_.begin());
    }
  }

  // At the place where the others' blocks change least.
  void insert(std::vector<Place>& places, std::size_t worker) const {
    std::vector<Place> best;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t at = 0; at <= places.size(); ++at) {
      std::vector<Place> longer = places;
      longer.insert(longer.begin() + static_cast<std::ptrdiff_t>(at), Place{{}, worker});
      std::vector<double> speeds;
      for (const Place& place : longer) speeds.push_back(in_.speeds[*place.worker]);
      const Cut cut = cut_blocks(in_.block_shares, speeds);
      double moved = 0;
      for (std::size_t k = 0; k < longer.size(); ++k) {
        if (k == at) continue;
        for (std::uint32_t b = cut.stages[k].begin; b < cut.stages[k].end; ++b) {
          const bool had = longer[k].blocks.begin <= b && b < longer[k].blocks.end;
          moved += had ? 0 : in_.block_shares[b];
        }
      }
      if (moved >= least) continue;
      least = moved;
      best = std::move(longer);
    }
    places = std::move(best);
  }

  const SteadyLayoutInput& in_;
  std::vector<std::vector<Place>> pipelines_;
  std::size_t usual_depth_ = 0;  // of the most pipelines, the deepest of these
  std::size_t deepest_ = 0;
  std::vector<std::size_t> free_;
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

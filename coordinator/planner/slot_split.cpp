#include <algorithm>
#include <array>
#include <queue>

#include "coordinator/planner/split.hpp"

namespace planaria::planner {
namespace {

// Above this the tables of fewest nodes cost more than what they find.
constexpr std::uint64_t kLargestTable = 100'000;
constexpr std::array<double, 6> kSlacks{0.001, 0.02, 0.06, 0.15, 0.4, 1.0};

// nodes[begin][size]
std::vector<std::vector<std::uint32_t>> node_table(std::uint32_t slots) {
  std::vector<std::vector<std::uint32_t>> table(slots);
  for (std::uint32_t begin = 0; begin < slots; ++begin) {
    for (std::uint32_t end = begin; end <= slots; ++end) {
      table[begin].push_back(count_nodes({begin, end}));
    }
  }
  return table;
}

// Shares in the candidate's order of which none takes longer than `limit_s`, with the fewest tree nodes.
bool fewest_nodes(const Evaluator& evaluator, Candidate& candidate, double limit_s,
                  const std::vector<std::vector<std::uint32_t>>& nodes) {
  constexpr std::uint32_t kNever = UINT32_MAX;
  const std::uint32_t slots = evaluator.slots();
  std::vector<std::vector<std::uint32_t>> cost(candidate.size() + 1, std::vector<std::uint32_t>(slots + 1, kNever));
  auto choice = cost;
  cost[0][0] = 0;
  for (std::size_t p = 0; p < candidate.size(); ++p) {
    std::uint32_t most = 0;
    while (most < slots && candidate[p].flow.seconds((most + 1) * double(evaluator.per_slot())) <= limit_s) ++most;
    for (std::uint32_t begin = 0; begin < slots; ++begin) {
      if (cost[p][begin] == kNever) continue;
      for (std::uint32_t share = 1; share <= most && begin + share <= slots; ++share) {
        const std::uint32_t sum = cost[p][begin] + nodes[begin][share];
        if (sum >= cost[p + 1][begin + share]) continue;
        cost[p + 1][begin + share] = sum;
        choice[p + 1][begin + share] = share;
      }
    }
  }
  if (cost.back()[slots] == kNever) return false;
  std::uint32_t end = slots;
  for (std::size_t p = candidate.size(); p > 0; --p) {
    candidate[p - 1].slots = choice[p][end];
    end -= choice[p][end];
  }
  return true;
}

// Units that each pipeline has done after the longest time in which all together do no more than there are: where
// sharing them out one by one would come to, too. Returns their sum.
std::uint32_t begin_shares(Candidate& candidate, std::uint32_t units, double micro_batches) {
  constexpr int kBisections = 40;
  double low = 0;
  double high = std::numeric_limits<double>::infinity();
  for (const Line& line : candidate) high = std::min(high, line.flow.seconds(units * micro_batches));
  const auto share_until = [&](double seconds) {
    std::uint64_t sum = 0;
    for (Line& line : candidate) {
      const double done = line.flow.micro_batches(seconds) / micro_batches;
      line.slots = done > 1 ? static_cast<std::uint32_t>(std::min(done, double(units))) : 1;
      sum += line.slots;
    }
    return sum;
  };
  for (int i = 0; i < kBisections; ++i) {
    const double middle = (low + high) / 2;
    (share_until(middle) <= units ? low : high) = middle;
  }
  return static_cast<std::uint32_t>(share_until(low));
}

void keep_better(Evaluator& evaluator, const Candidate& candidate, Candidate& best, Score& best_score) {
  if (best_score.fits() && evaluator.compute_seconds(candidate) >= best_score.cost_s) return;
  const Score score = evaluator.score(candidate);
  if (!score.better_than(best_score)) return;
  best_score = score;
  best = candidate;
}

}  // namespace

bool share_slots(const Evaluator& evaluator, Candidate& candidate, std::uint32_t unit) {
  const std::uint32_t units = evaluator.slots() / unit;
  if (candidate.size() > units) return false;
  using Entry = std::pair<double, std::size_t>;  // seconds with one more unit, pipeline
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  const double micro_batches = double(unit) * evaluator.per_slot();
  const auto next = [&](std::size_t p) {
    return candidate[p].flow.seconds((candidate[p].slots / unit + 1) * micro_batches);
  };
  std::uint32_t left = units - begin_shares(candidate, units, micro_batches);
  for (std::size_t p = 0; p < candidate.size(); ++p) {
    candidate[p].slots *= unit;
    queue.emplace(next(p), p);
  }
  for (; left > 0; --left) {
    const std::size_t p = queue.top().second;
    queue.pop();
    candidate[p].slots += unit;
    queue.emplace(next(p), p);
  }
  return true;
}

Score tune_slots(Evaluator& evaluator, Candidate& candidate) {
  Candidate best = candidate;
  Score best_score = evaluator.score(candidate);
  if (candidate.size() == 1) return best_score;
  for (std::uint32_t unit = 1; share_slots(evaluator, candidate, unit); unit *= 2) {
    keep_better(evaluator, candidate, best, best_score);
  }
  const std::uint64_t slots = evaluator.slots();
  if (slots * slots * candidate.size() <= kLargestTable) {
    static_cast<void>(share_slots(evaluator, candidate));
    const double least = evaluator.compute_seconds(candidate);
    const auto nodes = node_table(evaluator.slots());
    for (const double slack : kSlacks) {
      if (!fewest_nodes(evaluator, candidate, least * (1 + slack), nodes)) continue;
      keep_better(evaluator, candidate, best, best_score);
    }
  }
  candidate = std::move(best);
  return best_score;
}

}  // namespace planaria::planner

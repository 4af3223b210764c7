#include <algorithm>
#include <cmath>

#include "coordinator/planner/split.hpp"

namespace planaria::planner {
namespace {

constexpr double kFewSplits = 300;
constexpr int kBisections = 30;

struct Problem {
  const Evaluator& evaluator;
  std::uint32_t pipelines;
  std::uint32_t micro_batches;
  std::uint32_t open_sums;
};

double splits(std::uint32_t blocks, std::uint32_t stages) {
  double count = 1;
  for (std::uint32_t i = 1; i < stages; ++i) count = count * (blocks - i) / i;
  return count;
}

Evaluator::MemoryGuide guide(const Problem& problem, const Line& line, std::size_t stage) {
  return {flights_of(stage, line.workers.size(), problem.micro_batches), problem.pipelines, problem.open_sums};
}

Score judge(const Problem& problem, Line& line) {
  problem.evaluator.time_line(line);
  double excess = 0;
  std::uint32_t begin = 0;
  for (std::size_t s = 0; s < line.workers.size(); ++s) {
    const double need = problem.evaluator.guess_memory({begin, line.ends[s]}, guide(problem, line, s));
    excess += std::max(0.0, need / problem.evaluator.memory(line.workers[s]) - 1);
    begin = line.ends[s];
  }
  return {excess, line.flow.seconds(problem.micro_batches)};
}

void try_all(const Problem& problem, Line& line, std::size_t stage, Line& best, Score& best_score) {
  const std::size_t stages = line.workers.size();
  if (stage + 1 == stages) {
    line.ends[stage] = problem.evaluator.blocks();
    if (const Score score = judge(problem, line); score.better_than(best_score)) {
      best_score = score;
      best = line;
    }
    return;
  }
  const std::uint32_t begin = stage == 0 ? 0 : line.ends[stage - 1];
  const auto last = static_cast<std::uint32_t>(problem.evaluator.blocks() - (stages - 1 - stage));
  for (std::uint32_t end = begin + 1; end <= last; ++end) {
    line.ends[stage] = end;
    try_all(problem, line, stage + 1, best, best_score);
  }
}

// Each stage takes what it can within `limit_s`, and at least one block; true when all blocks found a place.
bool fill_stages(const Problem& problem, Line& line, double limit_s, bool mind_memory) {
  const Evaluator& evaluator = problem.evaluator;
  const std::size_t stages = line.workers.size();
  std::uint32_t begin = 0;
  for (std::size_t s = 0; s < stages; ++s) {
    const auto last = static_cast<std::uint32_t>(evaluator.blocks() - (stages - 1 - s));
    const std::uint32_t worker = line.workers[s];
    const auto fits = [&](std::uint32_t end) {
      if (evaluator.block_seconds(begin, end) / evaluator.speed(worker) > limit_s) return false;
      return !mind_memory || evaluator.guess_memory({begin, end}, guide(problem, line, s)) <= evaluator.memory(worker);
    };
    std::uint32_t low = begin + 1;
    std::uint32_t high = last;
    if (!fits(low)) return false;
    while (low < high) {
      const std::uint32_t middle = low + (high - low + 1) / 2;
      if (fits(middle)) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    line.ends[s] = low;
    begin = low;
  }
  return begin == evaluator.blocks();
}

bool minimax(const Problem& problem, Line& line, bool mind_memory) {
  double slowest = problem.evaluator.speed(line.workers.front());
  double sum = 0;
  for (const std::uint32_t worker : line.workers) {
    slowest = std::min(slowest, problem.evaluator.speed(worker));
    sum += problem.evaluator.speed(worker);
  }
  const double whole = problem.evaluator.block_seconds(0, problem.evaluator.blocks());
  double low = whole / sum * (1 - 1e-9);
  double high = whole / slowest * (1 + 1e-9);
  if (!fill_stages(problem, line, high, mind_memory)) return false;
  for (int i = 0; i < kBisections && high - low > high * 1e-6; ++i) {
    const double middle = (low + high) / 2;
    if (fill_stages(problem, line, middle, mind_memory)) {
      high = middle;
    } else {
      low = middle;
    }
  }
  return fill_stages(problem, line, high, mind_memory);
}

void even(const Evaluator& evaluator, Line& line) {
  const auto stages = static_cast<std::uint32_t>(line.workers.size());
  for (std::uint32_t s = 0; s < stages; ++s) line.ends[s] = evaluator.blocks() * (s + 1) / stages;
}

// Moves single cuts by one block while that helps.
void move_cuts(const Problem& problem, Line& line) {
  Score score = judge(problem, line);
  for (std::size_t s = 0; s + 1 < line.workers.size(); ++s) {
    for (const int by : {-1, 1}) {
      while (true) {
        Line moved = line;
        moved.ends[s] += static_cast<std::uint32_t>(by);
        const std::uint32_t begin = s == 0 ? 0 : moved.ends[s - 1];
        if (moved.ends[s] <= begin || moved.ends[s] >= moved.ends[s + 1]) break;
        const Score better = judge(problem, moved);
        if (!better.better_than(score)) break;
        score = better;
        line = std::move(moved);
      }
    }
  }
}

}  // namespace

bool split_blocks(const Evaluator& evaluator, Line& line, std::uint32_t pipelines) {
  const std::size_t stages = line.workers.size();
  if (stages == 0 || stages > evaluator.blocks()) return false;
  const std::uint32_t slots = std::max(line.slots, 1U);
  const Problem problem{evaluator, pipelines, slots * evaluator.per_slot(), open_sums({0, slots})};
  line.ends.resize(stages);
  if (splits(evaluator.blocks(), static_cast<std::uint32_t>(stages)) <= kFewSplits) {
    Line best;
    Score best_score;
    try_all(problem, line, 0, best, best_score);
    line = std::move(best);
    return true;
  }
  if (!minimax(problem, line, true) && !minimax(problem, line, false)) even(evaluator, line);
  move_cuts(problem, line);
  evaluator.time_line(line);
  return true;
}

}  // namespace planaria::planner

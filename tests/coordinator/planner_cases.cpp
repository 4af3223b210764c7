#include "planner_cases.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace planaria {
namespace {

using planner::Candidate;
using planner::Evaluator;
using planner::Line;
using planner::Score;

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : engine_(seed) {}
  std::uint32_t whole(std::uint32_t min, std::uint32_t max) {
    return min + static_cast<std::uint32_t>(engine_() % (max - min + 1));
  }
  double part() { return static_cast<double>(engine_() >> 11) / 9007199254740992.0; }
  // Spread evenly over the orders of magnitude.
  double scale(double min, double max) { return min * std::pow(max / min, part()); }
  bool chance(double of) { return part() < of; }

 private:
  std::mt19937_64 engine_;
};

// All ways to cut `count` things into `parts` runs of at least one, as ends.
void for_splits(std::uint32_t count, std::uint32_t parts, std::vector<std::uint32_t>& ends,
                const std::function<void()>& visit) {
  const std::uint32_t begin = ends.empty() ? 0 : ends.back();
  if (ends.size() + 1 == parts) {
    ends.push_back(count);
    visit();
    ends.pop_back();
    return;
  }
  for (std::uint32_t end = begin + 1; end + (parts - ends.size() - 1) <= count; ++end) {
    ends.push_back(end);
    for_splits(count, parts, ends, visit);
    ends.pop_back();
  }
}

class BruteForce {
 public:
  BruteForce(Evaluator& evaluator, Score known) : evaluator_(&evaluator), best_(known) {}

  Score run() {
    place(0);
    return best_;
  }

 private:
  // Puts workers one after the other: as a spare, at any place of a pipeline, or into a new one.
  void place(std::uint32_t worker) {
    if (worker == evaluator_->workers()) return visit_grouping();
    place(worker + 1);
    for (std::size_t p = 0; p < lines_.size(); ++p) {
      for (std::size_t at = 0; at <= lines_[p].size(); ++at) {
        lines_[p].insert(lines_[p].begin() + static_cast<std::ptrdiff_t>(at), worker);
        place(worker + 1);
        lines_[p].erase(lines_[p].begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
    lines_.push_back({worker});
    place(worker + 1);
    lines_.pop_back();
  }

  void visit_grouping() {
    if (lines_.empty() || lines_.size() > evaluator_->slots()) return;
    for (const auto& line : lines_) {
      if (line.size() > evaluator_->blocks()) return;
    }
    std::vector<std::vector<Line>> splits;
    for (const auto& workers : lines_) {
      std::vector<std::uint32_t> ends;
      std::vector<Line> all;
      for_splits(evaluator_->blocks(), static_cast<std::uint32_t>(workers.size()), ends, [&] {
        Line line{.workers = workers, .ends = ends};
        evaluator_->time_line(line);
        all.push_back(std::move(line));
      });
      splits.push_back(std::move(all));
    }
    std::vector<std::size_t> order(lines_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    do {
      std::vector<std::uint32_t> ends;
      for_splits(evaluator_->slots(), static_cast<std::uint32_t>(order.size()), ends, [&] {
        candidate_.resize(order.size());
        choose(splits, order, ends, 0);
      });
    } while (std::ranges::next_permutation(order).found);
  }

  void choose(const std::vector<std::vector<Line>>& splits, const std::vector<std::size_t>& order,
              const std::vector<std::uint32_t>& ends, std::size_t p) {
    if (p == order.size()) {
      if (const Score score = evaluator_->score(candidate_); score.better_than(best_)) best_ = score;
      return;
    }
    const std::uint32_t slots = ends[p] - (p == 0 ? 0 : ends[p - 1]);
    for (const Line& line : splits[order[p]]) {
      if (best_.fits() && line.flow.seconds(slots * double(evaluator_->per_slot())) >= best_.cost_s) continue;
      candidate_[p] = line;
      candidate_[p].slots = slots;
      choose(splits, order, ends, p + 1);
    }
  }

  Evaluator* evaluator_;
  Score best_;
  std::vector<std::vector<std::uint32_t>> lines_;
  Candidate candidate_;
};

}  // namespace

PlannerCase draw_case(std::uint64_t seed) {
  Draw draw(seed);
  PlannerCase drawn;
  ModelProfile& model = drawn.model;
  const std::uint32_t workers = draw.whole(3, 6);
  const std::uint32_t blocks = draw.whole(4, workers == 6 ? 6 : 8);
  model.tile_elements = 1024;
  model.boundary_bytes = static_cast<std::uint64_t>(draw.scale(1e3, 1e6));
  const double slowness = draw.scale(1e-4, 1e-2);
  std::uint64_t memory = 0;
  for (std::uint32_t i = 0; i < blocks; ++i) {
    BlockProfile block{fmt::format("b{}", i), 0, 0, static_cast<std::uint64_t>(draw.scale(1e3, 1e6)), 0};
    block.forward_s = slowness * draw.scale(0.2, 2);
    block.backward_s = 2 * block.forward_s;
    block.saved_bytes = static_cast<std::uint64_t>(draw.scale(1e4, 1e6));
    memory += block.elements * 36 + block.saved_bytes;
    model.blocks.push_back(block);
  }
  if (draw.chance(0.4)) model.tied_elements = model.blocks[0].elements / 2;
  drawn.options.slots = workers == 6 ? draw.whole(1, 2) * 4 : 1U << draw.whole(2, workers == 5 ? 3 : 4);
  drawn.options.micro_batches = drawn.options.slots * draw.whole(1, 3);
  drawn.options.shard_optimizer = draw.chance(0.5);
  ClusterProfile& cluster = drawn.cluster;
  const double tight = draw.chance(0.5) ? 0.5 : 3;
  const std::uint32_t hosts = draw.whole(1, workers);
  const std::uint32_t zones = draw.whole(1, 2);
  cluster.same_host.bytes_per_s = draw.scale(1e9, 1e11);
  cluster.same_zone.bytes_per_s = draw.scale(1e7, 1e10);
  cluster.between_zones.bytes_per_s = draw.scale(1e6, 1e9);
  if (draw.chance(0.5)) cluster.nics.push_back({"rdma", {draw.scale(1e9, 1e11), 5e-6}});
  for (std::uint32_t i = 0; i < workers; ++i) {
    const std::uint32_t host = draw.whole(0, hosts - 1);
    cluster.workers.push_back(
        {.worker = WorkerId(i * 2),
         .speed = draw.chance(0.3) ? 1 : draw.scale(0.3, 3),
         .memory_bytes = static_cast<std::uint64_t>(static_cast<double>(memory) * tight * draw.scale(0.4, 2)),
         .host = fmt::format("h{}", host),
         .zone = fmt::format("z{}", host % zones),
         .nic = draw.chance(0.5) ? "rdma" : ""});
  }
  if (draw.chance(0.3)) cluster.overrides.push_back({WorkerId(0), WorkerId(2), {draw.scale(1e6, 1e10), 1e-3}});
  if (draw.chance(0.5)) drawn.options.losses_per_s = draw.scale(0.01, 100);
  return drawn;
}

std::string describe(const PlannerCase& drawn) {
  std::string text = fmt::format("{} blocks, M {}, V {}, {}, {} nics, {} links, {} losses a second\n",
                                 drawn.model.blocks.size(), drawn.options.micro_batches, drawn.options.slots,
                                 drawn.options.shard_optimizer ? "sharded" : "replicated", drawn.cluster.nics.size(),
                                 drawn.cluster.overrides.size(), drawn.options.losses_per_s);
  for (const WorkerProfile& worker : drawn.cluster.workers) {
    text += fmt::format("worker {} speed {} memory {} host {} zone {} nic {}\n", worker.worker.value(), worker.speed,
                        worker.memory_bytes, worker.host, worker.zone, worker.nic);
  }
  return text;
}

Score best_of_all(Evaluator& evaluator, Score known) {
  return BruteForce(evaluator, known).run();
}

}  // namespace planaria

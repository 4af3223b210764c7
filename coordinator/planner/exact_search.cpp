#include <algorithm>
#include <bit>
#include <functional>

#include "coordinator/planner/search.hpp"

namespace planaria::planner {
namespace {

constexpr std::uint32_t kMostWorkers = 6;
constexpr std::uint32_t kMostSlots = 64;
constexpr double kMostSplits = 200'000;  // lines with their blocks, over all orders of workers
// Before it gives up the proof.
constexpr std::uint64_t kMostNodes = 4'000'000;  // of the search tree
constexpr std::uint64_t kMostScores = 250'000;   // beyond those of the local search

// One ordered list of workers with all its splits of blocks that may fit into memory.
struct Order {
  std::vector<std::uint32_t> workers;
  std::vector<Line> splits;
  std::vector<double> least_s;  // [slots]: of the fastest split that may fit
};

double permutations(std::uint32_t of, std::uint32_t taken) {
  double count = 1;
  for (std::uint32_t i = 0; i < taken; ++i) count *= of - i;
  return count;
}

double combinations(std::uint32_t of, std::uint32_t taken) {
  double count = 1;
  for (std::uint32_t i = 0; i < taken; ++i) count = count * (of - i) / (i + 1);
  return count;
}

class ExactSearch {
 public:
  explicit ExactSearch(Evaluator& evaluator) : evaluator_(&evaluator), all_((1U << evaluator.workers()) - 1) {}

  Search run(Search begun) {
    search_ = std::move(begun);
    forced_ = evaluator_->options().forced_depths;
    std::ranges::sort(forced_);
    most_scored_ = search_.scored + kMostScores;
    list_orders();
    bound_exchange();
    group(all_);
    search_.proven = nodes_ <= kMostNodes;
    return std::move(search_);
  }

 private:
  struct Placed {
    const Order* order;
    std::size_t at = 0;  // in chosen_
    std::uint32_t share = 0;
  };

  void list_orders() {
    by_mask_.resize(all_ + 1);
    std::vector<std::uint32_t> workers;
    add_orders(0, workers);
  }

  void add_orders(std::uint32_t mask, std::vector<std::uint32_t>& workers) {
    if (!workers.empty()) {
      Order order{workers, {}, {}};
      Line line{.workers = workers};
      line.ends.resize(workers.size());
      add_splits(order, line, 0);
      for (std::uint32_t slots = 0; slots <= evaluator_->slots(); ++slots) {
        double least = std::numeric_limits<double>::infinity();
        for (const Line& split : order.splits) {
          if (!evaluator_->may_fit(split, slots)) continue;
          least = std::min(least, split.flow.seconds(slots * double(evaluator_->per_slot())));
        }
        order.least_s.push_back(least);
      }
      by_mask_[mask].push_back(std::move(order));
    }
    if (workers.size() == evaluator_->blocks()) return;
    for (std::uint32_t worker = 0; worker < evaluator_->workers(); ++worker) {
      if ((mask >> worker & 1U) != 0) continue;
      workers.push_back(worker);
      add_orders(mask | 1U << worker, workers);
      workers.pop_back();
    }
  }

  void add_splits(Order& order, Line& line, std::size_t stage) {
    if (stage + 1 == line.workers.size()) {
      line.ends[stage] = evaluator_->blocks();
      if (!evaluator_->may_fit(line, 1)) return;
      evaluator_->time_line(line);
      order.splits.push_back(line);
      return;
    }
    const auto last = static_cast<std::uint32_t>(evaluator_->blocks() - (line.workers.size() - 1 - stage));
    for (std::uint32_t end = (stage == 0 ? 0 : line.ends[stage - 1]) + 1; end <= last; ++end) {
      line.ends[stage] = end;
      add_splits(order, line, stage + 1);
    }
  }

  // By number of pipelines: elements of which the owners in any one pipeline don't finish the sum, at least.
  void bound_exchange() {
    const ModelProfile& model = evaluator_->model();
    foreign_.assign(evaluator_->workers() + 1, 0);
    for (std::uint32_t count = 2; count <= evaluator_->workers(); ++count) {
      double least = std::numeric_limits<double>::infinity();
      for (std::uint32_t p = 0; p < count; ++p) {
        std::uint64_t elements = 0;
        for (std::uint32_t block = 0; block < evaluator_->blocks(); ++block) {
          const std::uint64_t own = model.blocks[block].elements;
          const std::uint64_t tiles = (own + model.tile_elements - 1) / model.tile_elements;
          const TileRange shard = block_shard(tiles, block, p, count);
          elements +=
              own - (std::min(shard.end * model.tile_elements, own) - std::min(shard.begin * model.tile_elements, own));
        }
        least = std::min(least, static_cast<double>(elements));
      }
      foreign_[count] = least;
    }
  }

  // Bytes a second that a pipeline's workers send to others or receive from them, at most.
  [[nodiscard]] double most_rate(std::size_t p) const {
    double sum = 0;
    for (const std::uint32_t worker : chosen_[p]->workers) {
      double best = 0;
      for (std::size_t q = 0; q < chosen_.size(); ++q) {
        if (q == p) continue;
        for (const std::uint32_t other : chosen_[q]->workers) {
          best = std::max(best, evaluator_->link(worker, other).bytes_per_s);
        }
      }
      sum += best;
    }
    return sum;
  }

  // Seconds of reducing, where each pipeline sends one tree node, and of gathering, at least.
  [[nodiscard]] double least_exchange() {
    rates_.clear();
    if (chosen_.size() == 1) return 0;
    double slowest = std::numeric_limits<double>::infinity();
    for (std::size_t p = 0; p < chosen_.size(); ++p) {
      rates_.push_back(most_rate(p));
      slowest = std::min(slowest, rates_.back());
    }
    const ModelProfile& model = evaluator_->model();
    const std::uint64_t gathered = evaluator_->options().shard_optimizer ? model.parameter_width : model.gradient_width;
    gather_s_ = foreign_[chosen_.size()] * static_cast<double>(gathered) / slowest;
    return gather_s_ + foreign_[chosen_.size()] * static_cast<double>(model.gradient_width) / slowest;
  }

  // The same once slots are placed and the nodes known.
  [[nodiscard]] double least_exchange_placed() const {
    if (chosen_.size() == 1) return 0;
    double reduce_s = 0;
    std::uint32_t slot = 0;
    for (const Placed& placed : placed_) {
      const auto nodes = static_cast<double>(maximal_nodes({slot, slot + placed.share}).size());
      slot += placed.share;
      reduce_s = std::max(reduce_s, nodes * foreign_[chosen_.size()] *
                                        static_cast<double>(evaluator_->model().gradient_width) / rates_[placed.at]);
    }
    return gather_s_ + reduce_s;
  }

  [[nodiscard]] bool spent() {
    if (search_.scored > most_scored_) nodes_ = kMostNodes;
    return ++nodes_ > kMostNodes;
  }
  [[nodiscard]] bool hopeless(double compute_s) const {
    return search_.best.score.fits() && compute_s + exchange_s_ >= search_.best.score.cost_s * (1 - 1e-9);
  }

  // Each worker of `left`, lowest first, is spare or in a pipeline with others of `left`.
  void group(std::uint32_t left) {
    if (spent()) return;
    if (left == 0) return order_grouping();
    const std::uint32_t lowest = left & (~left + 1);
    const std::uint32_t rest = left & ~lowest;
    for (std::uint32_t with = rest;; with = (with - 1) & rest) {
      for (const Order& order : by_mask_[with | lowest]) {
        chosen_.push_back(&order);
        group(rest & ~with);
        chosen_.pop_back();
      }
      if (with == 0) break;
    }
    group(rest);
  }

  void order_grouping() {
    if (chosen_.empty() || chosen_.size() > evaluator_->slots()) return;
    std::vector<std::uint32_t> depths;
    for (const Order* order : chosen_) depths.push_back(static_cast<std::uint32_t>(order->workers.size()));
    std::ranges::sort(depths);
    if (!forced_.empty() && depths != forced_) return;
    exchange_s_ = least_exchange();
    if (hopeless(least_compute())) return;
    placed_.clear();
    taken_.assign(chosen_.size(), false);
    place(evaluator_->slots(), 0);
  }

  // The slowest pipeline when slots are shared best, whatever the order.
  [[nodiscard]] double least_compute() const {
    std::vector<std::uint32_t> shares(chosen_.size(), 1);
    for (auto left = static_cast<std::uint32_t>(evaluator_->slots() - chosen_.size()); left > 0; --left) {
      std::size_t best = 0;
      for (std::size_t p = 1; p < chosen_.size(); ++p) {
        if (chosen_[p]->least_s[shares[p] + 1] < chosen_[best]->least_s[shares[best] + 1]) best = p;
      }
      ++shares[best];
    }
    double slowest = 0;
    for (std::size_t p = 0; p < chosen_.size(); ++p) slowest = std::max(slowest, chosen_[p]->least_s[shares[p]]);
    return slowest;
  }

  // The next pipeline in the order of slots, and its share.
  void place(std::uint32_t slots_left, double compute_s) {
    if (spent()) return;
    if (placed_.size() == chosen_.size()) {
      const double before = exchange_s_;
      exchange_s_ = std::max(before, least_exchange_placed());
      if (!hopeless(compute_s)) choose_splits(0, 0);
      exchange_s_ = before;
      return;
    }
    const auto others = static_cast<std::uint32_t>(chosen_.size() - placed_.size() - 1);
    for (std::size_t p = 0; p < chosen_.size(); ++p) {
      if (taken_[p]) continue;
      taken_[p] = true;
      const std::uint32_t least = others == 0 ? slots_left : 1;
      for (std::uint32_t share = least; share + others <= slots_left; ++share) {
        const double slowest = std::max(compute_s, chosen_[p]->least_s[share]);
        if (hopeless(slowest)) break;
        placed_.push_back({chosen_[p], p, share});
        place(slots_left - share, slowest);
        placed_.pop_back();
      }
      taken_[p] = false;
    }
  }

  void choose_splits(std::size_t p, double compute_s) {
    if (spent()) return;
    if (p == placed_.size()) return judge();
    candidate_.resize(placed_.size());
    const auto& [order, at, share] = placed_[p];
    for (const Line& split : order->splits) {
      const double slowest = std::max(compute_s, split.flow.seconds(share * double(evaluator_->per_slot())));
      if (hopeless(slowest) || !evaluator_->may_fit(split, share)) continue;
      candidate_[p] = split;
      candidate_[p].slots = share;
      choose_splits(p + 1, slowest);
    }
  }

  void judge() {
    ++search_.scored;
    const Score score = evaluator_->score(candidate_);
    if (!score.better_than(search_.best.score)) return;
    search_.best = {candidate_, score};
    std::vector<std::uint32_t> depths;
    for (const Line& line : candidate_) depths.push_back(static_cast<std::uint32_t>(line.workers.size()));
    std::ranges::sort(depths, std::greater<>());
    search_.alternatives[depths] = search_.best;
  }

  Evaluator* evaluator_;
  std::uint32_t all_;
  Search search_;
  std::vector<std::uint32_t> forced_;
  std::vector<std::vector<Order>> by_mask_;
  std::vector<double> foreign_, rates_;
  std::vector<const Order*> chosen_;
  std::vector<Placed> placed_;
  std::vector<bool> taken_;
  Candidate candidate_;
  double exchange_s_ = 0, gather_s_ = 0;
  std::uint64_t most_scored_ = 0;
  std::uint64_t nodes_ = 0;
};

}  // namespace

bool few_enough(const Evaluator& evaluator) {
  if (evaluator.workers() > kMostWorkers || evaluator.slots() > kMostSlots) return false;
  double lines = 0;
  for (std::uint32_t depth = 1; depth <= std::min(evaluator.workers(), evaluator.blocks()); ++depth) {
    lines += permutations(evaluator.workers(), depth) * combinations(evaluator.blocks() - 1, depth - 1);
  }
  return lines <= kMostSplits;
}

Search search_exactly(Evaluator& evaluator, const std::vector<Candidate>& starts) {
  Search begun = search_locally(evaluator, starts);
  if (!few_enough(evaluator)) return begun;
  return ExactSearch(evaluator).run(std::move(begun));
}

}  // namespace planaria::planner

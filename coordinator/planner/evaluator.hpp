// What layouts cost, fast enough to be asked a hundred thousand times: profiles compiled to indices and sums.
//
// The exchange of a block's sums is one pattern, bytes(p → q) = from[p] · to[q] over the pipelines p and q, for the
// reduction (tree nodes · shard) as for the gathering (shard · 1). So what one worker sends is summed over whole hosts
// and zones instead of over pairs: O(blocks · pipelines) a layout. Single links that differ are corrected after.
//
// Thread contract: one thread; score() uses scratch memory of the object.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "coordinator/planner/layout_plan.hpp"
#include "coordinator/planner/pipeline_flow.hpp"

namespace planaria::planner {

// A pipeline over indices of ClusterProfile::workers.
struct Line {
  std::vector<std::uint32_t> workers;
  std::vector<std::uint32_t> ends;  // of each stage's blocks; the last is the number of blocks
  std::uint32_t slots = 0;
  PipelineFlow flow;
};

// Pipelines in the order of their slots.
using Candidate = std::vector<Line>;

struct Score {
  double excess = std::numeric_limits<double>::infinity();  // memory beyond the caps, in parts of them, over workers
  double cost_s = std::numeric_limits<double>::infinity();

  [[nodiscard]] bool fits() const { return excess <= 0; }
  // By more than rounding.
  [[nodiscard]] bool better_than(const Score& other) const;
};

// maximal_nodes(range).size(), without the nodes.
[[nodiscard]] std::uint32_t count_nodes(SlotRange range);

// Sums that are open at once while the slots are computed in order: those that are whole, and the one in work.
[[nodiscard]] std::uint32_t open_sums(SlotRange range);

// Micro-batches that a stage holds at once: those on their way up and back, and those whose outputs are kept for
// whoever takes a neighbour over, all of a step. What it can use besides, where memory is to spare, is no part of it.
struct Flights {
  std::uint64_t ahead = 1;
  std::uint64_t kept = 1;
};
[[nodiscard]] Flights flights_of(std::size_t stage, std::size_t stages, std::uint64_t micro_batches);

class Evaluator {
 public:
  // Preconditions: check_profiles() holds; slots divide micro_batches; all outlive this.
  Evaluator(const ModelProfile& model, const ClusterProfile& cluster, const PlanOptions& options);

  [[nodiscard]] std::uint32_t workers() const { return static_cast<std::uint32_t>(speed_.size()); }
  [[nodiscard]] std::uint32_t blocks() const { return static_cast<std::uint32_t>(elements_.size()) - 1; }
  [[nodiscard]] std::uint32_t slots() const { return options_->slots; }
  [[nodiscard]] std::uint32_t per_slot() const { return options_->micro_batches / options_->slots; }
  [[nodiscard]] const PlanOptions& options() const { return *options_; }
  [[nodiscard]] const ModelProfile& model() const { return *model_; }
  [[nodiscard]] const ClusterProfile& cluster() const { return *cluster_; }
  [[nodiscard]] double speed(std::uint32_t worker) const { return speed_[worker]; }
  [[nodiscard]] double memory(std::uint32_t worker) const { return memory_[worker]; }
  [[nodiscard]] std::uint32_t host(std::uint32_t worker) const { return place_[worker].host; }
  [[nodiscard]] std::uint32_t zone(std::uint32_t worker) const { return place_[worker].zone; }
  [[nodiscard]] LinkProfile link(std::uint32_t a, std::uint32_t b) const;
  // Seconds of one micro-batch in blocks [begin, end) at speed 1.
  [[nodiscard]] double block_seconds(std::uint32_t begin, std::uint32_t end) const {
    return seconds_[end] - seconds_[begin];
  }
  // What a micro-batch takes over a border and back.
  [[nodiscard]] double crossing_seconds(const LinkProfile& border) const;
  // Fills `flow` from workers and ends.
  void time_line(Line& line) const;
  [[nodiscard]] double line_seconds(const Line& line) const {
    return line.flow.seconds(line.slots * double(per_slot()));
  }
  [[nodiscard]] bool state_kept_once(const Candidate& candidate) const;
  // What losses in a step of so many seconds are expected to cost. Those that meet in one step fill their pipelines at
  // the same time.
  [[nodiscard]] double loss_seconds(const Candidate& candidate, double step_s) const;
  // The slowest pipeline. Precondition: time_line() was called on all.
  [[nodiscard]] double compute_seconds(const Candidate& candidate) const;
  // What a worker needs for these blocks, about: a guide for the search; score() decides.
  struct MemoryGuide {
    Flights flights;
    std::uint32_t pipelines = 1;  // owners of each block
    std::uint32_t open_sums = 1;
  };
  [[nodiscard]] double guess_memory(BlockRange blocks, const MemoryGuide& guide) const;
  // Whether each of the line's workers has memory for what it needs with so many slots, whatever the other lines are;
  // shards and others' sums come on top.
  [[nodiscard]] bool may_fit(const Line& line, std::uint32_t slots) const;

  // Preconditions: time_line() was called on all; every line has slots; they sum up to V.
  [[nodiscard]] Score score(const Candidate& candidate);
  // Everything about it.
  [[nodiscard]] Prediction predict(const Candidate& candidate);

  [[nodiscard]] Candidate compile(const LayoutPlan& layout) const;
  [[nodiscard]] LayoutPlan layout(const Candidate& candidate) const;

 private:
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

  struct Place {
    std::uint32_t host = 0;
    std::uint32_t zone = 0;
    std::uint32_t nic = kNone;  // of a listed class
  };
  // Weights summed over where workers are.
  struct Sums {
    double all = 0;
    std::vector<double> host, zone, host_nic, zone_nic;
  };
  struct Side {
    std::uint32_t worker = 0;
    std::uint64_t weight = 0;
  };
  // Of one exchange pattern, by worker.
  struct Traffic {
    std::vector<double> send_s, receive_s;
    std::vector<std::uint64_t> sent;
    void clear(std::uint32_t worker) {
      send_s[worker] = receive_s[worker] = 0;
      sent[worker] = 0;
    }
  };
  // Of an exchange of the same senders, whatever they send: for each, what one unit to all receivers but itself takes,
  // and comes to.
  struct Receivers {
    std::vector<Side> sides;
    std::vector<double> seconds;
    std::vector<std::uint64_t> units;
  };
  struct Pair {
    std::uint32_t a, b;
    LinkProfile link;
  };

  void compile_places();
  void compile_previous();
  void measure(const Candidate& candidate);
  void take_places(const Candidate& candidate);
  void place_block(const Candidate& candidate, std::uint32_t block);
  void place_tied(const Candidate& candidate);
  void gather();
  void measure_reduce(const Candidate& candidate);
  void measure_memory(const Line& line, std::uint32_t slot);
  [[nodiscard]] std::uint64_t needed_bytes(std::uint32_t worker) const;
  // What a stage can use to keep its pipeline busy.
  [[nodiscard]] Allowance useful(const Line& line, std::size_t stage) const;
  // Adds as much of it as there is memory to spare for.
  void spend_spare_memory(BlockRange blocks, std::uint32_t worker, const Allowance& most,
                          WorkerPrediction& prediction) const;
  void measure_move(const Candidate& candidate);
  void add(Sums& sums, std::span<const Side> sides, double sign) const;
  // Of the senders only who they are matters.
  void receive(std::span<const Side> from, std::span<const Side> to, Receivers& receivers);
  void send(std::span<const Side> from, const Receivers& receivers, Traffic& traffic);
  void correct_pairs(std::span<const Side> from, std::span<const Side> to, Traffic& traffic);
  [[nodiscard]] double exchange_seconds(const Candidate& candidate, const Traffic& traffic) const;
  [[nodiscard]] double class_rate(std::uint32_t a, std::uint32_t b) const;
  [[nodiscard]] double weighted(const Sums& sums, std::uint32_t worker, double own) const;
  [[nodiscard]] std::uint64_t shard_elements(std::uint32_t block, std::uint32_t pipeline,
                                             std::uint32_t pipelines) const;
  [[nodiscard]] std::uint64_t tied_shard_elements(std::uint32_t pipeline, std::uint32_t pipelines) const;
  [[nodiscard]] double worst_latency(const Candidate& candidate) const;
  [[nodiscard]] std::uint64_t missing_bytes(std::uint32_t worker, std::uint32_t block, std::uint32_t pipeline,
                                            std::uint32_t pipelines) const;

  const ModelProfile* model_;
  const ClusterProfile* cluster_;
  const PlanOptions* options_;
  std::vector<double> speed_, beside_, memory_;
  std::vector<Place> place_;
  std::uint32_t nics_ = 0;
  // Seconds a byte.
  double host_cost_ = 0, zone_cost_ = 0, far_cost_ = 0;
  std::vector<double> nic_cost_;
  std::vector<double> seconds_;                           // before each block
  std::vector<std::uint64_t> elements_, saved_, deltas_;  // likewise
  std::vector<Pair> rated_pairs_, distant_pairs_;         // that have links of their own: another rate, any
  std::unordered_map<std::uint64_t, LinkProfile> pair_links_;

  // Of the previous layout: each worker's blocks and pipeline; hosts and zones that hold each block.
  struct Held {
    BlockRange blocks;
    std::uint32_t pipeline = 0;
  };
  std::vector<Held> held_;
  std::uint32_t held_pipelines_ = 0;
  std::unordered_set<std::uint64_t> host_holds_, zone_holds_;

  // Of the layout that was measured last, whatever its slots.
  Candidate placed_;
  std::vector<std::uint32_t> line_of_;
  std::vector<BlockRange> blocks_of_;  // where line_of_ is set
  std::vector<std::uint64_t> shard_elements_;
  std::vector<Receivers> reduces_;  // by block, and of the tied copies
  Traffic gather_;
  std::uint32_t blocks_on_one_host_ = 0;

  // Scratch of measure().
  Sums sums_;
  Traffic reduce_;
  std::vector<Side> nodes_, shards_, ones_;
  std::vector<std::uint32_t> stage_, lines_nodes_;
  std::vector<std::uint64_t> memory_gradient_, memory_state_, memory_parameter_, memory_activation_, memory_boundary_;
  std::uint32_t all_nodes_ = 0;
  double reduce_s_ = 0, gather_s_ = 0, move_s_ = 0, compute_s_ = 0, excess_ = 0;
  std::uint64_t move_bytes_ = 0;
};

}  // namespace planaria::planner

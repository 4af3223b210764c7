// What a simulated fleet trains and how fast: a job, its blocks, workers, links, and seconds of the parts of a step.
//
// Thread contract: immutable after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/clock.hpp"
#include "coordinator/planner/planner.hpp"
#include "proto/job_spec.hpp"
#include "proto/layout.hpp"
#include "proto/state_map.hpp"

namespace planaria::fleet {

struct FleetOptions {
  std::uint32_t workers = 1000;             // of the undisturbed fleet that step_seconds speak of
  Duration step = std::chrono::seconds(5);  // of that fleet, in the layout that the planner finds best for it
  std::uint32_t layers = 16;                // of a GPT of width 2048: 16 have a billion parameters
  double link_gbit = 10;                    // of a worker, each direction; the coordinator's as well
  double memory_gib = 80;                   // of a worker
  Duration latency = std::chrono::microseconds(100);
  Duration lease = std::chrono::seconds(1);
  double worker_life_h = 10;  // that the job expects
  // Part of the preempted machines that vanish as a whole: no connection is closed, and only the lease tells. Of others
  // the kernel closes what their processes had open.
  double silent = 0.1;
  // The coordinator's own work, which the simulated clock is charged with.
  Duration message_work = std::chrono::microseconds(4);      // a report that is received, or a message that is sent
  Duration decision_work = std::chrono::microseconds(10);    // of a view, a member
  Duration planning_work = std::chrono::milliseconds(1500);  // of a plan, which runs beside
  Duration log_sync = std::chrono::milliseconds(2);

  [[nodiscard]] std::uint64_t memory_bytes() const { return static_cast<std::uint64_t>(memory_gib * (1ULL << 30)); }
};

// Of a step, undisturbed.
struct ExchangeSeconds {
  double reduce = 0;
  double gather = 0;
};

class FleetModel {
 public:
  // `exhausted`: the exchange alone takes longer than the step; the message tells how long.
  static Result<FleetModel> make(const FleetOptions& options);

  [[nodiscard]] const FleetOptions& options() const { return options_; }
  [[nodiscard]] const JobSpec& job() const { return job_; }
  [[nodiscard]] const StateMap& map() const { return *map_; }
  // Each block's part of a micro-batch.
  [[nodiscard]] const std::vector<double>& shares() const { return shares_; }
  // Whole micro-batches a second, of one worker.
  [[nodiscard]] double speed() const { return speed_; }
  [[nodiscard]] double gflops() const { return speed_ * operations_ / 1e9; }
  [[nodiscard]] double bytes_per_s() const { return options_.link_gbit * 1e9 / 8; }
  // The best layout of the undisturbed fleet.
  [[nodiscard]] const PlannedLayout& best() const { return *best_; }
  // Of that layout.
  [[nodiscard]] double step_s() const { return best_->prediction.step_s; }
  // Worker-seconds that a step is worth.
  [[nodiscard]] double work_of_step() const { return step_s() * options_.workers; }

  // Seconds of one micro-batch in these blocks on one worker.
  [[nodiscard]] double seconds_of(BlockRange blocks) const;
  // Seconds of one micro-batch's values between two stages, on their way up or back.
  [[nodiscard]] double border_s() const;
  // The reduction and the gathering of a step whose gradients lie as in `work`, with optimizer state at every owner of
  // a block in `stages`.
  [[nodiscard]] ExchangeSeconds exchange(std::span<const StageAssignment> work,
                                         std::span<const StageAssignment> stages) const;
  // Bytes that a worker fetches to have the tiles: master and moments, or parameters.
  [[nodiscard]] std::uint64_t bytes_of(TileRange tiles, bool parameters_only) const;

 private:
  explicit FleetModel(const FleetOptions& options);

  FleetOptions options_;
  JobSpec job_;
  std::shared_ptr<const StateMap> map_;
  std::vector<double> shares_;
  std::vector<double> seconds_before_;       // of one micro-batch, before each block
  std::vector<std::uint64_t> bytes_before_;  // fp32, before each block
  double operations_ = 1;                    // of a micro-batch
  double speed_ = 1;
  std::shared_ptr<const PlannedLayout> best_;
};

}  // namespace planaria::fleet

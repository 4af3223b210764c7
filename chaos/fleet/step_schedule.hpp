// When the work of a step is done: the data plane of a simulated fleet, as seconds instead of tensors.
//
// Stages that share their slots flow as one column (coordinator/planner/pipeline_flow.hpp), which ends a slot each
// period once it is filled. A worker computes one column after the other, lost work first; a column starts when all its
// workers are free and have what they compute with.
//
// Thread contract: one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "chaos/fleet/capacity_trace.hpp"
#include "chaos/fleet/fleet_model.hpp"
#include "coordinator/planner/pipeline_flow.hpp"
#include "proto/layout.hpp"

namespace planaria::fleet {

// What of the plan is left out, to see what it costs.
struct ScheduleWithout {
  bool fetches = false;
  bool recomputing = false;
};

class StepSchedule {
 public:
  explicit StepSchedule(const FleetModel& model) : model_(&model) {}

  // A step's work.
  void assign(std::span<const StageAssignment> stages);
  // The same step's as another view assigns it. Finished slots stay so, and columns that are as they were go on where
  // they were.
  void reassign(std::span<const StageAssignment> stages, double at_s);
  // When a worker has what it fetches, among it parameters of `blocks`.
  void fetches(WorkerId worker, double ready_s, std::vector<BlockRange> blocks);
  // Everybody begins, or goes on, at `begin_s`.
  void start(double begin_s);

  // The worker is gone: its columns stand still.
  void stop(WorkerId worker, double at_s);
  // Inputs of other workers' stages don't arrive any more: columns of several stages stand still.
  void fence(double at_s);

  // When all slots are done; kNever when a worker that is needed is gone.
  [[nodiscard]] double end_s() const;
  [[nodiscard]] double end_without(ScheduleWithout what, double begin_s) const;
  // Slots that each of the worker's stages has done at the time.
  [[nodiscard]] std::vector<std::pair<StageWork, std::uint32_t>> progress(WorkerId worker, double at_s) const;

 private:
  struct Column {
    std::vector<StageAssignment> stages;
    std::uint32_t slots = 0;   // that are left
    std::uint32_t before = 0;  // done when it was assigned
    double flowed = 0;         // seconds, before its start
    planner::PipelineFlow flow;
    double start = kNever;
    double frozen = kNever;
    bool broken = false;
    bool recompute = false;

    [[nodiscard]] double end() const {
      return slots == 0 ? start : start + std::max(0.0, flow.seconds(slots) - flowed);
    }
    [[nodiscard]] double flowed_at(double at_s) const { return flowed + std::max(0.0, std::min(at_s, frozen) - start); }

    [[nodiscard]] std::uint32_t done_at(double at_s) const;
  };
  struct Fetch {
    double ready = 0;
    std::vector<BlockRange> blocks;
  };

  [[nodiscard]] planner::PipelineFlow flow_of(std::span<const StageAssignment> stages) const;
  [[nodiscard]] double ready(const StageAssignment& stage) const;
  template <class Visit>
  double flow(ScheduleWithout what, double begin_s, Visit visit) const;

  const FleetModel* model_;
  std::vector<Column> columns_;                         // recomputed ones first
  std::vector<std::vector<std::uint32_t>> columns_of_;  // by worker
  std::map<WorkerId, Fetch> fetches_;
};

}  // namespace planaria::fleet

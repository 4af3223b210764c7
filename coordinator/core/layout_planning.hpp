// What the planner is asked from what the coordinator knows, and how its answers become stages.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "coordinator/core/measured_links.hpp"
#include "coordinator/planner/planner.hpp"
#include "proto/control.hpp"
#include "proto/layout.hpp"

namespace planaria {

// All that plan_layout() is asked with.
struct LayoutRequest {
  std::uint64_t number = 0;
  ModelProfile model;
  ClusterProfile cluster;
  PlanOptions options;
};

// The model's profile in units of speeds that are micro-batches a second. shares: of a micro-batch's time, by block.
[[nodiscard]] ModelProfile measured_model(const JobSpec& job, const StateMap& map, const std::vector<double>& shares);

struct PlannedWorker {
  WorkerId worker;
  std::string host;
  WorkerResources resources;
  double speed = 1;     // micro-batches a second, > 0
  double beside_s = 0;  // of a step, besides micro-batches
};
// by WorkerId. Memory of a machine is shared by its workers; where nobody knows any, it is no limit. `links`: by who
// measured them.
[[nodiscard]] ClusterProfile measured_cluster(std::span<const PlannedWorker> workers,
                                              const std::map<WorkerId, LinkTable>& links = {});

// The question for a layout of these workers, by WorkerId. depths: as cluster.layout gives them, for so many workers;
// none: any. previous: none = there is none. Expected losses are the caller's to tell.
[[nodiscard]] LayoutRequest layout_request(const JobSpec& job, const StateMap& map, const std::vector<double>& shares,
                                           std::span<const PlannedWorker> workers,
                                           std::span<const std::uint32_t> depths,
                                           std::span<const StageAssignment> previous,
                                           const std::map<WorkerId, LinkTable>& links = {});

// What the job's description says.
[[nodiscard]] PlanOptions plan_options(const JobSpec& job);

// Stages come pipeline by pipeline, each from the first block on; those without slots are no pipeline of a plan.
[[nodiscard]] LayoutPlan plan_of(std::span<const StageAssignment> stages);
[[nodiscard]] std::vector<StageAssignment> stages_of(const LayoutPlan& plan);

[[nodiscard]] std::set<WorkerId> workers_of(std::span<const StageAssignment> stages);

// Bytes a second between two workers of the cluster, about.
[[nodiscard]] double usual_rate(const ClusterProfile& cluster);

// What the planner says of layouts for one request, which outlives this. What it can't judge, as a layout with a worker
// that the request doesn't know, it leaves as it is.
class Forecast {
 public:
  explicit Forecast(const LayoutRequest& request);

  // As predicted, with what losses in it are expected to cost; none where that can't be told.
  [[nodiscard]] std::optional<double> step_seconds(std::span<const StageAssignment> stages);
  // The same pipelines with slots shared out by the prediction, which counts whole slots and the sums that travel.
  [[nodiscard]] std::vector<StageAssignment> with_slots_shared_out(std::vector<StageAssignment> stages);
  // Whether every worker of the layout has the memory that it is predicted to need.
  [[nodiscard]] bool fits_memory(std::span<const StageAssignment> stages);
  // Whether the worker has memory for any two stages of a step at once, whatever their blocks and slots.
  [[nodiscard]] bool fits_any_work(WorkerId worker);
  // Of each worker; who isn't in it is allowed nothing.
  [[nodiscard]] std::map<WorkerId, Allowance> allowances(std::span<const StageAssignment> stages);

 private:
  // Null where that can't be told; valid until the next call.
  [[nodiscard]] const Prediction* predicted(std::span<const StageAssignment> stages);

  const LayoutRequest& request_;
  Result<LayoutJudge> judge_;
  // Of the layout that was asked about last, which is often asked about again.
  LayoutPlan last_layout_;
  std::optional<Prediction> last_;
};

}  // namespace planaria

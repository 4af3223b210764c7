#include "coordinator/core/layout_planning.hpp"

#include <algorithm>
#include <map>

#include "coordinator/core/steady_layout.hpp"

namespace planaria {
namespace {

constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 50;

}  // namespace

ModelProfile measured_model(const JobSpec& job, const StateMap& map, const std::vector<double>& shares) {
  ModelProfile model = model_profile(job, map, 1);
  for (std::size_t b = 0; b < model.blocks.size(); ++b) {
    model.blocks[b].forward_s = shares[b] / 3;  // a backward pass is two forward ones: proto/block_cost.hpp
    model.blocks[b].backward_s = 2 * shares[b] / 3;
  }
  return model;
}

ClusterProfile measured_cluster(std::span<const PlannedWorker> workers, const std::map<WorkerId, LinkTable>& links) {
  std::map<std::string, std::uint64_t> of_host;
  for (const PlannedWorker& worker : workers) ++of_host[worker.host];
  ClusterProfile cluster;
  for (const PlannedWorker& worker : workers) {
    const WorkerResources& resources = worker.resources;
    std::uint64_t memory = resources.memory_bytes;
    if (resources.memory_of_host) memory /= of_host[worker.host];
    cluster.workers.push_back({worker.worker, worker.speed, memory == 0 ? kNoLimit : memory, worker.host,
                               resources.zone, resources.nic, worker.beside_s});
  }
  apply_links(cluster, links);
  return cluster;
}

PlanOptions plan_options(const JobSpec& job) {
  PlanOptions options;
  options.micro_batches = job.batch.micro_batches;
  options.slots = job.batch.slots;
  options.shard_optimizer = job.optimizer.shard;
  options.hysteresis_gain = job.cluster.rebalance_gain;
  return options;
}

LayoutRequest layout_request(const JobSpec& job, const StateMap& map, const std::vector<double>& shares,
                             std::span<const PlannedWorker> workers, std::span<const std::uint32_t> depths,
                             std::span<const StageAssignment> previous, const std::map<WorkerId, LinkTable>& links) {
  LayoutRequest request;
  request.model = measured_model(job, map, shares);
  request.cluster = measured_cluster(workers, links);
  request.options = plan_options(job);
  if (!depths.empty()) request.options.forced_depths = repeated_depths(depths, workers.size(), map.blocks().size());
  if (!previous.empty()) request.options.previous = plan_of(previous);
  return request;
}

LayoutPlan plan_of(std::span<const StageAssignment> stages) {
  LayoutPlan plan;
  for (const StageAssignment& stage : stages) {
    if (stage.work.empty()) continue;
    if (stage.work.blocks.begin == 0) plan.pipelines.push_back({{}, stage.work.slots});
    if (!plan.pipelines.empty()) plan.pipelines.back().stages.push_back({stage.worker, stage.work.blocks});
  }
  return plan;
}

std::vector<StageAssignment> stages_of(const LayoutPlan& plan) {
  std::vector<StageAssignment> stages;
  for (const PlanPipeline& pipeline : plan.pipelines) {
    for (const PlanStage& stage : pipeline.stages)
      stages.push_back({stage.worker, {stage.blocks, pipeline.slots}, false});
  }
  return stages;
}

std::set<WorkerId> workers_of(std::span<const StageAssignment> stages) {
  std::set<WorkerId> workers;
  for (const StageAssignment& stage : stages) workers.insert(stage.worker);
  return workers;
}

double usual_rate(const ClusterProfile& cluster) {
  const auto& workers = cluster.workers;
  const bool one_host = std::ranges::all_of(workers, [&](const auto& w) { return w.host == workers.front().host; });
  const bool one_zone = std::ranges::all_of(workers, [&](const auto& w) { return w.zone == workers.front().zone; });
  const LinkProfile& link = one_host ? cluster.same_host : one_zone ? cluster.same_zone : cluster.between_zones;
  return link.bytes_per_s;
}

Forecast::Forecast(const LayoutRequest& request)
    : request_(request), judge_(LayoutJudge::make(request.model, request.cluster, request.options)) {}

const Prediction* Forecast::predicted(std::span<const StageAssignment> stages) {
  if (!judge_) return nullptr;
  LayoutPlan layout = plan_of(stages);
  if (!last_ || last_layout_ != layout) {
    auto prediction = judge_->predict(layout);
    if (!prediction) return nullptr;
    last_ = std::move(*prediction);
    last_layout_ = std::move(layout);
  }
  return &*last_;
}

std::optional<double> Forecast::step_seconds(std::span<const StageAssignment> stages) {
  const Prediction* prediction = predicted(stages);
  return prediction != nullptr ? std::optional(prediction->step_s + prediction->loss_s) : std::nullopt;
}

std::vector<StageAssignment> Forecast::with_slots_shared_out(std::vector<StageAssignment> stages) {
  const bool some_idle = std::ranges::any_of(stages, [](const StageAssignment& stage) { return stage.work.empty(); });
  if (some_idle || !judge_) return stages;
  const auto shared = judge_->share_out_slots(plan_of(stages));
  return shared ? stages_of(*shared) : std::move(stages);
}

bool Forecast::fits_memory(std::span<const StageAssignment> stages) {
  const auto& workers = request_.cluster.workers;
  const bool limited = std::ranges::any_of(workers, [](const auto& worker) { return worker.memory_bytes < kNoLimit; });
  const Prediction* prediction = limited ? predicted(stages) : nullptr;
  if (prediction == nullptr) return true;
  return std::ranges::all_of(prediction->workers, [&](const WorkerPrediction& needed) {
    return needed.memory_bytes <= find_worker(request_.cluster, needed.worker)->memory_bytes;
  });
}

// What it would need alone, with all blocks and slots; besides, for each of the two stages, borders on both sides,
// which that has none of; micro-batches in flight, as many as there can be stages, and their gradients' sums; and the
// sums that other pipelines send, each at most so many nodes as lie on both sides of a tree.
bool Forecast::fits_any_work(WorkerId worker) {
  const WorkerProfile* const has = find_worker(request_.cluster, worker);
  if (has == nullptr) return false;
  if (has->memory_bytes >= kNoLimit) return true;
  const auto blocks = static_cast<std::uint32_t>(request_.model.blocks.size());
  const StageAssignment alone{worker, {{0, blocks}, {0, request_.options.slots}}, false};
  const Prediction* prediction = predicted(std::span(&alone, 1));
  if (prediction == nullptr) return false;
  const WorkerPrediction& needed = prediction->workers.front();
  const std::uint64_t flights = 2 * std::uint64_t{blocks};
  const std::uint64_t borders = 4 * (request_.options.micro_batches + flights) * request_.model.boundary_bytes;
  return needed.memory_bytes + 2 * needed.gradient_bytes + flights * needed.activation_bytes + borders <=
         has->memory_bytes;
}

std::map<WorkerId, Allowance> Forecast::allowances(std::span<const StageAssignment> stages) {
  std::map<WorkerId, Allowance> allowances;
  const Prediction* prediction = predicted(stages);
  if (prediction == nullptr) return allowances;
  for (const WorkerPrediction& worker : prediction->workers) allowances[worker.worker] = worker.allowance;
  return allowances;
}

}  // namespace planaria

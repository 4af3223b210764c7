#include "chaos/fleet/fleet_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "coordinator/core/layout_planning.hpp"
#include "proto/block_cost.hpp"

namespace planaria::fleet {
namespace {

// Of a worker on average: a lost slot that another one computes is a small part of its step.
constexpr std::uint32_t kSlotsPerWorker = 8;

JobSpec fleet_job(const FleetOptions& options) {
  JobSpec job;
  job.name = "fleet";
  job.model.layers = options.layers;
  job.model.heads = job.model.kv_heads = 16;
  job.model.width = 2048;
  job.model.ffn_width = 8192;
  job.model.vocab = 50304;
  job.model.context = 1024;
  job.model.tied_embedding = false;
  job.batch.slots = std::min(std::bit_ceil(options.workers * kSlotsPerWorker), kMaxPlannedSlots);
  job.batch.micro_batches = job.batch.slots;
  job.optimizer.shard = false;  // with state that exists once, each loss would be one of state
  job.train.steps = 100'000'000;
  job.cluster.workers = options.workers;
  job.cluster.worker_life_h = options.worker_life_h;
  job.cluster.lease_ms = static_cast<std::uint32_t>(to_ms(options.lease));
  job.cluster.heartbeat_ms = std::max(10U, job.cluster.lease_ms / 4);
  job.cluster.prepare_timeout_ms = std::max(job.cluster.prepare_timeout_ms, 4 * job.cluster.lease_ms);
  job.cluster.stall_timeout_ms = static_cast<std::uint32_t>(20 * to_ms(options.step));
  return job;
}

std::vector<PlannedWorker> undisturbed(const FleetOptions& options, double speed) {
  std::vector<PlannedWorker> workers;
  for (std::uint32_t i = 0; i < options.workers; ++i) {
    WorkerResources resources;
    resources.memory_bytes = options.memory_bytes();
    workers.push_back({WorkerId(i), "host-" + std::to_string(i), resources, speed});
  }
  return workers;
}

}  // namespace

FleetModel::FleetModel(const FleetOptions& options)
    : options_(options),
      job_(fleet_job(options)),
      map_(std::make_shared<StateMap>(job_.model, job_.train.tile_elements)),
      shares_(block_shares(job_, *map_)),
      seconds_before_{0},
      bytes_before_{0},
      operations_(micro_batch_operations(job_, *map_)) {
  for (const BlockInfo& block : map_->blocks()) bytes_before_.push_back(bytes_before_.back() + 4 * block.elements);
}

Result<FleetModel> FleetModel::make(const FleetOptions& options) {
  FleetModel model(options);
  const double target = to_seconds(options.step);
  constexpr int kRounds = 6;  // the best layout changes with the speed
  constexpr double kCloseEnough = 0.01;
  model.speed_ = model.job_.batch.micro_batches / (options.workers * target / 2);
  for (int round = 0; round < kRounds; ++round) {
    LayoutRequest request =
        layout_request(model.job_, *model.map_, model.shares_, undisturbed(options, model.speed_), {}, {});
    request.cluster.same_zone = {model.bytes_per_s(), to_seconds(options.latency)};
    PLANARIA_ASSIGN(PlannedLayout planned, plan_layout(request.model, request.cluster, request.options));
    const Prediction& found = planned.prediction;
    model.best_ = std::make_shared<PlannedLayout>(planned);
    if (std::abs(found.step_s / target - 1) < kCloseEnough) break;
    const double left = target - found.reduce_s - found.gather_s;
    if (left < target / 20) {
      return Error(
          ErrorCode::exhausted,
          fmt::format("the exchange of a step takes {:.2f} s of its {:.2f} s: give longer steps or faster links",
                      found.reduce_s + found.gather_s, target));
    }
    model.speed_ *= found.compute_s / left;
  }
  for (const double share : model.shares_) {
    model.seconds_before_.push_back(model.seconds_before_.back() + share / model.speed_);
  }
  return model;
}

double FleetModel::seconds_of(BlockRange blocks) const {
  return seconds_before_[blocks.end] - seconds_before_[blocks.begin];
}

double FleetModel::border_s() const {
  return to_seconds(options_.latency) + 4 * static_cast<double>(job_.boundary_elements()) / bytes_per_s();
}

std::uint64_t FleetModel::bytes_of(TileRange tiles, bool parameters_only) const {
  return map_->bytes(tiles) * (parameters_only ? 1 : kTensorsOfState);
}

ExchangeSeconds FleetModel::exchange(std::span<const StageAssignment> work,
                                     std::span<const StageAssignment> stages) const {
  const std::size_t blocks = map_->blocks().size();
  std::vector<double> owners(blocks, 0), sums(blocks, 0);  // by block
  std::map<WorkerId, std::vector<double>> sent;            // sums, by block
  for (const StageAssignment& stage : stages) {
    for (std::uint32_t b = stage.work.blocks.begin; b < stage.work.blocks.end; ++b) owners[b] += 1;
  }
  for (const StageAssignment& stage : work) {
    if (stage.work.empty()) continue;
    const auto nodes = static_cast<double>(maximal_nodes(stage.work.slots).size());
    std::vector<double>& own = sent[stage.worker];
    own.resize(blocks, 0);
    for (std::uint32_t b = stage.work.blocks.begin; b < stage.work.blocks.end; ++b) {
      sums[b] += nodes;
      own[b] += nodes;
    }
  }
  const auto bytes = [&](std::uint32_t b) { return static_cast<double>(bytes_before_[b + 1] - bytes_before_[b]); };
  const auto others = [&](std::uint32_t b) { return (owners[b] - 1) / owners[b]; };
  double reduce = 0, gather = 0;
  for (const auto& [worker, own] : sent) {
    double bytes_sent = 0;
    for (std::uint32_t b = 0; b < blocks; ++b) bytes_sent += own[b] > 0 ? own[b] * bytes(b) * others(b) : 0;
    reduce = std::max(reduce, bytes_sent);
  }
  for (const StageAssignment& stage : stages) {
    const auto sender = sent.find(stage.worker);
    double received = 0, gathered = 0;
    for (std::uint32_t b = stage.work.blocks.begin; b < stage.work.blocks.end; ++b) {
      const double own = sender == sent.end() ? 0 : sender->second[b];
      received += (sums[b] - own) * bytes(b) / owners[b];
      gathered += bytes(b) * others(b);
    }
    reduce = std::max(reduce, received);
    gather = std::max(gather, gathered);
  }
  const double latency = to_seconds(options_.latency);
  return {reduce / bytes_per_s() + latency, gather / bytes_per_s() + latency};
}

}  // namespace planaria::fleet

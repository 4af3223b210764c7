#include "coordinator/planner/profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "proto/block_cost.hpp"

namespace planaria {
namespace {

constexpr std::uint64_t kFloatBytes = 4;

bool positive(double value) {
  return std::isfinite(value) && value > 0;
}

// What worker/model/transformer.hpp keeps of a decoder layer, and its input.
std::uint64_t layer_saved(const ModelSpec& model, std::uint64_t rows) {
  const std::uint64_t row =
      4 + 5ULL * model.width + model.qkv_width() + model.up_width() + model.ffn_width + model.heads;
  return rows * row * kFloatBytes;
}

// The gradients of its linear maps' outputs.
std::uint64_t layer_deltas(const ModelSpec& model, std::uint64_t rows) {
  return rows * (2ULL * model.width + model.qkv_width() + model.up_width()) * kFloatBytes;
}

Status check_block(const BlockProfile& block) {
  if (!std::isfinite(block.seconds()) || block.forward_s < 0 || block.backward_s < 0) {
    return Error(ErrorCode::invalid_argument, fmt::format("block {}: its seconds are no times", block.name));
  }
  return ok_status();
}

Status check_link(const LinkProfile& link, std::string_view what) {
  if (positive(link.bytes_per_s) && std::isfinite(link.latency_s) && link.latency_s >= 0) return ok_status();
  return Error(ErrorCode::invalid_argument,
               fmt::format("{}: a link has a bandwidth above 0 and a latency of 0 or more", what));
}

Status check_workers(const ClusterProfile& cluster) {
  std::map<std::string, std::string> zones;
  for (std::size_t i = 0; i < cluster.workers.size(); ++i) {
    const WorkerProfile& worker = cluster.workers[i];
    if (i > 0 && !(cluster.workers[i - 1].worker < worker.worker)) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("worker {}: workers are listed by rising ids, each once", worker.worker.value()));
    }
    if (!positive(worker.speed)) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("worker {}: its speed isn't above 0", worker.worker.value()));
    }
    if (!std::isfinite(worker.beside_s) || worker.beside_s < 0) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("worker {}: its time besides micro-batches is below 0", worker.worker.value()));
    }
    const auto [entry, added] = zones.emplace(worker.host, worker.zone);
    if (!added && entry->second != worker.zone) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("worker {}: host \"{}\" lies in zone \"{}\" already, and can't lie in \"{}\", too",
                               worker.worker.value(), worker.host, entry->second, worker.zone));
    }
  }
  return ok_status();
}

}  // namespace

ModelProfile model_profile(const JobSpec& job, const StateMap& map, double flops_per_s) {
  const ModelSpec& model = job.model;
  const std::uint64_t rows = std::uint64_t{job.batch.sequences} * model.context;
  const std::vector<double> operations = forward_operations(job, map);
  ModelProfile profile;
  profile.boundary_bytes = rows * model.width * kFloatBytes;
  profile.tile_elements = map.tile_elements();
  for (std::uint32_t index = 0; index < map.blocks().size(); ++index) {
    const BlockInfo& info = map.blocks()[index];
    BlockProfile block{info.name, 0, 0, info.elements, 0};
    if (index > 0 && index + 1 < map.blocks().size()) {
      block.saved_bytes = layer_saved(model, rows);
      block.delta_bytes = layer_deltas(model, rows);
    } else if (index > 0) {
      block.saved_bytes = rows * (2 + 2ULL * model.width + model.vocab) * kFloatBytes;
    }
    for (const TensorInfo& tensor : info.tensors) {
      if (!tensor.tied) continue;
      profile.tied_elements = tensor.elements();
      block.elements = tensor.offset;
    }
    block.forward_s = operations[index] / flops_per_s;
    block.backward_s = 2 * operations[index] / flops_per_s;
    profile.blocks.push_back(std::move(block));
  }
  return profile;
}

Status check_profiles(const ModelProfile& model, const ClusterProfile& cluster) {
  if (model.blocks.empty() || model.tile_elements == 0) {
    return Error(ErrorCode::invalid_argument, "the model's profile has no blocks or no tile size");
  }
  double seconds = 0;
  for (const BlockProfile& block : model.blocks) {
    PLANARIA_TRY(check_block(block));
    seconds += block.seconds();
  }
  if (!(seconds > 0)) return Error(ErrorCode::invalid_argument, "the model's blocks take no time at all");
  PLANARIA_TRY(check_workers(cluster));
  PLANARIA_TRY(check_link(cluster.same_host, "same_host"));
  PLANARIA_TRY(check_link(cluster.same_zone, "same_zone"));
  PLANARIA_TRY(check_link(cluster.between_zones, "between_zones"));
  for (const NicProfile& nic : cluster.nics) PLANARIA_TRY(check_link(nic.link, "nic " + nic.name));
  for (const LinkOverride& pair : cluster.overrides) {
    const std::string what = fmt::format("link {} - {}", pair.from.value(), pair.to.value());
    PLANARIA_TRY(check_link(pair.link, what));
    const auto is_there = [&](WorkerId worker) {
      return std::ranges::binary_search(cluster.workers, worker, {}, &WorkerProfile::worker);
    };
    if (pair.from == pair.to || !is_there(pair.from) || !is_there(pair.to)) {
      return Error(ErrorCode::invalid_argument, what + ": joins two different workers of the cluster");
    }
  }
  return ok_status();
}

const WorkerProfile* find_worker(const ClusterProfile& cluster, WorkerId worker) {
  const auto found = std::ranges::lower_bound(cluster.workers, worker, {}, &WorkerProfile::worker);
  return found != cluster.workers.end() && found->worker == worker ? &*found : nullptr;
}

}  // namespace planaria

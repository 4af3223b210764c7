#include "coordinator/planner/layout_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace planaria {
namespace {

Status check_pipeline(const PlanPipeline& pipeline, std::size_t number, std::uint32_t blocks, std::uint32_t slot) {
  const auto refuse = [number](const std::string& why) {
    return Error(ErrorCode::invalid_argument, fmt::format("pipeline {}: {}", number, why));
  };
  if (pipeline.slots.empty() || pipeline.slots.begin != slot) return refuse("its slots don't follow the ones before");
  std::uint32_t end = 0;
  for (const PlanStage& stage : pipeline.stages) {
    if (stage.blocks.begin != end || stage.blocks.end <= end || stage.blocks.end > blocks) {
      return refuse(fmt::format("block {} isn't held exactly once", end));
    }
    end = stage.blocks.end;
  }
  if (end != blocks) return refuse(fmt::format("block {} has no owner", end));
  return ok_status();
}

}  // namespace

TileRange block_shard(std::uint64_t tiles, std::uint32_t block, std::uint32_t pipeline, std::uint32_t pipelines) {
  const std::uint64_t place = (std::uint64_t{pipeline} + block) % pipelines;
  return {static_cast<std::uint32_t>(tiles * place / pipelines),
          static_cast<std::uint32_t>(tiles * (place + 1) / pipelines)};
}

std::string depths_text(const LayoutPlan& layout) {
  std::string text;
  for (const PlanPipeline& pipeline : layout.pipelines) {
    if (!text.empty()) text += '+';
    text += std::to_string(pipeline.stages.size());
  }
  return text;
}

Status check_layout(const LayoutPlan& layout, const ModelProfile& model, const ClusterProfile& cluster,
                    std::uint32_t slots) {
  std::uint32_t slot = 0;
  std::vector<bool> used(cluster.workers.size(), false);  // by place in the cluster
  for (std::size_t i = 0; i < layout.pipelines.size(); ++i) {
    const PlanPipeline& pipeline = layout.pipelines[i];
    PLANARIA_TRY(check_pipeline(pipeline, i, static_cast<std::uint32_t>(model.blocks.size()), slot));
    slot = pipeline.slots.end;
    for (const PlanStage& stage : pipeline.stages) {
      const WorkerProfile* const worker = find_worker(cluster, stage.worker);
      if (worker == nullptr) {
        return Error(ErrorCode::invalid_argument,
                     fmt::format("pipeline {}: worker {} isn't in the cluster", i, stage.worker.value()));
      }
      const std::size_t place = static_cast<std::size_t>(worker - cluster.workers.data());
      if (used[place]) {
        return Error(ErrorCode::invalid_argument,
                     fmt::format("pipeline {}: worker {} has a stage already", i, stage.worker.value()));
      }
      used[place] = true;
    }
  }
  if (slot != slots) return Error(ErrorCode::invalid_argument, fmt::format("slot {} has no pipeline", slot));
  return ok_status();
}

}  // namespace planaria

#include "cli/plan_picture.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace planaria {
namespace {

constexpr std::size_t kDrawnPipelines = 16;
constexpr std::size_t kDrawnStages = 12;
constexpr int kBar = 10;

template <class T>
const T& of_worker(const std::vector<T>& all, WorkerId worker) {
  return *std::ranges::lower_bound(all, worker, {}, &T::worker);
}

double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

std::string blocks_text(BlockRange range, const ModelProfile& model) {
  const std::string& first = model.blocks[range.begin].name;
  return range.size() == 1 ? first : first + "…" + model.blocks[range.end - 1].name;
}

std::string bar(double part) {
  const int full = std::clamp(static_cast<int>(std::lround(part * kBar)), 0, kBar);
  std::string text;
  for (int i = 0; i < kBar; ++i) text += i < full ? "█" : "·";
  return text;
}

std::string draw_pipeline(const PlannedLayout& planned, std::size_t number, const ModelProfile& model) {
  const PlanPipeline& pipeline = planned.layout.pipelines[number];
  std::string text = fmt::format("pipeline {}  slots {}–{}  ", number, pipeline.slots.begin, pipeline.slots.end - 1);
  for (std::size_t s = 0; s < pipeline.stages.size(); ++s) {
    if (s == kDrawnStages) return text + fmt::format(" … {} stages more\n", pipeline.stages.size() - s);
    const PlanStage& stage = pipeline.stages[s];
    const double busy = of_worker(planned.prediction.workers, stage.worker).busy_s / planned.prediction.step_s;
    text += fmt::format("{}[ {}: {} {} {:.0f} % ]", s == 0 ? "" : "─▶", stage.worker.value(),
                        blocks_text(stage.blocks, model), bar(busy), 100 * busy);
  }
  return text + '\n';
}

std::string draw_workers(const PlannedLayout& planned, const ClusterProfile& cluster) {
  std::string text = "worker  speed  busy s    memory GB  of       state  parameters  activations  gradients  host\n";
  for (std::size_t i = 0; i < planned.prediction.workers.size(); ++i) {
    if (i == kDrawnPipelines) {
      return text + fmt::format("… {} workers more (--json tells all)\n", planned.prediction.workers.size() - i);
    }
    const WorkerPrediction& worker = planned.prediction.workers[i];
    const WorkerProfile& profile = of_worker(cluster.workers, worker.worker);
    text += fmt::format("{:<6}  {:<5.3g}  {:<8.4g}  {:<9.3f}  {:<7.3f}  {:<5.3f}  {:<10.3f}  {:<11.3f}  {:<9.3f}  {}\n",
                        worker.worker.value(), profile.speed, worker.busy_s, gigabytes(worker.memory_bytes),
                        gigabytes(profile.memory_bytes), gigabytes(worker.state_bytes),
                        gigabytes(worker.parameter_bytes), gigabytes(worker.activation_bytes + worker.boundary_bytes),
                        gigabytes(worker.gradient_bytes), profile.host.starts_with('#') ? "-" : profile.host);
  }
  return text;
}

}  // namespace

std::string plan_picture(const PlannedLayout& planned, const ModelProfile& model, const ClusterProfile& cluster) {
  const Prediction& prediction = planned.prediction;
  std::string text;
  const std::size_t count = planned.layout.pipelines.size();
  for (std::size_t p = 0; p < std::min(count, kDrawnPipelines); ++p) text += draw_pipeline(planned, p, model);
  if (count > kDrawnPipelines) text += fmt::format("… {} pipelines more (--json tells all)\n", count - kDrawnPipelines);
  text += fmt::format(
      "\nstep {:.4g} s: compute {:.4g} s, reduce {:.4g} s, gather {:.4g} s\n"
      "sent a step: boundaries {:.4g} GB, sums {:.4g} GB, values {:.4g} GB; whole slots cost {:.1f} %\n\n",
      prediction.step_s, prediction.compute_s, prediction.reduce_s, prediction.gather_s,
      gigabytes(prediction.boundary_bytes), gigabytes(prediction.reduce_bytes), gigabytes(prediction.gather_bytes),
      100 * prediction.granularity_loss);
  text += draw_workers(planned, cluster);
  text += fmt::format("\n{}\n", planned.reason);
  for (const PlanAlternative& other : planned.alternatives)
    text += fmt::format("  not {}: {}\n", other.form, other.why);
  for (const std::string& warning : planned.warnings) text += fmt::format("warning: {}\n", warning);
  return text;
}

nlohmann::json plan_json(const PlannedLayout& planned, const ModelProfile& model, const ClusterProfile& cluster) {
  using nlohmann::json;
  const Prediction& prediction = planned.prediction;
  json pipelines = json::array();
  for (const PlanPipeline& pipeline : planned.layout.pipelines) {
    json stages = json::array();
    for (const PlanStage& stage : pipeline.stages) {
      stages.push_back({{"worker", stage.worker.value()},
                        {"blocks", {stage.blocks.begin, stage.blocks.end}},
                        {"first_block", model.blocks[stage.blocks.begin].name},
                        {"last_block", model.blocks[stage.blocks.end - 1].name}});
    }
    pipelines.push_back({{"slots", {pipeline.slots.begin, pipeline.slots.end}}, {"stages", std::move(stages)}});
  }
  json workers = json::array();
  for (const WorkerPrediction& worker : prediction.workers) {
    workers.push_back({{"worker", worker.worker.value()},
                       {"busy_s", worker.busy_s},
                       {"memory_bytes", worker.memory_bytes},
                       {"memory_limit_bytes", of_worker(cluster.workers, worker.worker).memory_bytes},
                       {"state_bytes", worker.state_bytes},
                       {"parameter_bytes", worker.parameter_bytes},
                       {"activation_bytes", worker.activation_bytes},
                       {"gradient_bytes", worker.gradient_bytes},
                       {"boundary_bytes", worker.boundary_bytes},
                       {"ahead_micro_batches", worker.allowance.ahead},
                       {"waiting_micro_batches", worker.allowance.waiting},
                       {"reduce_sent_bytes", worker.reduce_sent_bytes},
                       {"gather_sent_bytes", worker.gather_sent_bytes}});
  }
  json alternatives = json::array();
  for (const PlanAlternative& other : planned.alternatives) {
    alternatives.push_back(
        {{"layout", other.form}, {"fits", other.fits}, {"step_s", other.step_s}, {"why", other.why}});
  }
  json spares = json::array();
  for (const WorkerId worker : planned.spares) spares.push_back(worker.value());
  return {{"layout", form_text(planned.layout)},
          {"proven", planned.proven},
          {"considered", planned.considered},
          {"step_s", prediction.step_s},
          {"loss_s", prediction.loss_s},
          {"compute_s", prediction.compute_s},
          {"reduce_s", prediction.reduce_s},
          {"gather_s", prediction.gather_s},
          {"granularity_loss", prediction.granularity_loss},
          {"reduce_bytes", prediction.reduce_bytes},
          {"gather_bytes", prediction.gather_bytes},
          {"boundary_bytes", prediction.boundary_bytes},
          {"pipelines", std::move(pipelines)},
          {"workers", std::move(workers)},
          {"spares", std::move(spares)},
          {"reason", planned.reason},
          {"alternatives", std::move(alternatives)},
          {"warnings", planned.warnings}};
}

}  // namespace planaria

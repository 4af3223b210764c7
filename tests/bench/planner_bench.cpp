// Seconds to plan a layout for many workers of mixed speed, eight a host, in four zones.
//
//   planner_bench [--benchmark_filter=…]
//
// Reports the predicted step beside the time, and how far it lies above the work divided by the sum of speeds.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "coordinator/planner/planner.hpp"

namespace planaria {
namespace {

ClusterProfile mixed(std::uint32_t workers) {
  ClusterProfile cluster;
  for (std::uint32_t i = 0; i < workers; ++i) {
    cluster.workers.push_back({WorkerId(i), 0.5 + (i * 37 % 100) / 100.0, 64'000'000'000, fmt::format("h{}", i / 8),
                               fmt::format("z{}", i / 8 * 8 * 4 / workers), ""});
  }
  return cluster;
}

void plan(benchmark::State& state) {
  const auto workers = static_cast<std::uint32_t>(state.range(0));
  JobSpec job;
  job.model.layers = static_cast<std::uint32_t>(state.range(1)) - 2;
  const ModelProfile model = model_profile(job, StateMap(job.model, job.train.tile_elements), 50e9);
  const ClusterProfile cluster = mixed(workers);
  PlanOptions options;
  options.slots = static_cast<std::uint32_t>(state.range(2));
  options.micro_batches = 4 * options.slots;
  double best = 0, speeds = 0;
  for (const BlockProfile& block : model.blocks) best += block.seconds() * options.micro_batches;
  for (const WorkerProfile& worker : cluster.workers) speeds += worker.speed;
  for (auto _ : state) {
    const auto planned = plan_layout(model, cluster, options);
    if (!planned) return state.SkipWithError(planned.error().message().c_str());
    state.counters["step_s"] = planned->prediction.step_s;
    state.counters["above_ideal_percent"] = 100 * (planned->prediction.compute_s / (best / speeds) - 1);
    state.counters["layouts"] = static_cast<double>(planned->considered);
    state.SetLabel(form_text(planned->layout));
  }
}

BENCHMARK(plan)
    ->ArgNames({"workers", "blocks", "slots"})
    ->Args({6, 14, 64})
    ->Args({32, 26, 1024})
    ->Args({100, 50, 1024})
    ->Args({1000, 100, 1024})
    ->Args({1000, 100, 32768})
    ->Args({10000, 100, 4096})
    ->Args({10000, 100, 32768})
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);

}  // namespace
}  // namespace planaria

BENCHMARK_MAIN();

// Seconds to decide how a job goes on after one of many workers is lost: pipelines of four stages, each of whose blocks
// the others hold, too.
//
//   recovery_bench [--benchmark_filter=…]
#include <benchmark/benchmark.h>

#include <bit>

#include "coordinator/core/recovery.hpp"
#include "coordinator/core/steady_layout.hpp"
#include "proto/block_cost.hpp"
#include "proto/duty.hpp"

namespace planaria {
namespace {

constexpr std::uint32_t kDepth = 4;

// 1.3 billion parameters.
JobSpec large_job() {
  JobSpec job;
  job.model.layers = 24;
  job.model.heads = job.model.kv_heads = 16;
  job.model.width = 2048;
  job.model.ffn_width = 8192;
  job.model.vocab = 50304;
  job.model.context = 1024;
  return job;
}

// All workers but one, in the middle of step 6.
RecoveryInput after_a_loss(const JobSpec& job, const StateMap& map, std::uint32_t workers) {
  RecoveryInput input;
  input.map = &map;
  input.job = &job;
  input.block_shares = block_shares(job, map);
  input.slots = job.batch.slots;
  input.total_steps = Step(1000);
  input.reached = Step(5);
  input.view = ViewNumber(2);

  ViewRecord previous;
  previous.view = ViewNumber(1);

  std::vector<WorkerId> ids;
  for (std::uint32_t i = 0; i < workers; ++i) {
    ids.emplace_back(i);
    previous.members.push_back({ids.back(), Incarnation(1), "host-" + std::to_string(i / 8), ByteVector(32)});
  }
  const std::vector<double> speeds(workers, 1);
  previous.stages = steady_stages({ids, speeds, input.block_shares, std::span(&kDepth, 1), input.slots});
  previous.shards = split_shards(map, previous.stages);
  previous.resume.step = Step(6);
  previous.resume.stages = previous.stages;
  previous.resume.shards = previous.shards;
  for (const StageAssignment& stage : previous.stages) {
    if (stage.worker == WorkerId(workers / 2)) continue;
    RecoveryMember member;
    member.member = previous.members[stage.worker.value()];
    member.continuing = true;
    member.speed = 1;
    Report report;
    report.view = previous.view;
    report.work_step = Step(6);
    report.released = false;
    report.stages = {{stage.work, stage.work.slots.size() / 2}};
    const Duty duty = duty_of(map, false, previous.stages, previous.shards, stage.worker);
    report.holdings.states = {{Step(5), duty.kept.runs(), duty.used.runs(), {}}};
    member.report = std::make_shared<const Report>(std::move(report));
    input.members.push_back(std::move(member));
  }
  std::ranges::sort(input.members, {}, [](const RecoveryMember& member) { return member.member.worker; });
  input.previous = std::make_shared<const ViewRecord>(std::move(previous));
  return input;
}

void decide(benchmark::State& state) {
  const auto workers = static_cast<std::uint32_t>(state.range(0));
  JobSpec job = large_job();
  job.batch.slots = job.batch.micro_batches = std::bit_ceil(workers / kDepth * 2);
  const StateMap map(job.model, job.train.tile_elements);
  const RecoveryInput input = after_a_loss(job, map, workers);
  for (auto _ : state) {
    const auto decision = decide_recovery(input);
    if (!decision) return state.SkipWithError(decision.error().message().c_str());
    state.counters["fetches"] = static_cast<double>(decision->record.resume.fetches.size());
    state.counters["lost_slots"] = decision->record.resume.lost_slot_count();
  }
}

BENCHMARK(decide)->ArgName("workers")->Arg(8)->Arg(64)->Arg(512)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace planaria

BENCHMARK_MAIN();

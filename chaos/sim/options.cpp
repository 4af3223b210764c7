#include "chaos/sim/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>

#include "common/philox.hpp"
#include "coordinator/core/layout_planning.hpp"
#include "proto/state_map.hpp"
#include "storage/export.hpp"

namespace planaria::sim {

using std::chrono::microseconds;
using std::chrono::milliseconds;

const char* to_string(SimPhase phase) {
  constexpr const char* kNames[kSimPhases] = {"joining", "fetch",  "forward", "backward", "reduce",
                                              "gate",    "update", "commit",  "change",   "finish"};
  return kNames[static_cast<std::size_t>(phase)];
}

const char* to_string(FaultKind kind) {
  constexpr const char* kNames[kFaultKinds] = {"kill",
                                               "kill_and_restart",
                                               "kill_several",
                                               "freeze",
                                               "drain",
                                               "join",
                                               "slow",
                                               "partition",
                                               "partition_one_way",
                                               "isolate",
                                               "session_loss",
                                               "connection_loss",
                                               "drop",
                                               "corrupt",
                                               "delay",
                                               "nan",
                                               "flip_state",
                                               "flip_gradient",
                                               "disk_full",
                                               "damage_checkpoint",
                                               "kill_coordinator",
                                               "freeze_coordinator",
                                               "slow_disk"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string Fault::describe() const {
  std::string when;
  switch (trigger) {
    case TriggerKind::step_phase:
      when = fmt::format("in {} of step {} or later, after {} actions", to_string(phase), step, after_actions);
      break;
    case TriggerKind::prepared:
      when = fmt::format("at Prepare number {}, after {} actions", nth, after_actions);
      break;
    case TriggerKind::view_committed:
      when = fmt::format("at view number {}, after {} actions", nth, after_actions);
      break;
    case TriggerKind::after_previous:
      when = fmt::format("{:.3f} ms after the fault before", to_ms(delay));
      break;
  }
  return fmt::format("{} {}; victim {}, other {}, lasts {:.1f} ms{}", to_string(kind), when, victim, other,
                     to_ms(lasts), flag ? ", variant 2" : "");
}

std::string SimOptions::describe() const {
  std::string text = fmt::format(
      "seed {}: {} workers{}, layout \"{}\"{}, {} rescues; {} steps, {} slots of {}, {} tiles; checkpoints every {} on "
      "{} "
      "disks; "
      "integrity "
      "every {}; evaluation every {}; heartbeat {} ms, lease {} ms, grace {} ms, prepare {} ms, stall {} ms, at least "
      "{} "
      "workers; micro-batch {:.2f} ms, latency {:.3f} ms, sync {:.2f} ms; duplicates {:.3f}{}{}{}{}",
      seed, starts.size(),
      keepers.empty() ? ""
                      : fmt::format(" and {} keepers ({}+{} every {}, overhead {})", keepers.size(), job.snapshot.data,
                                    job.snapshot.parity, job.snapshot.every_steps, job.snapshot.max_overhead),
      job.cluster.layout, job.optimizer.shard ? " sharded" : "", rescues.size(), job.train.steps, job.batch.slots,
      job.micro_batches_per_slot(), shape.tiles, job.checkpoint.every_steps, shared_checkpoints ? "shared" : "own",
      job.integrity.check_every, job.train.evaluate_every, job.cluster.heartbeat_ms, job.cluster.lease_ms,
      job.cluster.suspect_grace_ms, job.cluster.prepare_timeout_ms, job.cluster.stall_timeout_ms,
      job.cluster.min_workers, to_ms(micro_batch), to_ms(latency), to_ms(sync_latency), duplicate_chance,
      known_speeds ? "; speeds are known" : "",
      memory_bytes > 0 ? fmt::format("; {} bytes of memory each", memory_bytes) : "",
      direct_members < kDirectMembers ? fmt::format("; relays above {} members", direct_members) : "",
      shape.natural_nan ? fmt::format("; step {} is nonfinite by nature ({})", shape.natural_nan->value(),
                                      shape.nonfinite == NonfinitePolicy::skip ? "skip" : "halt")
                        : "");
  for (std::size_t i = 0; i < faults.size(); ++i) text += fmt::format("\n  fault {}: {}", i, faults[i].describe());
  return text;
}

namespace {

// A few draws that read well.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : stream_(philox_key(seed, RandomPurpose::simulation), 0) {}
  std::uint64_t below(std::uint64_t bound) { return stream_.below(bound); }
  std::uint64_t between(std::uint64_t low, std::uint64_t high) { return low + below(high - low + 1); }
  bool chance(double probability) { return stream_.chance(probability); }
  Duration between(Duration low, Duration high) {
    return low + Duration(static_cast<std::int64_t>(below(static_cast<std::uint64_t>((high - low).count()) + 1)));
  }

 private:
  PhiloxStream stream_;
};

void draw_job(Draw& draw, const OptionLimits& limits, SimOptions& options) {
  JobSpec& job = options.job;
  job.model.layers = static_cast<std::uint32_t>(draw.between(1, 2));
  job.model.heads = job.model.kv_heads = 1;
  job.model.width = 16;
  job.model.ffn_width = 32;
  job.model.vocab = 16;
  job.model.context = 16;
  job.model.tied_embedding = draw.chance(0.5);
  job.train.tile_elements = draw.chance(0.5) ? 1024 : 512;
  job.train.steps = limits.min_steps + draw.below(5);
  job.train.seed = options.seed;
  job.train.evaluation_batches = 6;
  job.train.evaluate_every = draw.chance(0.5) ? static_cast<std::uint32_t>(draw.between(1, 7)) : 0;
  const std::uint32_t workers = static_cast<std::uint32_t>(options.starts.size());
  job.batch.slots = workers > 8 ? (draw.chance(0.8) ? 32 : 16) : (8U << draw.below(3));
  job.batch.slots = std::max(job.batch.slots, workers > 32 ? std::bit_ceil(workers) : 0);
  job.batch.micro_batches = job.batch.slots * (draw.chance(0.6) ? 1 : 2);
  job.batch.sequences = 1;
  job.checkpoint.every_steps = draw.chance(0.7) ? draw.between(2, 9) : 0;
  job.checkpoint.keep = static_cast<std::uint32_t>(draw.between(1, 3));
  job.integrity.check_every = draw.chance(0.6) ? 1 : static_cast<std::uint32_t>(draw.between(0, 5));
  job.cluster.workers = workers;
  job.cluster.min_workers = draw.chance(0.75) ? 1 : 2;
  job.cluster.heartbeat_ms = static_cast<std::uint32_t>(draw.between(20, 50));
  job.cluster.lease_ms = job.cluster.heartbeat_ms * static_cast<std::uint32_t>(draw.between(5, 20));
  job.cluster.suspect_grace_ms = static_cast<std::uint32_t>(draw.between(15, 2 * job.cluster.heartbeat_ms));
  job.cluster.prepare_timeout_ms = job.cluster.lease_ms * 2;
  job.cluster.stall_timeout_ms = job.cluster.lease_ms * 5;
  job.cluster.join_timeout_ms = static_cast<std::uint32_t>(draw.between(300, 3000));

  JobShape& shape = options.shape;
  shape.map = std::make_shared<StateMap>(job.model, job.train.tile_elements);
  const StateMap& map = *shape.map;
  shape.tiles = map.tile_count();
  for (std::uint32_t block = 0; block < map.blocks().size(); ++block) {
    shape.blocks.push_back(map.blocks()[block].tile_range());
    shape.tensors.push_back(tensor_count(job.model, map, BlockIndex(block)));
  }
  shape.evaluated = job.train.evaluation_batches;
  shape.slots = job.batch.slots;
  shape.micro_batches_per_slot = job.micro_batches_per_slot();
  shape.total_steps = Step(job.train.steps);
  shape.evaluate_every = job.train.evaluate_every;
  shape.seed = options.seed;
  if (draw.chance(0.06)) {
    shape.natural_nan = Step(draw.between(1, job.train.steps));
    shape.nonfinite = draw.chance(0.8) ? NonfinitePolicy::skip : NonfinitePolicy::halt;
  }
  job.optimizer.nonfinite = shape.nonfinite;
  if (draw.chance(0.6)) {
    constexpr const char* kLayouts[] = {"2", "3", "2+1", "1+2", "3+1", "3+2"};
    job.cluster.layout = kLayouts[draw.below(std::size(kLayouts))];
  }
  job.optimizer.shard = draw.chance(0.35);
}

// So much for each worker that a few must share the model out among them; enough for the fewest that the job goes on
// with. 0: such a number wasn't found.
std::uint64_t draw_memory(Draw& draw, const SimOptions& options) {
  const JobSpec& job = options.job;
  const StateMap& map = *options.shape.map;
  const std::vector<double> shares(map.blocks().size(), 1.0 / static_cast<double>(map.blocks().size()));
  const auto plan = [&](std::uint32_t workers, std::uint64_t memory) {
    std::vector<PlannedWorker> asked;
    for (std::uint32_t w = 0; w < workers; ++w) {
      PlannedWorker worker{.worker = WorkerId(w), .host = std::to_string(w), .resources = {}};
      worker.resources.memory_bytes = memory;
      asked.push_back(std::move(worker));
    }
    LayoutRequest request = layout_request(job, map, shares, asked, {}, {});
    request.options.keeps_finished = !options.keepers.empty();
    return plan_layout(request.model, request.cluster, request.options);
  };
  const auto whole = plan(1, 0);
  if (!whole) return 0;
  const std::uint64_t memory = whole->prediction.workers.front().memory_bytes * draw.between(60, 110) / 100;
  return plan(job.cluster.min_workers, memory) ? memory : 0;
}

FaultKind draw_kind(Draw& draw, const SimOptions& options) {
  // Deaths and coordinator deaths are what the protocol is for: they come more often.
  if (draw.chance(0.3)) return draw.chance(0.6) ? FaultKind::kill : FaultKind::kill_coordinator;
  const auto kind = static_cast<FaultKind>(draw.below(kFaultKinds));
  // A wrong value is found where members compare their states.
  if (kind == FaultKind::flip_state && options.job.integrity.check_every == 0) return FaultKind::freeze;
  return kind;
}

Fault draw_fault(Draw& draw, const SimOptions& options, bool first) {
  Fault fault;
  fault.kind = draw_kind(draw, options);
  const std::uint64_t how = draw.below(10);
  if (how < 6 || first) {
    fault.trigger = TriggerKind::step_phase;
  } else if (how < 7) {
    fault.trigger = TriggerKind::prepared;
  } else if (how < 8) {
    fault.trigger = TriggerKind::view_committed;
  } else {
    fault.trigger = TriggerKind::after_previous;
    fault.delay = draw.chance(0.4) ? Duration(0) : draw.between(microseconds(20), milliseconds(60));
  }
  fault.step = draw.between(1, options.job.train.steps);
  fault.phase = static_cast<SimPhase>(draw.below(kSimPhases));
  fault.nth = static_cast<std::uint32_t>(draw.between(1, 4));
  fault.after_actions = static_cast<std::uint32_t>(draw.chance(0.3) ? 0 : draw.below(12));
  const std::uint64_t workers = std::max<std::uint64_t>(64, options.starts.size());
  fault.victim = static_cast<std::uint32_t>(draw.below(workers));
  fault.other = static_cast<std::uint32_t>(draw.below(workers));
  const auto lease = milliseconds(options.job.cluster.lease_ms);
  fault.lasts = draw.chance(0.4) ? draw.between(milliseconds(1), lease / 2) : draw.between(lease / 2, lease * 6);
  fault.flag = draw.chance(fault.kind == FaultKind::kill_several ? 0.15 : 0.5);
  return fault;
}

// Somebody is away while the others find a wrong value and go back, and returns with what was made from it.
Fault draw_absence(Draw& draw, const SimOptions& options, std::uint64_t flipped_at) {
  Fault fault = draw_fault(draw, options, true);
  fault.kind = FaultKind::freeze;
  fault.step = flipped_at + draw.between(std::uint64_t{1}, std::uint64_t{options.job.integrity.check_every} + 1);
  const auto lease = milliseconds(options.job.cluster.lease_ms);
  fault.lasts = draw.between(lease, lease * 2);
  return fault;
}

// Keepers of the first hosts, of some or of all.
void draw_keepers(Draw& draw, SimOptions& options) {
  const std::uint64_t hosts = std::min<std::uint64_t>(options.starts.size(), 8);
  for (std::uint64_t i = draw.chance(0.6) ? hosts : draw.between(1, hosts); i > 0; --i) {
    options.keepers.push_back(
        draw.between(microseconds(100), draw.chance(0.7) ? milliseconds(20) : milliseconds(2000)));
  }
  if (draw.chance(0.5)) options.job.optimizer.shard = true;
  SnapshotSpec& snapshot = options.job.snapshot;
  snapshot.every_steps = draw.chance(0.7) ? 1 : draw.below(4);
  snapshot.data = static_cast<std::uint32_t>(draw.between(1, 4));
  snapshot.parity = static_cast<std::uint32_t>(draw.chance(0.6) ? 1 : draw.below(3));
  snapshot.durable = options.shared_checkpoints && draw.chance(0.6);
}

}  // namespace

SimOptions draw_options(std::uint64_t seed, const OptionLimits& limits) {
  Draw draw(seed);
  SimOptions options;
  options.seed = seed;
  assert(limits.min_workers <= limits.max_workers && limits.min_faults <= limits.max_faults);
  // Small clusters are drawn more often: more of their interleavings matter.
  const std::uint64_t spread = limits.max_workers - limits.min_workers + 1;
  const std::uint64_t workers = limits.min_workers + std::min(draw.below(spread), draw.below(spread));
  const bool late = draw.chance(0.2);
  for (std::uint64_t i = 0; i < workers; ++i) {
    options.starts.push_back(draw.between(microseconds(100), late && i > 0 ? milliseconds(2000) : milliseconds(20)));
  }
  for (std::uint64_t i = 0; i < workers + 3; ++i) {
    options.slowness.push_back(draw.chance(0.3) ? 0.6 + 1.4 * (static_cast<double>(draw.below(1000)) / 1000) : 1.0);
  }
  draw_job(draw, limits, options);
  options.shared_checkpoints = draw.chance(0.6);
  options.duplicate_chance = draw.chance(0.5) ? 0.02 : 0;
  options.slow_frame_chance = draw.chance(0.5) ? 0.02 : 0;
  options.late_read_chance = draw.chance(0.5) ? 0.25 : 0.6;
  options.late_handover_chance = draw.chance(0.5) ? 0.02 : 0;
  options.micro_batch = draw.between(microseconds(400), microseconds(3000));
  options.latency = draw.between(microseconds(20), microseconds(300));
  options.sync_latency = draw.between(microseconds(100), milliseconds(4));
  const std::uint64_t faults = draw.between(limits.min_faults, limits.max_faults);
  for (std::uint64_t i = 0; i < faults; ++i) {
    options.faults.push_back(draw_fault(draw, options, i == 0));
    const Fault& last = options.faults.back();
    if (last.kind == FaultKind::flip_state && draw.chance(0.7)) {
      options.faults.push_back(draw_absence(draw, options, last.step));
    }
  }
  if (draw.chance(0.9)) {
    for (std::uint32_t i = 0; i < options.job.cluster.min_workers + 1; ++i) {
      options.rescues.push_back(draw.between(milliseconds(1), milliseconds(200)));
    }
  }
  options.known_speeds = draw.chance(0.15);  // the planner, asked for a first view, takes as long as all else
  if (draw.chance(0.3)) options.direct_members = draw.between(1, 4);
  if (draw.chance(0.25)) draw_keepers(draw, options);
  if (options.job.cluster.layout.empty() && draw.chance(0.5)) options.memory_bytes = draw_memory(draw, options);
  options.job.snapshot.max_overhead = draw.chance(0.5) ? 0 : draw.chance(0.5) ? 1e-4 : 0.01;
  return options;
}

}  // namespace planaria::sim

#include "worker/shell/core_config.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "proto/block_cost.hpp"

namespace planaria {

namespace {

// One message of fetched state: large enough for the wire's full speed, small enough to hash and store while the next
// one arrives.
constexpr std::uint64_t kStateChunkBytes = 16U << 20;

}  // namespace

WorkerCoreConfig core_config(const JobSpec& job, const StateMap& map, bool evaluates, Register registration) {
  WorkerCoreConfig config;
  config.slots = job.batch.slots;
  config.micro_batches_per_slot = job.micro_batches_per_slot();
  config.map = std::make_shared<StateMap>(map);
  config.block_shares = block_shares(job, map);
  config.total_steps = Step(job.train.steps);
  config.checkpoint_every = job.checkpoint.every_steps;
  config.durable_snapshots = job.snapshot.durable;
  config.checkpoint_retries = job.checkpoint.final_retries;
  config.integrity_every = job.integrity.check_every;
  config.sequence_tokens = job.tokens_per_step();
  if (evaluates) {
    config.evaluation_batches = job.train.evaluation_batches;
    config.evaluation_tokens = std::uint64_t{job.train.evaluation_batches} * job.batch.sequences * job.model.context;
  }
  config.evaluate_every = job.train.evaluate_every;
  const std::uint64_t tile_bytes = std::uint64_t{3} * sizeof(float) * job.train.tile_elements;
  config.state_chunk_tiles =
      static_cast<std::uint32_t>(std::clamp<std::uint64_t>(kStateChunkBytes / tile_bytes, 1, 4096));
  config.heartbeat = std::chrono::milliseconds(job.cluster.heartbeat_ms);
  config.registration = std::move(registration);
  return config;
}

}  // namespace planaria

// Puts a worker's telemetry samples together and pushes them, a few a second and at each commit.
//
// Thread contract: belongs to the agent's loop.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "common/clock.hpp"
#include "common/transport/transport.hpp"
#include "proto/control.hpp"
#include "worker/core/worker_core.hpp"
#include "worker/keeper/keeper_executor.hpp"
#include "worker/keeper/snapshot_copier.hpp"
#include "worker/shell/telemetry_pusher.hpp"
#include "worker/trainer/action_executor.hpp"

namespace planaria {

// What a sample tells beside what the core knows.
struct AgentCounters {
  ExecutorCounters executor;
  std::optional<CopyCounters> copying;    // a worker's whose host has a keeper
  std::optional<KeeperCounters> keeping;  // a keeper's
};

class TelemetrySampler {
 public:
  static constexpr Duration kEvery = std::chrono::milliseconds(250);
  static constexpr Duration kAtCommit = std::chrono::milliseconds(50);  // not closer together than this

  // Without an endpoint nothing is pushed, but phase times are kept.
  void configure(std::string endpoint, double tokens_per_micro_batch);
  // The coordinator has named the worker.
  [[nodiscard]] Status connect(PeerId self, const Welcome& welcome);

  // Time went on in the phase that was current until now.
  void phase_is(Phase phase, Instant now);
  void committed(const StepCommitted& commit, double seconds);
  void rate_is(double micro_batches_per_second) { rate_ = micro_batches_per_second; }
  // Pushes a sample when one is due.
  void tick(const WorkerCore& core, const AgentCounters& counters, const std::map<WorkerId, PeerStats>& peers,
            Instant now);
  [[nodiscard]] bool due(Instant now) const;

 private:
  std::string endpoint_;
  double tokens_per_micro_batch_ = 0;
  std::unique_ptr<TelemetryPusher> pusher_;
  std::uint64_t job_key_ = 0;
  PeerId self_;
  Phase phase_ = Phase::idle;
  std::optional<Instant> phase_since_;
  std::array<double, static_cast<std::size_t>(Phase::count_)> phase_seconds_{};
  double rate_ = 0;
  std::optional<StepCommitted> commit_;
  double commit_seconds_ = 0;
  Instant pushed_at_{};
};

}  // namespace planaria

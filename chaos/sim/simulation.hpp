// One simulated run: processes, networks, disks, faults and the oracle under one clock, from start to verdict.
//
// Thread contract: a Simulation belongs to one thread; several may run side by side.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chaos/sim/coordinator_host.hpp"
#include "chaos/sim/disks.hpp"
#include "chaos/sim/fault_injector.hpp"
#include "chaos/sim/invariants.hpp"
#include "chaos/sim/network.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/world.hpp"

namespace planaria::sim {

enum class Ending : std::uint8_t { finished, waiting, failed, beyond_promise };

using FaultTable = std::array<std::array<std::uint32_t, kSimPhases>, kFaultKinds>;

struct RunResult {
  Ending ending = Ending::failed;
  std::string ending_reason;
  std::optional<Violation> violation;
  FaultTable faults{};  // that struck, by kind and phase of the victim
  std::uint64_t views = 0;
  std::map<std::uint32_t, std::uint32_t> tiers;  // views by recovery tier
  std::uint64_t rebuilt = 0;                     // tiles, from fragments of snapshots
  std::uint32_t returns = 0;                     // views that went on with a committed step
  std::uint64_t events = 0;
  Duration virtual_time{};
  std::deque<Trace::Line> trace;
};

class Simulation {
 public:
  explicit Simulation(const SimOptions& options, std::size_t trace_lines = 0);
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  [[nodiscard]] RunResult run();

  // ---- for the parts ----
  [[nodiscard]] World& world() { return world_; }
  [[nodiscard]] Oracle& oracle() { return oracle_; }
  [[nodiscard]] DataPlane& data() { return data_; }
  [[nodiscard]] ControlPlane& control() { return control_; }
  [[nodiscard]] Disks& disks() { return disks_; }
  [[nodiscard]] CoordinatorHost& coordinator() { return coordinator_; }
  [[nodiscard]] FaultInjector& injector() { return injector_; }
  [[nodiscard]] Links& links() { return links_; }

  // Starts a process.
  WorkerProcess& start(ProcessStart how);
  [[nodiscard]] WorkerProcess& process(ProcessIndex index) { return *processes_[index]; }
  // Null for addresses of no process.
  [[nodiscard]] WorkerProcess* process_at(const ByteVector& address);
  [[nodiscard]] const std::vector<std::unique_ptr<WorkerProcess>>& processes() const { return processes_; }
  [[nodiscard]] std::vector<WorkerProcess*> living();
  [[nodiscard]] WorkerCoreConfig worker_config(ProcessIndex index, const ProcessStart& how, std::uint32_t disk);
  [[nodiscard]] CoordinatorCoreConfig coordinator_config() const;
  void start_send(WorkerProcess& process, WorkerAction& action);
  void start_attach(WorkerProcess& process, const worker_action::AttachState& want);
  [[nodiscard]] std::uint64_t sequence_tokens() const;

  // Something moved: the liveness watch starts anew.
  void note_progress() { last_progress_ = world_.now(); }
  // A fault bears on the process, or did until lately: what is said of it may rightly be late.
  [[nodiscard]] bool troubled(ProcessIndex process) const { return injector_.troubled(process); }

 private:
  [[nodiscard]] double slowness(ProcessIndex index) const;
  void send_fragment(WorkerProcess& process, const WorkerAction& action);
  void start_copy(WorkerProcess& process, const worker_action::SnapshotState& copy);
  void judge_end(RunResult& result);
  [[nodiscard]] bool over() const;
  [[nodiscard]] Instant deadline() const;

  const SimOptions options_;
  World world_;
  Oracle oracle_;
  Links links_;
  DataPlane data_;
  ControlPlane control_;
  Disks disks_;
  CoordinatorHost coordinator_;
  FaultInjector injector_;
  std::vector<std::unique_ptr<WorkerProcess>> processes_;
  Hash128 job_hash_;
  Instant last_progress_{};
  Instant rescued_at_{};
};

}  // namespace planaria::sim

// Strikes the faults of a scenario: waits for each one's moment, finds its victim among those that live, and undoes
// what is temporary.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "chaos/sim/world.hpp"

namespace planaria::sim {

class Simulation;
class WorkerProcess;

class FaultInjector {
 public:
  FaultInjector(Simulation& simulation, World& world);

  // A worker's core has just decided something, and has not acted yet.
  void poll(WorkerProcess& process);
  // The coordinator has just appended a Prepare or a view, its n-th.
  void prepared(std::uint32_t nth);
  void view_committed(std::uint32_t nth);

  // All struck, and what is temporary is over.
  [[nodiscard]] bool calm() const;
  [[nodiscard]] Instant last_effect() const { return last_effect_; }
  [[nodiscard]] const std::array<std::array<std::uint32_t, kSimPhases>, kFaultKinds>& struck() const { return table_; }
  [[nodiscard]] bool troubled(ProcessIndex process) const;
  // What never found its moment is dropped, so that the run can end.
  void give_up_pending();

 private:
  struct Pending {
    Fault fault;
    bool armed = false;
    bool done = false;
    std::optional<ProcessIndex> victim;
  };

  void arm(Pending& pending, WorkerProcess& victim);
  void arm_any(Pending& pending);
  void strike(std::size_t index, ProcessIndex victim);
  void strike_workers(const Fault& fault, WorkerProcess& victim);
  void strike_network(const Fault& fault, WorkerProcess& victim);
  void strike_coordinator(const Fault& fault);
  void follow(std::size_t index);
  [[nodiscard]] WorkerProcess* pick(std::uint32_t index, const WorkerProcess* other_than = nullptr);
  void trouble(ProcessIndex process, Duration lasts);

  Simulation& simulation_;
  World& world_;
  std::vector<Pending> pending_;
  std::array<std::array<std::uint32_t, kSimPhases>, kFaultKinds> table_{};
  std::map<ProcessIndex, Instant> troubled_until_;
  std::uint32_t open_ = 0;  // not struck yet
  Instant last_effect_{};
};

}  // namespace planaria::sim

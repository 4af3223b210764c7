// Decides when a scenario's faults strike: a pure state machine over announcements of workers and time.
//
// Workers announce armed points (step, phase) through the fault hook (worker/shell/fault_hook.hpp) and stand still
// there; the engine answers with orders for the processes. A fault is armed at its observer, else at its worker, and
// one with neither (join, kill_coordinator …) at all of them; it strikes at the first announcement.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "chaos/faults/scenario.hpp"
#include "common/clock.hpp"

namespace planaria {

namespace fault_order {

struct Tell {  // one line to the worker's fault hook
  std::uint32_t worker = 0;
  std::string line;
};
struct Signal {
  std::uint32_t worker = 0;
  int number = 0;
};
struct StartWorker {};
struct KillHost {  // its keeper and, unless it is the keeper's alone, its workers
  std::uint32_t host = 0;
  bool keeper_only = false;
};
struct StartHost {  // what KillHost ended: a keeper, and a worker
  std::uint32_t host = 0;
  bool keeper_only = false;
};
struct TellKeeper {  // one line to the fault hook of a host's keeper
  std::uint32_t host = 0;
  std::string line;
};
struct KillCoordinator {};
struct StartCoordinator {};

}  // namespace fault_order

using FaultOrder = std::variant<fault_order::Tell, fault_order::Signal, fault_order::StartWorker, fault_order::KillHost,
                                fault_order::StartHost, fault_order::TellKeeper, fault_order::KillCoordinator,
                                fault_order::StartCoordinator>;

struct FiredFault {
  FaultKind kind = FaultKind::kill;
  std::size_t index = 0;  // in the scenario
  std::optional<std::uint64_t> step;
  std::optional<Phase> phase;
  std::optional<std::uint32_t> worker;
  std::optional<std::uint32_t> host;
  Instant at{};  // chaos's clock, when the order was given
};

class FaultEngine {
 public:
  // `start` is when at_s counts from.
  FaultEngine(Scenario scenario, Instant start);

  // The worker's hook is connected: it gets its armed points and the conditions that hold now.
  [[nodiscard]] std::vector<FaultOrder> worker_ready(std::uint32_t worker);
  [[nodiscard]] std::vector<FaultOrder> phase_entered(std::uint32_t worker, std::uint64_t step, Phase phase,
                                                      Instant now);
  [[nodiscard]] std::vector<FaultOrder> time_passed(Instant now);
  void worker_gone(std::uint32_t worker) { ready_.erase(worker); }

  [[nodiscard]] const std::vector<FiredFault>& fired() const { return fired_; }
  [[nodiscard]] std::size_t requested() const { return faults_.size(); }
  // Workers or a coordinator are still to be started by the scenario.
  [[nodiscard]] bool will_start_more() const;
  // When time_passed has something to do next.
  [[nodiscard]] Instant next_deadline() const;

 private:
  struct Entry {
    Fault fault;
    bool fired = false;
  };
  struct Ending {
    Instant at{};
    std::vector<FaultOrder> orders;
  };

  // Strikes; true when the announcing worker must not be told to go on (it is dead or stopped).
  bool fire(std::size_t index, std::optional<std::uint32_t> announcer, std::optional<std::uint64_t> step, Instant now);
  void end_later(const Fault& fault, Instant now, std::vector<FaultOrder> orders);
  void tell(std::uint32_t worker, std::string line) { orders_.push_back(fault_order::Tell{worker, std::move(line)}); }

  std::vector<Entry> faults_;
  const Instant start_;
  std::set<std::uint32_t> ready_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> blocked_;  // partitions that hold, both ends
  std::set<std::uint32_t> standing_;                           // stopped workers that wait for `go` after SIGCONT
  std::vector<Ending> endings_;
  std::vector<FiredFault> fired_;
  std::vector<FaultOrder> orders_;
};

}  // namespace planaria

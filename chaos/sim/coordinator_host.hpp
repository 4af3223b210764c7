// The simulated coordinator process and its disk: a log that syncs in groups, messages that leave only after what they
// depend on is durable, death between any two of these, and restarts from what the disk kept.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "chaos/sim/world.hpp"
#include "coordinator/core/coordinator_core.hpp"

namespace planaria::sim {

class Simulation;

class CoordinatorHost {
 public:
  CoordinatorHost(Simulation& simulation, World& world);

  void start();
  void deliver(CoordinatorEvent event);
  void kill(Duration restart_after);
  void freeze();
  void thaw();
  void arm(std::uint32_t actions, std::function<void()> strike);
  void slow_disk(Instant until, Duration extra);

  [[nodiscard]] bool up() const { return core_ != nullptr && !exited_; }
  [[nodiscard]] bool frozen() const { return frozen_; }
  [[nodiscard]] bool exited() const { return exited_; }
  [[nodiscard]] bool exit_success() const { return exit_success_; }
  [[nodiscard]] std::uint64_t life() const { return life_; }
  [[nodiscard]] const CoordinatorCore* core() const { return core_.get(); }
  [[nodiscard]] const std::vector<LogRecord>& durable() const { return durable_; }

 private:
  struct Waiting {
    std::uint64_t needs;  // records that must be durable first
    CoordinatorAction action;
  };

  void run(const CoordinatorEvent& event);
  void take(CoordinatorAction& action);
  void plan(LayoutRequest request);
  void append(LogRecord record, bool sync);
  void start_sync();
  void synced(std::uint64_t count);
  void flush();
  void leave(CoordinatorAction& action);
  void plan_tick();
  bool strike_if_due();

  Simulation& simulation_;
  World& world_;
  std::vector<LogRecord> durable_;  // the disk: outlives the process
  std::unique_ptr<CoordinatorCore> core_;
  std::uint64_t life_ = 0;
  bool frozen_ = false;
  bool exited_ = false;
  bool exit_success_ = false;

  std::deque<CoordinatorAction> actions_;
  bool running_ = false;
  std::vector<LogRecord> tail_;  // appended, not durable
  std::uint64_t appended_ = 0;   // in this life
  std::uint64_t synced_ = 0;
  std::uint64_t must_sync_ = 0;  // the last record that asked for it
  bool syncing_ = false;
  std::deque<Waiting> outbox_;
  std::deque<CoordinatorEvent> frozen_events_;
  Instant tick_planned_ = kFarFuture;
  Instant slow_until_{};
  Duration slow_extra_{};

  struct Armed {
    std::uint32_t actions;
    std::function<void()> strike;
  };
  std::deque<Armed> armed_;
};

}  // namespace planaria::sim

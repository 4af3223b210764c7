// A simulated worker process: the protocol core, its trainer, its mailbox, and what a signal can do to it at any
// action.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "chaos/sim/trainer_model.hpp"
#include "chaos/sim/world.hpp"
#include "worker/core/worker_core.hpp"

namespace planaria::sim {

class Simulation;

enum class ProcessState : std::uint8_t { running, frozen, dead };

// How a worker or keeper is started.
struct ProcessStart {
  std::string host;  // empty: one of its own
  std::optional<WorkerId> wanted;
  Role role = Role::worker;
};

class WorkerProcess {
 public:
  // The host is named.
  WorkerProcess(Simulation& simulation, ProcessIndex index, ProcessStart how, double slowness);

  // An event for the core, in order of arrival, perhaps after a short wait in the mailbox.
  void post(WorkerEvent event);
  // Something that the process's threads do when they run: at once, or at the thaw.
  void arrive(std::function<void()> handler);

  void kill(const std::string& why);
  void freeze();
  void thaw();
  // Runs `strike` between two actions, after `actions` more of them.
  void arm(std::uint32_t actions, std::function<void()> strike);

  [[nodiscard]] ProcessIndex index() const { return index_; }
  [[nodiscard]] const std::string& host() const { return how_.host; }
  [[nodiscard]] Role role() const { return how_.role; }
  [[nodiscard]] ProcessState state() const { return state_; }
  [[nodiscard]] bool alive() const { return state_ != ProcessState::dead; }
  [[nodiscard]] SimPhase phase() const;
  [[nodiscard]] std::string name() const;  // "w3" or "p5", for messages
  [[nodiscard]] WorkerCore& core() { return core_; }
  [[nodiscard]] const WorkerCore& core() const { return core_; }
  [[nodiscard]] TrainerModel& trainer() { return trainer_; }
  [[nodiscard]] const TrainerModel& trainer() const { return trainer_; }
  [[nodiscard]] Simulation& simulation() { return simulation_; }
  [[nodiscard]] double slowness() const { return slowness_ * slowed_; }
  void slow_down(double factor) { slowed_ = factor; }
  [[nodiscard]] std::uint32_t disk() const;
  [[nodiscard]] Incarnation incarnation() const;
  [[nodiscard]] bool gate_seen(ViewNumber view, Step step, std::uint32_t attempt, WorkerId from) const {
    return heard_gates_.contains({view, step, attempt, from});
  }
  // Something happened that the core has not been told yet.
  [[nodiscard]] bool busy() const { return !mailbox_.empty(); }

 private:
  void handle(const WorkerEvent& event);
  [[nodiscard]] bool is_stale(const WorkerEvent& event) const;
  void before(const WorkerEvent& event);
  void after(const WorkerEvent& event, const WorkerActions& actions, bool refused);
  void drain_mailbox();
  void execute();
  void execute_one(WorkerAction& action);
  void plan_tick();
  void strike_if_due();

  Simulation& simulation_;
  World& world_;
  const ProcessIndex index_;
  const ProcessStart how_;
  const double slowness_;
  double slowed_ = 1;
  ProcessState state_ = ProcessState::running;
  WorkerCore core_;
  TrainerModel trainer_;

  std::deque<WorkerEvent> mailbox_;
  bool mailbox_waits_ = false;
  bool handling_ = false;
  std::deque<WorkerAction> actions_;
  std::deque<std::function<void()>> frozen_arrivals_;
  Instant tick_planned_ = kFarFuture;

  struct Armed {
    std::uint32_t actions;
    std::function<void()> strike;
  };
  std::deque<Armed> armed_;

  bool changing_ = false;
  Generation highest_generation_;
  std::set<std::tuple<ViewNumber, Step, std::uint32_t, WorkerId>> heard_gates_;
};

}  // namespace planaria::sim

// The agent's loop: one thread that owns the WorkerCore, a queue in front of it, and calls behind it.
//
// Thread contract: start, stop and the destructor belong to the owner; post() may be called from any thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "common/log.hpp"
#include "worker/core/worker_core.hpp"
#include "worker/shell/agent.hpp"
#include "worker/shell/data_plane.hpp"
#include "worker/shell/fault_hook.hpp"
#include "worker/shell/fault_switches.hpp"
#include "worker/shell/link_reporter.hpp"
#include "worker/shell/metrics_recorder.hpp"
#include "worker/shell/telemetry_sampler.hpp"
#include "worker/trainer/action_executor.hpp"

namespace planaria {

namespace agent_event {

struct Link {  // the control connection
  bool connected = false;
  std::string reason;
};
struct Failed {  // the executor can't go on
  Error error;
};
struct Go {};  // chaos lets the worker go on

}  // namespace agent_event

using AgentEvent =
    std::variant<WorkerEvent, CoordinatorEnvelope, agent_event::Link, agent_event::Failed, agent_event::Go>;

class AgentLoop {
 public:
  struct Parts {
    JobSpec job;
    WorkerOptions options;
    bool evaluates = false;  // there is a validation part
    Register registration;
    ActionExecutor* executor = nullptr;  // outlives the loop
    FaultHook* hook = nullptr;           // may be null
    FaultSwitches* faults = nullptr;     // null without a hook
    FileSystem* files = nullptr;
    std::function<void(const WorkerEnvelope&)> send_control;
    std::function<void(const worker_action::AttachState&)> attach = {};  // a worker's
    std::function<void(PeerId)> named = {};  // the coordinator has named it, for the first time or anew
    std::function<AgentCounters()> counters;
  };

  explicit AgentLoop(Parts parts);
  ~AgentLoop();
  AgentLoop(const AgentLoop&) = delete;
  AgentLoop& operator=(const AgentLoop&) = delete;

  void start(bool connected);
  void post(AgentEvent event);
  // A payload that the executor made; sent at once.
  void send_payload(WorkerId to, ViewNumber view, std::vector<ConstSlice> payload);
  WorkerOutcome wait();
  // Ends the loop and the data plane; no call leaves it afterwards.
  void stop();

 private:
  void run();
  void take(const AgentEvent& event, Instant now);
  void feed(const WorkerEvent& event, Instant now);
  void welcome(const Welcome& message);
  void announce_phase(Instant now);
  void announce_fetch();
  void carry_out(const WorkerAction& action);
  void carry_out_held();
  void serve_state();
  void to_coordinator(WorkerMessage message);
  void committed(const StepCommitted& message);
  void finish(WorkerOutcome outcome);
  [[nodiscard]] std::shared_ptr<DataPlane> plane() const;
  [[nodiscard]] bool is_keeper() const { return parts_.registration.role == Role::keeper; }
  [[nodiscard]] Instant next_wake(Instant now) const;

  const Parts parts_;
  const SteadyClock clock_;
  WorkerCore core_;

  // The loop's.
  Log log_;                     // knows the worker's name once it has one
  std::optional<PeerId> self_;  // whom the data plane speaks for
  std::optional<Register> last_register_;
  std::vector<WorkerAction> held_;  // at an announced point
  std::deque<worker_action::SendState> serving_;
  std::optional<Instant> held_until_;
  std::optional<Instant> last_commit_at_;
  Step last_commit_;
  std::unique_ptr<MetricsRecorder> metrics_;
  TelemetrySampler sampler_;
  LinkReporter links_;

  mutable std::mutex plane_mutex_;
  std::shared_ptr<DataPlane> plane_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<AgentEvent> queue_;
  bool stopping_ = false;
  std::optional<WorkerOutcome> outcome_;
  std::thread thread_;
};

}  // namespace planaria

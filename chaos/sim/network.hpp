// The simulated networks: links that can be cut or slowed, the data plane between workers with the real transport's
// promises and no others, and control sessions with the coordinator.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "chaos/sim/trainer_model.hpp"
#include "chaos/sim/world.hpp"
#include "coordinator/core/coordinator_core.hpp"

namespace planaria::sim {

class Simulation;

// One-way links between processes (and the coordinator): cut until some time, or slow until some time.
class Links {
 public:
  void cut(ProcessIndex from, ProcessIndex to, Instant until, bool lose);
  void slow(ProcessIndex from, ProcessIndex to, Instant until, Duration extra);

  struct State {
    Instant cut_until{};
    bool lose = false;  // what is sent meanwhile is lost, not late
    Instant slow_until{};
    Duration extra{};
  };
  [[nodiscard]] const State* find(ProcessIndex from, ProcessIndex to) const;

 private:
  std::map<std::pair<ProcessIndex, ProcessIndex>, State> links_;
};

struct Frame {
  ProcessIndex from = 0;
  WorkerId from_worker;
  Incarnation from_incarnation;
  ProcessIndex to = 0;
  WorkerId to_worker;
  ViewNumber view;
  DataMeta meta;
  BufferRef source;    // null: the meta is all
  PayloadRef payload;  // once read
  bool damaged = false;
};

class DataPlane {
 public:
  DataPlane(Simulation& simulation, World& world, Links& links);

  void enter(ProcessIndex process, const worker_action::EnterView& action);
  void fence(ProcessIndex process, const worker_action::FenceView& action);
  void send(ProcessIndex from, WorkerId to, ViewNumber view, DataMeta meta, BufferRef source);
  void process_died(ProcessIndex process);
  void break_connection(ProcessIndex a, ProcessIndex b);

  void arm_drop() { ++drops_armed_; }
  void arm_corrupt(bool state_only) { ++(state_only ? state_corruptions_armed_ : corruptions_armed_); }
  [[nodiscard]] std::uint64_t frames() const { return frames_; }

 private:
  struct Endpoint {
    ViewNumber entered;
    ViewNumber fenced;
    std::map<WorkerId, Member> members;
    std::map<ProcessIndex, WorkerId> workers;  // those members
    std::set<WorkerId> closed;
    std::map<ProcessIndex, std::uint64_t> breaks;  // of the connection from there, so far
    std::vector<Frame> held;
  };

  void read(Frame& frame);
  void arrive(Frame frame, std::uint64_t connection);
  void receive(Frame frame);
  void hand_over(Frame frame);
  void unreachable(ProcessIndex at, WorkerId peer, Duration within);
  Endpoint& endpoint(ProcessIndex process);

  Simulation& simulation_;
  World& world_;
  Links& links_;
  std::deque<Endpoint> endpoints_;  // by process
  std::uint32_t drops_armed_ = 0;
  std::uint32_t corruptions_armed_ = 0;
  std::uint32_t state_corruptions_armed_ = 0;
  std::uint64_t frames_ = 0;
};

class ControlPlane {
 public:
  ControlPlane(Simulation& simulation, World& world, Links& links);

  void connect(ProcessIndex process, Duration delay);
  void to_coordinator(ProcessIndex process, WorkerEnvelope envelope);
  void to_worker(SessionId session, CoordinatorEnvelope envelope);
  void process_died(ProcessIndex process);
  void coordinator_died();
  void break_session(ProcessIndex process);
  [[nodiscard]] bool connected(ProcessIndex process) const { return sessions_of_.contains(process); }

 private:
  struct Session {
    ProcessIndex process = 0;
    std::uint64_t coordinator_life = 0;
    bool worker_side = true;
    bool coordinator_side = true;
    Instant last_up{};
    Instant last_down{};
  };

  void try_connect(ProcessIndex process);
  [[nodiscard]] Instant arrival(ProcessIndex from, ProcessIndex to, Instant& last);
  void worker_notices(SessionId id, Duration delay);
  void coordinator_notices(SessionId id, Duration delay);

  Simulation& simulation_;
  World& world_;
  Links& links_;
  std::map<SessionId, Session> sessions_;
  std::map<ProcessIndex, SessionId> sessions_of_;
  std::set<ProcessIndex> connecting_;
  std::uint64_t next_session_ = 1;
};

}  // namespace planaria::sim

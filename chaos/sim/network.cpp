#include "chaos/sim/network.hpp"

#include <algorithm>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// ---- links ----

void Links::cut(ProcessIndex from, ProcessIndex to, Instant until, bool lose) {
  State& link = links_[{from, to}];
  link.cut_until = std::max(link.cut_until, until);
  link.lose = lose;
}

void Links::slow(ProcessIndex from, ProcessIndex to, Instant until, Duration extra) {
  State& link = links_[{from, to}];
  link.slow_until = std::max(link.slow_until, until);
  link.extra = extra;
}

const Links::State* Links::find(ProcessIndex from, ProcessIndex to) const {
  if (links_.empty()) return nullptr;
  const auto found = links_.find({from, to});
  return found == links_.end() ? nullptr : &found->second;
}

// ---- data plane ----

DataPlane::DataPlane(Simulation& simulation, World& world, Links& links)
    : simulation_(simulation), world_(world), links_(links) {}

DataPlane::Endpoint& DataPlane::endpoint(ProcessIndex process) {
  if (endpoints_.size() <= process) endpoints_.resize(process + 1);
  return endpoints_[process];
}

void DataPlane::enter(ProcessIndex process, const worker_action::EnterView& action) {
  Endpoint& self = endpoint(process);
  if (action.view <= self.entered) return;
  self.entered = action.view;
  self.members.clear();
  self.closed.clear();
  self.workers.clear();
  for (const Member& member : action.members) {
    self.members[member.worker] = member;
    const WorkerProcess* target = simulation_.process_at(member.address);
    if (target != nullptr) self.workers[target->index()] = member.worker;
  }
  std::vector<Frame> held = std::exchange(self.held, {});
  for (Frame& frame : held) {
    if (frame.view >= action.view) receive(std::move(frame));
  }
}

void DataPlane::fence(ProcessIndex process, const worker_action::FenceView& action) {
  Endpoint& self = endpoint(process);
  self.fenced = std::max(self.fenced, action.view);
  self.closed.insert(action.excluded.begin(), action.excluded.end());
}

void DataPlane::send(ProcessIndex from, WorkerId to, ViewNumber view, DataMeta meta, BufferRef source) {
  Endpoint& self = endpoint(from);
  const WorkerProcess& sender = simulation_.process(from);
  if (view <= self.fenced || view != self.entered) return;  // cancelled
  const auto member = self.members.find(to);
  WorkerProcess* target = member == self.members.end() ? nullptr : simulation_.process_at(member->second.address);
  if (target == nullptr) return;
  ++frames_;
  Frame frame;
  frame.from = from;
  frame.from_worker = sender.core().identity()->worker;
  frame.from_incarnation = sender.core().identity()->incarnation;
  frame.to = target->index();
  frame.to_worker = to;
  frame.view = view;
  frame.meta = std::move(meta);
  frame.source = std::move(source);

  const bool carries_state = std::holds_alternative<StateTiles>(frame.meta);
  std::uint32_t& corruptions = carries_state ? state_corruptions_armed_ : corruptions_armed_;
  if (drops_armed_ > 0 && frame.from != frame.to) {
    --drops_armed_;
    world_.trace.add(world_.now(), [&] { return "network drops " + describe(frame.meta) + " from " + sender.name(); });
    return;
  }
  if (corruptions > 0 && frame.source != nullptr) {
    --corruptions;
    frame.damaged = true;
  }
  const Links::State* link = links_.find(frame.from, frame.to);
  Instant at = world_.now() + world_.about(world_.options.latency);
  if (world_.noise.chance(world_.options.slow_frame_chance)) at = at + world_.about(world_.options.latency * 20);
  if (link != nullptr) {
    if (world_.now() < link->slow_until) at = at + link->extra;
    if (world_.now() < link->cut_until) {
      if (link->lose) {
        unreachable(from, to, milliseconds(20));
        return;
      }
      at = std::max(at, link->cut_until + world_.about(world_.options.latency));
    }
  }
  if (frame.source != nullptr && !world_.noise.chance(world_.options.late_read_chance)) read(frame);
  const std::uint64_t connection = self.breaks[frame.to] + endpoint(frame.to).breaks[frame.from];
  if (world_.noise.chance(world_.options.duplicate_chance)) {
    Frame copy = frame;
    if (copy.source != nullptr) read(copy);
    world_.queue.at(at + world_.about(world_.options.latency * 4),
                    [this, copy = std::move(copy), connection]() mutable { arrive(std::move(copy), connection); });
  }
  world_.queue.at(at, [this, frame = std::move(frame), connection]() mutable { arrive(std::move(frame), connection); });
}

// The network takes the bytes now.
void DataPlane::read(Frame& frame) {
  auto payload = std::make_shared<TermPayload>();
  payload->tiles = frame.source->tiles;
  const StateMap& map = *world_.options.shape.map;
  const auto* state = std::get_if<StateTiles>(&frame.meta);
  const bool copies = state != nullptr && state->parameters_only && !frame.source->parameters.contains(state->tiles);
  if (copies || std::holds_alternative<Parameters>(frame.meta)) fill_tied(map, payload->tiles);
  frame.payload = std::move(payload);
  frame.source.reset();
}

void DataPlane::arrive(Frame frame, std::uint64_t connection) {
  WorkerProcess& target = simulation_.process(frame.to);
  if (!target.alive()) return unreachable(frame.from, frame.to_worker, milliseconds(2));
  if (frame.source != nullptr) {
    if (!simulation_.process(frame.from).alive()) return;  // it died while sending
    read(frame);
  }
  const std::uint64_t now = endpoint(frame.from).breaks[frame.to] + endpoint(frame.to).breaks[frame.from];
  if (connection != now) return;  // lost with its connection
  target.arrive([this, frame = std::move(frame)]() mutable { receive(std::move(frame)); });
}

void DataPlane::receive(Frame frame) {
  Endpoint& self = endpoint(frame.to);
  WorkerProcess& target = simulation_.process(frame.to);
  const bool stale = frame.view <= self.fenced || frame.view < self.entered;
  if (stale) return;
  if (frame.view > self.entered) {
    if (!world_.options.mutations.has(Mutation::drop_future_view)) self.held.push_back(std::move(frame));
    return;
  }
  const auto member = self.members.find(frame.from_worker);
  const bool known = member != self.members.end() && member->second.incarnation == frame.from_incarnation;
  if (!known || self.closed.contains(frame.from_worker)) return;
  simulation_.note_progress();
  if (!world_.noise.chance(world_.options.late_handover_chance)) return hand_over(std::move(frame));
  world_.queue.after(world_.about(milliseconds(12)), [this, &target, frame = std::move(frame)]() mutable {
    target.arrive([this, frame = std::move(frame)]() mutable { hand_over(std::move(frame)); });
  });
}

void DataPlane::hand_over(Frame frame) {
  WorkerProcess& target = simulation_.process(frame.to);
  if (frame.damaged) {
    target.post(worker_event::CorruptData{frame.from_worker, frame.view});
  } else {
    target.post(worker_event::Data{frame.from_worker, frame.from_incarnation, frame.view, std::move(frame.meta),
                                   std::move(frame.payload)});
  }
}

void DataPlane::unreachable(ProcessIndex at, WorkerId peer, Duration within) {
  if (!world_.noise.chance(0.8)) return;  // and possibly never
  world_.queue.after(world_.between(microseconds(50), within), [this, at, peer] {
    WorkerProcess& process = simulation_.process(at);
    process.arrive([&process, peer] { process.post(worker_event::PeerUnreachable{peer, "connection reset"}); });
  });
}

void DataPlane::process_died(ProcessIndex process) {
  for (ProcessIndex other = 0; other < endpoints_.size(); ++other) {
    if (other == process || !simulation_.process(other).alive()) continue;
    const auto& workers = endpoints_[other].workers;
    if (const auto worker = workers.find(process); worker != workers.end()) {
      unreachable(other, worker->second, milliseconds(3));
    }
  }
}

void DataPlane::break_connection(ProcessIndex a, ProcessIndex b) {
  ++endpoint(a).breaks[b];
  for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
    const auto identity = simulation_.process(to).core().identity();
    if (identity) unreachable(from, identity->worker, milliseconds(5));
  }
}

// ---- control plane ----

ControlPlane::ControlPlane(Simulation& simulation, World& world, Links& links)
    : simulation_(simulation), world_(world), links_(links) {}

void ControlPlane::connect(ProcessIndex process, Duration delay) {
  if (!connecting_.insert(process).second) return;
  world_.queue.after(delay, [this, process] { try_connect(process); });
}

void ControlPlane::try_connect(ProcessIndex process) {
  connecting_.erase(process);
  WorkerProcess& worker = simulation_.process(process);
  if (!worker.alive() || sessions_of_.contains(process)) return;
  if (simulation_.coordinator().exited()) {
    // Nobody will ever answer: the shell gives up.
    worker.arrive([&worker] { worker.kill("finds no coordinator"); });
    return;
  }
  const Links::State* out = links_.find(process, kCoordinatorNode);
  const Links::State* in = links_.find(kCoordinatorNode, process);
  const bool cut = (out != nullptr && world_.now() < out->cut_until) || (in != nullptr && world_.now() < in->cut_until);
  if (cut || !simulation_.coordinator().up() || worker.state() != ProcessState::running) {
    return connect(process, world_.between(milliseconds(10), milliseconds(60)));
  }
  const SessionId id(next_session_++);
  Session session;
  session.process = process;
  session.coordinator_life = simulation_.coordinator().life();
  session.last_up = session.last_down = world_.now();
  sessions_[id] = session;
  sessions_of_[process] = id;
  worker.post(worker_event::ControlConnected{});
}

Instant ControlPlane::arrival(ProcessIndex from, ProcessIndex to, Instant& last) {
  Instant at = world_.now() + world_.about(world_.options.latency);
  if (world_.noise.chance(world_.options.slow_frame_chance)) at = at + world_.about(milliseconds(2));
  if (const Links::State* link = links_.find(from, to)) {
    if (world_.now() < link->slow_until) at = at + link->extra;
    if (world_.now() < link->cut_until) at = std::max(at, link->cut_until);
  }
  last = std::max(at, last + Duration(1));
  return last;
}

void ControlPlane::to_coordinator(ProcessIndex process, WorkerEnvelope envelope) {
  const auto current = sessions_of_.find(process);
  if (current == sessions_of_.end()) return;
  const SessionId id = current->second;
  Session& session = sessions_[id];
  const Instant at = arrival(process, kCoordinatorNode, session.last_up);
  world_.queue.at(at, [this, id, envelope = std::move(envelope)]() mutable {
    const auto found = sessions_.find(id);
    if (found == sessions_.end() || !found->second.coordinator_side) return;
    if (found->second.coordinator_life != simulation_.coordinator().life() || !simulation_.coordinator().up()) return;
    simulation_.coordinator().deliver(coordinator_event::SessionMessage{id, std::move(envelope)});
  });
}

void ControlPlane::to_worker(SessionId id, CoordinatorEnvelope envelope) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || !found->second.coordinator_side) return;
  Session& session = found->second;
  const std::uint64_t life = simulation_.coordinator().life();
  Instant at = arrival(kCoordinatorNode, session.process, session.last_down);
  // Should this coordinator die soon, its words may be heard once more, after those of its successor.
  constexpr double kEcho = 0.02;
  if (world_.noise.chance(kEcho)) {
    world_.queue.after(world_.about(milliseconds(100)), [this, process = session.process, life, envelope] {
      WorkerProcess& worker = simulation_.process(process);
      if (life == simulation_.coordinator().life() || !worker.alive()) return;
      worker.arrive([&worker, envelope] { worker.post(worker_event::Control{envelope.generation, envelope.message}); });
    });
  }
  world_.queue.at(at, [this, id, life, envelope = std::move(envelope)]() mutable {
    const auto current = sessions_.find(id);
    if (current == sessions_.end()) return;
    WorkerProcess& worker = simulation_.process(current->second.process);
    const auto hand_over = [&worker](CoordinatorEnvelope message) {
      worker.arrive([&worker, message = std::move(message)] {
        worker.post(worker_event::Control{message.generation, message.message});
      });
    };
    if (life == simulation_.coordinator().life() && simulation_.coordinator().up()) {
      if (current->second.worker_side) hand_over(std::move(envelope));
    } else if (world_.noise.chance(0.5)) {
      // What a dead coordinator sent may come at any time after, even later than its successor's words.
      world_.queue.after(world_.about(milliseconds(100)),
                         [hand_over, envelope = std::move(envelope)]() mutable { hand_over(std::move(envelope)); });
    }
  });
}

void ControlPlane::worker_notices(SessionId id, Duration delay) {
  world_.queue.after(delay, [this, id] {
    Session& session = sessions_[id];
    if (!session.worker_side) return;
    WorkerProcess& worker = simulation_.process(session.process);
    if (!worker.alive()) return;
    worker.arrive([this, id, &worker] {
      Session& open = sessions_[id];
      if (!open.worker_side) return;
      open.worker_side = false;
      sessions_of_.erase(worker.index());
      worker.post(worker_event::ControlLost{});
      connect(worker.index(), world_.between(milliseconds(5), milliseconds(60)));
    });
  });
}

void ControlPlane::coordinator_notices(SessionId id, Duration delay) {
  world_.queue.after(delay, [this, id] {
    Session& session = sessions_[id];
    if (!session.coordinator_side) return;
    session.coordinator_side = false;
    if (session.coordinator_life != simulation_.coordinator().life() || !simulation_.coordinator().up()) return;
    simulation_.coordinator().deliver(coordinator_event::SessionLost{id});
  });
}

void ControlPlane::process_died(ProcessIndex process) {
  const auto found = sessions_of_.find(process);
  if (found == sessions_of_.end()) return;
  const SessionId id = found->second;
  sessions_of_.erase(found);
  sessions_[id].worker_side = false;
  // The kernel of a living host says so at once; a host that is gone says nothing: then the lease decides.
  if (world_.noise.chance(0.8)) coordinator_notices(id, world_.about(milliseconds(1)));
}

void ControlPlane::coordinator_died() {
  for (const auto& [process, id] : sessions_of_) worker_notices(id, world_.about(milliseconds(3)));
}

void ControlPlane::break_session(ProcessIndex process) {
  const auto found = sessions_of_.find(process);
  if (found == sessions_of_.end()) return;
  worker_notices(found->second, world_.about(milliseconds(2)));
  coordinator_notices(found->second, world_.about(milliseconds(2)));
}

}  // namespace planaria::sim

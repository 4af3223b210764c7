#include "chaos/sim/fault_injector.hpp"

#include <algorithm>
#include <string>

#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

using std::chrono::milliseconds;

namespace {

bool strikes_coordinator(FaultKind kind) {
  return kind == FaultKind::kill_coordinator || kind == FaultKind::freeze_coordinator || kind == FaultKind::slow_disk;
}

}  // namespace

FaultInjector::FaultInjector(Simulation& simulation, World& world) : simulation_(simulation), world_(world) {
  for (const Fault& fault : world.options.faults) pending_.push_back({fault, false, false, std::nullopt});
  open_ = static_cast<std::uint32_t>(pending_.size());
}

bool FaultInjector::calm() const {
  return open_ == 0 && world_.now() >= last_effect_;
}

void FaultInjector::give_up_pending() {
  for (Pending& pending : pending_) {
    if (pending.done) continue;
    pending.done = true;
    --open_;
  }
}

bool FaultInjector::troubled(ProcessIndex process) const {
  const auto found = troubled_until_.find(process);
  return found != troubled_until_.end() && world_.now() < found->second;
}

void FaultInjector::trouble(ProcessIndex process, Duration lasts) {
  const Duration lease = milliseconds(world_.options.job.cluster.lease_ms);
  Instant& until = troubled_until_[process];
  until = std::max(until, world_.now() + lasts + lease);
  last_effect_ = std::max(last_effect_, world_.now() + lasts);
}

WorkerProcess* FaultInjector::pick(std::uint32_t index, const WorkerProcess* other_than) {
  std::vector<WorkerProcess*> candidates;
  for (WorkerProcess* process : simulation_.living()) {
    if (process != other_than && process->state() == ProcessState::running && process->core().identity()) {
      candidates.push_back(process);
    }
  }
  return candidates.empty() ? nullptr : candidates[index % candidates.size()];
}

// ---- triggers ----

void FaultInjector::poll(WorkerProcess& process) {
  if (open_ == 0) return;
  for (Pending& pending : pending_) {
    const Fault& fault = pending.fault;
    if (pending.armed || pending.done || fault.trigger != TriggerKind::step_phase) continue;
    const bool any_step = fault.phase == SimPhase::joining || fault.phase == SimPhase::finish;
    if (process.core().step().value() < fault.step && !any_step) continue;
    if (pending.victim && !simulation_.process(*pending.victim).alive()) pending.victim.reset();
    if (!pending.victim) {
      const WorkerProcess* victim = pick(fault.victim);
      if (victim == nullptr) continue;
      pending.victim = victim->index();
    }
    const bool anyone =
        fault.phase == SimPhase::joining || fault.phase == SimPhase::fetch || fault.phase == SimPhase::finish;
    if (!anyone && *pending.victim != process.index()) continue;
    const SimPhase phase = process.phase();
    const bool computing = phase == SimPhase::forward || phase == SimPhase::backward;
    const bool wants_compute = fault.phase == SimPhase::forward || fault.phase == SimPhase::backward;
    if (phase != fault.phase && !(computing && wants_compute)) continue;
    arm(pending, process);
  }
}

void FaultInjector::prepared(std::uint32_t nth) {
  for (Pending& pending : pending_) {
    if (pending.armed || pending.done || pending.fault.trigger != TriggerKind::prepared) continue;
    if (pending.fault.nth <= nth) arm_any(pending);
  }
}

void FaultInjector::view_committed(std::uint32_t nth) {
  for (Pending& pending : pending_) {
    if (pending.armed || pending.done || pending.fault.trigger != TriggerKind::view_committed) continue;
    if (pending.fault.nth <= nth) arm_any(pending);
  }
}

void FaultInjector::arm_any(Pending& pending) {
  WorkerProcess* victim = pick(pending.fault.victim);
  if (victim != nullptr) arm(pending, *victim);
}

void FaultInjector::arm(Pending& pending, WorkerProcess& victim) {
  pending.armed = true;
  const std::size_t index = static_cast<std::size_t>(&pending - pending_.data());
  const ProcessIndex process = victim.index();
  const Fault& fault = pending.fault;
  const auto go = [this, index, process] { strike(index, process); };
  if (strikes_coordinator(fault.kind) && fault.after_actions > 0) {
    simulation_.coordinator().arm(fault.after_actions - 1, go);
  } else if (fault.delay.count() > 0) {
    world_.queue.after(fault.delay, go);
  } else if (fault.trigger == TriggerKind::step_phase && fault.phase == SimPhase::backward) {
    world_.queue.after(world_.options.micro_batch * 2 / 3, go);
  } else if (fault.trigger == TriggerKind::step_phase && !strikes_coordinator(fault.kind)) {
    victim.arm(fault.after_actions, go);
  } else {
    world_.queue.after(Duration(0), go);
  }
}

void FaultInjector::follow(std::size_t index) {
  if (index + 1 >= pending_.size()) return;
  Pending& next = pending_[index + 1];
  if (next.armed || next.done || next.fault.trigger != TriggerKind::after_previous) return;
  next.armed = true;
  world_.queue.after(next.fault.delay, [this, index] {
    WorkerProcess* victim = pick(pending_[index + 1].fault.victim);
    if (victim != nullptr) {
      strike(index + 1, victim->index());
    } else if (!pending_[index + 1].done) {
      pending_[index + 1].done = true;
      --open_;
      follow(index + 1);
    }
  });
}

// ---- effects ----

void FaultInjector::strike(std::size_t index, ProcessIndex process) {
  Pending& pending = pending_[index];
  if (pending.done) return;
  WorkerProcess* victim = &simulation_.process(process);
  if (victim->state() != ProcessState::running) {
    victim = pick(pending.fault.victim);
    if (victim == nullptr) {
      pending.armed = false;  // nobody to strike now: it waits for its next moment
      return;
    }
  }
  const Fault fault = pending.fault;
  pending.done = true;
  --open_;
  ++table_[static_cast<std::size_t>(fault.kind)][static_cast<std::size_t>(victim->phase())];
  last_effect_ = std::max(last_effect_, world_.now());
  world_.trace.add(world_.now(), [&] {
    return "FAULT " + std::to_string(index) + " " + to_string(fault.kind) + " at " + victim->name() + " in " +
           to_string(victim->phase()) + " of step " + std::to_string(victim->core().step().value());
  });
  follow(index);
  simulation_.oracle().note_claim();
  if (strikes_coordinator(fault.kind)) {
    strike_coordinator(fault);
  } else if (fault.kind >= FaultKind::partition && fault.kind <= FaultKind::delay) {
    strike_network(fault, *victim);
  } else {
    strike_workers(fault, *victim);
  }
}

void FaultInjector::strike_workers(const Fault& fault, WorkerProcess& victim) {
  const ProcessIndex index = victim.index();
  switch (fault.kind) {
    case FaultKind::kill:
      if (fault.flag) {
        for (WorkerProcess* process : simulation_.living()) {
          if (process != &victim && process->host() == victim.host()) process->kill("lost with its host");
        }
      }
      victim.kill("killed");
      break;
    case FaultKind::kill_and_restart: {
      ProcessStart again{.host = victim.host(), .role = victim.role()};
      if (fault.flag && victim.core().identity()) again.wanted = victim.core().identity()->worker;
      victim.kill("killed");
      last_effect_ = std::max(last_effect_, world_.now() + fault.lasts);
      world_.queue.after(fault.lasts, [this, again] {
        if (!simulation_.coordinator().exited()) simulation_.start(again);
      });
      break;
    }
    case FaultKind::kill_several: {
      std::vector<WorkerProcess*> alive = simulation_.living();
      const std::size_t count = fault.flag ? alive.size() : std::min<std::size_t>(alive.size(), 2 + fault.other % 3);
      for (std::size_t i = 0; i < count; ++i) alive[(fault.victim + i) % alive.size()]->kill("killed with others");
      break;
    }
    case FaultKind::freeze:
      victim.freeze();
      trouble(index, fault.lasts);
      world_.queue.after(fault.lasts, [this, index] { simulation_.process(index).thaw(); });
      break;
    case FaultKind::drain:
      if (fault.flag && victim.core().identity() && simulation_.coordinator().up()) {
        simulation_.coordinator().deliver(
            coordinator_event::DrainWorker{victim.core().identity()->worker, "an operator wants it"});
      } else {
        world_.queue.after(Duration(0), [&victim] {
          victim.arrive([&victim] { victim.post(worker_event::DrainWanted{"SIGTERM"}); });
        });
      }
      break;
    case FaultKind::join:
      simulation_.start({.host = fault.flag ? victim.host() : ""});
      break;
    case FaultKind::slow:
      victim.slow_down(2 + fault.other % 6);
      trouble(index, fault.lasts);
      world_.queue.after(fault.lasts, [&victim] { victim.slow_down(1); });
      break;
    case FaultKind::nan:
      victim.trainer().arm(fault.flag && fault.other % 2 == 0 ? NanFault::always : NanFault::once);
      break;
    case FaultKind::flip_state:
      victim.trainer().arm(fault.flag ? FlipFault::at_rest : FlipFault::in_update);
      break;
    case FaultKind::flip_gradient:
      victim.trainer().arm(FlipFault::in_gradient);
      break;
    case FaultKind::disk_full:
      simulation_.disks().fill_up(world_.now() + fault.lasts);
      last_effect_ = std::max(last_effect_, world_.now() + fault.lasts);
      break;
    default:
      simulation_.disks().damage_newest();
      break;
  }
}

void FaultInjector::strike_network(const Fault& fault, WorkerProcess& victim) {
  const WorkerProcess* other = pick(fault.other, &victim);
  const ProcessIndex a = victim.index();
  const ProcessIndex b = other != nullptr ? other->index() : a;
  const Instant until = world_.now() + fault.lasts;
  switch (fault.kind) {
    case FaultKind::partition:
    case FaultKind::partition_one_way:
      simulation_.links().cut(a, b, until, fault.flag);
      if (fault.kind == FaultKind::partition) simulation_.links().cut(b, a, until, fault.flag);
      trouble(a, fault.lasts);
      trouble(b, fault.lasts);
      break;
    case FaultKind::isolate:
      simulation_.links().cut(a, kCoordinatorNode, until, false);
      if (fault.flag) simulation_.links().cut(kCoordinatorNode, a, until, false);
      if (fault.other % 2 == 0) simulation_.control().break_session(a);
      trouble(a, fault.lasts);
      break;
    case FaultKind::session_loss:
      simulation_.control().break_session(a);
      break;
    case FaultKind::connection_loss:
      if (b != a) simulation_.data().break_connection(a, b);
      break;
    case FaultKind::drop:
      simulation_.data().arm_drop();
      break;
    case FaultKind::corrupt:
      simulation_.data().arm_corrupt(fault.flag);
      break;
    default:
      for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a), std::pair(a, kCoordinatorNode)}) {
        if (from != to) simulation_.links().slow(from, to, until, milliseconds(1 + fault.other % 40));
      }
      trouble(a, fault.lasts);
      break;
  }
}

void FaultInjector::strike_coordinator(const Fault& fault) {
  CoordinatorHost& coordinator = simulation_.coordinator();
  if (fault.kind == FaultKind::kill_coordinator) {
    last_effect_ = std::max(last_effect_, world_.now() + fault.lasts);
    coordinator.kill(fault.lasts);
  } else if (fault.kind == FaultKind::freeze_coordinator) {
    last_effect_ = std::max(last_effect_, world_.now() + fault.lasts);
    coordinator.freeze();
    world_.queue.after(fault.lasts, [&coordinator] { coordinator.thaw(); });
  } else {
    last_effect_ = std::max(last_effect_, world_.now() + fault.lasts);
    coordinator.slow_disk(world_.now() + fault.lasts, milliseconds(20 + fault.other % 200));
  }
}

}  // namespace planaria::sim

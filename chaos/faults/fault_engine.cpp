#include "chaos/faults/fault_engine.hpp"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <utility>

namespace planaria {
namespace {

using fault_order::Signal;
using fault_order::Tell;

Duration seconds(double value) {
  return Duration(static_cast<std::int64_t>(value * 1e9));
}

std::string end_name(std::uint32_t end) {
  return end == kCoordinatorEnd ? "coordinator" : std::to_string(end);
}

std::string block_line(std::uint32_t peer, bool blocked) {
  return (blocked ? "block " : "unblock ") + end_name(peer);
}

std::string link_line(const Fault& fault, bool on) {
  return fmt::format("link {} {} {} {} 0 0 out", *fault.to, on ? fault.delay_ms : 0, on ? fault.loss : 0,
                     on ? fault.rate_mbit : 0);
}

// Who announces the point that the fault waits for; none: anybody.
// Of a host the first worker that was started there.
std::optional<std::uint32_t> announcer_of(const Fault& fault) {
  if (fault.observer) return fault.observer;
  return fault.worker ? fault.worker : fault.host;
}

}  // namespace

FaultEngine::FaultEngine(Scenario scenario, Instant start) : start_(start) {
  for (Fault& fault : scenario.faults) faults_.push_back({std::move(fault), false});
}

std::vector<FaultOrder> FaultEngine::worker_ready(std::uint32_t worker) {
  ready_.insert(worker);
  std::set<std::pair<std::uint64_t, Phase>> points;
  for (const Entry& entry : faults_) {
    const Fault& fault = entry.fault;
    if (entry.fired || !fault.at_step) continue;
    if (announcer_of(fault).value_or(worker) == worker) points.emplace(*fault.at_step, fault.phase);
  }
  for (const auto& [step, phase] : points) tell(worker, fmt::format("arm {} {}", step, planaria::to_string(phase)));
  for (const auto& [a, b] : blocked_) {
    if (a == worker) tell(worker, block_line(b, true));
    if (b == worker && a != kCoordinatorEnd) tell(worker, block_line(a, true));
  }
  return std::exchange(orders_, {});
}

std::vector<FaultOrder> FaultEngine::phase_entered(std::uint32_t worker, std::uint64_t step, Phase phase, Instant now) {
  bool stands = false;
  for (std::size_t i = 0; i < faults_.size(); ++i) {
    const Fault& fault = faults_[i].fault;
    const bool due = !faults_[i].fired && fault.at_step == step && fault.phase == phase &&
                     announcer_of(fault).value_or(worker) == worker;
    if (due && fire(i, worker, step, now)) stands = true;
  }
  if (!stands) tell(worker, "go");
  return std::exchange(orders_, {});
}

std::vector<FaultOrder> FaultEngine::time_passed(Instant now) {
  for (std::size_t i = 0; i < faults_.size(); ++i) {
    const Fault& fault = faults_[i].fault;
    if (!faults_[i].fired && fault.at_s && now >= start_ + seconds(*fault.at_s))
      fire(i, std::nullopt, std::nullopt, now);
  }
  for (auto ending = endings_.begin(); ending != endings_.end();) {
    if (now < ending->at) {
      ++ending;
      continue;
    }
    std::ranges::move(ending->orders, std::back_inserter(orders_));
    ending = endings_.erase(ending);
  }
  return std::exchange(orders_, {});
}

bool FaultEngine::will_start_more() const {
  const bool joins = std::ranges::any_of(faults_, [](const Entry& entry) {
    return !entry.fired && entry.fault.at_s && entry.fault.kind == FaultKind::join;
  });
  return joins || std::ranges::any_of(endings_, [](const Ending& ending) {
           return std::ranges::any_of(ending.orders, [](const FaultOrder& order) {
             return std::holds_alternative<fault_order::StartCoordinator>(order) ||
                    std::holds_alternative<fault_order::StartHost>(order);
           });
         });
}

Instant FaultEngine::next_deadline() const {
  Instant next = kFarFuture;
  for (const Entry& entry : faults_) {
    if (!entry.fired && entry.fault.at_s) next = std::min(next, start_ + seconds(*entry.fault.at_s));
  }
  for (const Ending& ending : endings_) next = std::min(next, ending.at);
  return next;
}

void FaultEngine::end_later(const Fault& fault, Instant now, std::vector<FaultOrder> orders) {
  if (fault.for_s > 0) endings_.push_back({now + seconds(fault.for_s), std::move(orders)});
}

bool FaultEngine::fire(std::size_t index, std::optional<std::uint32_t> announcer, std::optional<std::uint64_t> step,
                       Instant now) {
  Entry& entry = faults_[index];
  const Fault& fault = entry.fault;
  entry.fired = true;
  FiredFault fired{fault.kind, index, step, std::nullopt, fault.worker, fault.host, now};
  if (fault.at_step) fired.phase = fault.phase;
  fired_.push_back(fired);
  const std::uint32_t worker = fault.worker.value_or(announcer.value_or(0));
  const bool at_point = announcer == fault.worker;

  switch (fault.kind) {
    case FaultKind::kill:
      orders_.push_back(Signal{worker, SIGKILL});
      return at_point;
    case FaultKind::stop: {
      orders_.push_back(Signal{worker, SIGSTOP});
      if (at_point) standing_.insert(worker);
      std::vector<FaultOrder> orders{Signal{worker, SIGCONT}};
      if (at_point) orders.push_back(Tell{worker, "go"});
      end_later(fault, now, std::move(orders));
      return at_point;
    }
    case FaultKind::cont:
      orders_.push_back(Signal{worker, SIGCONT});
      if (standing_.erase(worker) > 0) tell(worker, "go");
      return false;
    case FaultKind::drain:
      orders_.push_back(Signal{worker, SIGTERM});
      return false;
    case FaultKind::join:
      orders_.push_back(fault_order::StartWorker{});
      return false;
    case FaultKind::slow:
      tell(worker, fmt::format("slow {}", fault.cpu_fraction));
      end_later(fault, now, {Tell{worker, "slow 1"}});
      return false;
    case FaultKind::partition: {
      std::vector<FaultOrder> healing;
      for (const auto& [end, other] : {std::pair(*fault.from, *fault.to), std::pair(*fault.to, *fault.from)}) {
        if (end == kCoordinatorEnd) continue;
        tell(end, block_line(other, true));
        healing.push_back(Tell{end, block_line(other, false)});
      }
      if (fault.for_s <= 0) blocked_.emplace(std::min(*fault.from, *fault.to), std::max(*fault.from, *fault.to));
      end_later(fault, now, std::move(healing));
      return false;
    }
    case FaultKind::heal:
      for (const auto& [a, b] : std::exchange(blocked_, {})) {
        tell(a, block_line(b, false));
        if (b != kCoordinatorEnd) tell(b, block_line(a, false));
      }
      return false;
    case FaultKind::link:
      tell(*fault.from, link_line(fault, true));
      end_later(fault, now, {Tell{*fault.from, link_line(fault, false)}});
      return false;
    case FaultKind::corrupt:
      tell(worker, "corrupt_next");
      return false;
    case FaultKind::nan:
      tell(worker, fmt::format("nan {}", step.value_or(0)));
      return false;
    case FaultKind::disk_full: {
      const std::string line = fmt::format("disk_full {}", fault.for_s);
      if (fault.worker) {
        tell(worker, line);
      } else {
        for (const std::uint32_t id : ready_) tell(id, line);
      }
      return false;
    }
    case FaultKind::kill_coordinator:
      orders_.push_back(fault_order::KillCoordinator{});
      if (fault.for_s > 0) {
        end_later(fault, now, {fault_order::StartCoordinator{}});
      } else {
        orders_.push_back(fault_order::StartCoordinator{});
      }
      return false;
    case FaultKind::kill_host:
    case FaultKind::kill_keeper: {
      const bool keeper_only = fault.kind == FaultKind::kill_keeper;
      orders_.push_back(fault_order::KillHost{*fault.host, keeper_only});
      end_later(fault, now, {fault_order::StartHost{*fault.host, keeper_only}});
      return false;
    }
    case FaultKind::damage_fragment:
      orders_.push_back(fault_order::TellKeeper{*fault.host, fmt::format("damage {}", planaria::to_string(fault.how))});
      return false;
    case FaultKind::count_:
      break;
  }
  return false;
}

}  // namespace planaria

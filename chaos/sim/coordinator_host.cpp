#include "chaos/sim/coordinator_host.hpp"

#include <algorithm>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

CoordinatorHost::CoordinatorHost(Simulation& simulation, World& world) : simulation_(simulation), world_(world) {}

void CoordinatorHost::start() {
  ++life_;
  core_ = std::make_unique<CoordinatorCore>(simulation_.coordinator_config());
  frozen_ = false;
  world_.trace.add(world_.now(),
                   [&] { return "coordinator starts with " + std::to_string(durable_.size()) + " records"; });
  deliver(coordinator_event::Started{durable_});
}

void CoordinatorHost::deliver(CoordinatorEvent event) {
  if (!up()) return;
  if (frozen_) {
    frozen_events_.push_back(std::move(event));
    return;
  }
  run(event);
}

void CoordinatorHost::run(const CoordinatorEvent& event) {
  if (const auto* message = std::get_if<coordinator_event::SessionMessage>(&event)) {
    simulation_.oracle().heard(message->envelope.worker, message->envelope.incarnation, message->envelope.message);
  }
  const std::uint64_t life = life_;
  for (CoordinatorAction& action : core_->on(event, world_.now())) actions_.push_back(std::move(action));
  while (up() && life == life_ && !frozen_ && !actions_.empty()) {
    if (strike_if_due()) continue;
    CoordinatorAction action = std::move(actions_.front());
    actions_.pop_front();
    take(action);
  }
  if (up() && life == life_) {
    flush();
    plan_tick();
  }
}

void CoordinatorHost::take(CoordinatorAction& action) {
  if (auto* log = std::get_if<coordinator_action::Log>(&action)) {
    append(std::move(log->record), log->sync);
    return;
  }
  if (auto* asked = std::get_if<coordinator_action::PlanLayout>(&action)) {
    plan(std::move(asked->request));
    return;
  }
  const std::uint64_t needs = world_.options.mutations.has(Mutation::announce_before_sync) ? 0 : must_sync_;
  outbox_.push_back({needs, std::move(action)});
  flush();
}

// The planner answers in its own time, or the coordinator is gone by then.
void CoordinatorHost::plan(LayoutRequest request) {
  request.options.search = SearchMode::local;
  const Duration takes = world_.between(std::chrono::milliseconds(1), std::chrono::milliseconds(500));
  world_.queue.after(takes, [this, life = life_, request = std::move(request)] {
    if (life != life_ || !up()) return;
    deliver(
        coordinator_event::LayoutPlanned{request.number, plan_layout(request.model, request.cluster, request.options)});
  });
}

// ---- the log ----

void CoordinatorHost::append(LogRecord record, bool sync) {
  world_.trace.add(world_.now(), [&] { return "coordinator logs " + describe(record); });
  simulation_.oracle().appended(record);
  const bool prepared = std::holds_alternative<log_record::Prepared>(record);
  const bool committed = std::holds_alternative<log_record::Committed>(record);
  tail_.push_back(std::move(record));
  ++appended_;
  if (sync) {
    must_sync_ = appended_;
    start_sync();
  }
  if (prepared) simulation_.injector().prepared(simulation_.oracle().next_change());
  if (committed) simulation_.injector().view_committed(simulation_.oracle().next_view());
}

void CoordinatorHost::start_sync() {
  if (syncing_ || must_sync_ <= synced_) return;
  syncing_ = true;
  Duration takes = world_.about(world_.options.sync_latency);
  if (world_.now() < slow_until_) takes += slow_extra_;
  world_.queue.after(takes, [this, life = life_, count = appended_] {
    if (life == life_ && up()) synced(count);
  });
}

// The disk doesn't care whether the process is stopped; the process learns of it when it runs.
void CoordinatorHost::synced(std::uint64_t count) {
  syncing_ = false;
  while (synced_ < count) {
    simulation_.oracle().durable(tail_.front());
    durable_.push_back(std::move(tail_.front()));
    tail_.erase(tail_.begin());
    ++synced_;
  }
  start_sync();
  if (!frozen_) flush();
}

void CoordinatorHost::flush() {
  const std::uint64_t life = life_;
  while (up() && life == life_ && !frozen_ && !outbox_.empty() && outbox_.front().needs <= synced_) {
    if (strike_if_due()) continue;
    CoordinatorAction action = std::move(outbox_.front().action);
    outbox_.pop_front();
    leave(action);
  }
}

void CoordinatorHost::leave(CoordinatorAction& action) {
  if (auto* send = std::get_if<coordinator_action::Send>(&action)) {
    simulation_.oracle().leaves(send->envelope);
    simulation_.control().to_worker(send->session, std::move(send->envelope));
  } else if (const auto* announce = std::get_if<coordinator_action::Announce>(&action)) {
    world_.trace.add(world_.now(), [&] { return "coordinator: " + announce->text; });
  } else if (const auto* exit = std::get_if<coordinator_action::Exit>(&action)) {
    world_.trace.add(world_.now(), [&] { return "coordinator exits: " + exit->reason; });
    exited_ = true;
    exit_success_ = exit->success;
    ++life_;
    simulation_.control().coordinator_died();
  }
}

// ---- time and signals ----

void CoordinatorHost::plan_tick() {
  const Instant wanted = std::max(core_->next_tick(), world_.now() + std::chrono::microseconds(100));
  if (core_->next_tick() >= kFarFuture || (tick_planned_ > world_.now() && tick_planned_ <= wanted)) return;
  tick_planned_ = wanted;
  world_.queue.at(wanted, [this, wanted, life = life_] {
    if (life != life_ || tick_planned_ != wanted) return;
    tick_planned_ = kFarFuture;
    deliver(coordinator_event::Tick{});
  });
}

void CoordinatorHost::arm(std::uint32_t actions, std::function<void()> strike) {
  armed_.push_back({actions, std::move(strike)});
}

bool CoordinatorHost::strike_if_due() {
  if (armed_.empty()) return false;
  if (armed_.front().actions > 0) {
    --armed_.front().actions;
    return false;
  }
  const auto strike = std::move(armed_.front().strike);
  armed_.pop_front();
  strike();
  return true;
}

void CoordinatorHost::kill(Duration restart_after) {
  if (!up()) return;
  // What was written and not synced may survive in part, in order.
  const std::uint64_t kept = world_.noise.below(tail_.size() + 1);
  for (std::uint64_t i = 0; i < kept; ++i) {
    simulation_.oracle().durable(tail_[i]);
    durable_.push_back(std::move(tail_[i]));
  }
  world_.trace.add(world_.now(), [&] {
    return "coordinator is killed; " + std::to_string(tail_.size() - kept) + " records are lost";
  });
  ++life_;
  core_.reset();
  actions_.clear();
  tail_.clear();
  outbox_.clear();
  frozen_events_.clear();
  appended_ = synced_ = must_sync_ = 0;
  syncing_ = false;
  tick_planned_ = kFarFuture;
  simulation_.oracle().coordinator_died();
  simulation_.control().coordinator_died();
  world_.queue.after(restart_after, [this] {
    if (!up() && !exited_) start();
  });
}

void CoordinatorHost::freeze() {
  if (!up()) return;
  world_.trace.add(world_.now(), [] { return std::string("coordinator freezes"); });
  frozen_ = true;
}

void CoordinatorHost::thaw() {
  if (!up() || !frozen_) return;
  world_.trace.add(world_.now(), [] { return std::string("coordinator thaws"); });
  frozen_ = false;
  // Its timer and its sockets wake up in any order.
  std::deque<CoordinatorEvent> events = std::exchange(frozen_events_, {});
  if (world_.noise.chance(0.5)) events.emplace_front(coordinator_event::Tick{});
  const std::uint64_t life = life_;
  flush();
  while (!events.empty() && up() && life == life_) {
    CoordinatorEvent event = std::move(events.front());
    events.pop_front();
    deliver(std::move(event));
  }
}

void CoordinatorHost::slow_disk(Instant until, Duration extra) {
  slow_until_ = until;
  slow_extra_ = extra;
}

}  // namespace planaria::sim

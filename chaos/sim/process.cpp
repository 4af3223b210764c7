#include "chaos/sim/process.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/invariants.hpp"
#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

namespace {

constexpr double kHandledAtOnce = 0.85;  // else an event waits in the mailbox while others pile up behind it
constexpr Duration kMailboxWait = std::chrono::microseconds(400);

}  // namespace

WorkerProcess::WorkerProcess(Simulation& simulation, ProcessIndex index, ProcessStart how, double slowness)
    : simulation_(simulation),
      world_(simulation.world()),
      index_(index),
      how_(std::move(how)),
      slowness_(slowness),
      core_(simulation.worker_config(index, how_, disk())),
      trainer_(world_, *this) {}

std::string WorkerProcess::name() const {
  if (!core_.identity()) return fmt::format("p{}", index_);
  return fmt::format("w{}(p{})", core_.identity()->worker.value(), index_);
}

std::uint32_t WorkerProcess::disk() const {
  return world_.options.shared_checkpoints ? 0 : static_cast<std::uint32_t>(std::stoul(how_.host.substr(1))) + 1;
}

Incarnation WorkerProcess::incarnation() const {
  return core_.identity() ? core_.identity()->incarnation : Incarnation(0);
}

SimPhase WorkerProcess::phase() const {
  if (changing_) return SimPhase::change;
  switch (core_.phase()) {
    case Phase::idle:
      return core_.committed() > world_.options.shape.total_steps ? SimPhase::finish : SimPhase::joining;
    case Phase::fetch:
      return SimPhase::fetch;
    case Phase::forward:
    case Phase::backward:
      return trainer_.pass() == Pass::backward ? SimPhase::backward : SimPhase::forward;
    case Phase::reduce:
      return SimPhase::reduce;
    case Phase::gate:
      return SimPhase::gate;
    case Phase::update:
      return SimPhase::update;
    case Phase::commit:
      return SimPhase::commit;
    case Phase::finished:
    case Phase::count_:
      break;
  }
  return SimPhase::finish;
}

// ---- events ----

void WorkerProcess::post(WorkerEvent event) {
  if (!alive()) return;
  const bool queue = state_ == ProcessState::frozen || handling_ || mailbox_waits_ || !actions_.empty();
  if (!queue && world_.noise.chance(kHandledAtOnce)) return handle(event);
  mailbox_.push_back(std::move(event));
  if (handling_ || mailbox_waits_ || state_ == ProcessState::frozen) return;
  mailbox_waits_ = true;
  world_.queue.after(world_.between(Duration(1000), kMailboxWait), [this] { drain_mailbox(); });
}

void WorkerProcess::drain_mailbox() {
  mailbox_waits_ = false;
  while (state_ == ProcessState::running && !mailbox_.empty()) {
    const WorkerEvent event = std::move(mailbox_.front());
    mailbox_.pop_front();
    handle(event);
  }
}

void WorkerProcess::arrive(std::function<void()> handler) {
  if (state_ == ProcessState::running) {
    handler();
  } else if (state_ == ProcessState::frozen) {
    frozen_arrivals_.push_back(std::move(handler));
  }
}

void WorkerProcess::handle(const WorkerEvent& event) {
  handling_ = true;
  before(event);
  const bool stale = is_stale(event);
  const std::uint64_t refused = core_.refused_messages();
  WorkerActions actions = core_.on(event, world_.now());
  if (stale && core_.refused_messages() == refused) {
    world_.fail("7: data of a view that is over has an effect", name());
  }
  after(event, actions, core_.refused_messages() > refused);
  for (WorkerAction& action : actions) {
    simulation_.oracle().decided(*this, action);
    actions_.push_back(std::move(action));
  }
  simulation_.injector().poll(*this);
  execute();
  handling_ = false;
  if (!mailbox_.empty() && !mailbox_waits_ && state_ == ProcessState::running) {
    mailbox_waits_ = true;
    world_.queue.after(Duration(1000), [this] { drain_mailbox(); });
  }
  plan_tick();
}

// The transport let it pass before the view was fenced, and the core hears of it after.
bool WorkerProcess::is_stale(const WorkerEvent& event) const {
  const auto* data = std::get_if<worker_event::Data>(&event);
  return data != nullptr && core_.view_record() && data->view < core_.view();
}

void WorkerProcess::before(const WorkerEvent& event) {
  if (const auto* data = std::get_if<worker_event::Data>(&event)) {
    if (const auto* gate = std::get_if<Gate>(&data->meta)) {
      for (const GateWord& word : gate->words)
        heard_gates_.insert({data->view, gate->step, gate->attempt, word.worker});
    }
    world_.trace.add(world_.now(), [&] {
      return name() + " got " + describe(data->meta) + " of view " + std::to_string(data->view.value()) + " from w" +
             std::to_string(data->from.value());
    });
    return;
  }
  const auto* control = std::get_if<worker_event::Control>(&event);
  if (control == nullptr) return;
  world_.trace.add(world_.now(), [&] { return name() + " hears " + describe(control->message); });
}

void WorkerProcess::after(const WorkerEvent& event, const WorkerActions& actions, bool refused) {
  const auto* control = std::get_if<worker_event::Control>(&event);
  if (control == nullptr) return;
  if (control->generation < highest_generation_) {
    const bool obeyed = std::ranges::any_of(
        actions, [](const WorkerAction& action) { return !std::holds_alternative<worker_action::Note>(action); });
    if (obeyed || !refused)
      world_.fail("11: a message of an older coordinator generation is obeyed",
                  name() + ": " + describe(control->message));
    return;
  }
  highest_generation_ = control->generation;
  if (std::holds_alternative<Welcome>(control->message) || std::holds_alternative<Fenced>(control->message)) {
    if (!core_.view_record()) {
      changing_ = false;
      trainer_.forget_ledger();
    }
  } else if (const auto* prepare = std::get_if<Prepare>(&control->message)) {
    if (core_.identity() && core_.identity()->prepared == prepare->view && core_.view() < prepare->view)
      changing_ = true;
  } else if (const auto* commit = std::get_if<CommitView>(&control->message)) {
    if (core_.view() == commit->packed->view) {
      changing_ = false;
      const ResumePlan& plan = core_.view_record()->resume;
      if (plan.tier > 0 || plan.discard) trainer_.forget_ledger();
    }
  }
}

void WorkerProcess::plan_tick() {
  if (state_ != ProcessState::running) return;
  const Instant wanted = std::max(core_.next_tick(), world_.now() + std::chrono::microseconds(100));
  if (core_.next_tick() >= kFarFuture || tick_planned_ <= wanted) return;
  tick_planned_ = wanted;
  world_.queue.at(wanted, [this, wanted] {
    if (tick_planned_ != wanted) return;
    tick_planned_ = kFarFuture;
    if (state_ == ProcessState::running) post(worker_event::Tick{});
  });
}

// ---- actions ----

void WorkerProcess::arm(std::uint32_t actions, std::function<void()> strike) {
  armed_.push_back({actions, std::move(strike)});
}

void WorkerProcess::strike_if_due() {
  while (!armed_.empty() && state_ == ProcessState::running) {
    if (armed_.front().actions > 0) {
      --armed_.front().actions;
      return;
    }
    const auto strike = std::move(armed_.front().strike);
    armed_.pop_front();
    strike();
  }
}

void WorkerProcess::execute() {
  while (state_ == ProcessState::running && !actions_.empty()) {
    strike_if_due();
    if (state_ != ProcessState::running || actions_.empty()) return;
    WorkerAction action = std::move(actions_.front());
    actions_.pop_front();
    execute_one(action);
  }
}

void WorkerProcess::execute_one(WorkerAction& action) {
  using namespace worker_action;  // NOLINT
  std::visit(
      [&](auto& a) {
        using T = std::decay_t<decltype(a)>;
        if constexpr (std::is_same_v<T, EnterView>) {
          simulation_.data().enter(index_, a);
        } else if constexpr (std::is_same_v<T, FenceView>) {
          simulation_.data().fence(index_, a);
        } else if constexpr (std::is_same_v<T, SendSmall>) {
          simulation_.data().send(index_, a.to, a.view, std::move(a.meta), nullptr);
        } else if constexpr (std::is_same_v<T, AttachState>) {
          simulation_.start_attach(*this, a);
        } else if constexpr (std::is_same_v<T, SendControl>) {
          WorkerEnvelope envelope;
          if (core_.identity()) {
            envelope.worker = core_.identity()->worker;
            envelope.incarnation = core_.identity()->incarnation;
          }
          if (!is_routine(a.message)) {
            world_.trace.add(world_.now(), [&] { return name() + " tells " + describe(a.message); });
          }
          envelope.message = std::move(a.message);
          simulation_.control().to_coordinator(index_, std::move(envelope));
        } else if constexpr (std::is_same_v<T, Note>) {
          world_.trace.add(world_.now(), [&] { return name() + " notes " + a.text; });
        } else if constexpr (std::is_same_v<T, Stop>) {
          simulation_.oracle().stops(*this, a);
          kill("stopped: " + a.reason);
        } else {
          trainer_.submit(std::move(action));
        }
      },
      action);
}

// ---- signals ----

void WorkerProcess::kill(const std::string& why) {
  if (!alive()) return;
  world_.trace.add(world_.now(), [&] { return name() + " is dead: " + why; });
  state_ = ProcessState::dead;
  trainer_.kill();
  actions_.clear();
  mailbox_.clear();
  frozen_arrivals_.clear();
  armed_.clear();
  simulation_.data().process_died(index_);
  simulation_.control().process_died(index_);
}

void WorkerProcess::freeze() {
  if (state_ != ProcessState::running) return;
  world_.trace.add(world_.now(), [&] { return name() + " freezes"; });
  state_ = ProcessState::frozen;
  trainer_.freeze();
}

void WorkerProcess::thaw() {
  if (state_ != ProcessState::frozen) return;
  world_.trace.add(world_.now(), [&] { return name() + " thaws"; });
  state_ = ProcessState::running;
  handling_ = true;
  execute();
  handling_ = false;
  if (state_ != ProcessState::running) return;
  trainer_.thaw();
  drain_mailbox();
  for (auto& handler : std::exchange(frozen_arrivals_, {})) arrive(std::move(handler));
  tick_planned_ = kFarFuture;
  plan_tick();
}

}  // namespace planaria::sim

#include "worker/shell/agent_loop.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/overloaded.hpp"
#include "common/transport/ucx_transport.hpp"
#include "worker/shell/core_config.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

namespace {

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

MetricsOptions metrics_options(const JobSpec& job, const WorkerOptions& options, const Register& registration) {
  return {.directory = options.out_directory,
          .jsonl = job.metrics.jsonl,
          .tensorboard = job.metrics.tensorboard,
          .host = registration.host,
          .unix_time_s = static_cast<std::uint64_t>(unix_seconds()),
          .first_step = Step(1)};
}

constexpr std::uint64_t kFrameHead = 1U << 20;  // more than what stands before a frame's values

// A heartbeat that leaves while the worker stands still at an announced point.
bool is_heartbeat(const WorkerAction& action) {
  const auto* control = std::get_if<worker_action::SendControl>(&action);
  return control != nullptr && std::holds_alternative<Heartbeat>(control->message);
}

}  // namespace

AgentLoop::AgentLoop(Parts parts)
    : parts_(std::move(parts)),
      core_(core_config(parts_.job, parts_.executor->map(), parts_.evaluates, parts_.registration)),
      log_(is_keeper() ? "keeper" : "worker") {
  if (!is_keeper() && (parts_.job.metrics.jsonl || parts_.job.metrics.tensorboard)) {
    metrics_ = std::make_unique<MetricsRecorder>(*parts_.files,
                                                 metrics_options(parts_.job, parts_.options, parts_.registration));
  }
  sampler_.configure(parts_.options.telemetry_endpoint,
                     double{1} * parts_.job.batch.sequences * parts_.job.model.context);
}

AgentLoop::~AgentLoop() {
  stop();
}

void AgentLoop::start(bool connected) {
  if (connected) post(agent_event::Link{true, {}});
  thread_ = std::thread([this] { run(); });
}

void AgentLoop::post(AgentEvent event) {
  {
    const std::scoped_lock lock(mutex_);
    if (stopping_) return;
    queue_.push_back(std::move(event));
  }
  wake_.notify_one();
}

void AgentLoop::send_payload(WorkerId to, ViewNumber view, std::vector<ConstSlice> payload) {
  const auto data_plane = plane();
  if (!data_plane) return;
  if (parts_.faults != nullptr) parts_.faults->before_send();
  data_plane->send(to, view, std::move(payload));
  if (parts_.faults != nullptr) parts_.faults->after_send();
}

WorkerOutcome AgentLoop::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return outcome_.has_value(); });
  return *outcome_;
}

void AgentLoop::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  std::shared_ptr<DataPlane> last;
  {
    const std::scoped_lock lock(plane_mutex_);
    last = std::exchange(plane_, nullptr);
  }
  if (last) last->stop();
}

std::shared_ptr<DataPlane> AgentLoop::plane() const {
  const std::scoped_lock lock(plane_mutex_);
  return plane_;
}

// ---- the loop ----

Instant AgentLoop::next_wake(Instant now) const {
  Instant next = std::min(core_.next_tick(), now + TelemetrySampler::kEvery);
  if (held_until_) next = std::min(next, *held_until_);
  return std::max(next, now);
}

void AgentLoop::run() {
  while (true) {
    std::optional<AgentEvent> event;
    Instant now = clock_.now();
    {
      // At an announced point only time goes on: what arrives waits in the queue.
      const auto ready = [&] {
        if (stopping_ || outcome_ || (!serving_.empty() && !held_until_)) return true;
        return held_until_ ? std::ranges::any_of(
                                 queue_, [](const AgentEvent& e) { return std::holds_alternative<agent_event::Go>(e); })
                           : !queue_.empty();
      };
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, next_wake(now) - now, ready);
      if (stopping_ || outcome_) return;
      if (held_until_) {
        const auto go = std::ranges::find_if(
            queue_, [](const AgentEvent& e) { return std::holds_alternative<agent_event::Go>(e); });
        if (go != queue_.end()) {
          event = std::move(*go);
          queue_.erase(go);
        }
      } else if (!queue_.empty()) {
        event = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    now = clock_.now();
    if (event) take(*event, now);
    if (held_until_ && now >= *held_until_) carry_out_held();
    if (!held_until_ && !serving_.empty()) serve_state();
    if (now >= core_.next_tick()) feed(worker_event::Tick{}, now);
    if (parts_.faults != nullptr) parts_.faults->tick();
    if (sampler_.due(now)) {
      const auto data_plane = plane();
      sampler_.tick(core_, parts_.counters(), data_plane ? data_plane->stats() : std::map<WorkerId, PeerStats>{}, now);
    }
  }
}

void AgentLoop::take(const AgentEvent& event, Instant now) {
  const bool blocked = parts_.faults != nullptr && parts_.faults->coordinator_blocked();
  std::visit(Overloaded{[&](const WorkerEvent& e) { feed(e, now); },
                        [&](const CoordinatorEnvelope& envelope) {
                          if (blocked) return;
                          if (envelope.protocol != kProtocolVersion) {
                            finish({false, true,
                                    "the coordinator speaks control protocol " + std::to_string(envelope.protocol) +
                                        ", this worker " + std::to_string(kProtocolVersion) +
                                        ": use the same release for both"});
                            return;
                          }
                          const auto* named = std::get_if<Welcome>(&envelope.message);
                          if (named != nullptr && named->incarnation == Incarnation(0)) return;  // an answer to start()
                          const bool fresh = named != nullptr && self_ != PeerId{named->worker, named->incarnation};
                          if (fresh) welcome(*named);
                          feed(worker_event::Control{envelope.generation, envelope.message}, now);
                          if (!fresh || !last_register_) return;
                          // The data plane's address is known only now that the worker has a name.
                          Register again = *last_register_;
                          again.identity = core_.identity();
                          to_coordinator(std::move(again));
                        },
                        [&](const agent_event::Link& link) {
                          if (link.connected) {
                            feed(worker_event::ControlConnected{}, now);
                          } else {
                            log_.warning("the coordinator is gone; training goes on", {{"why", link.reason}});
                            feed(worker_event::ControlLost{}, now);
                          }
                        },
                        [&](const agent_event::Failed& failed) {
                          finish({false, false, "its data can't be worked on: " + failed.error.describe()});
                        },
                        [&](const agent_event::Go&) { carry_out_held(); }},
             event);
}

void AgentLoop::feed(const WorkerEvent& event, Instant now) {
  if (const auto* done = std::get_if<worker_event::MicroBatchDone>(&event); done != nullptr && done->took.count() > 0) {
    sampler_.rate_is(1 / to_seconds(done->took));
  }
  const Phase before = core_.phase();
  const bool fetched = core_.fetches();
  WorkerActions actions = core_.on(event, now);
  if (core_.phase() != before) sampler_.phase_is(core_.phase(), now);
  if (core_.last_commit().step > last_commit_) committed(core_.last_commit());
  if (!held_until_) announce_phase(now);
  for (WorkerAction& action : actions) {
    if (held_until_ && !is_heartbeat(action)) {
      held_.push_back(std::move(action));
    } else {
      carry_out(action);
    }
  }
  if (core_.fetches() && !fetched) announce_fetch();
}

// Forward and backward are announced by the trainer, where they begin.
void AgentLoop::announce_phase(Instant now) {
  const Phase phase = core_.phase();
  if (parts_.hook == nullptr || phase < Phase::reduce || phase > Phase::commit) return;
  if (parts_.hook->entered(core_.step(), phase)) held_until_ = now + kMaxFaultPause;
}

// Once its requests are on their way: a fault shall meet the transfer.
void AgentLoop::announce_fetch() {
  if (parts_.hook == nullptr) return;
  static_cast<void>(parts_.hook->entered(core_.step(), Phase::fetch));
}

void AgentLoop::carry_out_held() {
  held_until_.reset();
  for (const WorkerAction& action : std::exchange(held_, {})) carry_out(action);
}

// ---- actions ----

void AgentLoop::carry_out(const WorkerAction& action) {
  using namespace worker_action;
  std::visit(
      Overloaded{[&](const EnterView& a) {
                   if (const auto data_plane = plane()) data_plane->enter(a, self_->worker);
                   log_.info("enters a view", {{"view", a.view}, {"members", a.members.size()}});
                 },
                 [&](const FenceView& a) {
                   if (const auto data_plane = plane()) data_plane->fence(a);
                 },
                 [&](const SendSmall& a) { send_payload(a.to, a.view, data_slices(a.meta)); },
                 [&](const SendState& a) {
                   // A store checks what it reads, which takes long: its own thread does.
                   if (is_keeper()) return parts_.executor->post(a, core_.view());
                   serving_.push_back(a);
                 },
                 [&](const AttachState& a) { parts_.attach(a); },
                 [&](const SendControl& a) { to_coordinator(a.message); }, [&](const Note& a) { log_.info(a.text); },
                 [&](const Stop& a) {
                   finish({a.success, a.permanent, a.reason});
                 },
                 [&](const auto& a) { parts_.executor->post(a, core_.view()); }},
      action);
}

// One message of many: whoever asks for a whole state must not keep this loop from answering the coordinator.
void AgentLoop::serve_state() {
  const worker_action::SendState send = std::move(serving_.front());
  serving_.pop_front();
  if (send.view != core_.view()) return;  // its view is over
  auto payload = parts_.executor->state_payload(send.meta);
  if (!payload) {
    StateTiles missing = send.meta;
    missing.available = false;
    payload = data_slices(missing);
  }
  send_payload(send.to, send.view, std::move(*payload));
}

void AgentLoop::to_coordinator(WorkerMessage message) {
  if (parts_.faults != nullptr && parts_.faults->coordinator_blocked()) return;
  WorkerEnvelope envelope;
  if (core_.identity()) {
    envelope.worker = core_.identity()->worker;
    envelope.incarnation = core_.identity()->incarnation;
  }
  const auto data_plane = plane();
  if (auto* registration = std::get_if<Register>(&message)) {
    last_register_ = *registration;
    links_.tell_all_again();
    const bool named =
        registration->identity && self_ == PeerId{registration->identity->worker, registration->identity->incarnation};
    if (named && data_plane) registration->address = data_plane->address();
  } else if (auto* heartbeat = std::get_if<Heartbeat>(&message); heartbeat != nullptr && data_plane) {
    const std::map<WorkerId, PeerStats> peers = data_plane->stats();
    for (const auto& [worker, stats] : peers) {
      heartbeat->bytes_sent += stats.bytes_out;
      heartbeat->bytes_received += stats.bytes_in;
    }
    heartbeat->links = links_.news(peers, clock_.now());
    if (const auto peer = links_.next_probe(peers)) data_plane->probe(*peer);
  }
  envelope.message = std::move(message);
  parts_.send_control(envelope);
}

// A new name: the data plane speaks for one incarnation only, so it is made anew.
void AgentLoop::welcome(const Welcome& message) {
  const PeerId self{message.worker, message.incarnation};
  std::shared_ptr<DataPlane> former;
  {
    const std::scoped_lock lock(plane_mutex_);
    former = std::exchange(plane_, nullptr);
  }
  if (former) former->stop();
  UcxOptions ucx{.job = message.job_key, .self = self, .devices = parts_.options.data_devices};
  // A sum of all tiles travels as one frame, and the sums of a whole tree may wait for their shard's owner.
  const std::uint64_t vector = parts_.executor->map().vector_elements() * sizeof(float) + kFrameHead;
  ucx.waiting.frame_bytes = std::max(ucx.waiting.frame_bytes, vector);
  ucx.waiting.bytes = std::max(ucx.waiting.bytes, 2 * std::bit_width(parts_.job.batch.slots) * vector);
  if (!message.frame_key.empty()) {
    SessionKey key{};
    std::memcpy(key.data(), message.frame_key.data(), std::min(key.size(), message.frame_key.size()));
    ucx.key = key;
  }
  auto made = make_ucx_transport(std::move(ucx));
  if (!made) return finish({false, false, "the data plane can't be started: " + made.error().describe()});
  std::shared_ptr<Transport> transport = std::move(made).value();
  if (parts_.faults != nullptr) transport = parts_.faults->wrap(std::move(transport), message.worker.value());
  auto data_plane =
      std::make_shared<DataPlane>(std::move(transport), parts_.executor->map(), parts_.executor->boundary_elements(),
                                  [this](WorkerEvent event) { post(std::move(event)); });
  if (const Status started = data_plane->start(); !started) {
    return finish({false, false, "the data plane can't be started: " + started.error().describe()});
  }
  {
    const std::scoped_lock lock(plane_mutex_);
    plane_ = std::move(data_plane);
  }
  self_ = self;
  log_ = log_.with({{"worker", message.worker}, {"incarnation", message.incarnation}});
  log_.info("is named by the coordinator");
  if (parts_.named) parts_.named(self);
  if (const Status connected = sampler_.connect(self, message); !connected) {
    log_.warning("no telemetry is sent", {{"why", connected.error().message()}});
  }
  if (parts_.hook != nullptr) parts_.hook->named(self.worker, self.incarnation);
}

// Also while the coordinator is away, and once a step whatever is done again.
void AgentLoop::committed(const StepCommitted& message) {
  const Instant now = clock_.now();
  const double seconds = last_commit_at_ ? to_seconds(now - *last_commit_at_) : 0;
  last_commit_at_ = now;
  last_commit_ = message.step;
  sampler_.committed(message, seconds);
  const auto& view = core_.view_record();
  if (!metrics_ || !view || !core_.identity()) return;
  metrics_->record({.step = message.step,
                    .view = message.view,
                    .workers = static_cast<std::uint32_t>(view->members.size()),
                    .loss = message.loss,
                    .validation_loss = message.validation_loss,
                    .learning_rate = message.learning_rate,
                    .gradient_norm = message.gradient_norm,
                    .tokens_per_s = seconds > 0 ? static_cast<double>(parts_.job.tokens_per_step()) / seconds : 0,
                    .step_s = seconds,
                    .unix_time_s = unix_seconds()},
                   view->checkpoint_writer == core_.identity()->worker);
}

void AgentLoop::finish(WorkerOutcome outcome) {
  const std::scoped_lock lock(mutex_);
  if (!outcome_) outcome_ = std::move(outcome);
  done_.notify_all();
}

}  // namespace planaria

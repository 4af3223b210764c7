#include "coordinator/shell/service.hpp"

#include <fmt/format.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>

#include "common/clock.hpp"
#include "common/file.hpp"
#include "common/host.hpp"
#include "common/log.hpp"
#include "common/unix_time.hpp"
#include "coordinator/core/coordinator_core.hpp"
#include "coordinator/http/http_server.hpp"
#include "coordinator/log/event_log.hpp"
#include "coordinator/shell/barrier_queue.hpp"
#include "coordinator/shell/gateway.hpp"
#include "coordinator/shell/planning_thread.hpp"
#include "coordinator/shell/status_builder.hpp"
#include "coordinator/telemetry/telemetry_hub.hpp"
#include "kernels/cuda/matmul_choices.hpp"
#include "proto/job_config.hpp"
#include "proto/listen.hpp"

namespace planaria {

namespace {

constexpr Duration kAskAgain = std::chrono::microseconds(500);  // whether the network thread has caught up
constexpr std::size_t kMaxInbox = 65536;                        // workers' messages that wait for the loop
constexpr Duration kPublishChanged = std::chrono::milliseconds(200);
constexpr Duration kPublishIdle = std::chrono::milliseconds(500);
constexpr auto kFarewell = std::chrono::milliseconds(500);  // for the last messages, when the job has ended
constexpr std::size_t kKeyBytes = 32;

// What the loop takes in: events for the core, news of the log.
using Item = std::variant<CoordinatorEvent, Result<std::uint64_t>>;
// What leaves once its log records are durable.
using Output = std::variant<coordinator_action::Send, coordinator_action::Announce, coordinator_action::Exit>;

Status fill_random(void* out, std::size_t size) {
  if (RAND_bytes(static_cast<unsigned char*>(out), static_cast<int>(size)) == 1) return ok_status();
  return Error(ErrorCode::internal, "the system gives no random bytes for the job's keys");
}

// The job that the directory belongs to, with keys for it.
Result<LoggedJob> settle_job(const std::optional<LoggedJob>& logged, const CoordinatorOptions& options) {
  const auto hash = job_hash(options.job);
  LoggedJob job = logged.value_or(LoggedJob{});
  if (logged && logged->job != hash) {
    return Error(ErrorCode::mismatch,
                 fmt::format("{} holds the log of another job (\"{}\", hash {}); this one has hash {}: choose another "
                             "output directory",
                             options.directory, logged->name, logged->job.hex(), hash.hex()));
  }
  if (!logged) PLANARIA_TRY(fill_random(&job.job_key, sizeof job.job_key));
  job.job = hash;
  job.name = options.job.name;
  const bool open_to_others = !is_loopback(options.job.cluster.listen) && !options.job.security.insecure;
  if (open_to_others && job.frame_key.empty()) {
    job.frame_key.resize(kKeyBytes);
    PLANARIA_TRY(fill_random(job.frame_key.data(), job.frame_key.size()));
  }
  return job;
}

// Starts something on the configured port; where any will do, on the one of the last start if it is free.
template <class Start>
auto start_on(std::uint16_t configured, std::uint16_t last, Start start) {
  if (configured != 0 || last == 0) return start(configured);
  auto started = start(last);
  if (started || started.error().code() != ErrorCode::unavailable) return started;
  Log("coordinator")
      .warning("the port of the last start is taken; workers of then won't find this start", {{"port", last}});
  return start(std::uint16_t{0});
}

}  // namespace

struct CoordinatorService::Impl {
  Impl(JobSpec j, std::string d) : job(std::move(j)), directory(std::move(d)) {}
  ~Impl();

  Status open();
  Status open_ports(LoggedJob& logged);
  Status write_ports() const;
  [[nodiscard]] Result<ByteVector> read_kernels() const;
  void write_kernels(const ByteVector& kernels) const;
  Status drain(WorkerId worker, const std::string& reason);
  Status stop_job(const std::string& reason);
  Status fault_fired(const log_record::FaultFired& fault);

  // False when the item is bounded and there is no room.
  bool post(Item item, bool bounded);
  void run();
  void handle(CoordinatorEvent event);
  void handle(Result<std::uint64_t> durable);
  void release();
  void leave(coordinator_action::Send send);
  void leave(coordinator_action::Announce announcement);
  void leave(coordinator_action::Exit exit);
  void publish();
  void end(CoordinatorOutcome ended);
  [[nodiscard]] std::shared_ptr<const StatusSnapshot> snapshot() const;

  const JobSpec job;
  const std::string directory;
  const SteadyClock clock;
  const Log log{"coordinator"};
  CoordinatorPorts ports;

  // The loop's own.
  std::unique_ptr<CoordinatorCore> core;
  std::unique_ptr<StatusBuilder> status;
  BarrierQueue<Output> outputs;
  std::vector<LogRecord> replayed;
  Instant tick_due{};
  Instant published_at{};
  bool changed = true;
  bool log_stalled = false;

  std::mutex inbox_mutex;
  std::condition_variable inbox_changed;
  std::deque<Item> inbox;
  bool stopping = false;

  mutable std::mutex result_mutex;
  std::condition_variable result_changed;
  std::shared_ptr<const StatusSnapshot> newest;
  std::optional<CoordinatorOutcome> outcome;

  // Each calls into the inbox or serves snapshots; all are gone before what stands above.
  std::unique_ptr<EventLog> events;
  std::unique_ptr<TelemetryHub> telemetry;
  std::unique_ptr<ControlGateway> gateway;
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<PlanningThread> planner;
  std::thread thread;
};

CoordinatorService::Impl::~Impl() {
  {
    const std::lock_guard lock(inbox_mutex);
    stopping = true;
  }
  inbox_changed.notify_all();
  if (thread.joinable()) thread.join();
  planner.reset();
  // CAF's exits overtake messages: what was sent last gets the time to arrive.
  if (gateway && outcome && outcome->finished) gateway->await_no_sessions(kFarewell);
  http.reset();
  gateway.reset();
  telemetry.reset();
  events.reset();
}

Status CoordinatorService::Impl::open() {
  PLANARIA_TRY(check_listen(job));
  if (!is_loopback(job.cluster.listen) && job.security.insecure) {
    log.warning("listening beyond this machine without protection, as security.insecure asks",
                {{"address", job.cluster.listen}});
  }
  PLANARIA_ASSIGN(events, EventLog::open(join_path(directory, "coordinator")));
  PLANARIA_ASSIGN(const auto earlier, events->job());
  PLANARIA_ASSIGN(auto logged, settle_job(earlier, {job, directory}));
  PLANARIA_ASSIGN(const auto entries, events->read_all());

  const StateMap map(job.model, job.train.tile_elements);
  status = std::make_unique<StatusBuilder>(job, logged.job, map.parameter_count(), clock.now());
  status->replay(entries);
  for (const auto& entry : entries) replayed.push_back(entry.record);

  PLANARIA_TRY(open_ports(logged));
  JobSpec told = job;
  told.cluster.control_port = ports.control;
  told.cluster.http_port = ports.http;
  told.cluster.telemetry_port = ports.telemetry;
  logged.toml = job_to_toml(told);
  logged.control_port = ports.control;
  logged.http_port = ports.http;
  logged.telemetry_port = ports.telemetry;
  logged.publish_port = ports.telemetry_publish;
  PLANARIA_TRY(events->record_job(logged));
  PLANARIA_TRY(write_ports());

  CoordinatorCoreConfig config;
  config.job = job;
  config.job_hash = logged.job;
  config.job_toml = logged.toml;
  config.job_key = logged.job_key;
  config.frame_key = logged.frame_key;
  const auto is_job = [](const LogRecord& record) { return std::holds_alternative<log_record::JobRecorded>(record); };
  if (std::ranges::none_of(replayed, is_job)) {  // else the record has them
    PLANARIA_ASSIGN(config.kernels, read_kernels());
  }
  core = std::make_unique<CoordinatorCore>(std::move(config));
  events->start([this](Result<std::uint64_t> durable) { post(std::move(durable), false); });
  planner = std::make_unique<PlanningThread>(
      [this](coordinator_event::LayoutPlanned planned) { post(CoordinatorEvent(std::move(planned)), false); });
  thread = std::thread([this] { run(); });
  return ok_status();
}

Status CoordinatorService::Impl::open_ports(LoggedJob& logged) {
  const auto& cluster = job.cluster;
  const auto& security = job.security;
  ports.address = cluster.listen;
  const auto listener = [this](GatewayEvent event) {
    if (!event.envelope) return post(CoordinatorEvent(coordinator_event::SessionLost{event.session}), false);
    return post(CoordinatorEvent(coordinator_event::SessionMessage{event.session, std::move(*event.envelope)}), true);
  };
  PLANARIA_ASSIGN(gateway, start_on(cluster.control_port, logged.control_port, [&](std::uint16_t port) {
                    return ControlGateway::start(
                        {cluster.listen, port, security.tls_certificate, security.tls_key, security.tls_authority},
                        listener);
                  }));
  ports.control = gateway->port();

  TelemetryOptions hub;
  hub.address = cluster.listen;
  hub.job_key = logged.job_key;
  hub.secret = logged.frame_key;
  PLANARIA_ASSIGN(telemetry, start_on(cluster.telemetry_port, logged.telemetry_port, [&](std::uint16_t port) {
                    hub.push_port = port;
                    hub.publish_port = cluster.telemetry_port != 0 ? static_cast<std::uint16_t>(port + 1)
                                       : port != 0                 ? logged.publish_port
                                                                   : std::uint16_t{0};
                    return TelemetryHub::start(hub, clock);
                  }));
  ports.telemetry = telemetry->push_port();
  ports.telemetry_publish = telemetry->publish_port();

  HttpControls controls;
  controls.events = [this](std::uint64_t after, std::size_t limit, bool steps) {
    return events->read(after, limit, steps);
  };
  controls.drain = [this](WorkerId worker, const std::string& reason) { return drain(worker, reason); };
  controls.stop = [this](const std::string& reason) { return stop_job(reason); };
  controls.fault = [this](const log_record::FaultFired& fault) { return fault_fired(fault); };
  auto first = std::make_shared<StatusSnapshot>();
  first->job_name = job.name;
  first->job_hash = logged.job;
  first->status = to_string(JobStatus::starting);
  first->total_steps = job.train.steps;
  newest = first;
  HttpServerOptions server;
  server.address = cluster.listen;
  server.policy.insecure = security.insecure;
  server.policy.host_names = {host_name()};
  PLANARIA_ASSIGN(http, start_on(cluster.http_port, logged.http_port, [&](std::uint16_t port) {
                    server.port = port;
                    return HttpServer::start(server, controls, first);
                  }));
  ports.http = http->port();
  return ok_status();
}

Status CoordinatorService::Impl::write_ports() const {
  const nlohmann::json file = {
      {"process_id", ::getpid()},          {"address", ports.address},
      {"control_port", ports.control},     {"http_port", ports.http},
      {"telemetry_port", ports.telemetry}, {"telemetry_publish_port", ports.telemetry_publish}};
  return write_file_atomically(posix_file_system(), join_path(directory, "coordinator.json"),
                               std::string_view(to_text(file) + "\n"));
}

Result<ByteVector> CoordinatorService::Impl::read_kernels() const {
  static_assert(Register::kMostKernelBytes == cuda::kMaxMatmulChoicesBytes);
  if (job.cluster.kernels.empty()) return ByteVector();
  auto text = read_file(posix_file_system(), job.cluster.kernels, Register::kMostKernelBytes);
  if (!text) return text.error().within("cluster.kernels");
  const auto read = cuda::decode_choices(std::as_bytes(std::span(*text)));
  if (!read) return read.error().within("cluster.kernels = \"" + job.cluster.kernels + "\"");
  return ByteVector(text->begin(), text->end());
}

// For runs that are to have the same bits: training goes on without it.
void CoordinatorService::Impl::write_kernels(const ByteVector& kernels) const {
  if (kernels.empty()) return;
  const std::string_view bytes(reinterpret_cast<const char*>(kernels.data()), kernels.size());
  const Status written = write_file_atomically(posix_file_system(), join_path(directory, "kernels.bin"), bytes);
  if (!written) log.warning("the chosen kernels aren't kept for other runs", {{"why", written.error().message()}});
}

// ---- the loop ----

bool CoordinatorService::Impl::post(Item item, bool bounded) {
  {
    const std::lock_guard lock(inbox_mutex);
    if (bounded && inbox.size() >= kMaxInbox) return false;
    inbox.push_back(std::move(item));
  }
  inbox_changed.notify_one();
  return true;
}

void CoordinatorService::Impl::run() {
  tick_due = clock.now() + std::chrono::seconds(1);
  handle(coordinator_event::Started{std::exchange(replayed, {})});
  std::deque<Item> batch;
  for (;;) {
    batch.clear();
    {
      std::unique_lock lock(inbox_mutex);
      const Instant until = std::min(tick_due, published_at + (changed ? kPublishChanged : kPublishIdle));
      inbox_changed.wait_for(lock, until - clock.now(), [this] { return stopping || !inbox.empty(); });
      if (stopping) return;
      batch.swap(inbox);
    }
    for (auto& item : batch) {
      std::visit([this](auto& taken) { handle(std::move(taken)); }, item);
    }
    const Instant now = clock.now();
    if (now >= tick_due && !gateway->caught_up(now)) {
      tick_due = now + kAskAgain;
    } else if (now >= tick_due) {
      tick_due = kFarFuture;
      handle(coordinator_event::Tick{.outputs_held = outputs.size() > 0});
    }
    release();
    publish();
  }
}

void CoordinatorService::Impl::handle(CoordinatorEvent event) {
  const Instant now = clock.now();
  auto actions = core->on(event, now);
  // The earliest of all wishes since the last tick: a stream of events must not put it off for ever.
  tick_due = std::min(tick_due, core->next_tick());
  if (const auto* message = std::get_if<coordinator_event::SessionMessage>(&event)) {
    status->observe(message->envelope, *core);
  }
  status->observe_commits(*core, now);
  gateway->set_generation(core->generation());
  changed = true;
  for (auto& action : actions) {
    std::visit(
        [this](auto& taken) {
          using Action = std::decay_t<decltype(taken)>;
          if constexpr (std::is_same_v<Action, coordinator_action::PlanLayout>) {
            planner->ask(std::move(taken.request));
          } else if constexpr (std::is_same_v<Action, coordinator_action::Log>) {
            status->observe_record(taken.record);
            if (const auto* recorded = std::get_if<log_record::JobRecorded>(&taken.record)) {
              write_kernels(recorded->kernels);
            }
            const auto sequence = events->append(std::move(taken.record), taken.sync);
            if (taken.sync) outputs.wait_for(sequence);
          } else {
            outputs.push(std::move(taken));
          }
        },
        action);
  }
}

void CoordinatorService::Impl::handle(Result<std::uint64_t> durable) {
  if (durable) {
    if (log_stalled) log.info("decisions are durable again");
    log_stalled = false;
    status->set_log_error("");
    outputs.durable(*durable);
  } else {
    if (!log_stalled) log.error("decisions can't be made durable; trying again", {{"why", durable.error().message()}});
    log_stalled = true;
    status->set_log_error(durable.error().message());
  }
  changed = true;
}

void CoordinatorService::Impl::release() {
  outputs.release([this](Output output) { std::visit([this](auto& taken) { leave(std::move(taken)); }, output); });
}

void CoordinatorService::Impl::leave(coordinator_action::Send send) {
  gateway->send(send.session, send.envelope);
}

void CoordinatorService::Impl::leave(coordinator_action::Announce announcement) {
  log.info(announcement.text);
  status->announce(std::move(announcement.text), unix_ms_now());
}

void CoordinatorService::Impl::leave(coordinator_action::Exit exit) {
  published_at = {};
  publish();
  auto last = snapshot();
  end({true, exit.success, last->status == kStatusStopped, std::move(exit.reason), last});
}

void CoordinatorService::Impl::publish() {
  const Instant now = clock.now();
  if (now < published_at + (changed ? kPublishChanged : kPublishIdle)) return;
  auto made = status->build(*core, telemetry.get(), gateway->refused_messages(), now);
  published_at = now;
  changed = false;
  {
    const std::lock_guard lock(result_mutex);
    newest = made;
  }
  // Last: who sees a worker over HTTP may ask for its drain at once, which looks it up in `newest`.
  http->publish(std::move(made));
}

void CoordinatorService::Impl::end(CoordinatorOutcome ended) {
  {
    const std::lock_guard lock(result_mutex);
    if (outcome) return;
    outcome = std::move(ended);
  }
  result_changed.notify_all();
}

// ---- what others ask ----

std::shared_ptr<const StatusSnapshot> CoordinatorService::Impl::snapshot() const {
  const std::lock_guard lock(result_mutex);
  return newest;
}

Status CoordinatorService::Impl::drain(WorkerId worker, const std::string& reason) {
  const auto seen = snapshot();
  const auto found = std::ranges::find(seen->workers, worker, &WorkerStatusRow::worker);
  if (found == seen->workers.end() || found->status == "left" || found->status == "lost") {
    return Error(
        ErrorCode::not_found,
        fmt::format("no worker {} is at work; /v1/status and `planaria status` list those that are", worker.value()));
  }
  if (seen->final_step) return Error(ErrorCode::unavailable, "the job is over");
  post(CoordinatorEvent(coordinator_event::DrainWorker{worker, reason}), false);
  return ok_status();
}

Status CoordinatorService::Impl::fault_fired(const log_record::FaultFired& fault) {
  if (!post(CoordinatorEvent(coordinator_event::FaultFired{fault}), true)) {
    return Error(ErrorCode::unavailable, "the coordinator is too busy; tell it again");
  }
  return ok_status();
}

Status CoordinatorService::Impl::stop_job(const std::string& reason) {
  if (snapshot()->final_step) return Error(ErrorCode::unavailable, "the job is over");
  post(CoordinatorEvent(coordinator_event::StopJob{fmt::format("{}: {}", kStoppedByOperator, reason)}), false);
  return ok_status();
}

CoordinatorService::CoordinatorService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<CoordinatorService>> CoordinatorService::start(CoordinatorOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options.job), std::move(options.directory));
  PLANARIA_TRY(impl->open());
  return std::unique_ptr<CoordinatorService>(new CoordinatorService(std::move(impl)));
}

CoordinatorService::~CoordinatorService() {
  stop();
}

CoordinatorPorts CoordinatorService::ports() const {
  return impl_->ports;
}

std::shared_ptr<const StatusSnapshot> CoordinatorService::snapshot() const {
  return impl_->snapshot();
}

CoordinatorOutcome CoordinatorService::wait() {
  std::unique_lock lock(impl_->result_mutex);
  impl_->result_changed.wait(lock, [this] { return impl_->outcome.has_value(); });
  return *impl_->outcome;
}

void CoordinatorService::stop() {
  impl_->end({false, false, false, "the coordinator was stopped", snapshot()});
}

Status CoordinatorService::drain(WorkerId worker, const std::string& reason) {
  return impl_->drain(worker, reason);
}

Status CoordinatorService::stop_job(const std::string& reason) {
  return impl_->stop_job(reason);
}

}  // namespace planaria

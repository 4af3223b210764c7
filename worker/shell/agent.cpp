#include "worker/shell/agent.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <utility>

#include "common/cpu_quota.hpp"
#include "common/host.hpp"
#include "kernels/make_device.hpp"
#include "proto/job_config.hpp"
#include "storage/checkpoint.hpp"
#include "storage/durable_catalog.hpp"
#include "storage/pretrained.hpp"
#include "storage/snapshot_memory.hpp"
#include "worker/keeper/keeper_executor.hpp"
#include "worker/keeper/memory_lender.hpp"
#include "worker/keeper/snapshot_copier.hpp"
#include "worker/model/device_speed.hpp"
#include "worker/model/probe.hpp"
#include "worker/shell/agent_loop.hpp"
#include "worker/shell/control_link.hpp"
#include "worker/trainer/trainer.hpp"

namespace planaria {

namespace {

// The first to be asked may not answer, and who follows it measures, too.
constexpr std::uint32_t kKernelsTimeoutMs = 600'000;

}  // namespace

class WorkerAgent::Impl {
 public:
  explicit Impl(WorkerOptions options)
      : options_(std::move(options)), log_(options_.role == Role::keeper ? "keeper" : "worker") {
    if (options_.checkpoint_root.empty()) options_.checkpoint_root = join_path(options_.out_directory, "checkpoints");
    if (options_.snapshot_root.empty()) options_.snapshot_root = join_path(options_.out_directory, "snapshots");
  }

  ~Impl() {
    if (loop_) loop_->stop();
    faults_.set_trainer(nullptr);
    faults_.set_keeper(nullptr);
    if (trainer_) trainer_->stop();
    copier_.reset();
    lender_.reset();
    store_.reset();  // the loop is still there for what it tells
    link_.reset();
    hook_.reset();
  }

  Status start() {
    if (options_.job) adopt_security(options_.job->security);
    PLANARIA_TRY(connect_hook());
    PLANARIA_TRY(start_link());
    std::uint32_t timeout_ms = options_.connect_timeout_ms;
    if (options_.job) {
      timeout_ms = options_.job->cluster.reconnect_timeout_ms;
      PLANARIA_TRY(prepare(*options_.job));
    }
    PLANARIA_TRY(await_coordinator(timeout_ms));
    if (!options_.job) {
      PLANARIA_ASSIGN(JobSpec job, fetch_job(timeout_ms));
      PLANARIA_TRY(prepare(std::move(job)));
    }
    const std::scoped_lock lock(mutex_);
    for (AgentEvent& event : early_) loop_->post(std::move(event));
    early_.clear();
    loop_->start(std::exchange(connected_, false));
    running_ = true;
    return ok_status();
  }

  WorkerOutcome wait() { return loop_->wait(); }
  void drain(const std::string& reason) { loop_->post(WorkerEvent(worker_event::DrainWanted{reason})); }

 private:
  // ---- the coordinator ----

  // The job's own keys hold where the command line gives none.
  void adopt_security(const SecuritySpec& security) {
    if (options_.security.join_token.empty()) options_.security.join_token = security.join_token;
    if (!options_.security.tls_certificate.empty()) return;
    options_.security.tls_certificate = security.tls_certificate;
    options_.security.tls_key = security.tls_key;
    options_.security.tls_authority = security.tls_authority;
  }

  Status start_link() {
    PLANARIA_ASSIGN(
        link_, ControlLink::start({.host = options_.coordinator_host,
                                   .port = options_.coordinator_port,
                                   .tls_certificate = options_.security.tls_certificate,
                                   .tls_key = options_.security.tls_key,
                                   .tls_authority = options_.security.tls_authority},
                                  {.connected = [this] { link_changed(true, {}); },
                                   .lost = [this](std::string why) { link_changed(false, std::move(why)); },
                                   .failed = [this](Error why) { attempt_failed(std::move(why)); },
                                   .message = [this](CoordinatorEnvelope envelope) { deliver(std::move(envelope)); }}));
    return ok_status();
  }

  void link_changed(bool connected, std::string why) {
    {
      const std::scoped_lock lock(mutex_);
      if (!running_) {
        connected_ = connected;
        if (connected) ++connections_;
        changed_.notify_all();
        return;
      }
    }
    loop_->post(agent_event::Link{connected, std::move(why)});
  }

  void attempt_failed(Error why) {
    const std::scoped_lock lock(mutex_);
    last_failure_ = std::move(why);
    changed_.notify_all();
  }

  void deliver(CoordinatorEnvelope envelope) {
    const auto* const welcome = std::get_if<Welcome>(&envelope.message);
    const bool answers_question = welcome != nullptr && !welcome->job_toml.empty();
    {
      const std::scoped_lock lock(mutex_);
      if (answers_question && !asking_) return;  // one that was sent twice
      if (!running_) {
        early_.emplace_back(std::move(envelope));
        changed_.notify_all();
        return;
      }
    }
    loop_->post(std::move(envelope));
  }

  Status await_coordinator(std::uint32_t timeout_ms) {
    std::unique_lock lock(mutex_);
    const auto hopeless = [&] { return last_failure_.code() == ErrorCode::invalid_argument; };
    PLANARIA_ASSIGN(const bool found, await(lock, timeout_ms, [&] { return connected_ || hopeless(); }));
    if (connected_) return ok_status();
    const std::string where = fmt::format("{}:{}", options_.coordinator_host, options_.coordinator_port);
    if (found) {
      return Error(
          ErrorCode::invalid_argument,
          fmt::format("no coordinator at {}: {}; give --join the control port, which the coordinator prints and "
                      "its OUT/coordinator.json names",
                      where, last_failure_.message()));
    }
    return Error(ErrorCode::unavailable,
                 fmt::format("no coordinator at {} within {:.1f} s ({}): start one with `planaria coordinator "
                             "JOB.toml`, or check the address given to --join",
                             where, timeout_ms / 1000.0, last_failure_.message()));
  }

  // Waits with `lock` until `ready` holds: true, or false after the timeout. cancelled when the owner gives up.
  Result<bool> await(std::unique_lock<std::mutex>& lock, std::uint32_t timeout_ms, const std::function<bool()>& ready) {
    constexpr auto kAskEvery = std::chrono::milliseconds(20);
    const Instant deadline = clock_.now() + std::chrono::milliseconds(timeout_ms);
    while (!changed_.wait_for(lock, kAskEvery, ready)) {
      if (clock_.now() >= deadline) return false;
      if (options_.give_up && options_.give_up()) {
        return Error(ErrorCode::cancelled, fmt::format("stopped before the coordinator at {}:{} was found",
                                                       options_.coordinator_host, options_.coordinator_port));
      }
    }
    return true;
  }

  Result<JobSpec> fetch_job(std::uint32_t timeout_ms) {
    PLANARIA_ASSIGN(const Welcome welcome, ask(timeout_ms, {}));
    return parse_job(welcome.job_toml, "the coordinator's job");
  }

  // What the coordinator tells who isn't registered yet. `numeric_class`: of a device that chooses its kernels, for
  // which another worker may be choosing now. Asked again over each new connection: the coordinator forgets those that
  // broke.
  Result<Welcome> ask(std::uint32_t timeout_ms, const std::string& numeric_class) {
    Register question;
    question.join_token = options_.security.join_token;
    question.host = host();
    question.numeric_class = numeric_class;
    WorkerEnvelope envelope;
    envelope.message = question;
    const Instant deadline = clock_.now() + std::chrono::milliseconds(timeout_ms);
    std::unique_lock lock(mutex_);
    asking_ = true;
    std::uint64_t asked = 0;  // the connection over which it was
    while (early_.empty()) {
      if (connected_ && std::exchange(asked, connections_) != connections_) {
        lock.unlock();
        link_->send(envelope);
        lock.lock();
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock_.now()).count();
      const auto changed = [&] { return !early_.empty() || (connected_ && asked != connections_); };
      PLANARIA_ASSIGN(const bool answered,
                      await(lock, static_cast<std::uint32_t>(std::max<std::int64_t>(left, 0)), changed));
      if (answered) continue;
      return Error(ErrorCode::unavailable,
                   fmt::format("the coordinator at {}:{} didn't answer within {:.1f} s", options_.coordinator_host,
                               options_.coordinator_port, timeout_ms / 1000.0));
    }
    const auto answer = std::get<CoordinatorEnvelope>(early_.front());
    early_.clear();
    asking_ = false;
    lock.unlock();
    if (const auto* refused = std::get_if<Refused>(&answer.message)) {
      return Error(ErrorCode::mismatch, "the coordinator refused this worker: " + refused->reason);
    }
    if (const auto* finish = std::get_if<Finish>(&answer.message)) {
      return Error(ErrorCode::unavailable, "the job is over: " + finish->reason);
    }
    const auto* welcome = std::get_if<Welcome>(&answer.message);
    if (welcome == nullptr || welcome->job_toml.empty()) {
      return Error(ErrorCode::mismatch, "the coordinator didn't give the job; give the worker the job file");
    }
    return *welcome;
  }

  // Those that the job's other devices compute with, where one of them has chosen.
  Status take_kernels(Device& device, const JobSpec& job) {
    if (!device.chooses_kernels()) return ok_status();
    PLANARIA_TRY(await_coordinator(job.cluster.reconnect_timeout_ms));
    PLANARIA_ASSIGN(const Welcome welcome, ask(kKernelsTimeoutMs, device.numeric_class()));
    if (welcome.kernels.empty()) {
      log_.info("measures which kernels are fastest, for all of the job", {{"device", device.name()}});
      return ok_status();
    }
    return device.adopt_kernel_choices(std::as_bytes(std::span(welcome.kernels)));
  }

  // ---- this process ----

  [[nodiscard]] bool is_keeper() const { return options_.role == Role::keeper; }
  [[nodiscard]] std::string host() const { return options_.host.empty() ? host_name() : options_.host; }

  // Everything that needs the job but not the coordinator.
  Status prepare(JobSpec job) { return is_keeper() ? prepare_keeper(std::move(job)) : prepare_worker(std::move(job)); }

  [[nodiscard]] ExecutorHooks executor_hooks() {
    return {.completed = [this](WorkerEvent event) { loop_->post(std::move(event)); },
            .failed = [this](Error error) { loop_->post(agent_event::Failed{std::move(error)}); },
            .send = [this](WorkerId to, ViewNumber view,
                           std::vector<ConstSlice> payload) { loop_->send_payload(to, view, std::move(payload)); }};
  }

  Status connect_hook() {
    if (options_.fault_socket.empty()) return ok_status();
    PLANARIA_ASSIGN(hook_,
                    FaultHook::connect(
                        options_.fault_socket, [this](const FaultCommand& command) { return faults_.apply(command); },
                        [this] {
                          const std::scoped_lock lock(mutex_);
                          if (running_) loop_->post(agent_event::Go{});
                        }));
    return ok_status();
  }

  FileSystem& files() {
    if (hook_) return faulty_files_;
    return posix_file_system();
  }

  // The coordinator's job names files as its machine has them.
  [[nodiscard]] Error elsewhere(const Error& error) const {
    if (options_.job) return error;
    return {error.code(), error.message() +
                              "; the job came from the coordinator, with its machine's paths: say where this machine "
                              "has them, the data by --data, a tokenizer's file by --tokenizer-file, pretrained "
                              "weights by --pretrained"};
  }

  // `own_memory`: bytes that it has of the device that computes; 0 where that uses the host's.
  [[nodiscard]] WorkerResources resources(const JobSpec& job, std::uint64_t own_memory) const {
    const std::uint64_t of_job = is_keeper() ? 0 : job.cluster.memory_mb;
    const std::uint64_t memory_mb = options_.memory_mb != 0 ? options_.memory_mb : of_job;
    if (memory_mb != 0) return {memory_mb << 20, false, options_.zone, options_.nic};
    if (own_memory != 0) return {own_memory, false, options_.zone, options_.nic};
    return {host_memory_bytes(), true, options_.zone, options_.nic};
  }

  // Opens the data and the weights to start from, proves the device, starts the trainer.
  Status prepare_worker(JobSpec job) {
    if (!options_.data_path.empty()) job.data.path = options_.data_path;
    if (!options_.tokenizer_file.empty()) job.data.tokenizer_file = options_.tokenizer_file;
    auto opened = Dataset::open(job.data, job.model.context, job.model.vocab);
    if (!opened) return elsewhere(opened.error());
    const auto dataset = std::make_shared<const Dataset>(std::move(*opened));
    if (job.data.content_hash != Hash128{} && job.data.content_hash != dataset->content_hash()) {
      return Error(ErrorCode::mismatch,
                   fmt::format("the data at '{}' is not the job's: its hash is {}, the job says {}", job.data.path,
                               dataset->content_hash().hex(), job.data.content_hash.hex()));
    }
    job.data.content_hash = dataset->content_hash();
    if (!options_.pretrained.empty()) {
      if (job.pretrained.path.empty()) {
        return Error(ErrorCode::invalid_argument,
                     "--pretrained names weights, but the job starts from its seed: leave it out");
      }
      job.pretrained.path = options_.pretrained;
    }
    auto pretrained = open_pretrained(files(), job);
    if (!pretrained) return elsewhere(pretrained.error());

    const std::uint32_t threads = options_.threads != 0 ? options_.threads : job.cluster.threads;
    PLANARIA_ASSIGN(const DeviceChoice choice,
                    parse_device(options_.device.empty() ? job.cluster.device : options_.device,
                                 options_.precision.value_or(job.cluster.precision)));
    PLANARIA_ASSIGN(MadeDevice made, make_device(choice, {.threads = threads}));
    if (!made.why_not_gpu.empty()) log_.info("computes on the CPU", {{"why", made.why_not_gpu}});
    const std::shared_ptr<Device> device = std::move(made.device);
    Register registration;
    registration.job = job_hash(job);
    registration.join_token = options_.security.join_token;
    registration.numeric_class = device->numeric_class();
    PLANARIA_TRY(take_kernels(*device, job));
    PLANARIA_ASSIGN(registration.probe, probe_numeric_class(*device));
    registration.wanted = options_.wanted;
    registration.host = host();
    registration.threads = threads;
    registration.resources = resources(job, device->memory_bytes() / std::max(options_.device_share, 1U));
    // By what the device computes, not by the moment: others start beside it, and a quota isn't used up yet.
    PLANARIA_ASSIGN(const double gflops, measure_gflops(*device, ProcessorClock(device->threads())));
    registration.resources.gflops = gflops * std::min(1.0, cpu_quota() / static_cast<double>(device->threads()));
    registration.process_id = static_cast<std::uint64_t>(::getpid());
    registration.holdings.checkpoints = sound_checkpoints(StateMap(job.model, job.train.tile_elements), job_hash(job));

    TrainerHooks hooks{executor_hooks(), {}, {}};
    if (!options_.keeper_socket.empty()) {
      copier_ = std::make_unique<SnapshotCopier>(options_.keeper_socket,
                                                 [this](WorkerEvent event) { loop_->post(std::move(event)); });
      hooks.snapshot = [this](StateCopy copy) { copier_->copy(std::move(copy)); };
    }
    if (hook_) hooks.entered = [this](Step step, Phase phase) { hook_->pass(step, phase); };
    PLANARIA_ASSIGN(trainer_, Trainer::start({.job = job,
                                              .device = device,
                                              .dataset = dataset,
                                              .pretrained = std::move(*pretrained),
                                              .files = &files(),
                                              .checkpoint_root = options_.checkpoint_root,
                                              .snapshot_root = options_.snapshot_root,
                                              .writer = fmt::format("p{}", ::getpid())},
                                             std::move(hooks)));
    registration.kernels = trainer_->kernels();
    faults_.set_trainer(trainer_.get());
    loop_ = std::make_unique<AgentLoop>(
        AgentLoop::Parts{.job = std::move(job),
                         .options = options_,
                         .evaluates = dataset->windows(Split::validation) != 0,
                         .registration = std::move(registration),
                         .executor = trainer_.get(),
                         .hook = hook_.get(),
                         .faults = hook_ ? &faults_ : nullptr,
                         .files = &files(),
                         .send_control = [this](const WorkerEnvelope& envelope) { link_->send(envelope); },
                         .attach = [this](const worker_action::AttachState& action) { attach(action); },
                         .named = [this](PeerId self) { named(self); },
                         .counters =
                             [this] {
                               AgentCounters counters{.executor = trainer_->counters()};
                               if (copier_) counters.copying = copier_->counters();
                               return counters;
                             }});
    return ok_status();
  }

  void attach(const worker_action::AttachState& a) {
    if (!copier_) {
      return loop_->post(worker_event::AttachFailed{a.keeper, a.view, a.stamp, a.tiles, a.parameters_only});
    }
    StateAttach wanted{a, {}};
    for (std::uint32_t tile = a.tiles.begin; tile < a.tiles.end; ++tile) {
      wanted.vector_bytes.push_back(trainer_->map().bytes({tile, tile + 1}));
    }
    copier_->attach(std::move(wanted));
  }

  // A new name: work and copies are told in it.
  void named(PeerId self) {
    if (copier_) copier_->named(self.worker, self.incarnation);
    auto ledger = Ledger::create(ledger_path(options_.out_directory, self.worker, self.incarnation), self.worker,
                                 self.incarnation);
    if (ledger) {
      trainer_->set_ledger(std::move(ledger).value());
    } else {
      log_.warning("training goes on without a ledger", {{"why", ledger.error().message()}});
    }
  }

  // Takes the place where workers hand over their state, and the memory for it.
  Status prepare_keeper(JobSpec job) {
    const bool pins_weights = job.pretrained.path.empty() || job.pretrained.weights_hash != Hash128{};
    if (job.data.content_hash == Hash128{} || !pins_weights) {
      return Error(ErrorCode::invalid_argument,
                   "the job doesn't pin its data and weights; a keeper takes it from a coordinator that does");
    }
    Register registration;
    registration.job = job_hash(job);
    registration.join_token = options_.security.join_token;
    registration.role = Role::keeper;
    registration.wanted = options_.wanted;
    registration.host = host();
    registration.process_id = static_cast<std::uint64_t>(::getpid());
    registration.resources = resources(job, 0);
    if (registration.resources.memory_of_host) registration.resources.memory_bytes /= 2;  // workers need theirs
    const auto memory = SnapshotMemory::within(registration.resources.memory_bytes);
    std::optional<SaverOptions> durable;
    if (job.snapshot.durable) {
      durable = SaverOptions{.files = &files(),
                             .root = options_.snapshot_root,
                             .keeper = registration.host,
                             .job = job_hash(job),
                             .bytes_per_s = std::uint64_t{job.snapshot.disk_mb_per_s} * 1'000'000,
                             .keep = job.checkpoint.keep};
    }
    store_ = std::make_unique<KeeperExecutor>(job, memory, executor_hooks(), std::move(durable));
    faults_.set_keeper(store_.get());
    const bool evaluates = job.data.validation_fraction > 0;
    loop_ = std::make_unique<AgentLoop>(
        AgentLoop::Parts{.job = std::move(job),
                         .options = options_,
                         .evaluates = evaluates,
                         .registration = std::move(registration),
                         .executor = store_.get(),
                         .hook = hook_.get(),
                         .faults = hook_ ? &faults_ : nullptr,
                         .files = &files(),
                         .send_control = [this](const WorkerEnvelope& envelope) { link_->send(envelope); },
                         .named = [this](PeerId self) { keeper_id_ = self.worker.value(); },
                         .counters = [this] { return AgentCounters{.keeping = store_->keeper_counters()}; }});
    PLANARIA_ASSIGN(lender_, MemoryLender::start(
                                 options_.keeper_socket, memory,
                                 {.self = [this]() { return keeper_id(); },
                                  .sealed =
                                      [this](SealedCopy copy) {
                                        auto payload = std::make_shared<SealedPayload>();
                                        payload->copy = std::move(copy);
                                        const SealedCopy& sealed = payload->copy;
                                        loop_->post(worker_event::SnapshotSealed{sealed.view, sealed.from, sealed.stamp,
                                                                                 sealed.tiles, payload});
                                      },
                                  .find = [this](Step stamp, TileRange tiles) { return store_->find(stamp, tiles); }}));
    return ok_status();
  }

  std::optional<WorkerId> keeper_id() const {
    const std::uint64_t id = keeper_id_;
    return id == kNoName ? std::nullopt : std::optional(WorkerId(static_cast<std::uint32_t>(id)));
  }

  // Those that this worker could load; damaged and foreign ones are named and left alone.
  std::vector<Step> sound_checkpoints(const StateMap& map, const Hash128& job) {
    std::vector<Step> steps = durable_steps(files(), options_.snapshot_root, map, job);
    const auto places = list_checkpoints(files(), options_.checkpoint_root);
    if (!places) {
      log_.warning("checkpoints can't be listed", {{"why", places.error().message()}});
      return steps;
    }
    for (const CheckpointPlace& place : *places) {
      const auto verified = verify_checkpoint(files(), place.path);
      if (verified && verified->job_hash != job) {
        log_.warning("a checkpoint of another job is left alone", {{"path", place.path}});
      } else if (verified && verified->step != place.step) {
        log_.warning("a checkpoint that was renamed is left alone",
                     {{"path", place.path}, {"holds step", verified->step}});
      } else if (verified) {
        steps.push_back(place.step);
      } else {
        log_.warning("a checkpoint is refused", {{"path", place.path}, {"why", verified.error().message()}});
      }
    }
    std::ranges::sort(steps);
    const auto repeated = std::ranges::unique(steps);  // a checkpoint and a snapshot
    steps.erase(repeated.begin(), repeated.end());
    return steps;
  }

  WorkerOptions options_;
  const Log log_;
  const SteadyClock clock_;
  FaultyFileSystem faulty_files_{posix_file_system()};
  FaultSwitches faults_{clock_, faulty_files_};
  std::unique_ptr<FaultHook> hook_;
  std::unique_ptr<ControlLink> link_;
  std::unique_ptr<Trainer> trainer_;        // a worker's
  std::unique_ptr<SnapshotCopier> copier_;  // of a worker whose host has a keeper
  std::unique_ptr<KeeperExecutor> store_;   // a keeper's
  std::unique_ptr<MemoryLender> lender_;    // likewise
  static constexpr std::uint64_t kNoName = UINT64_MAX;
  std::atomic<std::uint64_t> keeper_id_{kNoName};
  std::unique_ptr<AgentLoop> loop_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<AgentEvent> early_;  // before the loop runs
  bool connected_ = false;
  std::uint64_t connections_ = 0;
  bool asking_ = false;
  bool running_ = false;
  Error last_failure_{ErrorCode::unavailable, "no answer"};  // to connect
};

WorkerAgent::WorkerAgent(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerAgent::~WorkerAgent() = default;

Result<std::unique_ptr<WorkerAgent>> WorkerAgent::start(WorkerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  PLANARIA_TRY(impl->start());
  return std::unique_ptr<WorkerAgent>(new WorkerAgent(std::move(impl)));
}

WorkerOutcome WorkerAgent::wait() {
  return impl_->wait();
}
void WorkerAgent::drain(const std::string& reason) {
  impl_->drain(reason);
}

}  // namespace planaria

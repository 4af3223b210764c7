#include "chaos/faults/local_run.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>
#include <utility>

#include "chaos/faults/child_process.hpp"
#include "chaos/faults/hook_server.hpp"
#include "common/exit_code.hpp"
#include "common/file.hpp"
#include "common/host.hpp"

namespace planaria {
namespace {

constexpr int kFarewellMs = 5'000;
// Without any worker: longer than a finished job's coordinator waits for members that don't come to ask (15 s).
constexpr Duration kDesertedFor = std::chrono::seconds(25);
constexpr Duration kDesertedByFailures = std::chrono::seconds(2);
constexpr std::size_t kQuotedLines = 5;
// Beyond any worker's number: those are the scenario's.
constexpr std::uint32_t kFirstKeeper = 100'000;
// Hooks wake it at once; looking for children that ended takes time from workers, who use every core.
constexpr double kLongestWait_ms = 250;

// A short private directory for sockets: output paths may be longer than a socket's may.
class SocketDirectory {
 public:
  static Result<SocketDirectory> make() {
    char name[] = "/tmp/planaria-XXXXXX";
    if (mkdtemp(name) == nullptr) return Error(ErrorCode::io, "can't make a directory in /tmp for sockets");
    return SocketDirectory(name);
  }
  SocketDirectory(SocketDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  SocketDirectory& operator=(SocketDirectory&&) = delete;
  ~SocketDirectory() {
    std::error_code unremovable;
    if (!path_.empty()) std::filesystem::remove_all(path_, unremovable);  // a killed keeper leaves its socket
  }
  [[nodiscard]] std::string hook() const { return path_ + "/hook"; }
  [[nodiscard]] std::string keeper(std::uint32_t host) const { return fmt::format("{}/keeper-{}", path_, host); }

 private:
  explicit SocketDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

std::optional<Phase> phase_named(std::string_view name) {
  for (auto phase = Phase::fetch; phase < Phase::count_; phase = static_cast<Phase>(static_cast<int>(phase) + 1)) {
    if (name == to_string(phase)) return phase;
  }
  return std::nullopt;
}

}  // namespace

// Everything that the run's thread owns.
class LocalRun::Loop {
 public:
  Loop(LocalRun& run, HookServer hooks, SocketDirectory directory)
      : run_(run),
        options_(run.options_),
        directory_(std::move(directory)),
        hooks_(std::move(hooks)),
        engine_(options_.scenario, clock_.now()) {}

  void run() {
    Status ended = ok_status();
    try {
      ended = serve();
    } catch (const std::exception& failure) {
      ended = Error(ErrorCode::internal, std::string("the run's thread failed: ") + failure.what());
    }
    end_processes();
    const std::lock_guard lock(run_.mutex_);
    run_.progress_.ended = true;
    if (!ended) run_.progress_.failure = ended.error();
  }

 private:
  struct Worker {
    ChildProcess process;
    bool stopped = false;
    std::string ended;
    bool failed = false;  // it ended by itself, with an error
    std::uint32_t host = 0;
    std::size_t device = 0;  // of options_.devices
  };

  Status serve() {
    // What an earlier start left would be taken for this one's.
    const std::string ports_file = coordinator_file_path(options_.output);
    if (const Status removed = posix_file_system().remove(ports_file);
        !removed && removed.error().code() != ErrorCode::not_found) {
      return removed;
    }
    PLANARIA_TRY(start_coordinator());
    PLANARIA_TRY(await_ports());
    for (std::uint32_t i = 0; i < options_.hosts; ++i) PLANARIA_TRY(start_keeper(i));
    for (std::uint32_t i = 0; i < options_.workers; ++i) PLANARIA_TRY(start_worker(next_host()));
    while (!run_.stopping_) {
      for (const HookServer::Line& line : hooks_.poll(poll_ms())) PLANARIA_TRY(take_line(line));
      PLANARIA_TRY(obey(engine_.time_passed(clock_.now())));
      collect();
      publish();
      if (coordinator_ && !coordinator_->running()) return coordinator_ended();
      if (abandoned()) {
        return Error(ErrorCode::unavailable, "every worker has ended before the job did: see worker-*.log in " +
                                                 options_.output + workers_.back().process.last_output(kQuotedLines));
      }
    }
    return Error(ErrorCode::cancelled, "stopped");
  }

  // Nobody has worked for a while and nobody will. A finished job's coordinator outlives its workers by a moment.
  bool abandoned() {
    const bool anyone = std::ranges::any_of(workers_, [](const Worker& worker) { return worker.ended.empty(); });
    if (anyone || engine_.will_start_more()) {
      deserted_at_.reset();
      return false;
    }
    if (!deserted_at_) deserted_at_ = clock_.now();
    const bool failed = std::ranges::any_of(workers_, &Worker::failed);
    return clock_.now() > *deserted_at_ + (failed ? kDesertedByFailures : kDesertedFor);
  }

  Status coordinator_ended() {
    const auto exit = *coordinator_->poll();
    // Once it serves, a result is of this start: the job has an end then, be it a failure or an operator's.
    const bool served = served_ || read_coordinator_file(options_.output);
    if (exit.signal == 0 && served && posix_file_system().info(join_path(options_.output, "result.json"))) {
      return ok_status();
    }
    const std::string how =
        exit.signal != 0 ? fmt::format("signal {}", exit.signal) : fmt::format("exit code {}", exit.code);
    const ErrorCode code =
        exit.signal == 0 ? error_code_of_exit(exit.code).value_or(ErrorCode::internal) : ErrorCode::internal;
    return Error(code, "the coordinator ended with " + how + ":" + coordinator_->last_output(kQuotedLines));
  }

  [[nodiscard]] int poll_ms() const {
    const double wait = to_ms(engine_.next_deadline() - clock_.now());
    return static_cast<int>(std::clamp(wait, 0.0, kLongestWait_ms));
  }

  [[nodiscard]] std::string coordinator_log() const { return options_.output + "/coordinator.log"; }
  [[nodiscard]] std::string worker_log(std::size_t index) const {
    return fmt::format("{}/worker-{}.log", options_.output, index);
  }

  Status start_coordinator() {
    std::vector<std::string> command{options_.binary, "coordinator", options_.job_file, "--out", options_.output};
    for (const std::string& assignment : options_.assignments) {
      command.emplace_back("--set");
      command.push_back(assignment);
    }
    PLANARIA_ASSIGN(ChildProcess process, ChildProcess::start(command, coordinator_log()));
    coordinator_.emplace(std::move(process));
    return ok_status();
  }

  Status await_ports() {
    const Instant deadline = clock_.now() + std::chrono::milliseconds(options_.start_timeout_ms);
    while (clock_.now() < deadline && !run_.stopping_) {
      if (!coordinator_->running()) return coordinator_ended();
      if (auto file = read_coordinator_file(options_.output)) {
        served_ = *file;
        const std::lock_guard lock(run_.mutex_);
        run_.progress_.coordinator = std::move(*file);
        return ok_status();
      }
      usleep(5'000);
    }
    if (run_.stopping_) return Error(ErrorCode::cancelled, "stopped");
    return Error(ErrorCode::unavailable,
                 "the coordinator didn't start in time:" + coordinator_->last_output(kQuotedLines));
  }

  [[nodiscard]] static std::string host_name(std::uint32_t host) { return fmt::format("host-{}", host); }

  [[nodiscard]] std::uint32_t next_host() const {
    return options_.hosts == 0 ? 0 : static_cast<std::uint32_t>(workers_.size() % options_.hosts);
  }

  Status start_keeper(std::uint32_t host) {
    std::vector<std::string> command{
        options_.binary, "keeper",
        "--join",        served_->at(served_->control_port),
        "--id",          std::to_string(kFirstKeeper + host),
        "--host",        host_name(host),
        "--listen",      directory_.keeper(host),
        "--memory-mb",   std::to_string(std::max<std::uint64_t>(host_memory_bytes() / 2 / options_.hosts >> 20, 1)),
        "--out",         options_.output,
        "--fault-hook",  directory_.hook()};
    add_telemetry(command);
    PLANARIA_ASSIGN(ChildProcess process,
                    ChildProcess::start(command, fmt::format("{}/keeper-{}.log", options_.output, host)));
    keepers_.insert_or_assign(host, std::move(process));
    return ok_status();
  }

  void add_telemetry(std::vector<std::string>& command) const {
    if (served_->telemetry_port == 0) return;
    command.emplace_back("--telemetry");
    command.push_back("tcp://" + served_->at(served_->telemetry_port));
  }

  // The first that the fewest workers use. Precondition: there are devices.
  [[nodiscard]] std::size_t free_device() const {
    std::vector<std::size_t> users(options_.devices.size());
    for (const Worker& worker : workers_) users[worker.device] += worker.ended.empty() ? 1 : 0;
    return static_cast<std::size_t>(std::ranges::min_element(users) - users.begin());
  }

  // Once all workers that the run begins with are there.
  [[nodiscard]] std::size_t device_share() const {
    return std::max<std::size_t>((options_.workers + options_.devices.size() - 1) / options_.devices.size(), 1);
  }

  Status start_worker(std::uint32_t host) {
    const auto index = workers_.size();
    std::vector<std::string> command{options_.binary,
                                     "worker",
                                     options_.job_file,
                                     "--join",
                                     served_->at(served_->control_port),
                                     "--id",
                                     std::to_string(index),
                                     "--out",
                                     options_.output,
                                     "--fault-hook",
                                     directory_.hook()};
    if (options_.hosts > 0) {
      command.insert(command.end(), {"--host", host_name(host), "--keeper", directory_.keeper(host)});
    }
    std::size_t device = 0;
    if (!options_.devices.empty()) {
      device = free_device();
      command.insert(command.end(),
                     {"--device", options_.devices[device], "--device-share", std::to_string(device_share())});
    }
    add_telemetry(command);
    for (const std::string& assignment : options_.assignments) {
      command.emplace_back("--set");
      command.push_back(assignment);
    }
    PLANARIA_ASSIGN(ChildProcess process, ChildProcess::start(command, worker_log(index)));
    workers_.push_back({std::move(process), false, "", false, host, device});
    return ok_status();
  }

  Status take_line(const HookServer::Line& line) {
    const auto worker = std::ranges::find_if(workers_, [&](const Worker& w) { return w.process.pid() == line.pid; });
    if (worker == workers_.end()) return ok_status();
    const auto index = static_cast<std::uint32_t>(worker - workers_.begin());
    if (line.text.empty()) {
      engine_.worker_gone(index);
      return ok_status();
    }
    if (line.text.starts_with("hello ")) return obey(engine_.worker_ready(index));
    if (line.text.starts_with("phase ")) {
      char phase[16] = {};
      unsigned long long step = 0;
      if (sscanf(line.text.c_str(), "phase %llu %15s", &step, phase) != 2) return ok_status();
      if (const auto named = phase_named(phase)) return obey(engine_.phase_entered(index, step, *named, clock_.now()));
    }
    return ok_status();
  }

  Status obey(const std::vector<FaultOrder>& orders) {
    for (const FaultOrder& order : orders) {
      if (const auto* tell = std::get_if<fault_order::Tell>(&order)) {
        if (tell->worker < workers_.size()) hooks_.say(workers_[tell->worker].process.pid(), tell->line);
      } else if (const auto* signal = std::get_if<fault_order::Signal>(&order)) {
        if (signal->worker >= workers_.size()) continue;
        Worker& worker = workers_[signal->worker];
        worker.process.signal(signal->number);
        if (signal->number == SIGSTOP) worker.stopped = true;
        if (signal->number == SIGCONT) worker.stopped = false;
      } else if (std::holds_alternative<fault_order::StartWorker>(order)) {
        PLANARIA_TRY(start_worker(next_host()));
      } else if (const auto* kill = std::get_if<fault_order::KillHost>(&order)) {
        kill_host(*kill);
      } else if (const auto* start = std::get_if<fault_order::StartHost>(&order)) {
        if (start->host >= options_.hosts) continue;
        PLANARIA_TRY(start_keeper(start->host));
        if (!start->keeper_only) PLANARIA_TRY(start_worker(start->host));
      } else if (const auto* tell_keeper = std::get_if<fault_order::TellKeeper>(&order)) {
        const auto keeper = keepers_.find(tell_keeper->host);
        if (keeper != keepers_.end()) hooks_.say(keeper->second.pid(), tell_keeper->line);
      } else if (std::holds_alternative<fault_order::KillCoordinator>(order)) {
        coordinator_->signal(SIGKILL);
        coordinator_->finish(kFarewellMs);
        coordinator_.reset();
      } else if (!coordinator_) {
        PLANARIA_TRY(start_coordinator());
      }
    }
    return ok_status();
  }

  void kill_host(const fault_order::KillHost& order) {
    const auto keeper = keepers_.find(order.host);
    if (keeper != keepers_.end()) keeper->second.signal(SIGKILL);
    for (Worker& worker : workers_) {
      if (!order.keeper_only && worker.host == order.host && options_.hosts > 0) worker.process.signal(SIGKILL);
    }
  }

  void collect() {
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      Worker& worker = workers_[i];
      if (!worker.ended.empty()) continue;
      if (const auto exit = worker.process.poll()) {
        worker.failed = exit->signal == 0 && exit->code != 0;
        worker.ended = exit->signal != 0 ? fmt::format("signal {}", exit->signal) : fmt::format("exit {}", exit->code);
      }
    }
  }

  void publish() {
    const std::lock_guard lock(run_.mutex_);
    LocalRunProgress& progress = run_.progress_;
    progress.fired = engine_.fired();
    progress.requested = engine_.requested();
    progress.workers.clear();
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      const Worker& worker = workers_[i];
      progress.workers.push_back(
          {static_cast<std::uint32_t>(i), worker.process.pid(), worker.ended.empty(), worker.stopped, worker.ended});
    }
  }

  void end_processes() {
    const bool finished = coordinator_ && !coordinator_->running();
    if (coordinator_ && !finished) coordinator_->signal(SIGTERM);
    for (Worker& worker : workers_) {
      // A frozen process can't take leave; one whose job is over needs no more than a moment.
      if (worker.stopped) worker.process.signal(SIGKILL);
      if (!finished) worker.process.signal(SIGINT);
    }
    if (!finished) {
      for (auto& [host, keeper] : keepers_) keeper.signal(SIGINT);
    }
    if (coordinator_) coordinator_->finish(kFarewellMs);
    for (auto& [host, keeper] : keepers_) keeper.finish(kFarewellMs);
    for (Worker& worker : workers_) worker.process.finish(kFarewellMs);
    collect();
    publish();
  }

  LocalRun& run_;
  const LocalRunOptions& options_;
  SteadyClock clock_;
  SocketDirectory directory_;
  HookServer hooks_;
  FaultEngine engine_;
  std::optional<ChildProcess> coordinator_;
  std::map<std::uint32_t, ChildProcess> keepers_;  // by host; the last one that was started there
  std::vector<Worker> workers_;
  std::optional<Instant> deserted_at_;
  std::optional<CoordinatorFile> served_;  // by the first start; later ones take the same ports
};

LocalRun::LocalRun(LocalRunOptions options) : options_(std::move(options)) {}

Result<std::unique_ptr<LocalRun>> LocalRun::start(LocalRunOptions options) {
  PLANARIA_ASSIGN(SocketDirectory directory, SocketDirectory::make());
  PLANARIA_ASSIGN(HookServer hooks, HookServer::listen(directory.hook()));
  std::unique_ptr<LocalRun> run(new LocalRun(std::move(options)));
  // The loop lives on its thread: the kernel ends the children with the thread that started them.
  run->thread_ = std::thread([self = run.get(), hooks = std::move(hooks), directory = std::move(directory)]() mutable {
    Loop(*self, std::move(hooks), std::move(directory)).run();
  });
  return run;
}

LocalRun::~LocalRun() {
  stop();
  wait();
}

LocalRunProgress LocalRun::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

void LocalRun::stop() {
  stopping_ = true;
}

void LocalRun::wait() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace planaria

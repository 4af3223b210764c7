#include "chaos/faults/local_run.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "chaos/faults/child_process.hpp"
#include "chaos/faults/hook_server.hpp"

namespace planaria {
namespace {

constexpr int kFarewellMs = 5'000;

// A short private directory for the hook's socket: output paths may be longer than a socket's may.
class SocketDirectory {
 public:
  static Result<SocketDirectory> make() {
    char name[] = "/tmp/planaria-XXXXXX";
    if (mkdtemp(name) == nullptr) return Error(ErrorCode::io, "can't make a directory in /tmp for the fault hook");
    return SocketDirectory(name);
  }
  SocketDirectory(SocketDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  SocketDirectory& operator=(SocketDirectory&&) = delete;
  ~SocketDirectory() {
    if (!path_.empty()) rmdir(path_.c_str());
  }
  [[nodiscard]] std::string socket() const { return path_ + "/hook"; }

 private:
  explicit SocketDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

std::string last_lines(const std::string& path, std::size_t count) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  std::string text;
  for (std::size_t i = lines.size() > count ? lines.size() - count : 0; i < lines.size(); ++i)
    text += "\n  " + lines[i];
  return text;
}

// The kind of error behind a documented exit code of a planaria command (cli/exit_code.hpp).
ErrorCode error_code_of_exit(int code) {
  switch (code) {
    case 2:
      return ErrorCode::invalid_argument;
    case 3:
      return ErrorCode::not_found;
    case 4:
      return ErrorCode::mismatch;
    case 5:
      return ErrorCode::unavailable;
    case 6:
      return ErrorCode::cancelled;
    default:
      return ErrorCode::internal;
  }
}

std::optional<Phase> phase_named(std::string_view name) {
  for (auto phase = Phase::forward; phase < Phase::count_; phase = static_cast<Phase>(static_cast<int>(phase) + 1)) {
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
    const Status ended = serve();
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
  };

  Status serve() {
    std::filesystem::remove(ports_file());
    PLANARIA_TRY(start_coordinator());
    PLANARIA_TRY(await_ports());
    for (std::uint32_t i = 0; i < options_.workers; ++i) PLANARIA_TRY(start_worker());
    while (!run_.stopping_) {
      for (const HookServer::Line& line : hooks_.poll(poll_ms())) PLANARIA_TRY(take_line(line));
      PLANARIA_TRY(obey(engine_.time_passed(clock_.now())));
      collect();
      publish();
      if (coordinator_ && !coordinator_->running()) return coordinator_ended();
      if (abandoned()) {
        return Error(ErrorCode::unavailable, "every worker has ended before the job did: see worker-*.log in " +
                                                 options_.output + last_lines(worker_log(workers_.size() - 1), 5));
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
    return clock_.now() > *deserted_at_ + std::chrono::milliseconds(2 * kFarewellMs);
  }

  Status coordinator_ended() {
    const auto exit = *coordinator_->poll();
    {
      const std::lock_guard lock(run_.mutex_);
      run_.progress_.coordinator_exit = exit.code;
    }
    if (exit.signal == 0 && exit.code == 0) return ok_status();
    const std::string how =
        exit.signal != 0 ? fmt::format("signal {}", exit.signal) : fmt::format("exit code {}", exit.code);
    return Error(error_code_of_exit(exit.code),
                 "the coordinator ended with " + how + ":" + last_lines(coordinator_log(), 5));
  }

  [[nodiscard]] int poll_ms() const {
    const double wait = to_ms(engine_.next_deadline() - clock_.now());
    return static_cast<int>(std::clamp(wait, 0.0, 20.0));
  }

  [[nodiscard]] std::string ports_file() const { return options_.output + "/coordinator.json"; }
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
    const std::lock_guard lock(run_.mutex_);
    ++run_.progress_.coordinator_starts;
    return ok_status();
  }

  Status await_ports() {
    const Instant deadline = clock_.now() + std::chrono::milliseconds(options_.start_timeout_ms);
    while (clock_.now() < deadline && !run_.stopping_) {
      if (!coordinator_->running()) return coordinator_ended();
      if (std::ifstream file(ports_file()); file) {
        const auto ports = nlohmann::json::parse(file, nullptr, false);
        if (ports.is_object() && ports.contains("control_port") && ports.contains("http_port")) {
          control_port_ = ports["control_port"].get<std::uint16_t>();
          telemetry_port_ = ports.value("telemetry_port", std::uint16_t{0});
          const std::lock_guard lock(run_.mutex_);
          run_.progress_.http_port = ports["http_port"].get<std::uint16_t>();
          return ok_status();
        }
      }
      usleep(5'000);
    }
    return Error(ErrorCode::unavailable, "the coordinator didn't start in time:" + last_lines(coordinator_log(), 5));
  }

  Status start_worker() {
    const auto index = workers_.size();
    std::vector<std::string> command{options_.binary,
                                     "worker",
                                     options_.job_file,
                                     "--join",
                                     fmt::format("127.0.0.1:{}", control_port_),
                                     "--id",
                                     std::to_string(index),
                                     "--out",
                                     options_.output,
                                     "--fault-hook",
                                     directory_.socket()};
    if (telemetry_port_ != 0) {
      command.emplace_back("--telemetry");
      command.push_back(fmt::format("tcp://127.0.0.1:{}", telemetry_port_));
    }
    for (const std::string& assignment : options_.assignments) {
      command.emplace_back("--set");
      command.push_back(assignment);
    }
    PLANARIA_ASSIGN(ChildProcess process, ChildProcess::start(command, worker_log(index)));
    workers_.push_back({std::move(process), false, ""});
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
        PLANARIA_TRY(start_worker());
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

  void collect() {
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      Worker& worker = workers_[i];
      if (!worker.ended.empty()) continue;
      if (const auto exit = worker.process.poll()) {
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
    if (coordinator_) coordinator_->finish(kFarewellMs);
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
  std::vector<Worker> workers_;
  std::optional<Instant> deserted_at_;
  std::uint16_t control_port_ = 0;
  std::uint16_t telemetry_port_ = 0;
};

LocalRun::LocalRun(LocalRunOptions options) : options_(std::move(options)) {}

Result<std::unique_ptr<LocalRun>> LocalRun::start(LocalRunOptions options) {
  PLANARIA_ASSIGN(SocketDirectory directory, SocketDirectory::make());
  PLANARIA_ASSIGN(HookServer hooks, HookServer::listen(directory.socket()));
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

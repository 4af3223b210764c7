// A whole job on this machine: a coordinator, workers and keepers as processes of their own, and a scenario that breaks
// them.
//
// A thread of its own starts, signals and collects the processes; they die with it. Every process is a `planaria`
// subcommand that a user could have started by hand.
//
// Files in the output directory: coordinator.log, worker-<index>.log and keeper-<host>.log, and what the processes
// themselves write.
//
// Thread contract: progress() and stop() may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "chaos/faults/coordinator_file.hpp"
#include "chaos/faults/fault_engine.hpp"
#include "chaos/faults/scenario.hpp"
#include "common/result.hpp"

namespace planaria {

struct LocalRunOptions {
  std::string binary;  // the planaria executable
  std::string job_file;
  std::vector<std::string> assignments;  // "section.key=value"
  std::uint32_t workers = 3;
  std::uint32_t hosts = 0;           // each with a keeper and every so many-th worker; 0: this machine without a keeper
  std::vector<std::string> devices;  // dealt out to workers (proto/device_choice.hpp); empty: the job's
  std::string output;                // an existing directory
  Scenario scenario;
  int start_timeout_ms = 60'000;
};

struct LocalWorkerState {
  std::uint32_t index = 0;
  int pid = 0;
  bool running = true;
  bool stopped = false;  // by a fault
  std::string ended;     // "exit 0", "signal 9"
};

struct LocalRunProgress {
  std::optional<CoordinatorFile> coordinator;  // once it serves
  std::vector<LocalWorkerState> workers;
  std::vector<FiredFault> fired;
  std::size_t requested = 0;
  bool ended = false;
  std::optional<Error> failure;  // none: the job has an end, and OUT/result.json tells which
};

class LocalRun {
 public:
  [[nodiscard]] static Result<std::unique_ptr<LocalRun>> start(LocalRunOptions options);
  ~LocalRun();
  LocalRun(const LocalRun&) = delete;
  LocalRun& operator=(const LocalRun&) = delete;

  [[nodiscard]] LocalRunProgress progress() const;
  // Ends all processes: politely, then not.
  void stop();
  // Returns when everything has ended.
  void wait();

 private:
  class Loop;
  explicit LocalRun(LocalRunOptions options);

  const LocalRunOptions options_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  LocalRunProgress progress_;
  std::thread thread_;
};

}  // namespace planaria

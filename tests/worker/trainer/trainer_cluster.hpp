// Real trainers under real protocol cores in one process: a coordinator core, worker cores, an in-process network.
//
// Thread contract: one thread drives; trainers report to its queue.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/transport/in_process.hpp"
#include "coordinator/core/coordinator_core.hpp"
#include "tests/temporary_directory.hpp"
#include "worker/core/worker_core.hpp"
#include "worker/shell/core_config.hpp"
#include "worker/shell/data_plane.hpp"
#include "worker/trainer/trainer.hpp"

namespace planaria {

// A tiny job over this machine's copy of the GPL.
JobSpec cluster_job(bool tied = true);
std::shared_ptr<const Dataset> open_data(JobSpec& job);
std::shared_ptr<Device> make_device(std::size_t threads = 1);

class TrainerCluster {
 public:
  // Called with each action before it is carried out; false: the worker is killed instead.
  using Watch = std::function<bool(std::size_t worker, const WorkerAction& action)>;

  TrainerCluster(JobSpec job, std::shared_ptr<const Dataset> dataset, const std::string& folder);
  ~TrainerCluster();

  void watch(Watch watch) { watch_ = std::move(watch); }
  void add_worker(std::size_t threads = 1);
  void kill(std::size_t worker);
  // Until the job is finished; fails the test when it takes too long.
  void run();

  [[nodiscard]] const CoordinatorCore& coordinator() const { return *coordinator_; }
  [[nodiscard]] Trainer& trainer(std::size_t worker) { return *nodes_[worker]->trainer; }
  [[nodiscard]] std::vector<LedgerRecord> ledgers() const;
  [[nodiscard]] std::uint64_t torn_leases() const;
  std::vector<StepCommitted> commits;            // of worker 0
  std::string may_be_refused = "never refused";  // a word of the reason for which a worker may stop without success

 private:
  struct Node {
    std::unique_ptr<WorkerCore> core;
    std::unique_ptr<Trainer> trainer;
    std::unique_ptr<DataPlane> plane;
    SessionId session;
    std::optional<Identity> identity;
    bool alive = true;
    bool stopped = false;
  };

  void post(std::function<void()> task);
  void tell_coordinator(std::size_t worker, const WorkerMessage& message);
  void coordinate(const coordinator_event::SessionMessage& event);
  void carry_out(const CoordinatorActions& actions);
  void feed(std::size_t worker, const WorkerEvent& event);
  void carry_out(std::size_t worker, const WorkerAction& action);
  void welcome(std::size_t worker, const Welcome& message);
  bool finished() const;

  JobSpec job_;
  std::shared_ptr<const Dataset> dataset_;
  std::string folder_;
  SteadyClock clock_;
  Watch watch_;
  std::unique_ptr<InProcessNetwork> network_;
  std::unique_ptr<CoordinatorCore> coordinator_;
  std::vector<std::unique_ptr<Node>> nodes_;
  bool coordinator_done_ = false;
  std::string story_;  // what was announced and noted, told when the job hangs

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
};

}  // namespace planaria

// Real trainers under real protocol cores in one process: a coordinator core, worker cores, and a network in the
// process or of real sockets, which may be told to misbehave.
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

#include "common/philox.hpp"
#include "common/transport/faulty.hpp"
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
// far: in memory that the host can't touch.
std::shared_ptr<Device> make_device(std::size_t threads = 1, bool far = false);

// What lies between the processes.
struct Network {
  bool sockets = false;  // UCX over loopback; else frames stay in the process
  // Frames overtake each other and come twice, also after they passed the transport's checks and after their view;
  // what coordinator and workers say to each other comes twice as well. The seed says which.
  std::optional<std::uint64_t> disorder = std::nullopt;
};

class TrainerCluster {
 public:
  // Called with each action before it is carried out; false: the worker is killed instead.
  using Watch = std::function<bool(std::size_t worker, const WorkerAction& action)>;

  // Weights that the job starts from must be readable.
  TrainerCluster(JobSpec job, std::shared_ptr<const Dataset> dataset, const std::string& folder, Network network = {});
  ~TrainerCluster();

  void watch(Watch watch) { watch_ = std::move(watch); }
  void add_worker(std::size_t threads = 1, bool far = false);
  void kill(std::size_t worker);
  // Until the job is finished; fails the test when it takes too long.
  void run();

  [[nodiscard]] const CoordinatorCore& coordinator() const { return *coordinator_; }
  [[nodiscard]] Trainer& trainer(std::size_t worker) { return *nodes_[worker]->trainer; }
  [[nodiscard]] std::vector<LedgerRecord> ledgers() const;
  [[nodiscard]] std::uint64_t torn_leases() const;
  [[nodiscard]] std::uint64_t repeated_messages() const { return repeated_; }
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
  // Once more, a little later, now and then.
  void perhaps_again(const std::function<void()>& task);
  void take(std::size_t worker, WorkerEvent event);
  std::shared_ptr<Transport> make_transport(PeerId self);
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
  const Network manners_;
  Watch watch_;
  std::unique_ptr<InProcessNetwork> network_;
  std::vector<std::shared_ptr<FaultyTransport>> faulty_;
  std::unique_ptr<CoordinatorCore> coordinator_;
  std::vector<std::unique_ptr<Node>> nodes_;
  bool coordinator_done_ = false;
  std::string story_;  // what was announced and noted, told when the job hangs

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  PhiloxStream chance_;
  std::deque<std::function<void()>> tasks_;
  std::multimap<Instant, std::function<void()>> later_;
  std::uint64_t repeated_ = 0;
};

}  // namespace planaria

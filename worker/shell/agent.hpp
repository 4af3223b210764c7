// A worker or keeper process: the agent around WorkerCore. It finds the coordinator, takes the job from there when it
// has none, a worker proves its numeric class, and then runs one loop that turns what comes from the coordinator, the
// other members, the trainer or the store and the clock into events for the core, and the core's actions into calls.
//
// The loop never waits for anything but events, so that heartbeats leave on time whatever is computed, written or
// lost. The threads beside it: the trainer's, the transport's, the checkpoint writer's, the metrics writer's, CAF's,
// and that of copies for the keeper; a keeper's store and one for each worker of its host.
//
// What a run leaves in its output directory:
//   workers/<id>/ledger.<incarnation>   micro-batches that the incarnation computed (worker/trainer/ledger.hpp)
//   checkpoints/step-…                  durable checkpoints, written by the view's checkpoint writer
//   metrics.jsonl, tensorboard/         curves, written by the same member
//
// Thread contract: start and the destructor belong to the owner; the rest may be called from any thread, drain() not
// from a signal handler.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"
#include "proto/layout.hpp"

namespace planaria {

struct WorkerOptions {
  Role role = Role::worker;
  std::string coordinator_host = "127.0.0.1";
  std::uint16_t coordinator_port = 0;
  std::optional<JobSpec> job;  // nothing: the coordinator is asked for it
  std::string data_path;       // where this machine has the data, when not where the job says
  std::string tokenizer_file;  // the same of the tokenizer's file
  std::string pretrained;      // and of the directory of pretrained weights
  SecuritySpec security;       // join token and TLS files; the job's own when `job` is given and this is empty
  std::string out_directory = "out";
  std::string checkpoint_root;         // empty: <out>/checkpoints
  std::string snapshot_root;           // empty: <out>/snapshots
  std::optional<WorkerId> wanted;      // proposed id
  std::uint32_t threads = 0;           // 0 = the job's
  std::string device;                  // what to compute on (proto/device_choice.hpp); empty: the job's
  std::uint32_t device_share = 1;      // workers that compute on that GPU: each has its part of the GPU's memory
  std::optional<Precision> precision;  // that it trains in; nothing: the job's
  std::uint32_t memory_mb = 0;         // 0 = the job's
  std::string host;                    // whose keeper it has; empty: this machine
  std::string keeper_socket;           // where that keeper listens, or this one does; of a worker empty: it has none
  std::string zone;                    // where this machine is, and its network's class: for the planner
  std::string nic;
  std::string data_devices = "lo";           // network devices of the data plane (UCX_NET_DEVICES)
  std::string telemetry_endpoint;            // "tcp://host:port" of the coordinator; empty = none
  std::string fault_socket;                  // worker/shell/fault_hook.hpp; empty = off
  std::uint32_t connect_timeout_ms = 60000;  // when no job is given; else the job's cluster.reconnect_timeout_ms
  std::function<bool()> give_up;             // asked while start() waits for the coordinator; none = never
};

struct WorkerOutcome {
  bool success = false;
  bool permanent = false;  // a refusal: trying again can't help
  std::string reason;
};

class WorkerAgent {
 public:
  // Returns when the worker has found the coordinator and is ready to register. unavailable: no coordinator there in
  // time; invalid_argument: something else is there; mismatch: it refused the worker; cancelled: give_up() said so;
  // others: data, device or memory.
  [[nodiscard]] static Result<std::unique_ptr<WorkerAgent>> start(WorkerOptions options);
  // Ends abruptly when the worker is still at work.
  ~WorkerAgent();
  WorkerAgent(const WorkerAgent&) = delete;
  WorkerAgent& operator=(const WorkerAgent&) = delete;

  // Returns when the job is finished, or the worker was released, refused or failed.
  WorkerOutcome wait();
  // Asks to leave: the worker goes on until the coordinator releases it.
  void drain(const std::string& reason);

 private:
  class Impl;
  explicit WorkerAgent(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

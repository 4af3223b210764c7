// The trainer: the one thread that owns the device and all tensors of a worker, and carries out what WorkerCore asks
// for, strictly in order.
//
// Completions are reported as WorkerEvents from that thread. Data to send leaves it as slices of its own buffers: no
// copy is made, and a buffer is used again only when the last transfer of it let go (worker/trainer/buffer_pool.hpp).
// State for others is served from any thread at once, so that a joiner doesn't wait for a micro-batch to end.
//
// Thread contract: start, stop and the destructor belong to the owner; all other methods may be called from any
// thread and return at once. Hooks run on the trainer's thread (`saved` on the checkpoint writer's).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.hpp"
#include "common/file.hpp"
#include "common/result.hpp"
#include "common/transport/transport.hpp"
#include "kernels/device.hpp"
#include "proto/control.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "worker/core/events.hpp"
#include "worker/data/dataset.hpp"
#include "worker/trainer/ledger.hpp"

namespace planaria {

struct TrainerOptions {
  JobSpec job;  // data.content_hash is filled
  std::shared_ptr<Device> device;
  std::shared_ptr<const Dataset> dataset;
  FileSystem* files = nullptr;  // outlives the trainer
  std::string checkpoint_root;  // shared by all workers of the job
  std::string writer = "w0";    // tells apart writers of one root
};

struct TrainerHooks {
  std::function<void(WorkerEvent)> completed;
  // The device or memory failed, or core and trainer disagree: no further action is carried out.
  std::function<void(Error)> failed;
  // A payload of SendPiece, SendReduced, SendParameters or SendBoundary is ready.
  std::function<void(WorkerId to, ViewNumber view, std::vector<ConstSlice> payload)> send;
  // Optional: before the first micro-batch of a step, and when its backward pass has begun. May block.
  std::function<void(Step, Phase)> entered;
};

struct TrainerCounters {
  std::uint64_t micro_batches = 0;
  std::uint64_t recomputed = 0;
  Duration computing{};           // micro-batches
  Duration waiting{};             // with nothing to do between micro-batches of one step and view: a pipeline's gaps
  std::uint64_t torn_leases = 0;  // 0 unless there is a bug
  std::size_t buffer_bytes = 0;
};

class Trainer {
 public:
  // unsupported: the device's memory can't be read by the host.
  [[nodiscard]] static Result<std::unique_ptr<Trainer>> start(TrainerOptions options, TrainerHooks hooks);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Queues an action of the trainer's part of WorkerAction, SendPiece, SendReduced, SendParameters or SendBoundary;
  // others are ignored. `view` is for the ledger.
  void post(WorkerAction action, ViewNumber view = ViewNumber(0));
  // From the next micro-batch on.
  void set_ledger(std::unique_ptr<Ledger> ledger);

  // The payload of a SendState, or nothing when that stamp isn't held.
  [[nodiscard]] std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta);

  // Faults on order: computing at a fraction of the speed; NaN in the step's next micro-batch, once.
  void set_speed(double fraction);
  void poison(Step step);

  [[nodiscard]] TrainerCounters counters() const;
  [[nodiscard]] const StateMap& map() const;

  // Ends after the action under way; checkpoints that were handed over are finished. May be called again.
  void stop();

 private:
  class Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

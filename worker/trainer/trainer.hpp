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
#include "storage/pretrained.hpp"
#include "worker/core/events.hpp"
#include "worker/data/dataset.hpp"
#include "worker/trainer/action_executor.hpp"
#include "worker/trainer/ledger.hpp"
#include "worker/trainer/state_copy.hpp"

namespace planaria {

struct TrainerOptions {
  JobSpec job;  // data.content_hash and pretrained.weights_hash are filled
  std::shared_ptr<Device> device;
  std::shared_ptr<const Dataset> dataset;
  std::shared_ptr<const PretrainedModel> pretrained;  // step 0, of a job that doesn't start from its seed; else null
  FileSystem* files = nullptr;                        // outlives the trainer
  std::string checkpoint_root;                        // shared by all workers of the job
  std::string snapshot_root;  // of durable snapshots, shared by keepers and workers; empty: none
  std::string writer = "w0";  // tells apart writers of one root
};

struct TrainerHooks : ExecutorHooks {
  // State is to be copied to the keeper. Optional: where there is none, the core is told that it failed.
  std::function<void(StateCopy)> snapshot;
  // Optional: before the first micro-batch of a step, and when its backward pass has begun. May block.
  std::function<void(Step, Phase)> entered;
};

class Trainer final : public ActionExecutor {
 public:
  // unsupported: the device can't train this model; exhausted: its memory is too small; invalid_argument: the job's
  // pretrained weights aren't given.
  [[nodiscard]] static Result<std::unique_ptr<Trainer>> start(TrainerOptions options, TrainerHooks hooks);
  ~Trainer() override;
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Register::kernels: those of the device, all of which were chosen when this started.
  [[nodiscard]] const ByteVector& kernels() const;

  // `view` is for the ledger.
  void post(WorkerAction action, ViewNumber view) override;
  // From the next micro-batch on.
  void set_ledger(std::unique_ptr<Ledger> ledger);

  [[nodiscard]] std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta) override;

  // Faults on order: computing at a fraction of the speed; NaN in the step's next micro-batch, once.
  void set_speed(double fraction);
  void poison(Step step);

  [[nodiscard]] ExecutorCounters counters() const override;
  [[nodiscard]] const StateMap& map() const override;
  [[nodiscard]] std::size_t boundary_elements() const override;

  // Ends after the action under way; checkpoints that were handed over are finished. May be called again.
  void stop();

 private:
  class Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

// What the trainer's actions mean, without the thread around them: each method carries out one action on the device.
//
// Thread contract: belongs to the thread that owns the device, except state_payload and counters.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/checkpoint_writer.hpp"
#include "storage/durable_catalog.hpp"
#include "worker/model/update.hpp"
#include "worker/trainer/gradient_store.hpp"
#include "worker/trainer/host_staging.hpp"
#include "worker/trainer/micro_batch_runner.hpp"
#include "worker/trainer/state_store.hpp"
#include "worker/trainer/trainer.hpp"

namespace planaria {

class StepExecutor {
 public:
  using Compute = worker_action::ComputeMicroBatch;

  // `checkpoint_written` runs on the checkpoint writer's thread.
  [[nodiscard]] static Result<std::unique_ptr<StepExecutor>> create(
      TrainerOptions options, std::function<void(WorkerEvent)> checkpoint_written);

  // The calling thread owns the device from now on.
  [[nodiscard]] Status own_device() { return options_.device->own(); }

  // `backward_begins` is called when the first backward pass of a training micro-batch begins, after the head's own.
  [[nodiscard]] Result<WorkerEvent> compute(const Compute& action, bool poisoned,
                                            const std::function<void()>& backward_begins);
  [[nodiscard]] Result<WorkerEvent> rehearse(const worker_action::Rehearse& action);
  // Sums of nodes may be behind what was put off: who reads them (reduce, piece_payload) finishes that first.
  [[nodiscard]] MicroBatchRunner& micro_batches() { return *runner_; }
  [[nodiscard]] Result<WorkerEvent> reduce(const worker_action::ReduceShards& action);
  [[nodiscard]] Status store_reduced(const worker_action::StoreReduced& action);
  [[nodiscard]] Result<WorkerEvent> measure(const worker_action::MeasureGradient& action);
  [[nodiscard]] Result<WorkerEvent> update(const worker_action::ApplyUpdate& action);
  // What can fail from outside (a damaged checkpoint) comes back in the event; an Error means the device failed.
  [[nodiscard]] Result<WorkerEvent> store_state(const worker_action::StoreState& action);
  [[nodiscard]] Result<WorkerEvent> rebuild_state(const worker_action::RebuildState& action);
  [[nodiscard]] Result<WorkerEvent> store_parameters(const worker_action::StoreParameters& action);
  [[nodiscard]] Status copy_tied(const worker_action::CopyTied& action);
  [[nodiscard]] Result<WorkerEvent> initialize(const worker_action::InitializeState& action);
  [[nodiscard]] Result<WorkerEvent> load_checkpoint(const worker_action::LoadCheckpoint& action);
  void drop_state(Step before) { states_->drop_before(before); }
  void revert_state(std::optional<Step> stamp) { states_->keep_only(stamp); }
  [[nodiscard]] Result<WorkerEvent> hash_state(const worker_action::HashState& action);
  [[nodiscard]] WorkerEvent list_checkpoints();
  [[nodiscard]] Result<WorkerEvent> hash_weights(Step step);
  [[nodiscard]] Status begin_checkpoint(const worker_action::BeginCheckpoint& action);
  [[nodiscard]] Status add_to_checkpoint(const worker_action::AddToCheckpoint& action);
  // Nothing: handed over, the writer reports. Else what went wrong.
  [[nodiscard]] std::optional<WorkerEvent> write_checkpoint(const worker_action::WriteCheckpoint& action);
  void release(Step step) { runner_->release(step); }
  [[nodiscard]] Status keep(Step step) { return runner_->keep(step); }
  [[nodiscard]] Status return_to(Step step) { return runner_->return_to(step); }

  [[nodiscard]] Result<std::vector<ConstSlice>> boundary_payload(const Boundary& meta) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> piece_payload(const Piece& meta) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> reduced_payload(const Reduced& meta) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> parameters_payload(const Parameters& meta) const;
  // Nothing where the state isn't held, or can't be read.
  [[nodiscard]] std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta) const;
  [[nodiscard]] Result<StateCopy> state_copy(const worker_action::SnapshotState& action) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> fragment_payload(const worker_action::SendFragmentReply& send) const;

  [[nodiscard]] const StateMap& map() const { return map_; }
  [[nodiscard]] std::size_t boundary_elements() const { return runner_->boundary_elements(); }
  [[nodiscard]] std::size_t buffer_bytes() const {
    return pool_->bytes() + runner_->boundary_pool().bytes() + staging_.bytes();
  }
  [[nodiscard]] std::uint64_t torn_leases() const {
    return pool_->torn_leases() + runner_->boundary_pool().torn_leases();
  }
  // Waits for checkpoints that were handed over.
  void finish_checkpoints();

 private:
  explicit StepExecutor(TrainerOptions options);
  Status allocate(std::function<void(WorkerEvent)> checkpoint_written);
  [[nodiscard]] Result<const StateGeneration*> state(Step stamp) const;
  [[nodiscard]] std::vector<ConstSlice> fragment_slices(const StateGeneration& held, std::span<const TileRange> tiles,
                                                        std::uint64_t offset, std::uint64_t bytes) const;
  [[nodiscard]] Result<WorkerEvent> stored(Step stamp, std::vector<TileRange> tiles, bool parameters_only,
                                           const PayloadRef& payload);
  [[nodiscard]] Status load_whole(const std::string& path, const worker_action::LoadCheckpoint& action,
                                  worker_event::StateLoaded& done);
  [[nodiscard]] Status load_snapshot(const worker_action::LoadCheckpoint& action);
  [[nodiscard]] Status store_from(DurableState& source, Step stamp, std::span<const TileRange> tiles,
                                  bool parameters_only);
  void copy_state(const TrainState& source, std::span<const TileRange> state, std::span<const TileRange> parameters,
                  const StateGeneration& target);
  void combine_tied(std::span<const TileRange> tiles, const float* gradient);
  [[nodiscard]] const float* gradient_of(BlockIndex block, const float* reduced) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> payload(const DataMeta& meta, std::span<const ElementRange> runs,
                                                        std::span<const ValueSource> vectors) const;
  [[nodiscard]] std::vector<BlockRange> blocks_of(std::span<const TileRange> tiles) const;
  const std::vector<UpdateRange>& update_ranges_of(const std::vector<TileRange>& tiles);

  TrainerOptions options_;
  const StateMap map_;
  const HostStaging staging_;
  std::shared_ptr<BufferPool> pool_;
  std::unique_ptr<StateStore> states_;
  std::unique_ptr<GradientStore> gradients_;
  std::unique_ptr<MicroBatchRunner> runner_;
  std::unique_ptr<CheckpointWriter> writer_;
  SteadyClock clock_;
  std::uint64_t known_additions_ = 0;  // to states_, when the engine was last told

  std::vector<TileRange> updated_tiles_;
  std::vector<UpdateRange> updated_ranges_;  // of those
  std::optional<TrainState> collected_;      // a checkpoint that is being put together
  // The embed block's gradient with the tied copy's added: apart from the reduced gradient, which others may still
  // ask for as it was.
  DeviceBuffer embed_gradient_;
};

}  // namespace planaria

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
#include "worker/data/batch.hpp"
#include "worker/model/model_pass.hpp"
#include "worker/model/update.hpp"
#include "worker/trainer/boundary_store.hpp"
#include "worker/trainer/gradient_store.hpp"
#include "worker/trainer/state_store.hpp"
#include "worker/trainer/trainer.hpp"

namespace planaria {

class StepExecutor {
 public:
  using Compute = worker_action::ComputeMicroBatch;

  // `checkpoint_written` runs on the checkpoint writer's thread.
  [[nodiscard]] static Result<std::unique_ptr<StepExecutor>> create(
      TrainerOptions options, std::function<void(WorkerEvent)> checkpoint_written);

  // `backward_begins` is called when the first backward pass of a training micro-batch begins, after the head's own.
  [[nodiscard]] Result<WorkerEvent> compute(const Compute& action, bool poisoned,
                                            const std::function<void()>& backward_begins);
  [[nodiscard]] Status fold(const worker_action::FoldNodes& action);
  [[nodiscard]] Result<WorkerEvent> reduce(const worker_action::ReduceShards& action);
  [[nodiscard]] Status store_reduced(const worker_action::StoreReduced& action);
  [[nodiscard]] Result<WorkerEvent> measure(const worker_action::MeasureGradient& action);
  [[nodiscard]] Result<WorkerEvent> update(const worker_action::ApplyUpdate& action);
  // What can fail from outside (a damaged checkpoint) comes back in the event; an Error means the device failed.
  [[nodiscard]] Result<WorkerEvent> store_state(const worker_action::StoreState& action);
  [[nodiscard]] Result<WorkerEvent> initialize();
  [[nodiscard]] Result<WorkerEvent> load_checkpoint(Step step);
  void revert_state(Step stamp);
  [[nodiscard]] Result<WorkerEvent> hash_state(Step stamp);
  [[nodiscard]] WorkerEvent list_checkpoints();
  [[nodiscard]] Result<WorkerEvent> hash_weights(Step step);
  // Nothing: handed over, the writer reports. Else what went wrong.
  [[nodiscard]] Result<std::optional<WorkerEvent>> save_checkpoint(const worker_action::SaveCheckpoint& action);
  void release(Step step);

  [[nodiscard]] Result<std::vector<ConstSlice>> boundary_payload(const Boundary& meta) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> piece_payload(const Piece& meta) const;
  [[nodiscard]] Result<std::vector<ConstSlice>> reduced_payload(const Reduced& meta) const;
  [[nodiscard]] std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta);

  [[nodiscard]] const StateMap& map() const { return map_; }
  [[nodiscard]] std::size_t buffer_bytes() const { return pool_->bytes() + boundary_pool_->bytes(); }
  [[nodiscard]] std::uint64_t torn_leases() const { return pool_->torn_leases() + boundary_pool_->torn_leases(); }
  // Waits for checkpoints that were handed over.
  void finish_checkpoints();

 private:
  explicit StepExecutor(TrainerOptions options);
  Status allocate(std::function<void(WorkerEvent)> checkpoint_written);
  [[nodiscard]] Result<const StateGeneration*> state(Step stamp);
  [[nodiscard]] bool is_training(const Compute& action) const;
  void read_batch(const Compute& action);
  [[nodiscard]] Result<std::unique_ptr<ModelPass>> take_pass(BlockRange blocks);
  [[nodiscard]] Result<const float*> input_of(const Compute& action, const BoundaryId& id) const;
  [[nodiscard]] Status forward(const Compute& action, const float* parameters);
  // False: somebody looked at the slot's gradient, and it isn't finite.
  [[nodiscard]] Result<bool> backward(const Compute& action, const float* parameters, bool poisoned,
                                      const std::function<void()>& backward_begins);
  void add_loss(const Compute& action);
  [[nodiscard]] const float* combine_tied(const float* gradient);

  TrainerOptions options_;
  const StateMap map_;
  const std::vector<UpdateRange> embed_ranges_, other_ranges_;
  const WindowOrder order_;
  const BatchShape shape_;
  std::shared_ptr<BufferPool> pool_;
  std::unique_ptr<StateStore> states_;
  std::unique_ptr<GradientStore> gradients_;
  std::unique_ptr<Transformer> transformer_;
  std::shared_ptr<BufferPool> boundary_pool_;
  std::unique_ptr<BoundaryStore> boundaries_;
  std::vector<std::unique_ptr<ModelPass>> free_passes_;
  std::map<std::pair<BlockRange, SlotItem>, std::unique_ptr<ModelPass>> in_flight_;  // forward done, backward not
  std::unique_ptr<CheckpointWriter> writer_;
  SteadyClock clock_;

  HostBatch batch_;
  std::vector<double> losses_;  // of a micro-batch's sequences
  // An accumulator takes its next micro-batch and no other.
  std::map<std::pair<BlockRange, std::uint32_t>, std::uint32_t> next_positions_;
  std::vector<double> tile_sums_;
  std::vector<SlotLoss> slot_losses_;   // of the head's slots, as far as they are computed
  std::vector<double> slot_tile_sums_;  // of the slot that is being finished, when somebody asks whether it is finite
  // The embed block's gradient with the tied copy's added: apart from the reduced gradient, which others may still
  // ask for as it was.
  DeviceBuffer embed_gradient_;
  ClipDecision clip_;
};

}  // namespace planaria

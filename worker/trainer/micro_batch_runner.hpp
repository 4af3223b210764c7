// Takes micro-batches through the blocks of a worker's stages: forward, backward, and the sums of finished slots.
//
// Where a stage below waits for the input's gradient, the backward pass is split: the gradients of the weights wait
// until nothing else is to do, or until more wait than may (Qi et al., Zero Bubble Pipeline Parallelism,
// arXiv:2401.10241, section 2). Sums that are asked for meanwhile are made behind them, in order, so every accumulator
// takes its micro-batches in the order of rule R20 whatever waits.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "common/clock.hpp"
#include "common/result.hpp"
#include "kernels/device.hpp"
#include "kernels/model_engine.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "worker/core/events.hpp"
#include "worker/data/batch_reader.hpp"
#include "worker/data/dataset.hpp"
#include "worker/trainer/boundary_store.hpp"
#include "worker/trainer/gradient_store.hpp"

namespace planaria {

class MicroBatchRunner {
 public:
  using Compute = worker_action::ComputeMicroBatch;

  // The references outlive this. exhausted when the memory can't be had.
  [[nodiscard]] static Result<std::unique_ptr<MicroBatchRunner>> create(std::shared_ptr<Device> device,
                                                                        const JobSpec& job, const Dataset& dataset,
                                                                        const StateMap& map, GradientStore& gradients);

  // `backward_begins` is called when the first backward pass of a training micro-batch begins, after the head's own.
  [[nodiscard]] Result<worker_event::MicroBatchDone> compute(const Compute& action, const float* parameters,
                                                             bool poisoned,
                                                             const std::function<void()>& backward_begins);
  // One of the step forward and backward through the blocks; others' values are all 0. What it adds to `gradient` is of
  // no use to anybody.
  [[nodiscard]] Status rehearse(Step step, StageWork work, const float* parameters, float* gradient);
  // Parameter vectors that compute() was given may hold other values now.
  void parameters_changed() { engine_->parameters_changed(); }
  // Now, or behind what waits.
  [[nodiscard]] Status fold(const worker_action::FoldNodes& action);

  // Whoever reads sums of nodes finishes all that waits first.
  [[nodiscard]] bool has_waiting() const { return !waiting_.empty(); }
  [[nodiscard]] Status finish_oldest();
  [[nodiscard]] Status finish_waiting();
  // Gives up everything of the step; what waits was not needed.
  void release(Step step);
  // Puts the step's sums and boundaries aside, where they stay beside those of the next one, or takes them up again.
  // internal: another step is worked on, or was put aside.
  [[nodiscard]] Status keep(Step step);
  [[nodiscard]] Status return_to(Step step);

  [[nodiscard]] const BoundaryStore& boundaries() const { return *boundaries_; }
  [[nodiscard]] const BufferPool& boundary_pool() const { return *boundary_pool_; }
  [[nodiscard]] std::size_t boundary_elements() const { return engine_->boundary_elements(); }

 private:
  // The weights' gradients of a micro-batch.
  struct WaitingWeights {
    std::unique_ptr<ModelPass> pass;
    LinearDeltas deltas;
    StageWork work;
    SlotItem item;
  };
  // A fold waits behind those that its sums lack.
  using Waiting = std::variant<WaitingWeights, worker_action::FoldNodes>;
  // What computing took that no event has told of.
  struct Untold {
    Duration took{};
    std::vector<Duration> block_took;
  };

  MicroBatchRunner(std::shared_ptr<Device> device, const JobSpec& job, const Dataset& dataset, const StateMap& map,
                   GradientStore& gradients);
  Status allocate();
  void enter(Step step);
  [[nodiscard]] bool is_training(const Compute& action) const;
  [[nodiscard]] MicroBatchIndex index_of(SlotItem item) const;
  [[nodiscard]] const HostBatch& read_batch(const Compute& action);
  void read_ahead(const Compute& action);
  [[nodiscard]] Result<std::unique_ptr<ModelPass>> take_pass(BlockRange blocks);
  [[nodiscard]] Result<const float*> input_of(const Compute& action, const BoundaryId& id);
  // Queued: its losses aren't there yet.
  [[nodiscard]] Status forward(const Compute& action, const float* parameters);
  // Waits for the device, and tells in `done` what it found.
  [[nodiscard]] Status backward(const Compute& action, const float* parameters, bool poisoned,
                                const std::function<void()>& backward_begins, worker_event::MicroBatchDone& done);
  [[nodiscard]] Result<GradientSums> accumulator(const Compute& action);
  [[nodiscard]] Result<std::unique_ptr<ModelPass>> end_flight(const Compute& action);
  [[nodiscard]] static bool begins_slot(SlotItem item) { return item.position == 0; }
  [[nodiscard]] bool ends_slot(SlotItem item) const;
  [[nodiscard]] bool is_behind(BlockRange blocks) const;
  [[nodiscard]] Result<std::optional<GradientStore::Fold>> begin_cascade(const StageWork& work, SlotItem item);
  void add_loss(const Compute& action);
  static void tell_time(const ModelPass& pass, worker_event::MicroBatchDone& done);
  [[nodiscard]] Untold& untold_of(BlockRange blocks);
  void tell_untold(worker_event::MicroBatchDone& done);
  [[nodiscard]] Status finish(WaitingWeights& weights);
  void give_up();

  const std::shared_ptr<Device> device_;
  const JobSpec& job_;
  const Dataset& dataset_;
  const StateMap& map_;
  GradientStore& gradients_;
  const WindowOrder order_;
  SteadyClock clock_;
  std::unique_ptr<ModelEngine> engine_;
  std::shared_ptr<BufferPool> boundary_pool_;
  std::unique_ptr<BoundaryStore> boundaries_;
  Buffer arrived_;  // the latest boundary that arrived, where the device can't read the host's memory

  std::vector<std::unique_ptr<ModelPass>> free_passes_;
  std::vector<LinearDeltas> free_deltas_;
  std::map<std::pair<BlockRange, SlotItem>, std::unique_ptr<ModelPass>> in_flight_;  // forward done, backward not
  Step step_;
  std::deque<Waiting> waiting_;
  std::uint32_t waiting_weights_ = 0;
  std::map<BlockRange, Untold> untold_;
  Duration finishing_{};  // that finishing what waited took so far
  // An accumulator takes its next micro-batch and no other.
  std::map<std::pair<BlockRange, std::uint32_t>, std::uint32_t> next_positions_;

  BatchReader batches_;
  HostBatch validation_;
  std::vector<double> losses_;          // of a micro-batch's sequences
  std::vector<SlotLoss> slot_losses_;   // of the head's slots, as far as they are computed
  std::vector<double> slot_tile_sums_;  // of the slot that is being finished, when somebody asks whether it is finite
};

}  // namespace planaria

// Training in one thread with nothing around it: no views, no wire, no recovery. It states what the elastic trainer
// must compute, to the bit, and is the base line its overhead is measured against.
//
// A step: for each slot in order, its micro-batches in order accumulate into the slot's gradient, which is folded into
// the canonical tree; then tied gradient, tile sums, clip, AdamW, tied copy (worker/model/update.hpp).
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "kernels/device.hpp"
#include "kernels/model_engine.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "worker/data/batch.hpp"
#include "worker/data/batch_reader.hpp"
#include "worker/model/update.hpp"

namespace planaria {

struct BareStepReport {
  Step step;
  double loss = 0;           // mean over the step's tokens
  double gradient_norm = 0;  // of the mean gradient, before clipping
  double learning_rate = 0;
  bool updated = true;  // false: the gradient was not finite and the update was left out
};

class BareTrainer {
 public:
  // Parameters start at initialize_parameters. The device must outlive this.
  // Precondition: validate(job) holds; job.optimizer.nonfinite is taken as skip.
  [[nodiscard]] static Result<std::unique_ptr<BareTrainer>> create(Device& device, const JobSpec& job,
                                                                   BatchSource source);

  // Starts from these parameters instead: a whole flat vector in host memory. Precondition: no step was taken.
  [[nodiscard]] Status start_from(std::span<const float> parameters);

  [[nodiscard]] Result<BareStepReport> step();
  // The gradient of the next step (token sums, before the tied sum) without an update, and the mean loss.
  [[nodiscard]] Result<double> accumulate_gradient();
  // Mean loss over `count` validation micro-batches.
  [[nodiscard]] Result<double> evaluate(const Dataset& dataset, std::uint32_t count);

  [[nodiscard]] const StateMap& map() const { return map_; }
  [[nodiscard]] Step last_step() const { return last_step_; }
  // Whole flat vectors, device memory.
  [[nodiscard]] float* parameters() const { return parameters_.floats(); }
  [[nodiscard]] float* gradient() const { return nodes_.front().floats(); }
  // The parameter vector on the host, tied copy and padding included.
  [[nodiscard]] std::vector<float> parameters_on_host() const;

 private:
  BareTrainer(Device& device, const JobSpec& job, BatchSource source);
  Status allocate();
  [[nodiscard]] Status accumulate(Step step, MicroBatchIndex micro_batch, std::uint32_t slot);
  void fold_block(std::uint32_t slot, BlockIndex block);
  [[nodiscard]] BlockRange all_blocks() const { return {0, static_cast<std::uint32_t>(map_.blocks().size())}; }

  Device& device_;
  JobSpec job_;
  BatchReader batches_;
  StateMap map_;
  std::vector<UpdateRange> ranges_;
  std::unique_ptr<ModelEngine> engine_;
  std::unique_ptr<ModelPass> pass_;
  DeviceBuffer parameters_, moment1_, moment2_;
  // nodes_[k]: the k-th finished subtree, oldest (largest) first; behind them the gradient of the slot that is
  // computed.
  std::vector<DeviceBuffer> nodes_;
  HostBatch validation_;
  std::vector<double> losses_, slot_losses_, tile_sums_;
  Step last_step_;
};

}  // namespace planaria

#include "worker/trainer/step_executor.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "storage/export.hpp"
#include "worker/core/evaluation.hpp"
#include "worker/model/init.hpp"
#include "worker/model/schedule.hpp"

namespace planaria {

namespace {

// Master and both moments, of state t-1 and of the one that update t writes.
constexpr std::size_t kStateVectors = 6;

TileRange tiles_of(const BlockInfo& block) {
  return {block.first_tile, block.first_tile + block.tiles};
}

std::span<const float> values_of(const PayloadRef& payload) {
  const auto* frame = dynamic_cast<const FramePayload*>(payload.get());
  return frame == nullptr ? std::span<const float>{} : frame->values;
}

}  // namespace

StepExecutor::StepExecutor(TrainerOptions options)
    : options_(std::move(options)),
      map_(options_.job.model, options_.job.train.tile_elements),
      embed_ranges_(update_ranges(map_, tiles_of(map_.blocks().front()))),
      other_ranges_(update_ranges(map_, {tiles_of(map_.blocks().front()).end, map_.tile_count()})),
      order_(options_.job.train.seed, options_.dataset->windows(Split::train)),
      shape_{options_.job.batch.micro_batches, options_.job.batch.sequences},
      losses_(options_.job.batch.sequences),
      slot_losses_(options_.job.batch.slots),
      next_positions_(options_.job.batch.slots, 0),
      tile_sums_(map_.tile_count()),
      slot_tile_sums_(map_.tile_count()) {}

Result<std::unique_ptr<StepExecutor>> StepExecutor::create(TrainerOptions options,
                                                           std::function<void(WorkerEvent)> checkpoint_written) {
  if (!options.device->host_accessible()) {
    return Error(ErrorCode::unsupported,
                 "device " + options.device->name() + ": its memory can't be read by the host, which sending needs");
  }
  std::unique_ptr<StepExecutor> executor(new StepExecutor(std::move(options)));
  PLANARIA_TRY(executor->allocate(std::move(checkpoint_written)));
  return executor;
}

Status StepExecutor::allocate(std::function<void(WorkerEvent)> checkpoint_written) {
  const JobSpec& job = options_.job;
  Device& device = *options_.device;
  // One slot's accumulator, a finished subtree of each level below it, and the reduced gradient.
  const std::size_t gradients = static_cast<std::size_t>(std::bit_width(job.batch.slots)) + 1;
  PLANARIA_ASSIGN(pool_, BufferPool::create(options_.device, map_.vector_elements(), gradients + kStateVectors));
  states_ = std::make_unique<StateStore>(device, pool_, map_);
  gradients_ = std::make_unique<GradientStore>(device, pool_, map_, job.batch.slots);
  PLANARIA_ASSIGN(
      Transformer transformer,
      Transformer::create(device, job.model, map_, {job.batch.sequences, job.model.context}, job.train.seed));
  transformer_ = std::make_unique<Transformer>(std::move(transformer));
  PLANARIA_ASSIGN(ModelPass pass, ModelPass::create(*transformer_));
  pass_ = std::make_unique<ModelPass>(std::move(pass));
  if (job.model.tied_embedding) {
    PLANARIA_ASSIGN(embed_gradient_, device.allocate_floats(map_.blocks().front().elements));
  }
  writer_ = std::make_unique<CheckpointWriter>(
      *options_.files, clock_, map_, job.model,
      WriteOptions{.root = options_.checkpoint_root, .keep = job.checkpoint.keep, .writer = options_.writer},
      CheckpointIdentity{.job_hash = job_hash(job), .numeric_class = device.numeric_class()},
      [told = std::move(checkpoint_written)](const CheckpointReport& report) {
        told(worker_event::CheckpointWritten{report.step, report.result.ok(), describe(report)});
      });
  return device.synchronize();
}

Result<const StateGeneration*> StepExecutor::state(Step stamp) {
  const StateGeneration* generation = states_->find(stamp);
  if (generation != nullptr) return generation;
  return Error(ErrorCode::internal,
               "the state of step " + std::to_string(stamp.value()) + " isn't held by the trainer");
}

// ---- compute ----

Result<WorkerEvent> StepExecutor::compute(const Compute& action, SlotRange range, bool poisoned,
                                          const std::function<void()>& backward_begins) {
  const JobSpec& job = options_.job;
  const std::uint32_t slot = action.slot.value();
  const bool last = action.position + 1 == job.micro_batches_per_slot();
  const bool epilogue = action.step.value() > job.train.steps;
  if (slot >= job.batch.slots || action.position >= job.micro_batches_per_slot() ||
      (action.position != 0 && action.position != next_positions_[slot])) {
    return Error(ErrorCode::internal, "micro-batch " + std::to_string(action.position) + " of slot " +
                                          std::to_string(slot) + " is not the accumulator's next");
  }
  next_positions_[slot] = action.position + 1;
  if (action.position == 0) slot_losses_[slot] = SlotLoss{.slot = action.slot};
  PLANARIA_ASSIGN(const StateGeneration* base, state(action.step.previous()));

  worker_event::MicroBatchDone done{action.step, action.attempt, action.slot, last, {}, Duration(0)};
  if (!epilogue) {
    const Instant before = clock_.now();
    PLANARIA_TRY(train(action, range, base->master.floats(), poisoned, backward_begins));
    done.took = clock_.now() - before;
  }
  if (last) {
    if (evaluates(action.step, job.train.evaluate_every, Step(job.train.steps))) {
      PLANARIA_TRY(evaluate(action.slot, base->master.floats()));
    }
    done.loss = slot_losses_[slot];
  }
  return WorkerEvent(done);
}

Status StepExecutor::train(const Compute& action, SlotRange range, const float* parameters, bool poisoned,
                           const std::function<void()>& backward_begins) {
  const JobSpec& job = options_.job;
  Device& device = *options_.device;
  gradients_->enter(action.step);
  float* gradient = nullptr;
  if (action.position == 0) {
    PLANARIA_ASSIGN(gradient, gradients_->begin_slot(action.slot));
  } else {
    PLANARIA_ASSIGN(gradient, gradients_->slot(action.slot));
  }
  if (poisoned) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    device.copy_in(gradient + map_.blocks()[1].offset, &nan, sizeof nan);
  }
  // The sums that the slot completes follow its last backward pass block by block, while the gradient is in the cache.
  const bool last = action.position + 1 == job.micro_batches_per_slot();
  const auto cascade = last ? fold_cascade(range.begin, action.slot) : std::vector<TreeAddition>{};
  std::optional<GradientStore::Fold> fold;
  if (!cascade.empty()) {
    PLANARIA_ASSIGN(fold, gradients_->begin_fold(cascade));
  }
  // An attempt after a nonfinite one tells which slots it came from.
  const bool looks = last && action.attempt > 0;
  const auto block_done = [&](BlockIndex index) {
    if (index == transformer_->head() && backward_begins) backward_begins();
    const BlockInfo& block = map_.block(index);
    if (looks) {
      device.tile_sums_of_squares(map_.tile_elements(), block.elements, gradient + block.offset,
                                  slot_tile_sums_.data() + block.first_tile);
    }
    if (fold) gradients_->fold(*fold, {block.offset, block.offset + block.elements});
  };
  const MicroBatchIndex index(action.slot.value() * job.micro_batches_per_slot() + action.position);
  read_training_batch(*options_.dataset, order_, shape_, action.step, index, batch_);
  pass_->load(batch_, action.step);
  pass_->forward_backward(parameters, gradient, losses_.data(), block_done);
  PLANARIA_TRY(device.synchronize());
  if (fold) gradients_->finish(std::move(*fold));
  SlotLoss& loss = slot_losses_[action.slot.value()];
  for (const double of_sequence : losses_) loss.train += of_sequence;
  if (looks) loss.finite = std::ranges::all_of(slot_tile_sums_, [](double sum) { return std::isfinite(sum); });
  return ok_status();
}

Status StepExecutor::evaluate(SlotIndex slot, const float* parameters) {
  const JobSpec& job = options_.job;
  if (options_.dataset->windows(Split::validation) == 0) return ok_status();
  const std::uint32_t count = job.train.evaluation_batches;
  const SlotRange batches = evaluation_batches_of(slot, job.batch.slots, count);
  for (std::uint32_t k = batches.begin; k < batches.end; ++k) {
    read_validation_batch(*options_.dataset, job.batch.sequences, k, count, batch_);
    pass_->load(batch_, Step(0));
    pass_->evaluate(parameters, losses_.data());
    PLANARIA_TRY(options_.device->synchronize());
    for (const double loss : losses_) slot_losses_[slot.value()].validation += loss;
  }
  return ok_status();
}

// ---- gradient ----

Status StepExecutor::fold(const worker_action::FoldNodes& action) {
  gradients_->enter(action.step);
  return gradients_->add(action.additions);
}

Result<WorkerEvent> StepExecutor::reduce(const worker_action::ReduceShards& action) {
  gradients_->enter(action.step);
  std::vector<GradientStore::Input> inputs;
  inputs.reserve(action.inputs.size());
  for (const auto& input : action.inputs) inputs.push_back({input.node, values_of(input.payload), input.tiles});
  PLANARIA_TRY(gradients_->reduce(action.tiles, inputs));
  return WorkerEvent(worker_event::ShardsReduced{action.step, action.attempt});
}

Status StepExecutor::store_reduced(const worker_action::StoreReduced& action) {
  gradients_->enter(action.step);
  return gradients_->store_reduced(action.tiles, values_of(action.payload));
}

// The embed block's gradient, the tied copy's added: a buffer of its own where there is a tied copy.
const float* StepExecutor::combine_tied(const float* gradient) {
  const BlockInfo& embed = map_.blocks().front();
  const BlockInfo& head = map_.blocks().back();
  const auto tied = std::ranges::find_if(head.tensors, &TensorInfo::tied);
  if (tied == head.tensors.end()) return gradient + embed.offset;
  Device& device = *options_.device;
  const std::uint64_t at = embed.tensor("token.weight").offset;
  const std::uint64_t end = at + tied->elements();
  const float* source = gradient + embed.offset;
  float* target = embed_gradient_.floats();
  device.copy(target, source, at * sizeof(float));
  device.add(tied->elements(), source + at, gradient + head.offset + tied->offset, target + at);
  device.copy(target + end, source + end, (embed.elements - end) * sizeof(float));
  return target;
}

Result<WorkerEvent> StepExecutor::measure(const worker_action::MeasureGradient& action) {
  Device& device = *options_.device;
  worker_event::GradientMeasured measured{action.step, action.attempt, {}, true, 0};
  Hasher digest;
  if (action.step.value() <= options_.job.train.steps) {
    gradients_->enter(action.step);
    PLANARIA_ASSIGN(const float* gradient, gradients_->reduced());
    const float* embed = combine_tied(gradient);
    for (const BlockInfo& block : map_.blocks()) {
      const float* values = block.first_tile == 0 ? embed : gradient + block.offset;
      tile_sums(device, map_, tiles_of(block), values, tile_sums_.data() + block.first_tile);
    }
    PLANARIA_TRY(device.synchronize());
    clip_ =
        clip_decision(sum_of_tiles(map_, tile_sums_), options_.job.tokens_per_step(), options_.job.optimizer.clip_norm);
    measured.finite = clip_.finite;
    measured.gradient_norm = clip_.norm;
    digest.update(std::as_bytes(std::span(tile_sums_)));
  }
  for (const SlotLoss& loss : action.losses) {
    const double values[] = {loss.train, loss.validation};
    digest.update(std::as_bytes(std::span(values)));
  }
  measured.digest = digest.digest();
  return WorkerEvent(measured);
}

Result<WorkerEvent> StepExecutor::update(const worker_action::ApplyUpdate& action) {
  const JobSpec& job = options_.job;
  Device& device = *options_.device;
  states_->keep_only(action.step.previous());
  PLANARIA_ASSIGN(const StateGeneration* base, state(action.step.previous()));
  PLANARIA_ASSIGN(StateGeneration next, states_->fresh(action.step));
  if (action.skip) {
    for (std::size_t i = 0; i < 3; ++i) {
      device.copy(next.vectors()[i], base->vectors()[i], map_.vector_elements() * sizeof(float));
    }
  } else {
    PLANARIA_ASSIGN(const float* gradient, gradients_->reduced());
    const bool tied = job.model.tied_embedding;
    const float* embed = tied ? embed_gradient_.floats() - map_.blocks().front().offset : gradient;
    const AdamwStep scalars = adamw_step(job.optimizer, job.train.steps, action.step, clip_.scale);
    const AdamwSource source{base->master.floats(), base->first_moment.floats(), base->second_moment.floats()};
    const AdamwTarget target{next.master.floats(), next.first_moment.floats(), next.second_moment.floats()};
    planaria::update(device, scalars, embed_ranges_, source, embed, target);
    planaria::update(device, scalars, other_ranges_, source, gradient, target);
    after_update(device, map_, next.master.floats());
  }
  PLANARIA_TRY(device.synchronize());
  worker_event::UpdateDone done{action.step, std::nullopt, learning_rate(job.optimizer, job.train.steps, action.step)};
  if (action.hash) done.state_hash = planaria::hash_state(map_, next);
  states_->publish(std::move(next), false);
  return WorkerEvent(done);
}

void StepExecutor::release(Step step) {
  gradients_->release(step);
}

// ---- state ----

Result<WorkerEvent> StepExecutor::store_state(const worker_action::StoreState& action) {
  worker_event::StateStored stored{
      .stamp = action.stamp, .tiles = action.tiles, .local = false, .ok = true, .detail = {}};
  const Status status = states_->store(action.stamp, action.tiles, values_of(action.payload));
  if (!status && status.error().code() != ErrorCode::corrupt) return status.error();
  if (!status) {
    stored.ok = false;
    stored.detail = status.error().message();
  }
  return WorkerEvent(stored);
}

Result<WorkerEvent> StepExecutor::initialize() {
  Device& device = *options_.device;
  PLANARIA_ASSIGN(StateGeneration state, states_->fresh(Step(0)));
  std::vector<float> parameters(map_.vector_elements());
  initialize_parameters(options_.job.model, map_, options_.job.train.seed, parameters);
  device.copy_in(state.master.floats(), parameters.data(), parameters.size() * sizeof(float));
  device.zero(parameters.size(), state.first_moment.floats());
  device.zero(parameters.size(), state.second_moment.floats());
  PLANARIA_TRY(device.synchronize());
  states_->publish(std::move(state), true);
  return WorkerEvent(worker_event::StateStored{
      .stamp = Step(0), .tiles = {0, map_.tile_count()}, .local = true, .ok = true, .detail = {}});
}

Result<WorkerEvent> StepExecutor::load_checkpoint(Step step) {
  Device& device = *options_.device;
  worker_event::StateStored stored{
      .stamp = step, .tiles = {0, map_.tile_count()}, .local = true, .ok = false, .detail = {}};
  const auto load = [&]() -> Result<LoadedCheckpoint> {
    PLANARIA_ASSIGN(const auto places, planaria::list_checkpoints(*options_.files, options_.checkpoint_root));
    const auto place = std::ranges::find(places, step, &CheckpointPlace::step);
    if (place == places.end()) {
      return Error(ErrorCode::not_found,
                   "no checkpoint of step " + std::to_string(step.value()) + " in '" + options_.checkpoint_root + "'");
    }
    PLANARIA_ASSIGN(LoadedCheckpoint loaded, planaria::load_checkpoint(*options_.files, place->path, map_,
                                                                       job_hash(options_.job), device.numeric_class()));
    if (loaded.state.step == step) return loaded;
    return Error(ErrorCode::mismatch,
                 place->path + " holds step " + std::to_string(loaded.state.step.value()) + ": it was renamed");
  };
  auto loaded = load();
  if (!loaded) {
    stored.detail = loaded.error().message();
    return WorkerEvent(stored);
  }
  PLANARIA_ASSIGN(StateGeneration state, states_->fresh(step));
  const std::size_t bytes = map_.vector_elements() * sizeof(float);
  device.copy_in(state.master.floats(), loaded->state.master.data(), bytes);
  device.copy_in(state.first_moment.floats(), loaded->state.first_moment.data(), bytes);
  device.copy_in(state.second_moment.floats(), loaded->state.second_moment.data(), bytes);
  PLANARIA_TRY(device.synchronize());
  states_->publish(std::move(state), true);
  stored.ok = true;
  stored.loss = loaded->state.loss;
  return WorkerEvent(stored);
}

void StepExecutor::revert_state(Step stamp) {
  states_->keep_only(stamp);
}

// Unread: whoever loads one checks it then.
WorkerEvent StepExecutor::list_checkpoints() {
  worker_event::CheckpointsListed listed;
  const auto places = planaria::list_checkpoints(*options_.files, options_.checkpoint_root);
  if (!places) return WorkerEvent(listed);
  for (const CheckpointPlace& place : *places) {
    const auto manifest = read_manifest(*options_.files, place.path);
    const bool ours = manifest && manifest->job_hash == job_hash(options_.job) && manifest->step == place.step;
    if (ours) listed.steps.push_back(place.step);
  }
  return WorkerEvent(listed);
}

Result<WorkerEvent> StepExecutor::hash_state(Step stamp) {
  PLANARIA_ASSIGN(const StateGeneration* held, state(stamp));
  return WorkerEvent(worker_event::StateHashed{stamp, planaria::hash_state(map_, *held)});
}

Result<WorkerEvent> StepExecutor::hash_weights(Step step) {
  PLANARIA_ASSIGN(const StateGeneration* held, state(step));
  const std::span<const float> parameters(held->master.floats(), map_.vector_elements());
  return WorkerEvent(worker_event::WeightsHashed{step, weights_hash(options_.job.model, map_, parameters)});
}

Result<std::optional<WorkerEvent>> StepExecutor::save_checkpoint(const worker_action::SaveCheckpoint& action) {
  PLANARIA_ASSIGN(const StateGeneration* held, state(action.step));
  Device& device = *options_.device;
  TrainState copy = writer_->buffer();
  copy.step = action.step;
  copy.view = action.view;
  copy.loss = action.loss;
  // The result of the job waits for a slow disk; any other checkpoint can be left out.
  if (action.step.value() >= options_.job.train.steps) writer_->drain();
  const std::size_t bytes = map_.vector_elements() * sizeof(float);
  device.copy_out(copy.master.data(), held->master.floats(), bytes);
  device.copy_out(copy.first_moment.data(), held->first_moment.floats(), bytes);
  device.copy_out(copy.second_moment.data(), held->second_moment.floats(), bytes);
  PLANARIA_TRY(device.synchronize());
  if (const Status taken = writer_->submit(std::move(copy)); !taken) {
    return std::optional<WorkerEvent>(worker_event::CheckpointWritten{action.step, false, taken.error().message()});
  }
  return std::optional<WorkerEvent>();
}

void StepExecutor::finish_checkpoints() {
  writer_->drain();
}

// ---- what others are given ----

Result<std::vector<ConstSlice>> StepExecutor::piece_payload(const Piece& meta) const {
  PLANARIA_ASSIGN(const ValueSource node, gradients_->lease_node(meta.node));
  return data_slices(meta, element_runs(map_, meta.tiles), std::span(&node, 1));
}

Result<std::vector<ConstSlice>> StepExecutor::reduced_payload(const Reduced& meta) const {
  PLANARIA_ASSIGN(const ValueSource reduced, gradients_->lease_reduced());
  return data_slices(meta, element_runs(map_, meta.tiles), std::span(&reduced, 1));
}

std::optional<std::vector<ConstSlice>> StepExecutor::state_payload(const StateTiles& meta) {
  const auto lease = states_->lease(meta.stamp);
  if (!lease) return std::nullopt;
  return data_slices(meta, state_runs(map_, meta.tiles), *lease);
}

}  // namespace planaria

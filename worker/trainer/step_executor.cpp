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

std::span<const float> values_of(const PayloadRef& payload) {
  const auto* frame = dynamic_cast<const FramePayload*>(payload.get());
  return frame == nullptr ? std::span<const float>{} : frame->values;
}

}  // namespace

StepExecutor::StepExecutor(TrainerOptions options)
    : options_(std::move(options)),
      map_(options_.job.model, options_.job.train.tile_elements),
      embed_ranges_(update_ranges(map_, map_.blocks().front().tile_range())),
      other_ranges_(update_ranges(map_, {map_.blocks().front().tile_range().end, map_.tile_count()})),
      order_(options_.job.train.seed, options_.dataset->windows(Split::train)),
      shape_{options_.job.batch.micro_batches, options_.job.batch.sequences},
      losses_(options_.job.batch.sequences),
      tile_sums_(map_.tile_count()),
      slot_losses_(options_.job.batch.slots),
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
  PLANARIA_ASSIGN(boundary_pool_, BufferPool::create(options_.device, transformer_->boundary_elements(), 0));
  boundaries_ = std::make_unique<BoundaryStore>(boundary_pool_);
  const BlockRange all{0, static_cast<std::uint32_t>(map_.blocks().size())};
  PLANARIA_ASSIGN(ModelPass pass, ModelPass::create(*transformer_, all));
  free_passes_.push_back(std::make_unique<ModelPass>(std::move(pass)));
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

Result<WorkerEvent> StepExecutor::compute(const Compute& action, bool poisoned,
                                          const std::function<void()>& backward_begins) {
  const JobSpec& job = options_.job;
  const BlockRange blocks = action.work.blocks;
  if (blocks.empty() || blocks.end > map_.blocks().size() || action.item.slot >= job.batch.slots) {
    return Error(ErrorCode::internal, "a micro-batch outside the model's blocks and the job's slots");
  }
  PLANARIA_ASSIGN(const StateGeneration* base, state(action.step.previous()));
  boundaries_->enter(action.step);
  worker_event::MicroBatchDone done{action.step, action.attempt, blocks, action.item, action.pass, {}, true, {}};
  const Instant before = clock_.now();
  if (action.pass != Pass::backward) PLANARIA_TRY(forward(action, base->master.floats()));
  if (action.pass != Pass::forward) {
    PLANARIA_ASSIGN(done.finite, backward(action, base->master.floats(), poisoned, backward_begins));
  }
  if (is_training(action)) done.took = clock_.now() - before;
  done.loss = slot_losses_[action.item.slot];
  return WorkerEvent(done);
}

bool StepExecutor::is_training(const Compute& action) const {
  return action.item.position < options_.job.micro_batches_per_slot();
}

// The micro-batch's sequences, in the order in which training or an evaluation reads them.
void StepExecutor::read_batch(const Compute& action) {
  const JobSpec& job = options_.job;
  if (is_training(action)) {
    const MicroBatchIndex index(action.item.slot * job.micro_batches_per_slot() + action.item.position);
    read_training_batch(*options_.dataset, order_, shape_, action.step, index, batch_);
    return;
  }
  const std::uint32_t count = job.train.evaluation_batches;
  const SlotRange riding = evaluation_batches_of(SlotIndex(action.item.slot), job.batch.slots, count);
  const std::uint32_t index = riding.begin + action.item.position - job.micro_batches_per_slot();
  read_validation_batch(*options_.dataset, job.batch.sequences, index, count, batch_);
}

Result<std::unique_ptr<ModelPass>> StepExecutor::take_pass(BlockRange blocks) {
  if (free_passes_.empty()) {
    PLANARIA_ASSIGN(ModelPass pass, ModelPass::create(*transformer_, blocks));
    return std::make_unique<ModelPass>(std::move(pass));
  }
  std::unique_ptr<ModelPass> pass = std::move(free_passes_.back());
  free_passes_.pop_back();
  PLANARIA_TRY(pass->cover(blocks));
  return pass;
}

// What a pass begins from: what arrived, or what an own stage made.
Result<const float*> StepExecutor::input_of(const Compute& action, const BoundaryId& id) const {
  if (action.input == nullptr) return boundaries_->find(id);
  const std::span<const float> values = values_of(action.input);
  if (values.size() == transformer_->boundary_elements()) return values.data();
  return Error(ErrorCode::internal, "a boundary of another size was let in");
}

Status StepExecutor::forward(const Compute& action, const float* parameters) {
  const BlockRange blocks = action.work.blocks;
  const bool training = is_training(action);
  const bool at_head = blocks.end == map_.blocks().size();
  PLANARIA_ASSIGN(auto pass, take_pass(blocks));
  read_batch(action);
  pass->load(batch_, training ? action.step : Step(0));
  const float* input = nullptr;
  if (blocks.begin > 0) {
    PLANARIA_ASSIGN(input, input_of(action, {BoundaryKind::activation, blocks.begin, action.item}));
  }
  float* output = nullptr;
  if (!at_head) {
    PLANARIA_ASSIGN(output, boundaries_->make({BoundaryKind::activation, blocks.end, action.item}));
  }
  pass->forward(blocks, parameters, training, input, output, losses_.data());
  PLANARIA_TRY(options_.device->synchronize());
  if (at_head) add_loss(action);
  if (training) {
    in_flight_[{blocks, action.item}] = std::move(pass);
  } else {
    free_passes_.push_back(std::move(pass));
  }
  return ok_status();
}

void StepExecutor::add_loss(const Compute& action) {
  const bool epilogue = action.step.value() > options_.job.train.steps;
  const std::uint32_t first = epilogue ? options_.job.micro_batches_per_slot() : 0;
  SlotLoss& loss = slot_losses_[action.item.slot];
  if (action.item.position == first) loss = SlotLoss{.slot = SlotIndex(action.item.slot)};
  for (const double of_sequence : losses_) (is_training(action) ? loss.train : loss.validation) += of_sequence;
}

Result<bool> StepExecutor::backward(const Compute& action, const float* parameters, bool poisoned,
                                    const std::function<void()>& backward_begins) {
  const BlockRange blocks = action.work.blocks;
  const SlotIndex slot(action.item.slot);
  const std::uint32_t position = action.item.position;
  Device& device = *options_.device;
  gradients_->enter(action.step);
  std::uint32_t& next = next_positions_[{blocks, slot.value()}];
  if (position == 0) next = 0;
  const auto flying = in_flight_.find({blocks, action.item});
  if (next++ != position || flying == in_flight_.end()) {
    return Error(ErrorCode::internal, "micro-batch " + std::to_string(position) + " of slot " +
                                          std::to_string(slot.value()) + " is not the accumulator's next");
  }
  std::unique_ptr<ModelPass> pass = std::move(flying->second);
  in_flight_.erase(flying);
  float* gradient = nullptr;
  if (position == 0) {
    PLANARIA_ASSIGN(gradient, gradients_->begin_slot(blocks, slot));
  } else {
    PLANARIA_ASSIGN(gradient, gradients_->slot(blocks, slot));
  }
  if (poisoned) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    device.copy_in(gradient + map_.blocks()[std::min(blocks.begin + 1, blocks.end - 1)].offset, &nan, sizeof nan);
  }
  const float* d_output = nullptr;
  if (blocks.end < map_.blocks().size()) {
    PLANARIA_ASSIGN(d_output, input_of(action, {BoundaryKind::gradient, blocks.end, action.item}));
    if (backward_begins) backward_begins();
  }
  float* d_input = nullptr;
  if (blocks.begin > 0) {
    PLANARIA_ASSIGN(d_input, boundaries_->make({BoundaryKind::gradient, blocks.begin, action.item}));
  }
  // The sums that the slot completes follow its last backward pass block by block, while the gradient is in the cache.
  const bool last = position + 1 == options_.job.micro_batches_per_slot();
  const auto cascade = last ? fold_cascade(action.work.slots.begin, slot) : std::vector<TreeAddition>{};
  std::optional<GradientStore::Fold> fold;
  if (!cascade.empty()) {
    PLANARIA_ASSIGN(fold, gradients_->begin_fold(blocks, cascade));
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
  pass->backward(blocks, parameters, gradient, d_output, d_input, block_done);
  PLANARIA_TRY(device.synchronize());
  free_passes_.push_back(std::move(pass));
  if (fold) gradients_->finish(std::move(*fold));
  if (!looks) return true;
  const auto first = slot_tile_sums_.begin() + map_.blocks()[blocks.begin].tile_range().begin;
  const auto end = slot_tile_sums_.begin() + map_.blocks()[blocks.end - 1].tile_range().end;
  return std::all_of(first, end, [](double sum) { return std::isfinite(sum); });
}

// ---- gradient ----

Status StepExecutor::fold(const worker_action::FoldNodes& action) {
  gradients_->enter(action.step);
  return gradients_->add(action.blocks, action.additions);
}

Result<WorkerEvent> StepExecutor::reduce(const worker_action::ReduceShards& action) {
  gradients_->enter(action.step);
  std::vector<GradientStore::Input> inputs;
  inputs.reserve(action.inputs.size());
  for (const auto& input : action.inputs) inputs.push_back({input.node, values_of(input.payload), input.tiles});
  PLANARIA_TRY(gradients_->reduce(action.tiles, inputs));
  return WorkerEvent(worker_event::ShardsReduced{action.step, action.attempt, action.tiles});
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
      tile_sums(device, map_, block.tile_range(), values, tile_sums_.data() + block.first_tile);
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
  boundaries_->release(step);
  for (auto& [key, pass] : in_flight_) free_passes_.push_back(std::move(pass));
  in_flight_.clear();
  next_positions_.clear();
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
  PLANARIA_ASSIGN(const ValueSource node, gradients_->lease_node({meta.blocks, meta.node}));
  return data_slices(meta, element_runs(map_, meta.tiles), std::span(&node, 1));
}

Result<std::vector<ConstSlice>> StepExecutor::reduced_payload(const Reduced& meta) const {
  PLANARIA_ASSIGN(const ValueSource reduced, gradients_->lease_reduced());
  return data_slices(meta, element_runs(map_, meta.tiles), std::span(&reduced, 1));
}

Result<std::vector<ConstSlice>> StepExecutor::boundary_payload(const Boundary& meta) const {
  PLANARIA_ASSIGN(const ValueSource values, boundaries_->lease(meta.id));
  const ElementRange all{0, transformer_->boundary_elements()};
  return data_slices(meta, std::span(&all, 1), std::span(&values, 1));
}

std::optional<std::vector<ConstSlice>> StepExecutor::state_payload(const StateTiles& meta) {
  const auto lease = states_->lease(meta.stamp);
  if (!lease) return std::nullopt;
  return data_slices(meta, state_runs(map_, meta.tiles), *lease);
}

}  // namespace planaria

#include "worker/trainer/micro_batch_runner.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "proto/evaluation.hpp"
#include "worker/model/transformer_pass.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

MicroBatchRunner::MicroBatchRunner(std::shared_ptr<Device> device, const JobSpec& job, const Dataset& dataset,
                                   const StateMap& map, GradientStore& gradients)
    : device_(std::move(device)),
      job_(job),
      dataset_(dataset),
      map_(map),
      gradients_(gradients),
      order_(job.train.seed, dataset.windows(Split::train)),
      batches_(dataset_source(dataset_, order_, {job.batch.micro_batches, job.batch.sequences})),
      losses_(job.batch.sequences),
      slot_losses_(job.batch.slots),
      slot_tile_sums_(map.tile_count()) {}

Result<std::unique_ptr<MicroBatchRunner>> MicroBatchRunner::create(std::shared_ptr<Device> device, const JobSpec& job,
                                                                   const Dataset& dataset, const StateMap& map,
                                                                   GradientStore& gradients) {
  std::unique_ptr<MicroBatchRunner> runner(new MicroBatchRunner(std::move(device), job, dataset, map, gradients));
  PLANARIA_TRY(runner->allocate());
  return runner;
}

Status MicroBatchRunner::allocate() {
  PLANARIA_ASSIGN(engine_, make_model_engine(*device_, job_.model, map_, {job_.batch.sequences, job_.model.context},
                                             job_.train.seed));
  PLANARIA_ASSIGN(boundary_pool_, BufferPool::create(device_, engine_->boundary_elements(), 0));
  boundaries_ = std::make_unique<BoundaryStore>(boundary_pool_);
  PLANARIA_ASSIGN(auto pass, take_pass({0, static_cast<std::uint32_t>(map_.blocks().size())}));
  free_passes_.push_back(std::move(pass));
  return ok_status();
}

Result<worker_event::MicroBatchDone> MicroBatchRunner::compute(const Compute& action, const float* parameters,
                                                               bool poisoned,
                                                               const std::function<void()>& backward_begins) {
  const BlockRange blocks = action.work.blocks;
  if (blocks.empty() || blocks.end > map_.blocks().size() || action.item.slot >= job_.batch.slots) {
    return Error(ErrorCode::internal, "a micro-batch outside the model's blocks and the job's slots");
  }
  enter(action.step);
  worker_event::MicroBatchDone done{action.step, action.attempt, blocks, action.item, action.pass,
                                    {},          true,           {},     {},          {}};
  if (action.pass != Pass::forward && action.waiting > 0) {
    while (waiting_weights_ >= action.waiting) PLANARIA_TRY(finish_oldest());
  }
  const Instant before = clock_.now();
  const Duration finished_before = finishing_;
  if (action.pass != Pass::backward) PLANARIA_TRY(forward(action, parameters));
  if (action.pass == Pass::forward) PLANARIA_TRY(device_->synchronize());
  if (action.pass != Pass::forward) PLANARIA_TRY(backward(action, parameters, poisoned, backward_begins, done));
  if (action.pass != Pass::backward && blocks.end == map_.blocks().size()) add_loss(action);
  done.elapsed = clock_.now() - before;
  if (is_training(action)) done.took = done.elapsed - (finishing_ - finished_before);
  if (action.pass != Pass::forward) tell_untold(done);
  done.loss = slot_losses_[action.item.slot];
  return done;
}

Status MicroBatchRunner::rehearse(Step step, StageWork work, const float* parameters, float* gradient) {
  const BlockRange blocks = work.blocks;
  Compute first;
  first.step = step;
  first.item.slot = work.slots.begin;
  PLANARIA_ASSIGN(auto pass, take_pass(blocks));
  pass->load(read_batch(first), step);
  std::vector<Buffer> borders;
  const auto border = [&](bool needed) -> Result<float*> {
    if (!needed) return static_cast<float*>(nullptr);
    PLANARIA_ASSIGN(Buffer made, boundary_pool_->take());
    device_->zero(boundary_elements(), made.floats());
    borders.push_back(std::move(made));
    return borders.back().floats();
  };
  const bool below = blocks.begin > 0;
  const bool above = blocks.end < map_.blocks().size();
  PLANARIA_ASSIGN(float* const input, border(below));
  PLANARIA_ASSIGN(float* const output, border(above));
  PLANARIA_ASSIGN(float* const d_output, border(above));
  PLANARIA_ASSIGN(float* const d_input, border(below));
  pass->forward(blocks, parameters, true, input, output, losses_.data());
  pass->backward(blocks, parameters, {gradient, true}, d_output, d_input);
  free_passes_.push_back(std::move(pass));
  return device_->synchronize();
}

// What is left of another step is of sums that were given up.
void MicroBatchRunner::enter(Step step) {
  if (step_ != step) give_up();
  step_ = step;
  boundaries_->enter(step);
  gradients_.enter(step);
}

bool MicroBatchRunner::is_training(const Compute& action) const {
  return action.item.position < job_.micro_batches_per_slot();
}

MicroBatchIndex MicroBatchRunner::index_of(SlotItem item) const {
  return MicroBatchIndex(item.slot * job_.micro_batches_per_slot() + item.position);
}

// The micro-batch's sequences, in the order in which training or an evaluation reads them.
const HostBatch& MicroBatchRunner::read_batch(const Compute& action) {
  if (is_training(action)) return batches_.read(action.step, index_of(action.item));
  const std::uint32_t count = job_.train.evaluation_batches;
  const SlotRange riding = evaluation_batches_of(SlotIndex(action.item.slot), job_.batch.slots, count);
  const std::uint32_t index = riding.begin + action.item.position - job_.micro_batches_per_slot();
  read_validation_batch(dataset_, job_.batch.sequences, index, count, validation_);
  return validation_;
}

// What the stage takes after this one, unless the layout changes.
void MicroBatchRunner::read_ahead(const Compute& action) {
  if (!is_training(action)) return;
  SlotItem next{action.item.slot, action.item.position + 1};
  if (next.position == job_.micro_batches_per_slot()) next = {next.slot + 1, 0};
  const bool last = next.slot >= action.work.slots.end;
  if (last) next.slot = action.work.slots.begin;
  batches_.read_ahead(last ? action.step.next() : action.step, index_of(next));
}

Result<std::unique_ptr<ModelPass>> MicroBatchRunner::take_pass(BlockRange blocks) {
  if (free_passes_.empty()) {
    PLANARIA_ASSIGN(auto pass, engine_->make_pass(blocks));
    pass->measure_with(clock_);
    return pass;
  }
  std::unique_ptr<ModelPass> pass = std::move(free_passes_.back());
  free_passes_.pop_back();
  PLANARIA_TRY(pass->cover(blocks));
  return pass;
}

// What a pass begins from: what arrived, or what an own stage made.
Result<const float*> MicroBatchRunner::input_of(const Compute& action, const BoundaryId& id) {
  if (action.input == nullptr) return boundaries_->find(id);
  const std::span<const float> values = payload_values(action.input);
  if (values.size() != engine_->boundary_elements()) {
    return Error(ErrorCode::internal, "a boundary of another size was let in");
  }
  if (device_->host_accessible()) return values.data();
  if (!arrived_) {
    PLANARIA_ASSIGN(arrived_, boundary_pool_->take());
  }
  device_->copy_in(arrived_.floats(), values.data(), values.size_bytes());
  return arrived_.floats();
}

// ---- forward ----

Status MicroBatchRunner::forward(const Compute& action, const float* parameters) {
  const BlockRange blocks = action.work.blocks;
  const bool training = is_training(action);
  PLANARIA_ASSIGN(auto pass, take_pass(blocks));
  pass->load(read_batch(action), training ? action.step : Step(0));
  const float* input = nullptr;
  if (blocks.begin > 0) {
    PLANARIA_ASSIGN(input, input_of(action, {BoundaryKind::activation, blocks.begin, action.item}));
  }
  float* output = nullptr;
  if (blocks.end < map_.blocks().size()) {
    PLANARIA_ASSIGN(output, boundaries_->make({BoundaryKind::activation, blocks.end, action.item}));
  }
  pass->forward(blocks, parameters, training, input, output, losses_.data());
  read_ahead(action);
  if (training) {
    in_flight_[{blocks, action.item}] = std::move(pass);
  } else {
    free_passes_.push_back(std::move(pass));
  }
  return ok_status();
}

void MicroBatchRunner::add_loss(const Compute& action) {
  const bool epilogue = action.step.value() > job_.train.steps;
  const std::uint32_t first = epilogue ? job_.micro_batches_per_slot() : 0;
  SlotLoss& loss = slot_losses_[action.item.slot];
  if (action.item.position == first) loss = SlotLoss{.slot = SlotIndex(action.item.slot)};
  for (const double of_sequence : losses_) (is_training(action) ? loss.train : loss.validation) += of_sequence;
}

// ---- backward ----

Status MicroBatchRunner::backward(const Compute& action, const float* parameters, bool poisoned,
                                  const std::function<void()>& backward_begins, worker_event::MicroBatchDone& done) {
  const BlockRange blocks = action.work.blocks;
  PLANARIA_ASSIGN(auto pass, end_flight(action));
  PLANARIA_ASSIGN(const GradientSums gradient, accumulator(action));
  const float* d_output = nullptr;
  if (blocks.end < map_.blocks().size()) {
    PLANARIA_ASSIGN(d_output, input_of(action, {BoundaryKind::gradient, blocks.end, action.item}));
    if (backward_begins) backward_begins();
  }
  float* d_input = nullptr;
  if (blocks.begin > 0) {
    PLANARIA_ASSIGN(d_input, boundaries_->make({BoundaryKind::gradient, blocks.begin, action.item}));
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const BlockIndex victim(std::min(blocks.begin + 1, blocks.end - 1));
  const auto begun = [&](BlockIndex index) {
    if (index.value() + 1 == map_.blocks().size() && backward_begins) backward_begins();
    if (poisoned && index == victim) device_->copy_in(gradient.values + map_.block(index).offset, &nan, sizeof nan);
  };
  // An attempt after a nonfinite one tells which slots it came from, when they end.
  const bool looks = ends_slot(action.item) && action.attempt > 0;
  if (action.waiting > 0 && !looks) {
    LinearDeltas deltas;
    if (!free_deltas_.empty()) {
      deltas = std::move(free_deltas_.back());
      free_deltas_.pop_back();
    }
    PLANARIA_TRY(pass->cover_deltas(blocks, deltas));
    pass->backward_input(blocks, parameters, gradient, d_output, d_input, deltas, begun);
    PLANARIA_TRY(device_->synchronize());
    tell_time(*pass, done);
    waiting_.emplace_back(WaitingWeights{std::move(pass), std::move(deltas), action.work, action.item});
    ++waiting_weights_;
    return ok_status();
  }
  if (is_behind(blocks)) PLANARIA_TRY(finish_waiting());  // an accumulator takes micro-batches in order
  PLANARIA_ASSIGN(auto fold, begin_cascade(action.work, action.item));
  const auto block_done = [&](BlockIndex index) {
    begun(index);
    const BlockInfo& block = map_.block(index);
    if (looks) {
      device_->tile_sums_of_squares(map_.tile_elements(), block.elements, gradient.values + block.offset,
                                    slot_tile_sums_.data() + block.first_tile);
    }
    if (fold) gradients_.fold(*fold, {block.offset, block.offset + block.elements});
  };
  pass->backward(blocks, parameters, gradient, d_output, d_input, block_done);
  PLANARIA_TRY(device_->synchronize());
  tell_time(*pass, done);
  free_passes_.push_back(std::move(pass));
  if (fold) gradients_.finish(std::move(*fold));
  if (!looks) return ok_status();
  const auto first = slot_tile_sums_.begin() + map_.blocks()[blocks.begin].tile_range().begin;
  const auto end = slot_tile_sums_.begin() + map_.blocks()[blocks.end - 1].tile_range().end;
  done.finite = std::all_of(first, end, [](double sum) { return std::isfinite(sum); });
  return ok_status();
}

Result<std::unique_ptr<ModelPass>> MicroBatchRunner::end_flight(const Compute& action) {
  const auto flying = in_flight_.find({action.work.blocks, action.item});
  if (flying == in_flight_.end()) {
    return Error(ErrorCode::internal, "micro-batch " + std::to_string(action.item.position) + " of slot " +
                                          std::to_string(action.item.slot) + " goes backward before it went forward");
  }
  std::unique_ptr<ModelPass> pass = std::move(flying->second);
  in_flight_.erase(flying);
  return pass;
}

// Of the micro-batch's slot; the slot's first one begins it.
Result<GradientSums> MicroBatchRunner::accumulator(const Compute& action) {
  const BlockRange blocks = action.work.blocks;
  const SlotIndex slot(action.item.slot);
  std::uint32_t& next = next_positions_[{blocks, slot.value()}];
  if (begins_slot(action.item)) {
    if (next != 0 && is_behind(blocks)) PLANARIA_TRY(finish_waiting());  // what it was so far is given up as a whole
    next = 0;
  }
  if (next++ != action.item.position) {
    return Error(ErrorCode::internal, "micro-batch " + std::to_string(action.item.position) + " of slot " +
                                          std::to_string(slot.value()) + " is not the accumulator's next");
  }
  const bool begin = begins_slot(action.item);
  PLANARIA_ASSIGN(float* const values, begin ? gradients_.begin_slot(blocks, slot) : gradients_.slot(blocks, slot));
  return GradientSums{values, begin};
}

bool MicroBatchRunner::ends_slot(SlotItem item) const {
  return item.position + 1 == job_.micro_batches_per_slot();
}

// The sums that the slot completes follow its last weights' gradients block by block, while those are in the cache.
Result<std::optional<GradientStore::Fold>> MicroBatchRunner::begin_cascade(const StageWork& work, SlotItem item) {
  if (!ends_slot(item)) return std::optional<GradientStore::Fold>();
  const auto cascade = fold_cascade(work.slots.begin, SlotIndex(item.slot));
  if (cascade.empty()) return std::optional<GradientStore::Fold>();
  PLANARIA_ASSIGN(GradientStore::Fold fold, gradients_.begin_fold(work.blocks, cascade));
  return std::optional(std::move(fold));
}

void MicroBatchRunner::tell_time(const ModelPass& pass, worker_event::MicroBatchDone& done) {
  const auto took = pass.took().subspan(done.blocks.begin, done.blocks.size());
  done.block_took.assign(took.begin(), took.end());
}

MicroBatchRunner::Untold& MicroBatchRunner::untold_of(BlockRange blocks) {
  Untold& untold = untold_[blocks];
  untold.block_took.resize(blocks.size());
  return untold;
}

// Times of weights' gradients are told with the next micro-batch that goes backward through the same blocks.
void MicroBatchRunner::tell_untold(worker_event::MicroBatchDone& done) {
  const auto untold = untold_.find(done.blocks);
  if (untold == untold_.end()) return;
  done.took += untold->second.took;
  for (std::size_t b = 0; b < done.block_took.size(); ++b) done.block_took[b] += untold->second.block_took[b];
  untold_.erase(untold);
}

// ---- what waits ----

Status MicroBatchRunner::fold(const worker_action::FoldNodes& action) {
  enter(action.step);
  if (!is_behind(action.blocks)) return gradients_.add(action.blocks, action.additions);
  waiting_.emplace_back(action);
  return ok_status();
}

// Whether sums of the blocks lack something that waits. Stages of other blocks have sums of their own.
bool MicroBatchRunner::is_behind(BlockRange blocks) const {
  const auto of_blocks = [&](const Waiting& waiting) {
    const auto* weights = std::get_if<WaitingWeights>(&waiting);
    return (weights != nullptr ? weights->work.blocks : std::get<worker_action::FoldNodes>(waiting).blocks) == blocks;
  };
  return std::ranges::any_of(waiting_, of_blocks);
}

Status MicroBatchRunner::finish_oldest() {
  const Instant before = clock_.now();
  BlockRange blocks;
  if (auto* weights = std::get_if<WaitingWeights>(&waiting_.front())) {
    blocks = weights->work.blocks;
    PLANARIA_TRY(finish(*weights));
  } else {
    const auto& fold = std::get<worker_action::FoldNodes>(waiting_.front());
    blocks = fold.blocks;
    PLANARIA_TRY(gradients_.add(fold.blocks, fold.additions));
  }
  waiting_.pop_front();
  const Duration took = clock_.now() - before;
  untold_of(blocks).took += took;
  finishing_ += took;
  return ok_status();
}

Status MicroBatchRunner::finish(WaitingWeights& weights) {
  --waiting_weights_;
  const BlockRange blocks = weights.work.blocks;
  PLANARIA_ASSIGN(float* const values, gradients_.slot(blocks, SlotIndex(weights.item.slot)));
  const GradientSums gradient{values, begins_slot(weights.item)};
  PLANARIA_ASSIGN(auto fold, begin_cascade(weights.work, weights.item));
  const std::vector<Duration> before(weights.pass->took().begin(), weights.pass->took().end());
  weights.pass->backward_weights(blocks, gradient, weights.deltas, [&](BlockIndex index) {
    const BlockInfo& block = map_.block(index);
    if (fold) gradients_.fold(*fold, {block.offset, block.offset + block.elements});
  });
  PLANARIA_TRY(device_->synchronize());
  Untold& untold = untold_of(blocks);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    untold.block_took[b] += weights.pass->took()[blocks.begin + b] - before[blocks.begin + b];
  }
  free_passes_.push_back(std::move(weights.pass));
  free_deltas_.push_back(std::move(weights.deltas));
  if (fold) gradients_.finish(std::move(*fold));
  return ok_status();
}

Status MicroBatchRunner::finish_waiting() {
  while (has_waiting()) PLANARIA_TRY(finish_oldest());
  return ok_status();
}

void MicroBatchRunner::give_up() {
  for (Waiting& waiting : waiting_) {
    auto* weights = std::get_if<WaitingWeights>(&waiting);
    if (weights == nullptr) continue;
    free_passes_.push_back(std::move(weights->pass));
    free_deltas_.push_back(std::move(weights->deltas));
  }
  waiting_.clear();
  waiting_weights_ = 0;
  for (auto& [key, pass] : in_flight_) free_passes_.push_back(std::move(pass));
  in_flight_.clear();
  next_positions_.clear();
}

Status MicroBatchRunner::keep(Step step) {
  if (step == step_) give_up();
  boundaries_->keep(step);
  return gradients_.keep(step);
}

Status MicroBatchRunner::return_to(Step step) {
  give_up();
  step_ = step;
  boundaries_->return_to(step);
  return gradients_.return_to(step);
}

void MicroBatchRunner::release(Step step) {
  if (step == step_) give_up();
  gradients_.release(step);  // which may be ahead: sums of others' micro-batches
  boundaries_->release(step);
}

}  // namespace planaria

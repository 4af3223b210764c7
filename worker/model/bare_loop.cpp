#include "worker/model/bare_loop.hpp"

#include <array>
#include <bit>
#include <utility>

#include "worker/model/init.hpp"
#include "worker/model/schedule.hpp"
#include "worker/model/transformer_pass.hpp"

namespace planaria {

BareTrainer::BareTrainer(Device& device, const JobSpec& job, BatchSource source)
    : device_(device),
      job_(job),
      batches_(std::move(source)),
      map_(job.model, job.train.tile_elements),
      ranges_(update_ranges(map_, {0, map_.tile_count()})),
      losses_(job.batch.sequences),
      slot_losses_(job.batch.slots),
      tile_sums_(map_.tile_count()) {}

Result<std::unique_ptr<BareTrainer>> BareTrainer::create(Device& device, const JobSpec& job, BatchSource source) {
  std::unique_ptr<BareTrainer> trainer(new BareTrainer(device, job, std::move(source)));
  PLANARIA_TRY(trainer->allocate());
  return trainer;
}

Status BareTrainer::allocate() {
  PLANARIA_ASSIGN(engine_, make_model_engine(device_, job_.model, map_, {job_.batch.sequences, job_.model.context},
                                             job_.train.seed));
  PLANARIA_ASSIGN(pass_, engine_->make_pass(all_blocks()));
  const std::size_t elements = map_.vector_elements();
  for (DeviceBuffer* buffer : {&parameters_, &moment1_, &moment2_}) {
    PLANARIA_ASSIGN(*buffer, device_.allocate_floats(elements));
  }
  for (std::uint32_t level = 0; level < static_cast<std::uint32_t>(std::bit_width(job_.batch.slots)); ++level) {
    PLANARIA_ASSIGN(DeviceBuffer node, device_.allocate_floats(elements));
    nodes_.push_back(std::move(node));
  }
  std::vector<float> initial(elements);
  initialize_parameters(job_.model, map_, job_.train.seed, initial);
  device_.copy_in(parameters_.data(), initial.data(), elements * sizeof(float));
  return device_.synchronize();
}

Status BareTrainer::start_from(std::span<const float> parameters) {
  device_.copy_in(parameters_.data(), parameters.data(), parameters.size_bytes());
  engine_->parameters_changed();
  return device_.synchronize();
}

// Joins the slot's gradient of one block with the nodes it completes.
void BareTrainer::fold_block(std::uint32_t slot, BlockIndex block) {
  const auto completed = static_cast<std::size_t>(subtrees_completed(slot));
  if (completed == 0) return;
  const BlockInfo& info = map_.block(block);
  const std::size_t oldest = static_cast<std::size_t>(std::popcount(slot)) - completed;
  std::array<const float*, 33> parts{};
  for (std::size_t k = 0; k <= completed; ++k) parts[k] = nodes_[oldest + k].floats() + info.offset;
  device_.fold(info.elements, std::span(parts).first(completed + 1), nodes_[oldest].floats() + info.offset);
}

Result<double> BareTrainer::accumulate_gradient() {
  const Step step = last_step_.next();
  const std::uint32_t per_slot = job_.micro_batches_per_slot();
  for (std::uint32_t slot = 0; slot < job_.batch.slots; ++slot) {
    slot_losses_[slot] = 0.0;
    for (std::uint32_t i = 0; i < per_slot; ++i) {
      PLANARIA_TRY(accumulate(step, MicroBatchIndex(slot * per_slot + i), slot));
    }
  }
  return tree_sum(slot_losses_) / static_cast<double>(job_.tokens_per_step());
}

Status BareTrainer::accumulate(Step step, MicroBatchIndex micro_batch, std::uint32_t slot) {
  const std::uint32_t next = micro_batch.value() + 1;
  const GradientSums own{nodes_[static_cast<std::size_t>(std::popcount(slot))].floats(),
                         micro_batch.value() % job_.micro_batches_per_slot() == 0};
  ModelPass::BlockDone done;
  if (next % job_.micro_batches_per_slot() == 0) done = [&](BlockIndex block) { fold_block(slot, block); };
  pass_->load(batches_.read(step, micro_batch), step);
  pass_->forward(all_blocks(), parameters_.floats(), true, nullptr, nullptr, losses_.data());
  pass_->backward(all_blocks(), parameters_.floats(), own, nullptr, nullptr, done);
  const bool last = next == job_.batch.micro_batches;
  batches_.read_ahead(last ? step.next() : step, MicroBatchIndex(last ? 0 : next));
  PLANARIA_TRY(device_.synchronize());
  for (const double loss : losses_) slot_losses_[slot] += loss;
  return ok_status();
}

Result<BareStepReport> BareTrainer::step() {
  PLANARIA_ASSIGN(const double loss, accumulate_gradient());
  last_step_ = last_step_.next();
  float* gradient = nodes_.front().floats();
  add_tied_gradient(device_, map_, gradient);
  for (const BlockInfo& block : map_.blocks()) {
    tile_sums(device_, map_, block.tile_range(), gradient + block.offset, tile_sums_.data() + block.first_tile);
  }
  PLANARIA_TRY(device_.synchronize());
  const ClipDecision clip =
      clip_decision(sum_of_tiles(map_, tile_sums_), job_.tokens_per_step(), job_.optimizer.clip_norm);
  if (clip.finite) {
    device_.adamw(adamw_step(job_.optimizer, job_.train.steps, last_step_, clip.scale), ranges_,
                  {parameters_.floats(), moment1_.floats(), moment2_.floats()}, gradient,
                  {parameters_.floats(), moment1_.floats(), moment2_.floats()});
    after_update(device_, map_, parameters_.floats());
    engine_->parameters_changed();
  }
  return BareStepReport{last_step_, loss, clip.norm,
                        planaria::learning_rate(job_.optimizer, job_.train.steps, last_step_), clip.finite};
}

Result<double> BareTrainer::evaluate(const Dataset& dataset, std::uint32_t count) {
  std::vector<double> sums;
  for (std::uint32_t i = 0; i < count; ++i) {
    read_validation_batch(dataset, job_.batch.sequences, i, count, validation_);
    pass_->load(validation_, last_step_);
    pass_->forward(all_blocks(), parameters_.floats(), false, nullptr, nullptr, losses_.data());
    PLANARIA_TRY(device_.synchronize());
    sums.insert(sums.end(), losses_.begin(), losses_.end());
  }
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total / (static_cast<double>(sums.size()) * job_.model.context);
}

std::vector<float> BareTrainer::parameters_on_host() const {
  std::vector<float> host(map_.vector_elements());
  device_.copy_out(host.data(), parameters_.data(), host.size() * sizeof(float));
  return host;
}

}  // namespace planaria

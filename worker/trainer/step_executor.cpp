#include "worker/trainer/step_executor.hpp"

#include <algorithm>
#include <bit>
#include <set>
#include <utility>

#include "common/log.hpp"
#include "storage/export.hpp"
#include "storage/fragment_rebuild.hpp"
#include "worker/model/init.hpp"
#include "worker/model/schedule.hpp"

namespace planaria {

namespace {

// Master and both moments.
constexpr std::size_t kGenerationVectors = 3;
// Of state t-1 and of the one that update t writes.
constexpr std::size_t kStateVectors = 2 * kGenerationVectors;

// A slot's accumulator and a finished subtree of each level below.
std::size_t accumulators(std::uint32_t slots) {
  return static_cast<std::size_t>(std::bit_width(slots));
}

}  // namespace

StepExecutor::StepExecutor(TrainerOptions options)
    : options_(std::move(options)),
      map_(options_.job.model, options_.job.train.tile_elements),
      staging_(options_.device) {}

Result<std::unique_ptr<StepExecutor>> StepExecutor::create(TrainerOptions options,
                                                           std::function<void(WorkerEvent)> checkpoint_written) {
  if (!options.job.pretrained.path.empty() && !options.pretrained) {
    return Error(ErrorCode::invalid_argument, "the job starts from pretrained weights, and none are given");
  }
  std::unique_ptr<StepExecutor> executor(new StepExecutor(std::move(options)));
  PLANARIA_TRY(executor->allocate(std::move(checkpoint_written)));
  return executor;
}

Status StepExecutor::allocate(std::function<void(WorkerEvent)> checkpoint_written) {
  const JobSpec& job = options_.job;
  Device& device = *options_.device;
  const std::size_t gradients = accumulators(job.batch.slots) + 1;  // and the reduced one
  PLANARIA_ASSIGN(pool_, BufferPool::create(options_.device, map_.vector_elements(), gradients + kStateVectors));
  states_ = std::make_unique<StateStore>(device, pool_, map_);
  gradients_ = std::make_unique<GradientStore>(device, pool_, map_, job.batch.slots);
  PLANARIA_ASSIGN(runner_, MicroBatchRunner::create(options_.device, job, *options_.dataset, map_, *gradients_));
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

Result<const StateGeneration*> StepExecutor::state(Step stamp) const {
  const StateGeneration* generation = states_->find(stamp);
  if (generation != nullptr) return generation;
  return Error(ErrorCode::internal,
               "the state of step " + std::to_string(stamp.value()) + " isn't held by the trainer");
}

// ---- compute ----

Result<WorkerEvent> StepExecutor::compute(const Compute& action, bool poisoned,
                                          const std::function<void()>& backward_begins) {
  PLANARIA_ASSIGN(const StateGeneration* base, state(action.step.previous()));
  if (std::exchange(known_additions_, states_->additions()) != states_->additions()) runner_->parameters_changed();
  PLANARIA_ASSIGN(auto done, runner_->compute(action, base->master.floats(), poisoned, backward_begins));
  return WorkerEvent(std::move(done));
}

// Writes to the memory that the next update and the stage's sums will take, as far as it is free, and computes in it.
Result<WorkerEvent> StepExecutor::rehearse(const worker_action::Rehearse& action) {
  std::vector<Buffer> taken;
  const auto touch = [&](std::size_t count, std::span<const ElementRange> runs) {
    for (; count > 0; --count) {
      Buffer buffer = pool_->take_free();
      if (!buffer) return;
      for (const ElementRange run : runs) options_.device->zero(run.size(), buffer.floats() + run.begin);
      taken.push_back(std::move(buffer));
    }
  };
  const std::vector<TileRange> stage = {map_.tiles_of(action.work.blocks)};
  touch(kGenerationVectors, element_runs(map_, action.kept));
  const std::size_t next_state = taken.size();
  touch(std::max<std::size_t>(2, accumulators(action.work.slots.size())), element_runs(map_, stage));
  if (taken.size() >= next_state + 2) {
    const Status done = runner_->rehearse(action.step, action.work, taken[next_state].floats(), taken.back().floats());
    if (!done && done.error().code() != ErrorCode::exhausted) return done.error();  // it can be done without
  }
  return WorkerEvent(worker_event::Rehearsed{});
}

// ---- gradient ----

Result<WorkerEvent> StepExecutor::reduce(const worker_action::ReduceShards& action) {
  if (runner_->has_waiting()) return Error(ErrorCode::internal, "sums are reduced while weights' gradients wait");
  gradients_->enter(action.step);
  std::vector<GradientStore::Input> inputs;
  inputs.reserve(action.inputs.size());
  for (const auto& input : action.inputs) inputs.push_back({input.node, payload_values(input.payload), input.tiles});
  PLANARIA_TRY(gradients_->reduce(action.tiles, inputs));
  return WorkerEvent(worker_event::ShardsReduced{action.step, action.attempt, action.tiles});
}

Status StepExecutor::store_reduced(const worker_action::StoreReduced& action) {
  gradients_->enter(action.step);
  return gradients_->store_reduced(action.tiles, payload_values(action.payload));
}

// Puts the gradient of the embedding's tiles, with that of their tied copies added, into a buffer of its own.
void StepExecutor::combine_tied(std::span<const TileRange> tiles, const float* gradient) {
  Device& device = *options_.device;
  const TileRange embed = map_.blocks().front().tile_range();
  const TileRange copies = map_.tied_tiles();
  const ElementRange tied{map_.tile(TileIndex(copies.begin)).begin, map_.tile(TileIndex(copies.end - 1)).end};
  float* const combined = embed_gradient_.floats();
  for (const ElementRange run : element_runs(map_, TileSet(tiles).common(embed).runs())) {
    // The first elements of the block have a tied copy.
    const std::uint64_t copied_end = std::clamp(tied.size(), run.begin, run.end);
    device.add(copied_end - run.begin, gradient + run.begin, gradient + tied.begin + run.begin, combined + run.begin);
    device.copy(combined + copied_end, gradient + copied_end, (run.end - copied_end) * sizeof(float));
  }
}

// The flat vector in which a block's whole gradient lies.
const float* StepExecutor::gradient_of(BlockIndex block, const float* reduced) const {
  return block.value() == 0 && options_.job.model.tied_embedding ? embed_gradient_.floats() : reduced;
}

Result<WorkerEvent> StepExecutor::measure(const worker_action::MeasureGradient& action) {
  Device& device = *options_.device;
  worker_event::GradientMeasured measured{action.step, action.attempt, action.tiles, {}};
  gradients_->enter(action.step);
  PLANARIA_ASSIGN(const float* reduced, gradients_->reduced());
  if (options_.job.model.tied_embedding) combine_tied(action.tiles, reduced);
  for (const TileRange& tiles : action.tiles) measured.sums.resize(measured.sums.size() + tiles.end - tiles.begin);
  double* sums = measured.sums.data();
  for (const BlockRange block : blocks_of(action.tiles)) {
    const TileSet inside = TileSet(action.tiles).common(map_.tiles_of(block));
    const float* gradient = gradient_of(BlockIndex(block.begin), reduced);
    for (const TileRange run : inside.runs()) {
      tile_sums(device, map_, run, gradient + map_.tile(TileIndex(run.begin)).begin, sums);
      sums += run.end - run.begin;
    }
  }
  PLANARIA_TRY(device.synchronize());
  return WorkerEvent(std::move(measured));
}

// The blocks that the tiles are of, each as a range, in order.
std::vector<BlockRange> StepExecutor::blocks_of(std::span<const TileRange> tiles) const {
  std::vector<BlockRange> blocks;
  const TileSet set(tiles);
  for (std::uint32_t block = 0; block < map_.blocks().size(); ++block) {
    if (set.intersects(map_.tiles_of({block, block + 1}))) blocks.push_back({block, block + 1});
  }
  return blocks;
}

// They are the same from step to step.
const std::vector<UpdateRange>& StepExecutor::update_ranges_of(const std::vector<TileRange>& tiles) {
  if (tiles == updated_tiles_) return updated_ranges_;
  updated_tiles_ = tiles;
  updated_ranges_.clear();
  for (const BlockRange block : blocks_of(tiles)) {
    const TileSet inside = TileSet(tiles).common(map_.tiles_of(block));
    for (const TileRange run : inside.runs()) {
      for (const UpdateRange& range : update_ranges(map_, run)) updated_ranges_.push_back(range);
    }
  }
  return updated_ranges_;
}

Result<WorkerEvent> StepExecutor::update(const worker_action::ApplyUpdate& action) {
  const JobSpec& job = options_.job;
  Device& device = *options_.device;
  const ClipDecision clip =
      clip_decision(sum_of_tiles(map_, action.sums), job.tokens_per_step(), job.optimizer.clip_norm);
  const WorkerEvent done =
      worker_event::UpdateDone{action.step, learning_rate(job.optimizer, job.train.steps, action.step), clip.norm};
  if (!action.copies.empty() && action.tiles.empty()) {
    PLANARIA_TRY(copy_tied({action.step, action.copies}));
  }
  if (action.tiles.empty()) return done;
  PLANARIA_ASSIGN(const StateGeneration* base, state(action.step.previous()));
  PLANARIA_ASSIGN(StateGeneration * next, states_->open(action.step));
  if (action.skip) {
    for (const ElementRange run : element_runs(map_, action.tiles)) {
      for (std::size_t v = 0; v < 3; ++v) {
        device.copy(next->vectors()[v] + run.begin, base->vectors()[v] + run.begin, run.size() * sizeof(float));
      }
    }
  } else {
    PLANARIA_ASSIGN(const float* reduced, gradients_->reduced());
    const AdamwStep scalars = adamw_step(job.optimizer, job.train.steps, action.step, clip.scale);
    const AdamwSource source{base->master.floats(), base->first_moment.floats(), base->second_moment.floats()};
    const AdamwTarget target{next->master.floats(), next->first_moment.floats(), next->second_moment.floats()};
    const std::vector<UpdateRange>& ranges = update_ranges_of(action.tiles);
    const std::uint64_t embed_end = map_.blocks().front().elements;
    const auto others = std::ranges::find_if(ranges, [&](const UpdateRange& r) { return r.begin >= embed_end; });
    device.adamw(scalars, {ranges.begin(), others}, source, gradient_of(BlockIndex(0), reduced), target);
    device.adamw(scalars, {others, ranges.end()}, source, reduced, target);
  }
  PLANARIA_TRY(states_->copy_tied(action.step, action.copies));
  states_->add(action.step, TileSet(action.tiles), {});
  return done;
}

// ---- state ----

Result<WorkerEvent> StepExecutor::stored(Step stamp, std::vector<TileRange> tiles, bool parameters_only,
                                         const PayloadRef& payload) {
  const Status status = states_->store(stamp, tiles, parameters_only, payload_values(payload));
  if (!status && status.error().code() != ErrorCode::corrupt) return status.error();
  return WorkerEvent(worker_event::StateStored{.stamp = stamp,
                                               .tiles = std::move(tiles),
                                               .parameters_only = parameters_only,
                                               .ok = status.ok(),
                                               .detail = status ? "" : status.error().message()});
}

// Bytes of a snapshot's data fragment, from where they lie now.
std::vector<ConstSlice> StepExecutor::fragment_slices(const StateGeneration& held, std::span<const TileRange> tiles,
                                                      std::uint64_t offset, std::uint64_t bytes) const {
  const Buffer* const buffers[] = {&held.master, &held.first_moment, &held.second_moment};
  std::vector<ConstSlice> slices;
  for (const TilePiece& piece : pieces_of(map_, tiles, offset, bytes)) {
    const Buffer& buffer = *buffers[piece.vector];
    const float* const begin = buffer.floats() + map_.tile(TileIndex(piece.tile)).begin;
    const std::span<const float> vector(begin, map_.bytes({piece.tile, piece.tile + 1}) / sizeof(float));
    slices.push_back({std::as_bytes(vector).subspan(piece.offset, piece.bytes), buffer.lease()});
  }
  return slices;
}

Result<WorkerEvent> StepExecutor::rebuild_state(const worker_action::RebuildState& action) {
  const Step stamp = action.snapshot.step;
  std::vector<RebuildInput> inputs;
  std::vector<ConstSlice> own;  // kept until the fragment is made
  for (const auto& input : action.inputs) {
    RebuildInput& given = inputs.emplace_back(RebuildInput{input.fragment, {}});
    if (input.payload != nullptr) {
      given.parts.push_back(std::as_bytes(payload_values(input.payload)));
    } else if (input.bytes > 0) {
      PLANARIA_ASSIGN(const StateGeneration* held, state(stamp));
      PLANARIA_ASSIGN(auto slices,
                      staging_.readable(fragment_slices(*held, action.layout.fragments[input.fragment].tiles,
                                                        action.offset, input.bytes)));
      for (ConstSlice& slice : slices) {
        given.parts.push_back(slice.bytes);
        own.push_back(std::move(slice));
      }
    }
  }
  const auto made = rebuild_fragment(action.layout, action.fragment, action.bytes, inputs);
  const Status right = made ? check_made(map_, action.tiles, *made, action.hashes) : Status(made.error());
  worker_event::StateStored stored{.stamp = stamp, .tiles = action.tiles, .ok = right.ok()};
  if (!right) {
    stored.detail = right.error().message();
    if (made) stored.blamed = action.hashed_by;
    return WorkerEvent(std::move(stored));
  }
  PLANARIA_ASSIGN(StateGeneration * target, states_->open(stamp));
  const std::byte* from = made->data();
  const auto& tiles = action.layout.fragments[action.fragment].tiles;
  for (const TilePiece& piece : pieces_of(map_, tiles, action.offset, action.bytes)) {
    std::byte* const to =
        reinterpret_cast<std::byte*>(target->vectors()[piece.vector] + map_.tile(TileIndex(piece.tile)).begin);
    options_.device->copy_in(to + piece.offset, from, piece.bytes);
    from += piece.bytes;
  }
  PLANARIA_TRY(options_.device->synchronize());
  states_->add(stamp, TileSet(action.tiles), {});
  return WorkerEvent(std::move(stored));
}

Result<WorkerEvent> StepExecutor::store_state(const worker_action::StoreState& action) {
  return stored(action.stamp, {action.tiles}, false, action.payload);
}

Result<WorkerEvent> StepExecutor::store_parameters(const worker_action::StoreParameters& action) {
  return stored(action.stamp, action.tiles, true, action.payload);
}

Status StepExecutor::copy_tied(const worker_action::CopyTied& action) {
  PLANARIA_ASSIGN([[maybe_unused]] const StateGeneration* held, state(action.stamp));
  return states_->copy_tied(action.stamp, action.tiles);
}

void StepExecutor::copy_state(const TrainState& source, std::span<const TileRange> state,
                              std::span<const TileRange> parameters, const StateGeneration& target) {
  Device& device = *options_.device;
  const std::vector<float>* vectors[] = {&source.master, &source.first_moment, &source.second_moment};
  const std::vector<ElementRange> whole = element_runs(map_, state);
  const std::vector<ElementRange> master_only = element_runs(map_, parameters);
  for (std::size_t v = 0; v < 3; ++v) {
    const auto copy = [&](const std::vector<ElementRange>& runs) {
      for (const ElementRange& run : runs) {
        device.copy_in(target.vectors()[v] + run.begin, vectors[v]->data() + run.begin, run.size() * sizeof(float));
      }
    };
    copy(whole);
    if (v == 0) copy(master_only);
  }
}

// Block by block, and of pretrained weights no more than the wanted tiles: a worker may hold a small part of the model.
Result<WorkerEvent> StepExecutor::initialize(const worker_action::InitializeState& action) {
  Device& device = *options_.device;
  PLANARIA_ASSIGN(StateGeneration * state, states_->open(Step(0)));
  TileSet wanted(action.state);
  wanted.add(TileSet(action.parameters));
  std::vector<float> values;
  for (const BlockRange block : blocks_of(wanted.runs())) {
    const BlockInfo& info = map_.block(BlockIndex(block.begin));
    values.resize(info.elements);
    if (!options_.pretrained) {
      initialize_block(options_.job.model, map_, options_.job.train.seed, BlockIndex(block.begin), values);
    }
    for (const ElementRange run : element_runs(map_, wanted.common(map_.tiles_of(block)).runs())) {
      const std::span<float> part = std::span(values).subspan(run.begin - info.offset, run.size());
      if (options_.pretrained) options_.pretrained->copy(run, part);
      device.copy_in(state->master.floats() + run.begin, part.data(), part.size_bytes());
    }
    PLANARIA_TRY(device.synchronize());  // the values are overwritten next
  }
  for (const ElementRange run : element_runs(map_, action.state)) {
    device.zero(run.size(), state->first_moment.floats() + run.begin);
    device.zero(run.size(), state->second_moment.floats() + run.begin);
  }
  PLANARIA_TRY(device.synchronize());
  states_->add(Step(0), TileSet(action.state), TileSet(action.parameters));
  return WorkerEvent(worker_event::StateLoaded{.stamp = Step(0), .ok = true, .detail = {}, .loss = {}});
}

Result<WorkerEvent> StepExecutor::load_checkpoint(const worker_action::LoadCheckpoint& action) {
  worker_event::StateLoaded done{.stamp = action.step, .ok = false, .detail = {}, .loss = {}};
  const auto places = planaria::list_checkpoints(*options_.files, options_.checkpoint_root);
  const auto place = places ? std::ranges::find(*places, action.step, &CheckpointPlace::step)
                            : std::vector<CheckpointPlace>::const_iterator();
  const Status loaded =
      places && place != places->end() ? load_whole(place->path, action, done) : load_snapshot(action);
  done.ok = loaded.ok();
  if (!loaded) done.detail = loaded.error().message();
  return WorkerEvent(done);
}

Status StepExecutor::load_whole(const std::string& path, const worker_action::LoadCheckpoint& action,
                                worker_event::StateLoaded& done) {
  PLANARIA_ASSIGN(
      const LoadedCheckpoint loaded,
      planaria::load_checkpoint(*options_.files, path, map_, job_hash(options_.job), options_.device->numeric_class()));
  if (loaded.state.step != action.step) {
    return Error(ErrorCode::mismatch,
                 path + " holds step " + std::to_string(loaded.state.step.value()) + ": it was renamed");
  }
  PLANARIA_ASSIGN(StateGeneration * state, states_->open(action.step));
  copy_state(loaded.state, action.state, action.parameters, *state);
  PLANARIA_TRY(options_.device->synchronize());
  states_->add(action.step, TileSet(action.state), TileSet(action.parameters));
  done.loss = loaded.state.loss;
  return ok_status();
}

// What this worker needs of what keepers wrote.
Status StepExecutor::load_snapshot(const worker_action::LoadCheckpoint& action) {
  const std::string step = std::to_string(action.step.value());
  if (options_.snapshot_root.empty()) {
    return Error(ErrorCode::not_found, "no checkpoint of step " + step + " in '" + options_.checkpoint_root + "'");
  }
  const Hash128 job = job_hash(options_.job);
  PLANARIA_ASSIGN(const DurableCatalog catalog, read_catalog(*options_.files, options_.snapshot_root, map_, job));
  PLANARIA_ASSIGN(const DurableSnapshot* const snapshot, find_complete(catalog, action.step));
  if (snapshot->numeric_class != options_.device->numeric_class()) {
    return Error(ErrorCode::mismatch, "the durable snapshot of step " + step + " is of another numeric class");
  }
  DurableState source(*options_.files, map_, job, *snapshot);
  PLANARIA_TRY(store_from(source, action.step, action.state, false));
  return store_from(source, action.step, action.parameters, true);
}

Status StepExecutor::store_from(DurableState& source, Step stamp, std::span<const TileRange> tiles,
                                bool parameters_only) {
  constexpr std::uint32_t kTilesAtOnce = 64;
  std::vector<float> values;
  for (const TileRange run : tiles) {
    for (TileRange part{run.begin, run.begin}; part.begin < run.end; part.begin = part.end) {
      const bool tied = map_.is_tied(TileIndex(part.begin));
      part.end = std::min(run.end, part.begin + kTilesAtOnce);
      if (!tied) part.end = std::min(part.end, std::max(map_.tied_tiles().begin, part.begin + 1));
      PLANARIA_ASSIGN(const auto slices, source.state(tied ? map_.originals_of(part) : part, parameters_only));
      values.clear();
      for (const ConstSlice& slice : slices) {
        const auto* const begin = reinterpret_cast<const float*>(slice.bytes.data());
        values.insert(values.end(), begin, begin + slice.bytes.size() / sizeof(float));
      }
      PLANARIA_TRY(states_->store(stamp, std::span(&part, 1), parameters_only, values));
    }
  }
  return ok_status();
}

// Unread: whoever loads one checks it then.
WorkerEvent StepExecutor::list_checkpoints() {
  const Hash128 job = job_hash(options_.job);
  std::set<Step> steps;
  if (const auto places = planaria::list_checkpoints(*options_.files, options_.checkpoint_root)) {
    for (const CheckpointPlace& place : *places) {
      const auto manifest = read_manifest(*options_.files, place.path);
      if (manifest && manifest->job_hash == job && manifest->step == place.step) steps.insert(place.step);
    }
  }
  if (!options_.snapshot_root.empty()) {
    for (const Step step : durable_steps(*options_.files, options_.snapshot_root, map_, job)) steps.insert(step);
  }
  return WorkerEvent(worker_event::CheckpointsListed{{steps.begin(), steps.end()}});
}

Result<WorkerEvent> StepExecutor::hash_state(const worker_action::HashState& action) {
  const StateGeneration* held = states_->find(action.stamp);
  worker_event::StateHashed hashed{action.stamp, {}};
  if (held == nullptr) return WorkerEvent(std::move(hashed));
  const float* const vectors[] = {held->master.floats(), held->first_moment.floats(), held->second_moment.floats()};
  PLANARIA_ASSIGN(hashed.hashes,
                  hash_blocks(*options_.device, map_, std::span(vectors).first(action.parameters_only ? 1 : 3),
                              action.parameters_only ? held->parameters : held->state, held->parameters));
  return WorkerEvent(std::move(hashed));
}

Result<WorkerEvent> StepExecutor::hash_weights(Step step) {
  worker_event::WeightsHashed hashed{step, {}};
  const StateGeneration* held = states_->find(step);
  if (held == nullptr) return WorkerEvent(hashed);  // it keeps nothing
  HostLook look(*options_.device);
  for (std::uint32_t block = 0; block < map_.blocks().size(); ++block) {
    if (!held->parameters.contains(map_.tiles_of({block, block + 1}))) continue;
    const BlockInfo& info = map_.blocks()[block];
    PLANARIA_ASSIGN(const auto parameters, look.at(held->master.floats(), {info.offset, info.offset + info.elements}));
    hashed.weights.push_back({block, tensor_hashes(options_.job.model, map_, BlockIndex(block), parameters)});
  }
  return WorkerEvent(std::move(hashed));
}

Status StepExecutor::begin_checkpoint(const worker_action::BeginCheckpoint& action) {
  if (!collected_) collected_ = writer_->buffer();
  collected_->step = action.step;
  collected_->view = action.view;
  collected_->loss = action.loss;
  if (action.tiles.empty()) return ok_status();
  PLANARIA_ASSIGN(const StateGeneration* held, state(action.step));
  std::vector<float>* vectors[] = {&collected_->master, &collected_->first_moment, &collected_->second_moment};
  for (const ElementRange run : element_runs(map_, action.tiles)) {
    for (std::size_t v = 0; v < 3; ++v) {
      options_.device->copy_out(vectors[v]->data() + run.begin, held->vectors()[v] + run.begin,
                                run.size() * sizeof(float));
    }
  }
  return options_.device->synchronize();
}

Status StepExecutor::add_to_checkpoint(const worker_action::AddToCheckpoint& action) {
  const std::vector<ElementRange> runs = element_runs(map_, std::span(&action.tiles, 1));
  const std::span<const float> values = payload_values(action.payload);
  if (!collected_ || collected_->step != action.step || values.size() != 3 * total_elements(runs)) {
    return Error(ErrorCode::internal, "state for a checkpoint that wasn't begun, or of another size");
  }
  const float* source = values.data();
  for (std::vector<float>* vector : {&collected_->master, &collected_->first_moment, &collected_->second_moment}) {
    for (const ElementRange& run : runs) {
      std::copy_n(source, run.size(), vector->begin() + static_cast<std::ptrdiff_t>(run.begin));
      source += run.size();
    }
  }
  return ok_status();
}

std::optional<WorkerEvent> StepExecutor::write_checkpoint(const worker_action::WriteCheckpoint& action) {
  // The result of the job waits for a slow disk; any other checkpoint can be left out.
  if (action.step.value() >= options_.job.train.steps) writer_->drain();
  fill_tied_copy(map_, collected_->master);
  const float* const vectors[] = {collected_->master.data(), collected_->first_moment.data(),
                                  collected_->second_moment.data()};
  const TileSet all(TileRange{0, map_.tile_count()});
  const auto hashes = hash_blocks(map_, std::span(vectors).first(action.parameters_only ? 1 : 3), all, all);
  if (!agree(hashes, action.expected)) {
    return WorkerEvent(worker_event::CheckpointWritten{
        action.step, false, "its parts aren't what the members compared: a memory is damaged"});
  }
  const Status taken = writer_->submit(std::move(*std::exchange(collected_, std::nullopt)));
  if (taken) return std::nullopt;
  return WorkerEvent(worker_event::CheckpointWritten{action.step, false, taken.error().message()});
}

void StepExecutor::finish_checkpoints() {
  writer_->drain();
}

// ---- what others are given ----

Result<std::vector<ConstSlice>> StepExecutor::payload(const DataMeta& meta, std::span<const ElementRange> runs,
                                                      std::span<const ValueSource> vectors) const {
  PLANARIA_ASSIGN(auto values, staging_.readable(value_slices(runs, vectors)));
  return data_slices(meta, std::move(values));
}

Result<std::vector<ConstSlice>> StepExecutor::piece_payload(const Piece& meta) const {
  if (runner_->has_waiting()) return Error(ErrorCode::internal, "a sum is sent while weights' gradients wait");
  PLANARIA_ASSIGN(const ValueSource node, gradients_->lease_node({meta.blocks, meta.node}));
  return payload(meta, element_runs(map_, meta.tiles), std::span(&node, 1));
}

Result<std::vector<ConstSlice>> StepExecutor::reduced_payload(const Reduced& meta) const {
  PLANARIA_ASSIGN(const ValueSource reduced, gradients_->lease_reduced());
  return payload(meta, element_runs(map_, meta.tiles), std::span(&reduced, 1));
}

Result<std::vector<ConstSlice>> StepExecutor::boundary_payload(const Boundary& meta) const {
  PLANARIA_ASSIGN(const ValueSource values, runner_->boundaries().lease(meta.id));
  const ElementRange all{0, runner_->boundary_elements()};
  return payload(meta, std::span(&all, 1), std::span(&values, 1));
}

Result<std::vector<ConstSlice>> StepExecutor::parameters_payload(const Parameters& meta) const {
  PLANARIA_ASSIGN(const StateGeneration* held, state(meta.step));
  const ValueSource values{held->master.floats(), held->master.lease()};
  return payload(meta, original_runs(map_, meta.tiles), std::span(&values, 1));
}

Result<StateCopy> StepExecutor::state_copy(const worker_action::SnapshotState& action) const {
  PLANARIA_ASSIGN(const StateGeneration* held, state(action.stamp));
  StateCopy copy{action.keeper, action.view, action.stamp, action.tiles, {}, {}, options_.device};
  std::uint64_t all = 0;
  for (const TileRange run : action.tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      copy.tile_bytes.push_back(kTensorsOfState * map_.bytes({tile, tile + 1}));
      all += copy.tile_bytes.back();
    }
  }
  copy.values = fragment_slices(*held, action.tiles, 0, all);
  return copy;
}

Result<std::vector<ConstSlice>> StepExecutor::fragment_payload(const worker_action::SendFragmentReply& send) const {
  const FragmentPart& part = send.meta.part;
  const StateGeneration* const held = states_->find(part.snapshot.step);
  const bool here = held != nullptr && !send.tiles.empty() && held->state.contains(TileSet(send.tiles));
  if (!here) return data_slices(FragmentReply{part, false, {}});
  PLANARIA_ASSIGN(auto values, staging_.readable(fragment_slices(*held, send.tiles, part.offset, part.bytes)));
  return data_slices(send.meta, std::move(values));
}

std::optional<std::vector<ConstSlice>> StepExecutor::state_payload(const StateTiles& meta) const {
  const auto lease = states_->lease(meta);
  if (!lease) return std::nullopt;
  auto slices = payload(meta, lease->runs, lease->vectors);
  if (!slices) {
    Log("trainer").error("state that is held can't be read", {{"why", slices.error().message()}});
    return std::nullopt;
  }
  return std::move(slices).value();
}

}  // namespace planaria

#include "chaos/sim/simulation.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "chaos/sim/describe.hpp"

namespace planaria::sim {
namespace {

// Virtual time in which the cores must be done once faults have ceased: every timeout several times over, and the
// rest of the training on one slow worker. A run that takes longer hangs.
constexpr std::int64_t kPatience = 12;
constexpr std::uint64_t kMaxEvents = 400'000;  // of a small cluster: far above any run that goes well

ByteVector address_of(ProcessIndex index) {
  ByteVector address(4);
  for (std::size_t i = 0; i < 4; ++i) address[i] = static_cast<std::uint8_t>(index >> (8 * i));
  return address;
}

}  // namespace

Simulation::Simulation(const SimOptions& options, std::size_t trace_lines)
    : options_(options),
      world_(options_, trace_lines),
      oracle_(*this, world_),
      data_(*this, world_, links_),
      control_(*this, world_, links_),
      disks_(world_),
      coordinator_(*this, world_),
      injector_(*this, world_),
      job_hash_(mix(Operation::initial, {options.seed, 7}, {})) {}

Simulation::~Simulation() = default;

WorkerProcess& Simulation::start(ProcessStart how) {
  const auto index = static_cast<ProcessIndex>(processes_.size());
  if (how.host.empty()) how.host = "h" + std::to_string(index);
  processes_.push_back(std::make_unique<WorkerProcess>(*this, index, std::move(how), slowness(index)));
  WorkerProcess& process = *processes_.back();
  world_.trace.add(world_.now(), [&] { return process.name() + " starts on " + process.host(); });
  control_.connect(index, world_.about(std::chrono::milliseconds(1)));
  return process;
}

WorkerProcess* Simulation::process_at(const ByteVector& address) {
  if (address.size() != 4) return nullptr;
  ProcessIndex index = 0;
  for (std::size_t i = 0; i < 4; ++i) index |= static_cast<ProcessIndex>(address[i]) << (8 * i);
  return index < processes_.size() ? processes_[index].get() : nullptr;
}

std::vector<WorkerProcess*> Simulation::living() {
  std::vector<WorkerProcess*> alive;
  for (const auto& process : processes_) {
    if (process->alive()) alive.push_back(process.get());
  }
  return alive;
}

std::uint64_t Simulation::sequence_tokens() const {
  return options_.job.tokens_per_step();
}

double Simulation::slowness(ProcessIndex index) const {
  return options_.slowness.empty() ? 1 : options_.slowness[index % options_.slowness.size()];
}

WorkerCoreConfig Simulation::worker_config(ProcessIndex index, const ProcessStart& how, std::uint32_t disk) {
  const JobSpec& job = options_.job;
  WorkerCoreConfig config;
  config.slots = job.batch.slots;
  config.micro_batches_per_slot = job.micro_batches_per_slot();
  config.map = options_.shape.map;
  // Simulated blocks all take the same time.
  const std::size_t blocks = options_.shape.blocks.size();
  config.block_shares.assign(blocks, 1.0 / static_cast<double>(blocks));
  config.evaluation_batches = options_.shape.evaluated;
  config.total_steps = Step(job.train.steps);
  config.checkpoint_every = job.checkpoint.every_steps;
  config.durable_snapshots = job.snapshot.durable;
  config.integrity_every = job.integrity.check_every;
  config.sequence_tokens = sequence_tokens();
  config.evaluation_tokens = 1024;
  config.evaluate_every = job.train.evaluate_every;
  config.state_chunk_tiles = 2;
  config.direct_members = options_.direct_members;
  config.heartbeat = std::chrono::milliseconds(job.cluster.heartbeat_ms);
  config.registration.job = job_hash_;
  config.registration.numeric_class = "simulated";
  config.registration.role = how.role;
  config.registration.wanted = how.wanted;
  config.registration.host = how.host;
  config.registration.process_id = index + 1;
  if (options_.known_speeds) config.registration.resources.gflops = 1 / slowness(index);
  config.registration.resources.memory_bytes = options_.memory_bytes;
  config.registration.address = address_of(index);
  config.registration.holdings.checkpoints = disks_.list(disk);
  config.mutations = options_.mutations;
  return config;
}

CoordinatorCoreConfig Simulation::coordinator_config() const {
  CoordinatorCoreConfig config;
  config.job = options_.job;
  config.job_hash = job_hash_;
  config.mutations = options_.mutations;
  return config;
}

void Simulation::start_send(WorkerProcess& process, WorkerAction& action) {
  using namespace worker_action;  // NOLINT
  if (auto* piece = std::get_if<SendPiece>(&action)) {
    BufferRef source = process.trainer().node_buffer(piece->meta.step, {piece->meta.blocks, piece->meta.node});
    if (source == nullptr) {
      return world_.fail("8: a sum is sent that isn't there", process.name() + ": " + describe(action));
    }
    data_.send(process.index(), piece->to, piece->view, std::move(piece->meta), std::move(source));
  } else if (auto* reduced = std::get_if<SendReduced>(&action)) {
    BufferRef source = process.trainer().reduced_buffer(reduced->meta.step);
    if (source == nullptr) {
      return world_.fail("8: a gradient is sent that isn't there", process.name() + ": " + describe(action));
    }
    data_.send(process.index(), reduced->to, reduced->view, std::move(reduced->meta), std::move(source));
  } else if (auto* boundary = std::get_if<SendBoundary>(&action)) {
    BufferRef source = process.trainer().boundary_buffer(boundary->meta.step, boundary->meta.id);
    if (source == nullptr) {
      return world_.fail("8: a boundary is sent that isn't there", process.name() + ": " + describe(action));
    }
    data_.send(process.index(), boundary->to, boundary->view, std::move(boundary->meta), std::move(source));
  } else if (auto* state = std::get_if<SendState>(&action)) {
    const StateTiles& meta = state->meta;
    BufferRef source = process.trainer().state_buffer(meta.stamp);
    TileSet has = source == nullptr ? TileSet() : meta.parameters_only ? source->parameters : source->state;
    if (meta.parameters_only) has.add(tied_to(*options_.shape.map, has));
    if (!has.contains(meta.tiles)) {
      return world_.fail("8: state is sent that isn't held", process.name() + ": " + describe(action));
    }
    data_.send(process.index(), state->to, state->view, std::move(state->meta), std::move(source));
  } else if (auto* parameters = std::get_if<SendParameters>(&action)) {
    BufferRef source = process.trainer().state_buffer(parameters->meta.step);
    const TileSet tiles(parameters->meta.tiles);
    TileSet read = tiles.common(options_.shape.map->tiles_with_state());
    read.add(originals_of(*options_.shape.map, tiles));
    if (source == nullptr || !source->state.contains(read)) {
      return world_.fail("8: parameters are sent that weren't made here", process.name() + ": " + describe(action));
    }
    data_.send(process.index(), parameters->to, parameters->view, std::move(parameters->meta), std::move(source));
  } else if (auto* copy = std::get_if<SnapshotState>(&action)) {
    start_copy(process, *copy);
  } else {
    send_fragment(process, action);
  }
}

// A keeper's sends of what it holds of snapshots, and anybody's answers about fragments.
void Simulation::send_fragment(WorkerProcess& process, const WorkerAction& action) {
  using namespace worker_action;  // NOLINT
  const auto missing = [&] {
    world_.fail("8: a fragment is sent that isn't held", process.name() + ": " + describe(action));
  };
  const auto tiles_here = [&](Step stamp, const std::vector<TileRange>& tiles) {
    BufferRef source = process.trainer().state_buffer(stamp);
    return source != nullptr && source->state.contains(TileSet(tiles)) ? source : nullptr;
  };
  if (const auto* data = std::get_if<SendFragment>(&action)) {
    const StripeFragment& fragment = data->layout->stripes[data->stripe].fragments[data->fragment];
    const BufferRef source = tiles_here(data->snapshot.step, fragment.tiles);
    if (source == nullptr) return missing();
    const std::uint64_t bytes = fragment_bytes(*options_.shape.map, fragment);
    const std::uint64_t parts = 1 + world_.noise.below(3);
    for (std::uint64_t i = 0; i < parts; ++i) {
      const std::uint64_t begin = bytes * i / parts, end = bytes * (i + 1) / parts;
      const FragmentPart part{data->snapshot, data->stripe, data->fragment, begin, end - begin};
      data_.send(process.index(), data->to, data->view, FragmentData{part, {}}, source);
    }
  } else if (const auto* parity = std::get_if<SendParity>(&action)) {
    BufferRef source = process.trainer().parity_buffer(parity->part, false);
    if (source == nullptr) return missing();
    data_.send(process.index(), parity->to, parity->view, FragmentData{parity->part, {}}, std::move(source));
  } else if (const auto* reply = std::get_if<SendFragmentReply>(&action)) {
    const FragmentPart& part = reply->meta.part;
    BufferRef source = reply->tiles.empty() ? process.trainer().parity_buffer(part, true)
                                            : tiles_here(part.snapshot.step, reply->tiles);
    if (source == nullptr) return missing();
    data_.send(process.index(), reply->to, reply->view, reply->meta, std::move(source));
  }
}

// The worker's copying thread and the host's memory. The state that it reads isn't overwritten meanwhile.
void Simulation::start_copy(WorkerProcess& process, const worker_action::SnapshotState& copy) {
  const BufferRef source = process.trainer().state_buffer(copy.stamp);
  if (source == nullptr || !source->state.contains(TileSet(copy.tiles))) {
    return world_.fail("3: state is copied that isn't held", process.name() + ": " + to_string(copy.stamp));
  }
  auto payload = std::make_shared<TermPayload>();
  payload->tiles = source->tiles;
  const WorkerId from = process.core().identity()->worker;
  const auto seal = [this, &process, copy, from, payload] {
    for (WorkerProcess* keeper : living()) {
      const auto identity = keeper->core().identity();
      const bool meant = keeper->role() == Role::keeper && keeper->host() == process.host() && identity &&
                         identity->worker == copy.keeper;
      if (!meant) continue;
      keeper->arrive([keeper, copy, from, payload] {
        keeper->post(worker_event::SnapshotSealed{copy.view, from, copy.stamp, copy.tiles, payload});
      });
    }
  };
  constexpr double kFails = 0.03;
  const auto fail = [&process, copy] {
    process.post(worker_event::SnapshotCopyFailed{copy.view, copy.stamp, copy.tiles});
  };
  const bool fails = world_.noise.chance(kFails);
  world_.queue.after(world_.about(options_.micro_batch),
                     [&process, seal, fail, fails] { fails ? process.arrive(fail) : process.arrive(seal); });
}

// The worker's copying thread reads the keeper's memory once the keeper has told where.
void Simulation::start_attach(WorkerProcess& process, const worker_action::AttachState& want) {
  constexpr double kFails = 0.05;
  const auto fail = [&process, want] {
    process.post(worker_event::AttachFailed{want.keeper, want.view, want.stamp, want.tiles, want.parameters_only});
  };
  const auto answer = [this, &process, want, fail](const WorkerProcess& keeper) {
    const BufferRef source = keeper.trainer().state_buffer(want.stamp);
    if (source == nullptr || !source->state.contains(want.tiles)) return process.arrive(fail);
    auto payload = std::make_shared<TermPayload>();
    payload->tiles = source->tiles;
    process.arrive([&process, want, payload, took = options_.micro_batch] {
      process.post(worker_event::StateAttached{want.keeper, want.view, want.stamp, want.tiles, want.parameters_only,
                                               payload, took});
    });
  };
  const bool fails = world_.noise.chance(kFails);
  world_.queue.after(world_.about(options_.micro_batch), [this, &process, want, fail, answer, fails] {
    for (WorkerProcess* keeper : living()) {
      const auto identity = keeper->core().identity();
      const bool meant = keeper->role() == Role::keeper && keeper->host() == process.host() && identity &&
                         identity->worker == want.keeper;
      if (meant && !fails) return keeper->arrive([keeper, answer] { answer(*keeper); });
    }
    process.arrive(fail);
  });
}

// ---- from start to verdict ----

bool Simulation::over() const {
  if (!coordinator_.exited()) return false;
  return std::ranges::none_of(processes_, [](const auto& process) { return process->alive(); });
}

Instant Simulation::deadline() const {
  const ClusterSpec& cluster = options_.job.cluster;
  const std::int64_t timeouts = cluster.lease_ms * 4LL + cluster.prepare_timeout_ms * 2LL +
                                cluster.stall_timeout_ms * 2LL + cluster.join_timeout_ms;
  const std::int64_t left = static_cast<std::int64_t>(options_.shape.total_steps.value()) + 2;
  const std::int64_t step_ns = options_.micro_batch.count() * options_.job.batch.micro_batches * 4;
  return std::max(injector_.last_effect(), rescued_at_) + Duration(left * step_ns) +
         std::chrono::milliseconds(timeouts) * kPatience / 4;
}

RunResult Simulation::run() {
  coordinator_.start();
  for (std::size_t i = 0; i < options_.starts.size(); ++i) {
    world_.queue.after(options_.starts[i], [this, i] { start({.wanted = WorkerId(static_cast<std::uint32_t>(i))}); });
  }
  for (std::size_t i = 0; i < options_.keepers.size(); ++i) {
    world_.queue.after(options_.keepers[i],
                       [this, i] { start({.host = "h" + std::to_string(i), .role = Role::keeper}); });
  }
  RunResult result;
  bool rescued = false;
  bool gave_up = false;
  std::uint64_t count = 0;
  const std::uint64_t most = kMaxEvents * std::max<std::uint64_t>(1, options_.starts.size() / 16);
  while (!world_.violation && !world_.beyond_promise && !over() && world_.queue.run_next()) {
    if ((++count & 63U) != 0) continue;
    // Faults whose moment never comes must not keep the job from ending, nor the rescue from coming.
    if (!gave_up && !injector_.calm() && world_.now() > last_progress_ + std::chrono::seconds(20)) {
      gave_up = true;
      injector_.give_up_pending();
    }
    if (!rescued && injector_.calm() && world_.now() >= injector_.last_effect()) {
      rescued = true;
      rescued_at_ = world_.now();
      for (const Duration delay : options_.rescues) {
        world_.queue.after(delay, [this] {
          if (!coordinator_.exited()) start({});
        });
      }
    }
    if (count > most || (rescued && world_.now() > deadline())) break;
  }
  judge_end(result);
  result.violation = world_.violation;
  result.faults = injector_.struck();
  result.views = oracle_.view_count();
  result.tiers = oracle_.tiers();
  result.rebuilt = oracle_.tiles_rebuilt();
  result.returns = oracle_.returns();
  result.events = world_.queue.executed();
  result.virtual_time = world_.now() - Instant{};
  result.trace = world_.trace.lines();
  return result;
}

void Simulation::judge_end(RunResult& result) {
  if (world_.violation) return;
  if (world_.beyond_promise) {
    result.ending = Ending::beyond_promise;
    return;
  }
  if (coordinator_.exited()) {
    oracle_.job_finished(coordinator_.core(), coordinator_.exit_success());
    result.ending = coordinator_.exit_success() ? Ending::finished : Ending::failed;
    result.ending_reason = coordinator_.core()->status_reason();
    if (!over()) {
      std::string who;
      for (const WorkerProcess* process : living()) who += " " + process->name();
      world_.fail("15: the job is over and workers don't leave", who);
    }
    return;
  }
  const CoordinatorCore* core = coordinator_.core();
  const bool waits = core != nullptr && !core->status_reason().empty() &&
                     (core->status() == JobStatus::waiting || core->status() == JobStatus::starting);
  // Started again after the end, it stays a while for members that may come to ask; all have heard it and left.
  const bool last_call = core != nullptr && core->status() == JobStatus::finished && living().empty();
  if (last_call) {
    oracle_.job_finished(core, true);
    result.ending = Ending::finished;
    result.ending_reason = core->status_reason();
    return;
  }
  std::size_t able = 0;
  for (const WorkerProcess* process : living()) {
    able += process->state() == ProcessState::running && process->role() == Role::worker ? 1 : 0;
  }
  if (waits && able < options_.job.cluster.min_workers) {
    result.ending = Ending::waiting;
    result.ending_reason = core->status_reason();
    return;
  }
  std::string detail = core == nullptr
                           ? "no coordinator"
                           : std::string(planaria::to_string(core->status())) + ": " + core->status_reason();
  constexpr std::size_t kTold = 32;
  const std::vector<WorkerProcess*> alive = living();
  for (const WorkerProcess* process : std::span(alive).first(std::min(alive.size(), kTold))) {
    detail += "; " + process->name() + " " + to_string(process->phase()) + " of step " +
              to_string(process->core().step()) + " in view " + std::to_string(process->core().view().value());
  }
  if (alive.size() > kTold) detail += "; and " + std::to_string(alive.size() - kTold) + " more";
  world_.fail("15: the job neither finishes nor waits with a reason", detail);
}

}  // namespace planaria::sim

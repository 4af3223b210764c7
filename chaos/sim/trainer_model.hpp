// The trainer thread of a simulated worker: carries out trainer actions in order, each taking virtual time, on symbolic
// values, and models the memory that they live in: sums of tree nodes, the reduced gradient, generations of state.
//
// It keeps and gives up what the real one does (worker/trainer): an update gives up what is older than the state that
// it reads; what was fetched gathers in the state of its step.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "chaos/sim/world.hpp"
#include "proto/duty.hpp"
#include "worker/core/events.hpp"

namespace planaria::sim {

class WorkerProcess;

struct TermPayload final : Payload {
  TermVector tiles;  // all of the model's, those of the message are set; or the one value of a boundary
};

// Values that the network may read as long as it holds a reference: what is given up is never written again.
struct Buffer {
  TermVector tiles;
  Step stamp;                 // of a state, and what of it is there
  TileSet state, parameters;  // the former are among the latter
};
using BufferRef = std::shared_ptr<Buffer>;

struct NodeSum {
  BufferRef buffer;
  Step step;
  std::uint32_t attempt = 0;
  std::uint32_t next_position = 0;  // of a slot's sum
  bool finished = false;
  Incarnation incarnation;  // that finished it
};

// A gradient that isn't finite: one, or all from now on.
enum class NanFault : std::uint8_t { none, once, always };
// A wrong value: written by the next update, there after the members compared, or in a reduced gradient.
enum class FlipFault : std::uint8_t { none, in_update, at_rest, in_gradient };

class TrainerModel {
 public:
  TrainerModel(World& world, WorkerProcess& process);

  void submit(WorkerAction action);
  void freeze();
  void thaw();
  void kill();

  // A send's view of the memory. `state` null: the generation isn't held.
  [[nodiscard]] BufferRef node_buffer(Step step, StageNode node);
  [[nodiscard]] BufferRef boundary_buffer(Step step, const BoundaryId& id);
  [[nodiscard]] BufferRef reduced_buffer(Step step);
  [[nodiscard]] BufferRef state_buffer(Step stamp) const { return find_state(stamp); }
  [[nodiscard]] BufferRef parity_buffer(const FragmentPart& part, bool whole) const;

  [[nodiscard]] std::optional<Step> newest_state() const;
  [[nodiscard]] const std::vector<BufferRef>& states() const { return states_; }
  [[nodiscard]] TileSet state_tiles(Step stamp) const;
  [[nodiscard]] TileSet parameter_tiles(Step stamp) const;
  // Of a keeper: parity that is here whole, and whether it ever was.
  [[nodiscard]] const TermVector* parity(const HeldFragment& held) const;
  [[nodiscard]] bool held_parity(const SnapshotName& snapshot, std::uint32_t stripe, std::uint32_t fragment) const {
    return parities_held_.contains({snapshot, stripe, fragment});
  }
  // Whether it held the tiles of the step or the next, ever in this process's life.
  [[nodiscard]] bool reached(Step step, const TileSet& tiles) const;
  // A finished sum of one of the blocks for the slot.
  [[nodiscard]] bool holds_slot(Step step, std::uint32_t attempt, const StageWork& work, Incarnation incarnation) const;
  [[nodiscard]] bool idle() const { return !running_ && queue_.empty(); }
  // Whether the running micro-batch goes forward or backward; none when none runs.
  [[nodiscard]] std::optional<Pass> pass() const;

  void arm(NanFault fault) { nan_armed_ = fault; }
  void arm(FlipFault fault) { flip_armed_ = fault; }
  [[nodiscard]] bool computes_wrongly() const { return nan_armed_ == NanFault::always; }
  void forget_ledger() { finished_.clear(); }
  [[nodiscard]] std::uint64_t micro_batches_computed() const { return micro_batches_computed_; }

 private:
  struct Running {
    WorkerAction action;
    Instant started;
    Instant ends;
  };

  void start_next();
  void finish();
  [[nodiscard]] Duration duration_of(const WorkerAction& action);

  // What an action does when it starts, and when it ends.
  void begin(const WorkerAction& action);
  void complete(const WorkerAction& action, Duration took);
  void compute(const worker_action::ComputeMicroBatch& action, Duration took);
  [[nodiscard]] bool forward(const worker_action::ComputeMicroBatch& action, const TermVector& state);
  [[nodiscard]] bool backward(const worker_action::ComputeMicroBatch& action, const TermVector& state, bool& finite);
  [[nodiscard]] std::optional<Term> input_of(const worker_action::ComputeMicroBatch& action, BoundaryKind kind,
                                             std::uint32_t block);
  void fold(const worker_action::FoldNodes& action);
  void reduce(const worker_action::ReduceShards& action);
  void store_reduced(const worker_action::StoreReduced& action);
  void measure(const worker_action::MeasureGradient& action);
  [[nodiscard]] bool holds_gradient(Step step, const std::vector<TileRange>& tiles) const;
  void update(const worker_action::ApplyUpdate& action);
  void store_state(const worker_action::StoreState& action);
  void copy_tied(const worker_action::CopyTied& action);
  void store_parameters(const worker_action::StoreParameters& action);
  void load(Step stamp, const TermVector* tiles, const std::vector<TileRange>& state,
            const std::vector<TileRange>& parameters);
  void hash_state(const worker_action::HashState& action);
  void hash_weights(const worker_action::HashWeights& action);
  void begin_checkpoint(const worker_action::BeginCheckpoint& action);
  void add_to_checkpoint(const worker_action::AddToCheckpoint& action);
  void write_checkpoint(const worker_action::WriteCheckpoint& action);
  void add_part(const worker_action::AddFragmentPart& action);
  void store_part(const worker_action::StoreFragmentPart& action);
  void keep_fragments(const worker_action::KeepFragments& action);
  void rebuild(const worker_action::RebuildState& action);
  void save_snapshot(const worker_action::SaveSnapshot& action);
  void release(Step step);
  void put_aside(Step step);
  void take_up(Step step);
  // notices: what members tell of when they find it. False: several keep none of the tiles.
  bool damage(Buffer& buffer, const TileSet& tiles, EvidenceKind notices);

  [[nodiscard]] BufferRef find_state(Step stamp) const;
  [[nodiscard]] Buffer& open_state(Step stamp);
  void add_tiles(Buffer& state, const TileSet& tiles, const TileSet& parameters);
  void open_reduced(Step step);
  void hold_reduced(std::uint32_t tile, const Term& value);
  [[nodiscard]] bool in_view_of_flip() const;
  void fail(const std::string& invariant, const std::string& detail);

  World& world_;
  WorkerProcess& process_;
  std::deque<WorkerAction> queue_;
  std::optional<Running> running_;
  std::uint64_t epoch_ = 0;  // planned completions of an older one are void
  bool frozen_ = false;
  Duration left_{};  // of the running action when frozen

  // What a step's work leaves in memory.
  struct StepMemory {
    std::map<StageNode, NodeSum> nodes;
    std::map<BoundaryId, BufferRef> boundaries;  // what left own stages
    Step boundaries_step;
    BufferRef reduced;
    Step reduced_step;
    TileSet reduced_held;
    BufferRef right_gradient;  // where a value of `reduced` flipped, in the view `wrong_since_`
  };
  StepMemory now_;
  StepMemory kept_;  // of the step `kept_step_`
  Step kept_step_;
  std::map<std::pair<BlockRange, SlotItem>, std::vector<Term>> in_flight_;  // the blocks' inputs
  std::map<std::uint32_t, SlotLoss> losses_;                                // by slot
  std::vector<BufferRef> states_;
  std::map<Step, TileSet> reached_;
  std::optional<Buffer> collected_;  // a checkpoint that is being put together

  // Parity stands for the terms of all of its stripe's data.
  struct Parity {
    BufferRef sums;
    Stripe layout;
    std::uint32_t fragment = 0;
    std::uint64_t bytes = 0;  // so far
    bool whole = false;
  };
  using ParityKey = std::pair<SnapshotName, std::uint32_t>;  // and the stripe, of which it holds one fragment
  Parity& open_parity(const SnapshotLayout& layout, const FragmentPart& part, bool encodes);
  void parity_whole(const ParityKey& key, Parity& parity);
  std::map<ParityKey, Parity> parities_;
  std::set<std::tuple<SnapshotName, std::uint32_t, std::uint32_t>> parities_held_;

  std::set<std::tuple<Step, std::uint32_t, std::uint32_t, std::uint32_t>> finished_;  // step, attempt, block, slot
  std::uint64_t micro_batches_computed_ = 0;
  NanFault nan_armed_ = NanFault::none;
  FlipFault flip_armed_ = FlipFault::none;
  ViewNumber wrong_since_;
};

}  // namespace planaria::sim

// What goes into and comes out of a worker's protocol core.
//
// Actions name data, never addresses: the trainer keeps the buffers (a gradient sum per tree node, the reduced
// gradient, state by its step) and carries out trainer actions strictly in the order in which the core gave
// them; the transport carries out sends. Sends of tensors (SendPiece, SendReduced, SendBoundary, SendParameters,
// SendState, and those of fragments) take their place in the trainer's order: they read what the trainer actions before
// them have made. FoldNodes, StoreReduced, CopyTied, DropState, RevertState, KeepFragments, ReleaseStep, KeepStep,
// ReturnToStep and those of a checkpoint have no completion event; that order is all the core relies on. The simulator
// does the same with symbolic values.
//
// Thread contract: plain values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.hpp"
#include "proto/control.hpp"
#include "proto/data_message.hpp"
#include "proto/layout.hpp"

namespace planaria {

// What a stage does with a micro-batch. Where the head is, a training micro-batch goes both ways at once.
enum class Pass : std::uint8_t { forward, backward, both };

// The sum of a tree node that the stages of these blocks made.
struct StageNode {
  BlockRange blocks;
  TreeNode node;
  auto operator<=>(const StageNode&) const = default;
};

// Received values, opaque to the core: bytes in a shell, terms in the simulator.
struct Payload {
  virtual ~Payload() = default;
};
using PayloadRef = std::shared_ptr<const Payload>;

namespace worker_event {

struct ControlConnected {};  // a session with a coordinator is open; the core answers with Register
struct ControlLost {};
struct Control {
  Generation generation;
  CoordinatorMessage message;
};
// Authentic, hash-checked data of exactly this view; the transport holds newer and refuses older ones.
struct Data {
  WorkerId from;
  Incarnation incarnation;
  ViewNumber view;
  DataMeta meta;
  PayloadRef payload;
};
struct CorruptData {
  WorkerId from;
  ViewNumber view;
};
struct PeerUnreachable {
  WorkerId peer;
  std::string detail;
};

// Completions of trainer actions, in their order.
struct MicroBatchDone {
  Step step;
  std::uint32_t attempt = 0;
  BlockRange blocks;
  SlotItem item;
  Pass pass = Pass::both;
  SlotLoss loss;       // of the slot so far, where the blocks hold the head
  bool finite = true;  // the slot's gradient, after its last backward pass in an attempt above 0
  Duration elapsed{};  // since it was begun
  // What computing took since the last event of these blocks, weights' gradients of earlier micro-batches included: as
  // a whole, and after a backward pass by block, unless that isn't measured.
  Duration took{};
  std::vector<Duration> block_took;
  // How long a limit of the system's makes the same last where it is done all the time; 0 without one.
  Duration at_quota{};
};
struct Rehearsed {};
struct ShardsReduced {
  Step step;
  std::uint32_t attempt = 0;
  std::vector<TileRange> tiles;
};
struct GradientMeasured {
  Step step;
  std::uint32_t attempt = 0;
  std::vector<TileRange> tiles;
  std::vector<double> sums;  // of squares, in order
};
struct UpdateDone {
  Step step;
  double learning_rate = 0;
  double gradient_norm = 0;
  Duration beside{};  // what a step's own work took the trainer besides micro-batches, since the update before
};
struct StateStored {  // of StoreState, StoreParameters or RebuildState
  Step stamp;
  std::vector<TileRange> tiles;
  bool parameters_only = false;
  bool ok = true;
  std::string detail;
  std::optional<WorkerId> blamed;  // else the failure is its own
};
struct StateLoaded {  // of InitializeState or LoadCheckpoint
  Step stamp;
  bool ok = true;
  std::string detail;
  std::optional<double> loss;  // of the stamp's step, where a checkpoint tells it
};
struct StateHashed {
  Step stamp;
  std::vector<BlockHash> hashes;
};
struct WeightsHashed {
  Step step;
  std::vector<BlockWeights> weights;
};

struct CheckpointsListed {
  std::vector<Step> steps;
};
struct CheckpointWritten {  // not a trainer action's end: the storage thread's
  Step step;
  bool ok = true;
  std::string detail;
};
// The copy of a SnapshotState can't be made.
struct SnapshotCopyFailed {
  ViewNumber view;
  Step stamp;
  std::vector<TileRange> tiles;
};
// Of AttachState, a part of its tiles: values as StateTiles has them, which match their hashes.
struct StateAttached {
  WorkerId keeper;
  ViewNumber view;
  Step stamp;
  TileRange tiles;
  bool parameters_only = false;
  PayloadRef payload;
  Duration took{};  // copying and checking
};
// These tiles can't be had that way.
struct AttachFailed {
  WorkerId keeper;
  ViewNumber view;
  Step stamp;
  TileRange tiles;
  bool parameters_only = false;
};
// To a keeper: a worker of its host has copied these tiles into the keeper's memory, for SnapshotState of the view.
struct SnapshotSealed {
  ViewNumber view;
  WorkerId from;
  Step stamp;
  std::vector<TileRange> tiles;
  PayloadRef payload;
};
struct SnapshotWritten {  // of SaveSnapshot, or why it can't be; the storage thread's
  SnapshotName snapshot;
  bool ok = true;
  std::uint64_t bytes = 0;
  std::string detail;
};
struct FragmentStored {  // of AddFragmentPart or StoreFragmentPart
  FragmentPart part;
  bool ok = true;
  std::string detail;
};
// To a keeper: what it held didn't match its hash when it was read, and isn't held any more.
struct SnapshotDamaged {
  Step stamp;
  std::vector<TileRange> tiles;
  std::vector<HeldFragment> parity;
  std::string detail;
};
struct DrainWanted {
  std::string reason;
};
struct Tick {};

}  // namespace worker_event

using WorkerEvent = std::variant<
    worker_event::ControlConnected, worker_event::ControlLost, worker_event::Control, worker_event::Data,
    worker_event::CorruptData, worker_event::PeerUnreachable, worker_event::MicroBatchDone, worker_event::Rehearsed,
    worker_event::ShardsReduced, worker_event::GradientMeasured, worker_event::UpdateDone, worker_event::StateStored,
    worker_event::StateLoaded, worker_event::StateHashed, worker_event::WeightsHashed, worker_event::CheckpointsListed,
    worker_event::CheckpointWritten, worker_event::SnapshotSealed, worker_event::FragmentStored,
    worker_event::SnapshotDamaged, worker_event::SnapshotCopyFailed, worker_event::StateAttached,
    worker_event::AttachFailed, worker_event::SnapshotWritten, worker_event::DrainWanted, worker_event::Tick>;

namespace worker_action {

// ---- trainer, in order ----

// Takes one micro-batch through a stage's blocks with parameters step-1. A backward pass of a training micro-batch adds
// its gradient to the slot's accumulator, which position 0 allocates and zeroes. A training micro-batch's index in the
// step is slot · M/V + position; validation micro-batches only go forward. What leaves the blocks is kept until the
// step is released, for SendBoundary and for own stages next to this one.
struct ComputeMicroBatch {
  Step step;
  std::uint32_t attempt = 0;
  StageWork work;  // the stage's
  SlotItem item;
  Pass pass = Pass::both;
  bool recompute = false;  // of a stage taken over from a lost worker
  // Of how many micro-batches the gradients of weights may wait, because a stage below waits for those of inputs.
  // Whoever asks for a sum gets it whole.
  std::uint32_t waiting = 0;
  // What the pass begins from, unless it is tokens or the loss; null: an own stage made it.
  PayloadRef input;
};
// Takes a micro-batch of the step through a stage that begins with the next step, with parameters that are all 0, and
// gives up all it made: what is slow the first time (memory, caches, code) is over when the stage begins. `kept`: tiles
// that the next update writes.
struct Rehearse {
  Step step;
  StageWork work;
  std::vector<TileRange> kept;
};
// sum = left + right, for each in order; the children's accumulators are freed.
struct FoldNodes {
  Step step;
  BlockRange blocks;
  std::vector<TreeAddition> additions;
};
// Finishes the tree of own shards from own and received nodes, which hold the shards' blocks and are an exact disjoint
// cover of the V slots, into the reduced gradient.
struct ReduceShards {
  struct Input {
    StageNode node;
    PayloadRef payload;            // null: the own accumulator of the node
    std::vector<TileRange> tiles;  // what the payload holds
  };
  Step step;
  std::uint32_t attempt = 0;
  std::vector<TileRange> tiles;
  std::vector<Input> inputs;
};
// Copies received reduced tiles into the reduced gradient.
struct StoreReduced {
  Step step;
  std::vector<TileRange> tiles;
  PayloadRef payload;
};
// Sums of squares of the reduced gradient's tiles, tied copies added.
struct MeasureGradient {
  Step step;
  std::uint32_t attempt = 0;
  std::vector<TileRange> tiles;
};
// Reads state step-1 of the tiles and writes theirs of `step`. With `skip` it copies. Without tiles it only tells the
// norm.
struct ApplyUpdate {
  Step step;
  std::vector<TileRange> tiles;
  std::vector<TileRange> copies;  // tied to some of them: their parameters are made as well
  std::vector<double> sums;       // of the step's gradient, by tile; those of tied copies are 0
  bool skip = false;
};
struct StoreState {
  Step stamp;
  TileRange tiles;
  PayloadRef payload;
};
struct StoreParameters {
  Step stamp;
  std::vector<TileRange> tiles;
  PayloadRef payload;
};
// Makes tied copies from the originals that are held.
struct CopyTied {
  Step stamp;
  std::vector<TileRange> tiles;
};
// The seed's state, stamp 0, of these tiles; of others the parameters.
struct InitializeState {
  std::vector<TileRange> state;
  std::vector<TileRange> parameters;
};
struct LoadCheckpoint {
  Step step;
  std::vector<TileRange> state;
  std::vector<TileRange> parameters;
};
// Gives up state before that of this step.
struct DropState {
  Step before;
};
// Gives up all state but that of this step; without one, all.
struct RevertState {
  std::optional<Step> stamp;
};
// Hashes of the blocks that are whole.
struct HashState {
  Step stamp;
  bool parameters_only = false;
};
// Names the checkpoints that exist now.
struct ListCheckpoints {};
// Hashes of the final weights of the blocks that are whole.
struct HashWeights {
  Step step;
};
// A checkpoint is begun with copies of own tiles of the state; those of others are added; then it is written, unless
// its blocks have other hashes than the members compared.
struct BeginCheckpoint {
  Step step;
  ViewNumber view;
  std::optional<double> loss;  // of the step, where it is known
  std::vector<TileRange> tiles;
};
struct AddToCheckpoint {
  Step step;
  TileRange tiles;
  PayloadRef payload;
};
struct WriteCheckpoint {
  Step step;
  std::vector<BlockHash> expected;  // of some blocks
  bool parameters_only = false;     // which is what they are hashes of
};
// Copies these tiles, as they are now, into memory of the host's keeper, beside the actions that follow, and tells it.
struct SnapshotState {
  WorkerId keeper;
  ViewNumber view;
  Step stamp;
  std::vector<TileRange> tiles;
};

// ---- fragments of snapshots: the sums of a stripe at its encoder, own parity elsewhere; by snapshot and stripe ----

struct AddFragmentPart {
  std::shared_ptr<const SnapshotLayout> layout;
  FragmentPart part;  // of data
  PayloadRef payload;
  std::vector<Hash128> hashes;  // as FragmentData has them
};
struct StoreFragmentPart {
  std::shared_ptr<const SnapshotLayout> layout;
  FragmentPart part;  // of the own parity
  PayloadRef payload;
  std::vector<Hash128> hashes;
};
// Frees fragments of snapshots that aren't being built, but those that are named.
struct KeepFragments {
  std::vector<HeldFragment> whole;
  std::vector<SnapshotName> building;
};
// A keeper's: writes these tiles to disk, beside the actions that follow, as its part of the durable snapshot.
struct SaveSnapshot {
  SnapshotName snapshot;
  std::string numeric_class;
  std::vector<TileRange> tiles;
};
// Makes bytes [offset, offset + bytes) of a lost data fragment, these tiles, from the same bytes of k others; those
// that aren't named, and what lies beyond an input's end, are zeros.
struct RebuildState {
  struct Input {
    std::uint32_t fragment = 0;
    std::uint64_t bytes = 0;
    PayloadRef payload;  // null: it is here
  };
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  Stripe layout;
  std::uint32_t fragment = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::vector<TileRange> tiles;
  std::vector<Input> inputs;
  std::vector<Hash128> hashes;        // of the tiles, by their owner; none: parity that is here has them
  std::optional<WorkerId> hashed_by;  // who gave them, with its parity
};

// Frees the accumulators and the reduced gradient of the step (its commit is known), or of a discarded attempt.
struct ReleaseStep {
  Step step;
};
// Puts aside the sums, the reduced gradient and the boundaries of the step, whose commit is known and whose state no
// snapshot protects yet: until ReleaseStep, or ReturnToStep.
struct KeepStep {
  Step step;
};
// The step that was put aside is the one that is worked on again. Precondition: the later one's work is released.
struct ReturnToStep {
  Step step;
};

// ---- data plane ----

// From now on data of `view` is exchanged with these members; held data of it is delivered.
struct EnterView {
  ViewNumber view;
  std::vector<Member> members;
};
// Transfers of views up to `view` are over; connections to the excluded are force-closed.
struct FenceView {
  ViewNumber view;
  std::vector<WorkerId> excluded;
};
struct SendPiece {
  WorkerId to;
  ViewNumber view;
  Piece meta;
};
struct SendReduced {
  WorkerId to;
  ViewNumber view;
  Reduced meta;
};
struct SendParameters {
  WorkerId to;
  ViewNumber view;
  Parameters meta;
};
struct SendBoundary {
  WorkerId to;
  ViewNumber view;
  Boundary meta;
};
// Gate, Ack, requests, words of stripes, answers that say "not available", and the epilogue's pieces, which carry
// losses only.
struct SendSmall {
  WorkerId to;
  ViewNumber view;
  DataMeta meta;
};
struct SendState {
  WorkerId to;
  ViewNumber view;
  StateTiles meta;
};

// Takes tiles of a state from the memory of the host's keeper.
struct AttachState {
  WorkerId keeper;
  ViewNumber view;
  Step stamp;
  TileRange tiles;
  bool parameters_only = false;
};

// A whole data fragment of an own snapshot, in parts as large as the shell likes.
struct SendFragment {
  WorkerId to;
  ViewNumber view;
  std::shared_ptr<const SnapshotLayout> layout;
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  std::uint32_t fragment = 0;
};
// From the stripe's sums.
struct SendParity {
  WorkerId to;
  ViewNumber view;
  FragmentPart part;
};
// Bytes of tiles of the snapshot's step, or, without tiles, of parity of the stripe.
struct SendFragmentReply {
  WorkerId to;
  ViewNumber view;
  FragmentReply meta;
  std::vector<TileRange> tiles;
  Stripe layout;
  std::uint32_t lost = 0;  // of which parity tells the hashes
};

// ---- control and the outside ----

struct SendControl {
  WorkerMessage message;
};
// Something an operator or a log should know, with its reason.
struct Note {
  std::string text;
};
// The worker is done: released, finished or refused.
struct Stop {
  bool success = true;
  std::string reason;
  bool permanent = false;  // a refusal that trying again can't change
};

}  // namespace worker_action

using WorkerAction = std::variant<
    worker_action::ComputeMicroBatch, worker_action::Rehearse, worker_action::FoldNodes, worker_action::ReduceShards,
    worker_action::StoreReduced, worker_action::MeasureGradient, worker_action::ApplyUpdate, worker_action::StoreState,
    worker_action::StoreParameters, worker_action::CopyTied, worker_action::InitializeState,
    worker_action::LoadCheckpoint, worker_action::DropState, worker_action::RevertState, worker_action::HashState,
    worker_action::ListCheckpoints, worker_action::HashWeights, worker_action::BeginCheckpoint,
    worker_action::AddToCheckpoint, worker_action::WriteCheckpoint, worker_action::SnapshotState,
    worker_action::AddFragmentPart, worker_action::StoreFragmentPart, worker_action::KeepFragments,
    worker_action::SaveSnapshot, worker_action::RebuildState, worker_action::ReleaseStep, worker_action::KeepStep,
    worker_action::ReturnToStep, worker_action::EnterView, worker_action::FenceView, worker_action::SendPiece,
    worker_action::SendReduced, worker_action::SendParameters, worker_action::SendBoundary, worker_action::SendSmall,
    worker_action::SendState, worker_action::AttachState, worker_action::SendFragment, worker_action::SendParity,
    worker_action::SendFragmentReply, worker_action::SendControl, worker_action::Note, worker_action::Stop>;

using WorkerActions = std::vector<WorkerAction>;

}  // namespace planaria

// The protocol of a worker as a pure state machine: membership, views, the phases of a step, recovery inside it.
//
// on(event, now) returns the actions to carry out, in order. There is no I/O, clock, thread or randomness in here; the
// agent (worker/shell) and the simulator (chaos/sim) drive the same code. The rules it keeps are numbered in
// docs/PROTOCOL.md; every rule has a mutation switch that tests use to show that the simulator would see it broken.
//
// Thread contract: one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "proto/duty.hpp"
#include "proto/mutation.hpp"
#include "proto/relays.hpp"
#include "worker/core/block_times.hpp"
#include "worker/core/compute_rate.hpp"
#include "worker/core/events.hpp"
#include "worker/core/fragment_fetch.hpp"
#include "worker/core/held_states.hpp"
#include "worker/core/snapshot_keeping.hpp"
#include "worker/core/step_work.hpp"

namespace planaria {

// The job's shape as far as the protocol needs it.
struct WorkerCoreConfig {
  std::uint32_t slots = 1;                   // V
  std::uint32_t micro_batches_per_slot = 1;  // M / V
  std::shared_ptr<const StateMap> map;
  std::vector<double> block_shares;      // of the time of a whole micro-batch, by block
  std::uint32_t evaluation_batches = 0;  // validation micro-batches of an evaluation
  Step total_steps;
  std::uint64_t checkpoint_every = 0;           // steps; the last step is always saved
  bool durable_snapshots = false;               // keepers save the states of those steps
  std::uint32_t checkpoint_retries = 5;         // of the last step's, when it can't be saved
  std::uint32_t integrity_every = 0;            // steps between comparisons of state hashes; 0 = never
  std::uint64_t sequence_tokens = 0;            // training tokens of a step: the loss is a mean over them
  std::uint64_t evaluation_tokens = 0;          // of one evaluation
  std::uint32_t evaluate_every = 0;             // steps; the final evaluation always happens
  std::uint32_t state_chunk_tiles = 64;         // tiles of one StateTiles message
  std::size_t direct_members = kDirectMembers;  // of a view, up to which no member passes on another's word
  Duration heartbeat{};
  Register registration;  // what Register says of this worker; holdings and identity are filled in
  MutationSet mutations;  // tests only
};

class WorkerCore {
 public:
  explicit WorkerCore(WorkerCoreConfig config);

  [[nodiscard]] WorkerActions on(const WorkerEvent& event, Instant now);

  // When the next Tick is wanted at the latest.
  [[nodiscard]] Instant next_tick() const { return std::min(next_heartbeat_, register_again_at_); }

  // For status displays, fault hooks and invariant checks.
  [[nodiscard]] Phase phase() const;
  // State is on its way here, whether or not it computes meanwhile.
  [[nodiscard]] bool fetches() const { return fetch_.has_value(); }
  [[nodiscard]] Step step() const { return work_.step; }
  [[nodiscard]] ViewNumber view() const { return view_ ? view_->view : ViewNumber(0); }
  [[nodiscard]] const std::optional<ViewRecord>& view_record() const { return view_; }
  [[nodiscard]] const HeldStates& states() const { return states_; }
  [[nodiscard]] std::optional<Step> committed() const { return committed_; }
  [[nodiscard]] const std::optional<ComparedState>& compared() const { return compared_; }
  // What was reported of the newest committed step; step 0 before the first.
  [[nodiscard]] const StepCommitted& last_commit() const { return last_commit_; }
  [[nodiscard]] std::optional<Identity> identity() const { return identity_; }
  [[nodiscard]] const StepWork& work() const { return work_; }
  [[nodiscard]] std::uint64_t refused_messages() const { return refused_; }

 private:
  void handle(const worker_event::ControlConnected& event);
  void handle(const worker_event::ControlLost& event);
  void handle(const worker_event::Control& event);
  void handle(const worker_event::Data& event);
  void handle(const worker_event::CorruptData& event);
  void handle(const worker_event::PeerUnreachable& event);
  void handle(const worker_event::MicroBatchDone& event);
  void handle(const worker_event::Rehearsed& event);
  void handle(const worker_event::ShardsReduced& event);
  void handle(const worker_event::GradientMeasured& event);
  void handle(const worker_event::UpdateDone& event);
  void handle(const worker_event::StateStored& event);
  void handle(const worker_event::StateLoaded& event);
  void handle(const worker_event::StateHashed& event);
  void handle(const worker_event::WeightsHashed& event);
  void handle(const worker_event::CheckpointsListed& event);
  void handle(const worker_event::CheckpointWritten& event);
  void handle(const worker_event::SnapshotCopyFailed& event);
  void handle(const worker_event::StateAttached& event);
  void handle(const worker_event::AttachFailed& event);
  void handle(const worker_event::SnapshotSealed& event);
  void handle(const worker_event::SnapshotWritten& event);
  void handle(const worker_event::FragmentStored& event);
  void handle(const worker_event::SnapshotDamaged& event);
  void handle(const worker_event::DrainWanted& event);
  void handle(const worker_event::Tick& event);

  void control(const Welcome& message);
  void control(const Refused& message);
  void control(const Prepare& message);
  void control(const CommitView& message);
  void control(const Probe& message);
  void control(const Fenced& message);
  void control(const Released& message);
  void control(const Finish& message);

  void data(WorkerId from, const BoundaryRequest& meta, const PayloadRef& payload);
  void data(WorkerId from, const Boundary& meta, const PayloadRef& payload);
  void data(WorkerId from, const Piece& meta, const PayloadRef& payload);
  void data(WorkerId from, const Reduced& meta, const PayloadRef& payload);
  void data(WorkerId from, const Gate& meta, const PayloadRef& payload);
  void data(WorkerId from, const Ack& meta, const PayloadRef& payload);
  void data(WorkerId from, const Parameters& meta, const PayloadRef& payload);
  void data(WorkerId from, const StateRequest& meta, const PayloadRef& payload);
  void data(WorkerId from, const StateTiles& meta, const PayloadRef& payload);
  void data(WorkerId from, const FragmentData& meta, const PayloadRef& payload);
  void data(WorkerId from, const StripeWord& meta, const PayloadRef& payload);
  void data(WorkerId from, const FragmentRequest& meta, const PayloadRef& payload);
  void data(WorkerId from, const FragmentReply& meta, const PayloadRef& payload);

  // Looks at the state and emits whatever can be done now; called after every event.
  void pump();
  void pump_compute();
  void pump_rehearsal();
  [[nodiscard]] bool issue_next();
  [[nodiscard]] bool issue_forward(StepWork::Stage& stage);
  [[nodiscard]] bool issue_backward(StepWork::Stage& stage);
  void issue(const StepWork::Stage& stage, SlotItem item, Pass pass, PayloadRef input);
  void finish_slots(StepWork::Stage& stage, const std::optional<SlotLoss>& newest);
  void request_inputs();
  void request_input(BoundaryKind kind, const StepWork::Stage& stage);
  [[nodiscard]] std::optional<PayloadRef> take_input(const BoundaryId& id);
  void offer(const BoundaryId& id);
  void pump_pieces();
  void send_pieces(const StepWork::Stage& stage, WorkerId to);
  [[nodiscard]] std::vector<worker_action::ReduceShards::Input> inputs_of(BlockIndex block) const;
  [[nodiscard]] std::uint32_t slots_summed(BlockIndex block) const;
  void start_reducing();
  void pump_reduce();
  void send_reduced();
  void pump_gate();
  void pump_update();
  [[nodiscard]] bool gates_hold();
  void consider_keepers_wait();
  [[nodiscard]] std::optional<WorkerId> take_sums();
  [[nodiscard]] std::optional<WorkerId> who_keeps_others() const;
  void apply_update();
  void give_up_state_before(Step stamp);
  void pass_on_parameters();
  void acknowledge();
  void pump_commit();
  [[nodiscard]] bool acknowledged_alike();
  void pump_report();
  void pump_done();
  void serve_waiting_requests();

  void resume(const ViewRecord& record);
  void commit_by_plan(const ResumePlan& plan);
  void return_to(Step step);
  void end_work();
  void release_kept();
  void give_up_states(const ResumePlan& plan);
  [[nodiscard]] bool goes_on_with_work(const ResumePlan& plan) const;
  void adopt_stages();
  void start_fetches(const ResumePlan& plan);
  void consider_fetch_done();
  void fetch_from(WorkerId from, Step stamp, TileRange tiles, bool parameters_only);
  void attach_ended(TileRange tiles);
  void copy_tied();
  void store_parameters(const Parameters& meta, const PayloadRef& payload);
  void begin_step(Step step);
  void finish_step();
  void reset_work(Step step, std::uint32_t attempt);
  void leave_view();
  void store_losses(const std::vector<SlotLoss>& losses);
  void fold_finished_slot(StepWork::Stage& stage, SlotIndex slot);
  void fold_siblings(std::vector<TreeNode>& nodes, std::vector<TreeAddition>& additions) const;
  void fold_across_stages();
  void serve_state(WorkerId to, const StateRequest& request);
  void hand_to_keeper();
  void make_snapshots(const ResumePlan& plan);
  void make_snapshot(Step step);
  void give_up_older_snapshots();
  void save_snapshot(Step step);
  [[nodiscard]] bool is_due(Step step) const;
  [[nodiscard]] bool keepers_save(Step step) const;
  void carry_out(const std::vector<SnapshotAction>& actions);
  void rebuild(worker_action::RebuildState action);
  [[nodiscard]] std::optional<Stripe> serves(const FragmentRequest& request) const;
  [[nodiscard]] bool takes_copy(WorkerId from, Step stamp, const TileSet& tiles) const;
  void store_state(Step stamp, TileRange tiles, const PayloadRef& payload);
  void take_copy(Step stamp, const TileSet& tiles, const PayloadRef& payload);
  [[nodiscard]] bool snapshot_holds_gate() const;
  [[nodiscard]] bool expects_copies() const;
  [[nodiscard]] std::optional<WorkerId> waiting_for_snapshot() const;
  void save_checkpoint(Step step, std::optional<double> loss);
  void abandon_checkpoint(const std::string& why);
  void write_whole_checkpoint();
  void add_to_checkpoint(const StateTiles& meta, const PayloadRef& payload);
  void send_register();
  void send_heartbeat();
  void send_control(WorkerMessage message);
  template <class Word>
  void tell(std::span<const WorkerId> to, const Words<Word>& words, std::span<const WorkerId> of);
  template <class Word>
  void pass_on(Words<Word>& words);
  [[nodiscard]] DataMeta message_of(std::vector<GateWord> words) const;
  [[nodiscard]] DataMeta message_of(std::vector<AckWord> words) const;
  template <class Word>
  [[nodiscard]] bool all_said(const Words<Word>& words) const;
  template <class Word>
  [[nodiscard]] std::optional<WorkerId> owes(const Words<Word>& words) const;
  [[nodiscard]] bool may_tell(WorkerId from, WorkerId of) const;
  void report_evidence(EvidenceKind kind, WorkerId about, std::string detail);
  void refuse(const std::string& why);

  [[nodiscard]] Register registration() const;
  [[nodiscard]] Holdings holdings() const;
  [[nodiscard]] bool in_view() const { return view_.has_value() && !fenced_; }
  // At a boundary it promised not to pass before the next view.
  [[nodiscard]] bool holding() const;
  [[nodiscard]] const Duty& duty(WorkerId worker) const { return duties_->of(worker); }
  [[nodiscard]] const Duty& own_duty() const { return duty(self()); }
  // Of what it keeps, whether it holds the state before the step or that of the step.
  [[nodiscard]] bool may_vote() const;
  [[nodiscard]] bool can_compute(const StepWork::Stage& stage) const;
  [[nodiscard]] bool compares(Step step) const;
  [[nodiscard]] std::uint32_t block_count() const { return static_cast<std::uint32_t>(config_.map->blocks().size()); }
  [[nodiscard]] bool is_epilogue() const { return work_.step > config_.total_steps; }
  [[nodiscard]] BlockRange all_blocks() const { return {0, block_count()}; }
  [[nodiscard]] bool holds_head(BlockRange blocks) const { return blocks.end == block_count(); }
  [[nodiscard]] TileRange head_tiles() const { return config_.map->blocks().back().tile_range(); }
  [[nodiscard]] BlockIndex block_of(TileRange shard) const { return config_.map->block_of(TileIndex(shard.begin)); }
  [[nodiscard]] std::vector<TileRange> unready_shards(WorkerId owner, BlockRange blocks) const;
  [[nodiscard]] bool mutated(Mutation mutation) const { return config_.mutations.has(mutation); }
  [[nodiscard]] WorkerId self() const { return identity_->worker; }
  [[nodiscard]] std::optional<WorkerId> waiting_on() const;
  [[nodiscard]] std::optional<WorkerId> waiting_for_input() const;
  [[nodiscard]] bool has_piece_of(const StageWork& stage) const;
  [[nodiscard]] std::optional<WorkerId> waiting_for_parameters() const;
  [[nodiscard]] std::vector<BlockHash> gradient_hashes() const;
  [[nodiscard]] bool is_coming(const StateRequest& request) const;
  [[nodiscard]] std::vector<WorkerId> others() const;
  template <class Action>
  void emit(Action action) {
    actions_.emplace_back(std::move(action));
  }

  const WorkerCoreConfig config_;

  // Session with the coordinator.
  bool connected_ = false;
  std::optional<Identity> identity_;
  Generation generation_;
  Instant next_heartbeat_ = kFarFuture;

  // View.
  std::optional<ViewRecord> view_;
  std::optional<Duties> duties_;    // of its members
  std::optional<Relays> relays_;    // among them
  bool sharded_ = false;            // the newest view that it was in
  std::vector<WorkerId> keepers_;   // of view_
  bool keepers_have_all_ = false;   // they have all of the states that it protects
  bool fenced_ = false;             // transfers of view_ are over
  std::optional<Prepare> prepare_;  // the newest one, until its view is committed
  bool reported_ = false;
  std::deque<Evidence> evidence_;      // of view_; told again to a coordinator that was away
  std::optional<Report> last_report_;  // kept for the mutation `stale_report` only
  bool draining_ = false;
  std::string drain_reason_;
  bool stopped_ = false;

  HeldStates states_;
  std::optional<ComparedState> compared_;
  std::uint32_t lineage_ = 0;
  std::uint32_t hashing_states_ = 0;
  bool states_hashed_ = false;  // all of them were given to be hashed for the Prepare at hand
  std::optional<Step> committed_;
  std::set<Step> checkpoints_;
  std::set<Step> damaged_checkpoints_;  // are not offered again
  bool listing_checkpoints_ = false;
  bool checkpoints_fresh_ = false;  // listed for the Prepare at hand

  struct Part {
    Step stamp;
    TileSet state, parameters;
  };
  std::optional<Part> fetch_;            // of the state before the step: asked for, and not given to the trainer yet
  std::vector<FragmentFetch> rebuilds_;  // of parts of fetch_
  // Of fetch_, what comes from the memory of the host's keeper.
  struct Attaching {
    std::uint64_t tiles_left = 0;
    std::uint64_t bytes = 0;
    Duration took{};
  };
  Attaching attaching_;
  std::optional<Part> loading_;                                      // from the seed or a checkpoint, by the trainer
  std::uint32_t storing_ = 0;                                        // tiles' messages with the trainer
  std::map<Step, TileSet> being_stored_;                             // state of those
  std::vector<std::pair<WorkerId, StateRequest>> waiting_requests_;  // for state that is on its way here

  // Of a keeper: snapshots, and what has come of their fragments before its turn.
  std::optional<SnapshotKeeping> keeping_;
  struct Arrived {
    PayloadRef payload;
    std::vector<Hash128> hashes;
  };
  std::map<FragmentPart, Arrived> parts_;

  // Work and its exchange with the others in this view.
  StepWork work_;
  std::optional<StepWork> kept_;  // of the committed step before it, until the step's snapshot is complete
  ExchangeState exchange_;
  std::vector<worker_event::Data> early_;  // of the step after work_.step

  // With the trainer now; a report waits until these are done.
  std::uint32_t outstanding_ = 0;  // micro-batches
  std::uint32_t rehearsing_ = 0;   // stages
  std::uint32_t reducing_ = 0;     // groups of shards
  bool measuring_ = false;
  struct Updating {
    TileSet tiles, copies;
  };
  std::optional<Updating> updating_;

  std::optional<RecomputeNotice> recompute_;

  // The checkpoint whose tiles are being collected from others.
  struct Collection {
    Step step;
    TileSet missing;
  };
  std::optional<Collection> collection_;

  // The end.
  StepCommitted last_commit_;
  std::optional<double> final_loss_;
  double final_validation_loss_ = 0;
  bool hashing_weights_ = false;
  std::optional<std::vector<BlockWeights>> weights_;
  bool done_sent_ = false;
  std::optional<Step> checkpoint_pending_;
  std::uint32_t checkpoint_retries_ = 0;
  Instant checkpoint_retry_at_ = kFarFuture;

  Instant register_again_at_ = kFarFuture;
  Duration register_delay_ = std::chrono::milliseconds(10);  // before the next attempt

  TileSet practised_;  // tiles of blocks that were computed or rehearsed here
  ComputeRate compute_rate_;
  BlockTimes block_times_;
  RecentMedian beside_;       // seconds of a step's own work besides micro-batches
  Duration snapshot_wait_{};  // of gates, for keepers alone
  std::uint64_t progress_ = 0;
  std::uint64_t refused_ = 0;

  Instant now_{};
  WorkerActions actions_;
};

}  // namespace planaria

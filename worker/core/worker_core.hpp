// The protocol of a worker as a pure state machine: membership, views, the phases of a step, recovery inside it.
//
// on(event, now) returns the actions to carry out, in order. There is no I/O, clock, thread or randomness in here; the
// agent (worker/shell) and the simulator (chaos/sim) drive the same code. The rules it keeps are numbered in
// docs/PROTOCOL.md; every rule has a mutation switch that tests use to show that the simulator would see it broken.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proto/mutation.hpp"
#include "worker/core/events.hpp"
#include "worker/core/step_work.hpp"

namespace planaria {

// The job's shape as far as the protocol needs it.
struct WorkerCoreConfig {
  std::uint32_t slots = 1;                   // V
  std::uint32_t micro_batches_per_slot = 1;  // M / V
  std::uint32_t tiles = 1;                   // of the StateMap
  std::vector<TileRange> blocks;             // tiles of each block, in order
  Step total_steps;
  std::uint64_t checkpoint_every = 0;  // steps; the last step is always saved
  std::uint32_t integrity_every = 0;   // steps between comparisons of state hashes; 0 = never
  std::uint32_t evaluate_every = 0;    // steps; the final evaluation always happens
  std::uint32_t state_chunk_tiles = 64;  // tiles of one StateTiles message
  Duration heartbeat{};
  Register registration;               // what Register says of this worker; holdings and identity are filled in
  MutationSet mutations;               // tests only
};

class WorkerCore {
 public:
  explicit WorkerCore(WorkerCoreConfig config);

  [[nodiscard]] WorkerActions on(const WorkerEvent& event, Instant now);

  // When the next Tick is wanted at the latest.
  [[nodiscard]] Instant next_tick() const { return next_heartbeat_; }

  // For status displays, fault hooks and invariant checks.
  [[nodiscard]] Phase phase() const;
  [[nodiscard]] Step step() const { return work_.step; }
  [[nodiscard]] ViewNumber view() const { return view_ ? view_->view : ViewNumber(0); }
  [[nodiscard]] const std::optional<ViewRecord>& view_record() const { return view_; }
  [[nodiscard]] std::optional<Step> state() const { return state_; }
  [[nodiscard]] std::optional<Step> committed() const { return committed_; }
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
  void handle(const worker_event::ShardsReduced& event);
  void handle(const worker_event::GradientMeasured& event);
  void handle(const worker_event::UpdateDone& event);
  void handle(const worker_event::StateStored& event);
  void handle(const worker_event::StateHashed& event);
  void handle(const worker_event::WeightsHashed& event);
  void handle(const worker_event::CheckpointWritten& event);
  void handle(const worker_event::DrainWanted& event);
  void handle(const worker_event::Tick& event);

  void control(const Welcome& message);
  void control(const Refused& message);
  void control(const Prepare& message);
  void control(const CommitView& message);
  void control(const Fenced& message);
  void control(const Released& message);
  void control(const Finish& message);

  void data(WorkerId from, const Piece& meta, const PayloadRef& payload);
  void data(WorkerId from, const Reduced& meta, const PayloadRef& payload);
  void data(WorkerId from, const Gate& meta, const PayloadRef& payload);
  void data(WorkerId from, const Ack& meta, const PayloadRef& payload);
  void data(WorkerId from, const StateRequest& meta, const PayloadRef& payload);
  void data(WorkerId from, const StateTiles& meta, const PayloadRef& payload);

  // Looks at the state and emits whatever can be done now; called after every event.
  void pump();
  void pump_fetch();
  void pump_compute();
  void pump_exchange();
  void pump_gate();
  void pump_commit();
  void pump_report();
  void pump_done();

  void resume(const ViewRecord& record);
  void begin_step(Step step);
  void commit_step();
  void send_register();
  void send_heartbeat();
  void report_evidence(EvidenceKind kind, WorkerId about, std::string detail);
  void refuse(std::string why);
  [[nodiscard]] Register registration() const;
  [[nodiscard]] Holdings holdings() const;
  [[nodiscard]] bool in_view() const { return view_.has_value() && !fenced_; }
  [[nodiscard]] bool has_base() const;
  [[nodiscard]] bool is_epilogue(Step step) const { return step > config_.total_steps; }
  [[nodiscard]] bool evaluates(Step step) const;
  [[nodiscard]] bool mutated(Mutation mutation) const { return config_.mutations.has(mutation); }
  [[nodiscard]] std::optional<WorkerId> waiting_on() const;
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
  Instant next_heartbeat_{};

  // View.
  std::optional<ViewRecord> view_;
  bool fenced_ = false;                 // transfers of view_ are over
  std::optional<Prepare> prepare_;      // not answered by a commit yet
  bool reported_ = false;
  bool draining_ = false;
  bool stopped_ = false;

  // State generations. `previous_` is intact until the update of state_ + 1 begins.
  std::optional<Step> state_;
  std::optional<Step> previous_;
  std::optional<Hash128> state_hash_;
  std::optional<Step> committed_;
  std::set<Step> checkpoints_;
  std::vector<bool> fetched_;            // tiles of the base state that arrived
  std::optional<StateFetch> local_load_;  // initialize or checkpoint load under way
  bool state_hash_wanted_ = false;

  StepWork work_;
  ExchangeState exchange_;  // of work_.step in view_

  // Last step's results and the end.
  double last_loss_ = 0;
  double last_validation_loss_ = 0;
  std::optional<Hash128> weights_;
  bool weights_wanted_ = false;
  bool done_sent_ = false;
  std::optional<Step> checkpoint_pending_;

  // Measurement.
  double compute_rate_ = 0;  // micro-batches a second, smoothed
  std::uint64_t progress_ = 0;
  std::uint64_t refused_ = 0;

  Instant now_{};
  WorkerActions actions_;
};

}  // namespace planaria

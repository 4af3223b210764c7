// The coordinator's protocol as a pure state machine: membership by leases, view changes, recovery, the job's end.
//
// on(event, now) returns actions in order. A Log action is a barrier: nothing that comes after the first unsynced Log
// may leave before it is durable (the shell group-commits). There is no I/O, clock, thread or randomness in here; the
// service (coordinator/shell) and the simulator (chaos/sim) drive the same code.
//
// Sessions are the shell's names for open control connections; a session that is lost is never used again.
//
// Thread contract: one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/clock.hpp"
#include "coordinator/core/change_timing.hpp"
#include "coordinator/core/kernel_choices.hpp"
#include "coordinator/core/layout_planning.hpp"
#include "coordinator/core/measured_blocks.hpp"
#include "coordinator/core/recovery.hpp"
#include "coordinator/core/session_id.hpp"
#include "coordinator/core/snapshot_pace.hpp"
#include "coordinator/core/snapshot_status.hpp"
#include "proto/control.hpp"
#include "proto/job_spec.hpp"
#include "proto/log_record.hpp"
#include "proto/mutation.hpp"
#include "proto/state_map.hpp"

namespace planaria {

namespace coordinator_event {

// First event of every start: the durable log from its beginning, in order.
struct Started {
  std::vector<LogRecord> log;
};
struct SessionMessage {
  SessionId session;
  WorkerEnvelope envelope;
};
// The connection broke: a hint that its worker may be dead.
struct SessionLost {
  SessionId session;
};
// An operator's wish.
struct DrainWorker {
  WorkerId worker;
  std::string reason;
};
struct StopJob {
  std::string reason;
};
// Who injects faults tells of one that struck.
struct FaultFired {
  log_record::FaultFired fault;
};
// The answer to PlanLayout, in its own time.
struct LayoutPlanned {
  std::uint64_t number = 0;  // the request's
  Result<PlannedLayout> planned;
};
struct Tick {
  bool outputs_held = false;  // what was decided waits for the log: nobody has heard it yet
};

}  // namespace coordinator_event

using CoordinatorEvent =
    std::variant<coordinator_event::Started, coordinator_event::SessionMessage, coordinator_event::SessionLost,
                 coordinator_event::DrainWorker, coordinator_event::StopJob, coordinator_event::FaultFired,
                 coordinator_event::LayoutPlanned, coordinator_event::Tick>;

namespace coordinator_action {

struct Log {
  LogRecord record;
  bool sync = true;  // false: may ride with a later sync (StepLogged)
};
struct Send {
  SessionId session;
  CoordinatorEnvelope envelope;
};
// plan_layout() may take seconds: it is asked beside the loop, one request at a time.
struct PlanLayout {
  LayoutRequest request;
};
// The reason of a decision, for the operator and the event list.
struct Announce {
  std::string text;
};
struct Exit {
  bool success = true;
  std::string reason;
};

}  // namespace coordinator_action

using CoordinatorAction =
    std::variant<coordinator_action::Log, coordinator_action::Send, coordinator_action::PlanLayout,
                 coordinator_action::Announce, coordinator_action::Exit>;
using CoordinatorActions = std::vector<CoordinatorAction>;

struct CoordinatorCoreConfig {
  JobSpec job;
  Hash128 job_hash;
  std::string job_toml;
  std::uint64_t job_key = 0;
  ByteVector frame_key;
  ByteVector kernels;     // that were chosen before (Register::kernels); empty: the first worker chooses
  MutationSet mutations;  // tests only
};

enum class WorkerStatus : std::uint8_t { joining, member, draining, left, lost, count_ };
[[nodiscard]] const char* to_string(WorkerStatus status);

enum class JobStatus : std::uint8_t { starting, training, changing, waiting, finished, failed, count_ };
[[nodiscard]] const char* to_string(JobStatus status);

// What the coordinator knows of a worker.
struct WorkerRecord {
  WorkerId worker;
  Incarnation incarnation;
  WorkerStatus status = WorkerStatus::joining;
  Role role = Role::worker;
  std::optional<SessionId> session;
  std::string host;
  std::uint32_t threads = 1;
  std::uint64_t process_id = 0;
  WorkerResources resources;
  ByteVector address;
  Holdings holdings;
  Instant accepted_at{};
  Instant last_heard{};
  Instant last_progress_at{};
  std::optional<Instant> suspect_until;  // evidence shortened its lease
  std::optional<Instant> asked_until;    // its lease is over: it was asked once more
  std::optional<Instant> evidence_at;
  std::optional<Instant> unreachable_since;  // a peer says so, in this view
  Heartbeat heartbeat;
  LinkTable links;                            // to others that are known, as it measured them
  bool told_end = false;                      // Finish was sent on a session
  double speed = 0;                           // micro-batches a second; 0 = not measured
  std::optional<Instant> idle_since;          // a member without a stage
  std::optional<Instant> no_snapshots_until;  // a keeper that lately couldn't take or keep what it should
  std::uint32_t faults = 0;  // corrupt payloads and standstills laid at its door of late in this incarnation
  Instant last_fault_at{};
};

// One recovery or planned change, as told to operators; unset times have not happened yet.
struct RecoveryRecord {
  ViewNumber view;
  std::string cause;  // "worker 2 lost: no heartbeat for 1000 ms", "worker 3 joined"
  bool planned = false;
  std::vector<WorkerId> victims;
  Step at_step;
  std::uint32_t tier = 0;
  std::uint32_t lost_slots = 0;  // of which some blocks, at least, are computed anew
  // In micro-batches through the whole model: their computing, and what the others had still to do of their own when
  // they reported. Unset where the step is computed anew as a whole.
  std::optional<double> lost_work, own_work;
  std::optional<Instant> evidence_at;  // first hint or last heartbeat
  Instant declared_at{};
  std::optional<Instant> committed_at;  // the view's commit
  std::optional<Instant> first_slot_started;
  std::optional<Instant> last_slot_done;
  std::optional<Instant> step_committed_at;
};

// What a successful job ends with.
struct JobResult {
  Step step;
  Hash128 weights;
  std::optional<double> final_loss;
  double final_validation_loss = 0;
};

class CoordinatorCore {
 public:
  explicit CoordinatorCore(CoordinatorCoreConfig config);
  CoordinatorCore(const CoordinatorCore&) = delete;
  CoordinatorCore& operator=(const CoordinatorCore&) = delete;

  [[nodiscard]] CoordinatorActions on(const CoordinatorEvent& event, Instant now);

  // When the next Tick is wanted at the latest.
  [[nodiscard]] Instant next_tick() const;

  [[nodiscard]] JobStatus status() const;
  [[nodiscard]] const std::string& status_reason() const { return status_reason_; }
  [[nodiscard]] Generation generation() const { return generation_; }
  // The last committed one; null before the first.
  [[nodiscard]] const std::shared_ptr<const ViewRecord>& view() const { return view_; }
  [[nodiscard]] const std::map<WorkerId, WorkerRecord>& workers() const { return workers_; }
  [[nodiscard]] const std::vector<RecoveryRecord>& recoveries() const { return recoveries_; }
  [[nodiscard]] const std::optional<StepCommitted>& last_commit() const { return last_commit_; }
  // Nothing without keepers.
  [[nodiscard]] std::optional<SnapshotStatus> snapshots() const;
  [[nodiscard]] const std::optional<JobResult>& result() const { return result_; }
  [[nodiscard]] std::uint64_t steps_committed() const { return steps_committed_; }
  [[nodiscard]] std::uint64_t views_committed() const { return views_committed_; }
  [[nodiscard]] const std::string& numeric_class() const { return numeric_class_; }

 private:
  // One to change to, for the members at that time.
  struct BetterLayout {
    std::vector<StageAssignment> stages;
    std::string reason;
  };

  struct Change {
    ViewNumber view;
    std::optional<Step> boundary;        // planned changes only
    std::set<WorkerId> members;          // who must report
    std::set<WorkerId> leaving;          // drained ones among them
    std::vector<WorkerId> excluded;      // ids of the view's members that don't
    std::optional<BetterLayout> wanted;  // why the change is made, when it is for another layout
    std::uint64_t snapshot_every = 0;    // of the view to come
    std::map<WorkerId, std::shared_ptr<const Report>> reports;
    bool checkpoints_listed = false;  // members are asked for those that exist now
    bool lacks_state = false;         // all reported, and nobody holds the newest state
    Instant started_at{};
    std::optional<Instant> stands_since;  // members do nothing else
    Instant rollback_at{};                // from then on a worse tier may be chosen
    std::size_t recovery = 0;             // index in recoveries_
  };

  // Why a change is started.
  struct ChangeCause {
    std::string reason;
    bool planned = false;
    std::vector<WorkerId> victims;
    log_record::Suspicion suspicion;
    bool with_joiners = false;  // and not only members
  };

  void handle(const coordinator_event::Started& event);
  void handle(const coordinator_event::SessionMessage& event);
  void handle(const coordinator_event::SessionLost& event);
  void handle(const coordinator_event::DrainWorker& event);
  void handle(const coordinator_event::StopJob& event);
  void handle(const coordinator_event::FaultFired& event);
  void handle(const coordinator_event::LayoutPlanned& event);
  void handle(const coordinator_event::Tick& event);

  void replay(const log_record::GenerationStarted& record);
  void replay(const log_record::JobRecorded& record);
  void replay(const log_record::WorkerAccepted& record);
  void replay(const log_record::DrainAccepted& record);
  void replay(const log_record::WorkerReleased& record);
  void replay(const log_record::Prepared& record);
  void replay(const log_record::Committed& record);
  void replay(const log_record::NumericDecision& record);
  void note(const log_record::NumericDecision& record);
  void replay(const log_record::Disagreement& record);
  void note(const log_record::Disagreement& record);
  void replay(const log_record::StepLogged& record);
  void replay(const log_record::WaitingStarted& record);
  void replay(const log_record::Finished& record);
  void replay(const log_record::FaultFired& record);

  void message(WorkerRecord& worker, const Register& message);
  void message(WorkerRecord& worker, const Heartbeat& message);
  void message(WorkerRecord& worker, const Report& message);
  void message(WorkerRecord& worker, const BoundaryPassed& message);
  void message(WorkerRecord& worker, const Evidence& message);
  void message(WorkerRecord& worker, const StepCommitted& message);
  void message(WorkerRecord& worker, const RecomputeNotice& message);
  void message(WorkerRecord& worker, const AttachNotice& message);
  void message(WorkerRecord& worker, const CheckpointSaved& message);
  void message(WorkerRecord& worker, const SnapshotSaved& message);
  void message(WorkerRecord& worker, const DrainRequest& message);
  void message(WorkerRecord& worker, const Done& message);

  // Membership.
  void register_worker(SessionId session, const Register& message);
  [[nodiscard]] Refused another_class(const std::string& numeric_class) const;
  void give_job(SessionId session, ByteVector kernels);
  void pass_on_choosing(SessionId session);
  [[nodiscard]] std::optional<Refused> objection(const Register& message) const;
  [[nodiscard]] Status check_holdings(const Holdings& holdings) const;
  [[nodiscard]] Status check_report(Role role, const Report& report) const;
  [[nodiscard]] Status check_work(std::span<const StageProgress> stages, std::span<const TileRange> reduced) const;
  [[nodiscard]] Status check_weights(const Done& message) const;
  [[nodiscard]] static bool same_process(const WorkerRecord& worker, const Register& message);
  WorkerRecord& accept_worker(const WorkerRecord* earlier, const Register& message);
  void attach(WorkerRecord& worker, SessionId session, const Register& message);
  void catch_up(WorkerRecord& worker);
  void suspect(WorkerRecord& worker, const std::string& why);
  std::uint32_t blame(WorkerRecord& worker);
  static constexpr std::size_t kNamedLosses = 8;  // in a change's reason
  struct Loss {
    WorkerId worker;
    std::string why;
  };
  // Those that go at the same time are one change.
  void lose(const std::vector<Loss>& losses);
  void lose(const WorkerRecord& worker, const std::string& why) { lose({{worker.worker, why}}); }
  void accept_drain(WorkerRecord& worker, const std::string& reason);
  void forgive_silence(Duration overslept);
  void check_leases();
  [[nodiscard]] bool is_busy(const WorkerRecord& worker, Instant since) const;
  void check_change_deadline();
  void check_stall();
  [[nodiscard]] WorkerId waits_in_the_end_on(WorkerId worker) const;
  [[nodiscard]] Instant lease_end(const WorkerRecord& worker) const;
  [[nodiscard]] bool in_view(WorkerId worker) const;
  [[nodiscard]] bool serving(const WorkerRecord& worker) const;  // alive and of this job
  [[nodiscard]] std::vector<WorkerId> pending_joiners() const;
  // And no keeper. Precondition here and below: known.
  [[nodiscard]] bool is_worker(WorkerId id) const { return workers_.at(id).role == Role::worker; }
  template <class Ids>
  [[nodiscard]] std::size_t workers_among(const Ids& ids) const {
    return static_cast<std::size_t>(std::ranges::count_if(ids, [this](WorkerId id) { return is_worker(id); }));
  }
  [[nodiscard]] Instant joiners_worth_at(const std::vector<WorkerId>& joiners) const;

  // The layout.
  [[nodiscard]] MeasuredBlocks measure_blocks(const std::vector<WorkerId>& workers) const;
  [[nodiscard]] bool settled() const;
  [[nodiscard]] LayoutRequest layout_request(const std::vector<WorkerId>& workers) const;
  [[nodiscard]] LayoutRequest layout_request() const;  // for the view's members
  // Of so many workers together.
  [[nodiscard]] double losses_per_s(std::size_t workers) const;
  [[nodiscard]] std::map<WorkerId, LinkTable> measured_links(const std::vector<WorkerId>& workers) const;
  [[nodiscard]] std::vector<StageAssignment> mended(std::span<const StageAssignment> stages,
                                                    const LayoutRequest& request, Forecast& forecast) const;
  void balance_later(bool planned);
  [[nodiscard]] Duration balancing_takes() const;
  void check_balance();
  void check_snapshot_pace();
  void consider_planning(LayoutRequest request);
  void ask_planner(LayoutRequest request);

  // View changes.
  void consider_change();
  [[nodiscard]] static bool is_routine(const CoordinatorEvent& event);
  void consider_first_view();
  [[nodiscard]] bool await_first_layout();  // asks for it; false: go on without
  void start_change(ChangeCause cause);
  void name_excluded();
  void send_prepare(const WorkerRecord& worker);
  void finish_change();
  void expel(const std::vector<WorkerId>& workers, const std::string& why);
  void consider_new_connections(WorkerRecord& heard);
  bool ask_who_may_help();
  [[nodiscard]] bool may_help(WorkerId joiner) const;
  [[nodiscard]] RecoveryInput recovery_input(const Change& change) const;
  void commit(RecoveryDecision decision);
  // visit(member, record) of the view's members, in order; null: the worker is no more what it was then.
  template <class Visit>
  void for_each_member(Visit visit);
  void wait(std::string reason);
  void wait_for_capacity(const std::string& why);
  [[nodiscard]] std::set<WorkerId> present() const;
  void count_steps(Step committed);
  void finish_job(bool success, std::string reason, Step step, Hash128 weights);
  void consider_exit();

  [[nodiscard]] bool mutated(Mutation mutation) const { return config_.mutations.has(mutation); }
  void log(LogRecord record, bool sync = true);
  void send(const WorkerRecord& worker, CoordinatorMessage message);
  void send(SessionId session, CoordinatorMessage message);
  void announce(std::string text);

  const CoordinatorCoreConfig config_;
  const StateMap map_;
  const std::vector<double> block_shares_;
  const double operations_;                  // floating-point ones of a micro-batch
  const std::vector<std::uint32_t> depths_;  // of pipelines
  const Duration lease_;
  const Duration suspect_grace_;

  // Durable: given back by the log.
  Generation generation_;
  ViewNumber last_number_;  // highest view number ever prepared
  std::shared_ptr<const ViewRecord> view_;
  // The durable snapshot of which keepers told last.
  struct Saving {
    SnapshotName snapshot;
    std::set<WorkerId> keepers;
    std::uint64_t bytes = 0;
  };
  Saving saving_;
  std::string numeric_class_;
  Hash128 probe_;
  bool job_recorded_ = false;
  KernelChoices kernels_;
  std::optional<log_record::Finished> finished_;
  std::vector<log_record::NumericDecision> numeric_;     // of the newest step that had any
  std::vector<log_record::Disagreement> disagreements_;  // likewise
  log_record::Suspicion suspicion_;                      // until the next view
  std::uint64_t steps_committed_ = 0;
  Step last_step_logged_;
  std::uint64_t views_committed_ = 0;

  // Collected anew after a start.
  std::map<WorkerId, WorkerRecord> workers_;
  std::unordered_map<SessionId, WorkerRecord*> sessions_;  // of workers_, from which none is erased
  std::optional<Change> change_;
  bool unfinished_prepare_ = false;  // of an earlier generation: members may have fenced the view
  std::map<WorkerId, Done> done_;
  std::vector<RecoveryRecord> recoveries_;
  std::set<WorkerId> expelled_;           // for computing wrongly: they may not come back
  std::set<std::uint32_t> faults_fired_;  // their numbers
  std::optional<StepCommitted> last_commit_;
  std::optional<JobResult> result_;
  std::string result_unsaved_;  // why, when the last step's checkpoint failed and none succeeded
  bool waiting_ = false;
  std::string status_reason_ = "waiting for workers";
  std::uint32_t unbalanced_checks_ = 0;
  std::uint32_t rebalances_ = 0;   // since the last change of members
  std::uint32_t reconnects_ = 0;   // views for new connections alone, since a step was committed
  bool rebalance_wanted_ = false;  // into better_
  std::optional<BetterLayout> better_;
  SnapshotPace pace_;
  std::optional<SnapshotPace::Change> paced_;  // an interval of snapshots to change to
  std::optional<Instant> plan_asked_;          // when, while the planner works on a request
  std::uint64_t plans_ = 0;                    // asked for
  ClusterProfile planned_for_;                 // of the newest request
  Instant next_plan_{};
  std::set<WorkerId> too_few_;    // with these alone no layout fits into memory
  bool change_deferred_ = false;  // a planned change waits for what heartbeats and commits will tell
  ChangeTiming timing_;
  Instant joiners_worth_at_ = kFarFuture;  // a change for those that wait
  Instant next_lease_check_ = kFarFuture;  // no lease ends earlier
  Instant started_at_{};
  Instant last_progress_at_{};
  Instant next_balance_check_{};
  Instant finished_at_{};
  bool exited_ = false;

  std::optional<Instant> wanted_tick_;  // when this core should have been called again at the latest
  Instant now_{};
  CoordinatorActions actions_;
};

}  // namespace planaria

// The oracle: sees everything that any process holds, does and says, and compares it with the rules of the protocol.
//
// The invariants carry the numbers that docs/PROTOCOL.md gives them. Each check looks at what a real process would have
// in its memory and on its wires, not at what the cores believe.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "chaos/sim/trainer_model.hpp"
#include "chaos/sim/world.hpp"
#include "coordinator/core/coordinator_core.hpp"
#include "proto/duty.hpp"

namespace planaria::sim {

class Simulation;
class WorkerProcess;

class Oracle {
 public:
  Oracle(Simulation& simulation, World& world) : simulation_(simulation), world_(world) {}

  // ---- workers ----
  void decided(const WorkerProcess& process, const WorkerAction& action);
  void micro_batch_starts(const WorkerProcess& process, const worker_action::ComputeMicroBatch& action);
  void micro_batch_ends(const WorkerProcess& process, const worker_action::ComputeMicroBatch& action);
  void update_starts(WorkerProcess& process, const worker_action::ApplyUpdate& action);
  void state_written(const WorkerProcess& process, const Buffer& state);
  void state_fetched(const WorkerProcess& process, Step stamp, TileRange tiles);
  void state_made_again(const WorkerProcess& process, const worker_action::RebuildState& action);
  void step_released(const WorkerProcess& process, Step step);
  void stops(const WorkerProcess& process, const worker_action::Stop& stop);

  // A slot's gradient became nonfinite by chance.
  void nonfinite_once(Step step, std::uint32_t attempt, std::uint32_t slot) {
    nonfinite_once_[{step, slot}].insert(attempt);
  }
  // A value in some state or reduced gradient is wrong from now on; nobody has noticed.
  void value_damaged(EvidenceKind notices) {
    damaged_ = true;
    unnoticed_.insert(notices);
    clean_from_.reset();
  }
  // A value that must be the undisturbed run's isn't. When no members disagreed about the damage, nobody could know.
  void wrong(const std::string& invariant, const std::string& detail);

  // ---- coordinator ----
  void heard(WorkerId worker, Incarnation incarnation, const WorkerMessage& message);
  void appended(const LogRecord& record);
  void durable(const LogRecord& record);
  void leaves(const CoordinatorEnvelope& envelope);
  void coordinator_died();
  // Something is about to strike: what the operator is told at this moment, of which hosts may be lost, must hold.
  void note_claim();

  // ---- the end ----
  void job_finished(const CoordinatorCore* core, bool success);

  // Appended so far, over all lives of the coordinator.
  [[nodiscard]] std::uint32_t next_change() const { return changes_; }
  [[nodiscard]] std::uint32_t next_view() const { return views_; }
  [[nodiscard]] std::uint32_t view_count() const { return static_cast<std::uint32_t>(committed_.size()); }
  [[nodiscard]] const std::map<std::uint32_t, std::uint32_t>& tiers() const { return tiers_; }
  [[nodiscard]] std::uint64_t tiles_rebuilt() const { return tiles_rebuilt_; }
  [[nodiscard]] std::uint32_t returns() const { return returns_; }

 private:
  void check_losses(const WorkerProcess& process, Step step, const std::vector<SlotLoss>& losses);
  [[nodiscard]] const Duty& duty(const ViewRecord& view, WorkerId worker);
  void check_holdings(const WorkerProcess& process, const Holdings& holdings, const char* what);
  void check_report(const WorkerProcess& process, const Report& report);
  void check_committed(const WorkerProcess& process, const StepCommitted& commit);
  [[nodiscard]] bool tainted(ViewNumber view) const;
  void check_release(const WorkerProcess& process, Step step);
  void check_prepared(const log_record::Prepared& record);
  void check_view_record(const ViewRecord& record);
  [[nodiscard]] bool is_committed(const PackedView& packed) const;
  void check_somebody_contradicts(const ViewRecord& view, Step step);
  void check_nothing_better(const ViewRecord& record);
  void check_fragments(const WorkerProcess& process, const Holdings& holdings, const char* what);
  void snapshot_complete(const WorkerProcess& process, const ViewRecord& view, Step step);
  [[nodiscard]] std::set<std::string> hosts_lost(const ViewRecord& record) const;
  void check_promise(const ViewRecord& record);
  void check_claims(const ViewRecord& record);
  void members_hold(const WorkerProcess& process, Step step, const char* invariant);
  void fail(const std::string& invariant, const WorkerProcess& process, const std::string& detail);

  Simulation& simulation_;
  World& world_;

  // Attempts, by step and slot.
  std::map<std::pair<Step, std::uint32_t>, std::set<std::uint32_t>> nonfinite_once_;

  bool damaged_ = false;              // some state, at some time
  std::set<EvidenceKind> unnoticed_;  // what would tell of it: no members disagreed since
  std::uint32_t lineage_ = 0;
  std::optional<ViewNumber> clean_from_;  // the view in which all went back behind the damage
  Step highest_commit_;
  ViewNumber rolled_back_in_;
  std::uint32_t changes_ = 0;
  std::uint32_t views_ = 0;
  std::map<ViewNumber, ViewRecord> committed_;    // durable views
  std::map<ViewNumber, Hash128> appended_views_;  // in this life
  std::set<ViewNumber> prepared_;                 // durable
  ViewNumber highest_prepared_;                   // durable or, in this life, appended
  std::set<std::pair<WorkerId, Incarnation>> accepted_;
  std::set<std::pair<WorkerId, Incarnation>> released_;
  std::set<Generation> generations_;
  Generation highest_generation_;
  std::optional<ViewRecord> last_view_;  // durable
  bool finished_logged_ = false;
  std::set<std::tuple<WorkerId, Incarnation, ViewNumber>> reports_;  // heard in this life
  std::map<std::pair<WorkerId, Incarnation>, Report> report_of_;
  std::map<WorkerId, Instant> last_heard_;
  std::set<std::pair<WorkerId, Incarnation>> excluded_;
  Instant prepared_at_{};
  std::map<std::uint32_t, std::uint32_t> tiers_;  // views by tier
  std::map<ViewNumber, Duties> duties_;           // of the newest few views
  std::shared_ptr<const PackedView> told_view_;   // the newest; most members are told the same bytes
  std::set<std::tuple<ViewNumber, Step, std::uint32_t, WorkerId>> said_gates_;  // said, by attempt
  std::set<std::tuple<ViewNumber, Step, WorkerId>> said_acks_;
  std::set<std::pair<ViewNumber, Step>> held_;      // by all members of the view, as was seen
  std::set<std::pair<ViewNumber, Step>> complete_;  // snapshots of a view's layout, as was seen
  struct Claim {
    Step newest;  // nobody needs to go back behind it
    std::uint32_t tolerated = 0;
    std::set<std::string> alone;
    std::set<std::string> lost;  // hosts that the coordinator knew to be gone
  };
  std::vector<Claim> claims_;  // of last_view_
  std::uint64_t tiles_rebuilt_ = 0;
  std::uint32_t returns_ = 0;  // views that go on with a committed step
};

}  // namespace planaria::sim

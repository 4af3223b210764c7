// Decides how the members of a new view go on: which step, whose slots are computed anew and by whom, who sends what
// state to whom, at which tier. Pure functions of the members' reports.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "coordinator/core/measured_links.hpp"
#include "proto/control.hpp"
#include "proto/job_spec.hpp"
#include "proto/layout.hpp"
#include "proto/log_record.hpp"
#include "proto/mutation.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct RecoveryMember {
  Member member;
  std::shared_ptr<const Report> report;  // never null
  bool continuing = false;               // it was a member of the previous view in this incarnation
  bool leaving = false;                  // drained: it goes as soon as the others hold all that is needed
  double speed = 0;                      // micro-batches a second; 0 = not measured
  double beside_s = 0;                   // of a step, besides micro-batches
  WorkerResources resources = {};
  bool rests = false;  // a keeper that lately couldn't take what it should: it gets no part of the snapshots
};

struct RecoveryInput {
  ViewNumber view;
  std::vector<RecoveryMember> members;         // by WorkerId, at least one
  std::shared_ptr<const ViewRecord> previous;  // the last committed view; null: none
  Step reached;                                // the previous view held this step's state for certain
  std::uint32_t slots = 1;                     // V
  Step total_steps;
  const StateMap* map = nullptr;
  const JobSpec* job = nullptr;
  bool sharded = false;              // optimizer.shard
  std::uint64_t snapshot_every = 1;  // steps; the job's, or what is to be instead
  std::string numeric_class;
  std::vector<double> block_shares;     // of a micro-batch's time
  std::map<WorkerId, LinkTable> links;  // as members measured them
  std::vector<std::uint32_t> depths;    // of pipelines; see steady_stages
  // Another layout than the previous one to go on from: the planner's. None: the previous one.
  std::vector<StageAssignment> wanted;
  NonfinitePolicy nonfinite = NonfinitePolicy::skip;
  double rebalance_gain = 0.1;                          // the previous split is kept when a new one gains less
  double steps_ahead = 100;                             // that a layout lasts, about
  double losses_per_s = 0;                              // of members, as expected
  bool planned = false;                                 // every continuing member stopped at the same boundary
  bool discard_work = false;                            // the step's partial sums can't be trusted
  bool distrust_state = false;                          // members disagreed about their state since they compared it
  bool checkpoints_listed = true;                       // reports name the checkpoints that exist now
  bool allow_rollback = true;                           // holders of newer state are not awaited any longer
  std::vector<log_record::NumericDecision> numeric;     // those of the newest step that had any
  std::vector<log_record::Disagreement> disagreements;  // likewise
  MutationSet mutations;                                // tests only
};

struct RecoveryDecision {
  ViewRecord record;
  std::optional<double> lost_work, own_work;             // as RecoveryRecord has them
  std::optional<log_record::NumericDecision> numeric;    // to be logged before the commit
  std::optional<log_record::Disagreement> disagreement;  // likewise
  bool halt = false;                                     // the job can't go on; record.reason says why
  std::vector<WorkerId> expelled;  // must be excluded first, for record.reason; nothing else is set
  std::vector<WorkerId> released;  // leaving ones that aren't members any more

  [[nodiscard]] bool ends_here() const { return halt || !expelled.empty(); }
};

// Errors with `unavailable` when the members don't hold the newest state and falling back isn't allowed yet, with
// `not_found` when that needs members' checkpoints, listed anew, and with `exhausted` when no layout fits into the
// members' memory; the message says what is needed.
[[nodiscard]] Result<RecoveryDecision> decide_recovery(const RecoveryInput& input);

// Speeds with the gaps, zeros, filled: a worker that wasn't measured counts as the mean of the others, or 1.
[[nodiscard]] std::vector<double> filled_speeds(std::vector<double> speeds);

}  // namespace planaria

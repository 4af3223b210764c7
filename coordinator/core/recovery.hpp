// Decides how the members of a new view go on: which step, whose slots are computed anew and by whom, who sends what
// state to whom, at which tier. Pure functions of the members' reports.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "proto/control.hpp"
#include "proto/job_spec.hpp"
#include "proto/layout.hpp"
#include "proto/log_record.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct RecoveryMember {
  Member member;
  Report report;
  bool continuing = false;  // it was a member of the previous view in this incarnation
  double speed = 1.0;       // micro-batches a second, relative
};

struct RecoveryInput {
  ViewNumber view;
  std::vector<RecoveryMember> members;           // by WorkerId, at least one
  std::optional<ViewRecord> previous;            // the last committed view
  std::uint32_t slots = 1;
  const StateMap* map = nullptr;
  double rebalance_gain = 0.1;                   // previous slots are kept when a new split gains less
  std::optional<log_record::NumericDecision> numeric;  // last alarm decided for this step
  bool allow_rollback = true;                    // holders of newer state are not awaited any longer
};

struct RecoveryDecision {
  ViewRecord record;
  std::uint32_t lost_slots = 0;
  // What was found about a nonfinite gradient: the digest that made the decision.
  std::optional<log_record::NumericDecision> numeric;
  bool halt = false;        // the job can't go on (nonfinite by nature and the policy says so)
};

// Errors with `unavailable` when no member holds the newest state and rollback isn't allowed yet.
[[nodiscard]] Result<RecoveryDecision> decide_recovery(const RecoveryInput& input, NonfinitePolicy policy);

}  // namespace planaria

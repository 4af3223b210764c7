// Test-only switches, one for each protocol rule: a core with a mutation on breaks that rule, and the simulator must
// notice. No configuration file can set them.
//
// Thread contract: plain values.
#pragma once

#include <cstdint>

namespace planaria {

enum class Mutation : std::uint8_t {
  release_before_commit,       // rule 1: the reduced gradient is freed before every member acknowledged
  commit_without_acks,         // rule 2: the next step begins when the own update is done
  exit_before_finished,        // rule 2: a worker leaves before Finished
  serve_torn_state,            // rule 3: state is served and stamped while the update writes it
  reduce_incomplete_cover,     // rule 7: a shard is reduced from what arrived, not from an exact cover
  add_twice,                   // rule 7: a piece that arrives twice is added twice
  stale_report,                // rule 8: a report of an earlier Prepare is used again
  replace_local_state,         // rule 8: fetched state replaces newer state
  accept_stale_view,           // rule 9/10: data of an older view is accepted
  drop_future_view,            // rule 10: data of a newer view is dropped instead of held
  reuse_prepare_number,        // rule 10: an uncommitted Prepare's number is used again
  accept_old_generation,       // rule 11: messages of an older coordinator generation are obeyed
  gate_without_all,            // rule 11: the gate opens with all but one member
  forget_fenced_state,         // rule 12: a fenced worker throws its state away
  release_drained_early,       // rule 13: a drained worker leaves before the new view is committed
  joiner_votes_without_state,  // rule 14: a joiner passes the gate before its state has arrived
  repeat_finished_work,        // invariant 13: survivors compute finished slots again
  fold_out_of_order,           // rule 20: micro-batches or nodes are added in the order of arrival
  announce_before_sync,        // rule 22: messages leave before the log is synced
  lease_ignored,               // rule 11/15: a hint alone expels a member
  nonfinite_at_once,           // rule 15: a nonfinite gradient is taken for one by nature without a second look
  ignore_different_sums,       // the gate opens though keepers of a tile have different gradients
  trust_majority,              // members that disagree about their state go on with what most of them hold
  gate_without_snapshot,       // rules 1, 4, 5: keepers vote before the snapshot of the step before is placed
  trust_old_lineage,           // who missed that states proved wrong brings them back
  free_finished_work,          // rule 1: a committed step's work is freed before its snapshot is complete
  count_
};

class MutationSet {
 public:
  constexpr MutationSet() = default;
  constexpr explicit MutationSet(Mutation mutation) : bits_(1ULL << static_cast<unsigned>(mutation)) {}
  [[nodiscard]] constexpr bool none() const { return bits_ == 0; }
  [[nodiscard]] constexpr bool has(Mutation mutation) const {
    return (bits_ >> static_cast<unsigned>(mutation) & 1U) != 0;
  }

 private:
  std::uint64_t bits_ = 0;
};

[[nodiscard]] const char* to_string(Mutation mutation);

}  // namespace planaria

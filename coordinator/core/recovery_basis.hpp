// What the members of a new view go on from, by their reports: whose state is to be trusted, which step's state they
// hold or can make together, and how much of the next step's work survives. The first half of a decision about
// recovery.
//
// Thread contract: values of one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/core/recovery.hpp"
#include "coordinator/core/state_fetches.hpp"
#include "coordinator/core/state_rebuilds.hpp"

namespace planaria {

class RecoveryBasis {
 public:
  // Both outlive this.
  RecoveryBasis(const RecoveryInput& input, RecoveryDecision& decision);

  // Sets what of the decision follows from reports alone: the step to go on with, its attempt, the tier, and whether
  // the job halts or members are expelled. All below is of a decision that doesn't end with that. Errors: those of
  // decide_recovery but `exhausted`.
  [[nodiscard]] Status find();

  // The state to go on from, and where it is.
  [[nodiscard]] Step base() const { return base_; }
  [[nodiscard]] StateSource source() const { return source_; }
  [[nodiscard]] bool rolled_back() const { return rolled_back_; }
  [[nodiscard]] bool distrusted() const { return distrusted_; }  // members disagree about newer state

  // Of a member, by its index in the input: its report, as of the step to go on with; what it holds that may be used,
  // nothing when it isn't there; what it holds that must go; whether its work of the step is good.
  [[nodiscard]] const Report& report(std::size_t i) const {
    return taken_up_.empty() ? *in_.members[i].report : taken_up_[i];
  }
  [[nodiscard]] const HeldTiles& held(std::size_t i, Step stamp) const;
  [[nodiscard]] std::optional<Distrust> distrust(std::size_t i) const;
  [[nodiscard]] bool works_on_step(std::size_t i) const;

  // Tiles of the base that nobody holds and that can be made, and from what; null: there are no fragments of it.
  [[nodiscard]] TileSet lost() const;
  [[nodiscard]] const StateRebuilds* rebuilds() const;

  // Who had which work of the step. Precondition: there was a view before.
  [[nodiscard]] const std::vector<StageAssignment>& previous_stages() const;

 private:
  using Hashes = std::map<std::pair<Step, std::uint32_t>, std::vector<log_record::MemberHash>>;  // by stamp and block

  ResumePlan& plan() { return decision_.record.resume; }
  [[nodiscard]] const ResumePlan& plan() const { return decision_.record.resume; }
  [[nodiscard]] std::size_t count() const { return in_.members.size(); }
  [[nodiscard]] WorkerId worker(std::size_t i) const { return in_.members[i].member.worker; }
  [[nodiscard]] bool computes(std::size_t i) const { return in_.members[i].member.role == Role::worker; }
  [[nodiscard]] std::uint32_t lineage() const { return in_.previous ? in_.previous->resume.lineage : 0; }

  void find_trusted_state();
  [[nodiscard]] Hashes hashes_of_states() const;
  void judge_members();
  [[nodiscard]] std::optional<log_record::Disagreement> gradient_disagreement() const;
  [[nodiscard]] bool outdated(std::size_t i) const;
  [[nodiscard]] bool trusted(std::size_t i, const HeldState& held) const;
  [[nodiscard]] bool is_hashed(const HeldState& held) const;

  void collect_holdings();
  void collect_fragments();
  [[nodiscard]] bool is_available(Step stamp) const;

  [[nodiscard]] Status find_base();
  [[nodiscard]] bool finishes(Step newest) const;
  [[nodiscard]] bool works_beyond(Step step) const;
  [[nodiscard]] bool keep_work_of(Step step) const;
  void return_to(Step step);
  [[nodiscard]] Status fall_back(std::optional<Step> checkpoint);
  [[nodiscard]] bool belongs_to_previous(std::size_t i) const;
  [[nodiscard]] bool current_work(std::size_t i, Step step, std::uint32_t attempt) const;
  [[nodiscard]] std::uint32_t newest_attempt(Step step) const;
  [[nodiscard]] bool gradient_held(Step step) const;

  void judge_numbers();

  const RecoveryInput& in_;
  const TileSet all_;  // tiles with state
  RecoveryDecision& decision_;
  std::optional<ComparedState> compared_;  // the newest that a member knows
  bool distrusted_ = false;
  bool gradients_differ_ = false;
  bool rolled_back_ = false;
  StateSource source_ = StateSource::peer;
  Step base_;
  std::vector<Report> taken_up_;                 // of members that return to a step; none: as they are
  std::vector<std::map<Step, HeldTiles>> held_;  // by member
  std::map<Step, TileSet> state_of_;             // what all of them hold together
  std::map<Step, StateRebuilds> rebuilds_;       // from it, and from fragments
  std::map<Step, TileSet> available_;            // what they hold, or can make, together
};

}  // namespace planaria

#include "coordinator/core/recovery_basis.hpp"

#include <algorithm>
#include <set>

#include "coordinator/core/numeric_policy.hpp"
#include "proto/duty.hpp"

namespace planaria {
namespace {

bool differ(const std::vector<log_record::MemberHash>& hashes) {
  return std::ranges::any_of(hashes, [&](const auto& member) { return member.hash != hashes.front().hash; });
}

Error not_listed() {
  return Error(ErrorCode::not_found, "looking for durable checkpoints");
}

}  // namespace

RecoveryBasis::RecoveryBasis(const RecoveryInput& input, RecoveryDecision& decision)
    : in_(input), all_(input.map->tiles_with_state()), decision_(decision) {}

Status RecoveryBasis::find() {
  find_trusted_state();
  judge_members();
  if (decision_.ends_here()) return ok_status();
  collect_holdings();
  PLANARIA_TRY(find_base());
  judge_numbers();
  return ok_status();
}

TileSet RecoveryBasis::lost() const {
  const auto possible = available_.find(base_);
  const auto there = state_of_.find(base_);
  TileSet lost = possible == available_.end() ? TileSet() : possible->second;
  if (there != state_of_.end()) lost.remove(there->second);
  return lost;
}

const StateRebuilds* RecoveryBasis::rebuilds() const {
  const auto found = rebuilds_.find(base_);
  return found == rebuilds_.end() ? nullptr : &found->second;
}

const std::vector<StageAssignment>& RecoveryBasis::previous_stages() const {
  return in_.previous->resume.step == plan().step ? in_.previous->resume.stages : in_.previous->stages;
}

// It missed that the newest states proved wrong: what it holds may be of them.
bool RecoveryBasis::outdated(std::size_t i) const {
  return report(i).holdings.lineage < lineage() && !in_.mutations.has(Mutation::trust_old_lineage);
}

bool RecoveryBasis::trusted(std::size_t i, const HeldState& held) const {
  const bool compared = compared_ && held.stamp == compared_->step && !held.hashes.empty();
  if (compared) return agree(held.hashes, compared_->blocks) && (!distrusted_ || is_hashed(held));
  return !distrusted_ && !outdated(i);
}

// Of a block that isn't whole there is no hash: what a member fetched of it may be what another one held wrongly.
bool RecoveryBasis::is_hashed(const HeldState& held) const {
  if (in_.sharded) return true;
  TileSet hashed;
  for (const BlockHash& block : held.hashes) hashed.add(in_.map->tiles_of({block.block, block.block + 1}));
  return hashed.contains(TileSet(held.state));
}

// Of what a member holds, that which may be used; nothing when it isn't there.
const HeldTiles& RecoveryBasis::held(std::size_t i, Step stamp) const {
  static const HeldTiles kNothing;
  const auto found = held_[i].find(stamp);
  return found == held_[i].end() ? kNothing : found->second;
}

void RecoveryBasis::collect_holdings() {
  held_.resize(count());
  for (std::size_t i = 0; i < count(); ++i) {
    for (const HeldState& told : report(i).holdings.states) {
      if (!trusted(i, told)) continue;
      HeldTiles& held = held_[i][told.stamp];
      held.state = TileSet(told.state).common(all_);
      held.parameters = TileSet(told.parameters);
      held.parameters.add(held.state);
      held.parameters.add(tied_to(*in_.map, held.parameters));
      state_of_[told.stamp].add(held.state);
    }
  }
  available_ = state_of_;
  collect_fragments();
}

void RecoveryBasis::collect_fragments() {
  if (distrusted_) return;  // they have no hashes that members compare
  for (std::size_t i = 0; i < count(); ++i) {
    if (outdated(i)) continue;
    for (const HeldFragment& fragment : report(i).holdings.fragments) {
      const Step stamp = fragment.snapshot.step;
      rebuilds_.try_emplace(stamp, *in_.map, stamp).first->second.add_fragment(worker(i), fragment);
    }
  }
  for (auto& [stamp, rebuilds] : rebuilds_) {
    for (std::size_t i = 0; i < count(); ++i) {
      if (!held(i, stamp).state.empty()) rebuilds.add_state(worker(i), held(i, stamp).state);
    }
    available_[stamp].add(rebuilds.possible());
  }
}

// Something that it holds, and would not give up by itself, isn't believed, or is of a future that is no more: before
// the others had to go back it was a part of what they all held.
std::optional<Distrust> RecoveryBasis::distrust(std::size_t i) const {
  std::optional<Distrust> found;
  for (const HeldState& told : report(i).holdings.states) {
    const bool goes_anyway = plan().tier > 0 && told.stamp != base_;
    if (goes_anyway || (trusted(i, told) && told.stamp <= base_.next())) continue;
    if (!found) found = Distrust{worker(i), false};
    found->all = found->all || told.stamp == base_;
  }
  return found;
}

bool RecoveryBasis::is_available(Step stamp) const {
  const auto found = available_.find(stamp);
  return found != available_.end() && found->second == all_;
}

bool RecoveryBasis::belongs_to_previous(std::size_t i) const {
  return in_.previous && in_.members[i].continuing && report(i).view == in_.previous->view;
}

// Work of an older view may overlap what the last one gave to others.
bool RecoveryBasis::current_work(std::size_t i, Step step, std::uint32_t attempt) const {
  return belongs_to_previous(i) && report(i).work_step == step && report(i).attempt == attempt;
}

bool RecoveryBasis::works_on_step(std::size_t i) const {
  return !plan().discard && current_work(i, plan().step, plan().attempt);
}

std::uint32_t RecoveryBasis::newest_attempt(Step step) const {
  std::uint32_t attempt = 0;
  if (in_.previous && in_.previous->resume.step == step) attempt = in_.previous->resume.attempt;
  for (std::size_t i = 0; i < count(); ++i) {
    if (belongs_to_previous(i) && report(i).work_step == step) attempt = std::max(attempt, report(i).attempt);
  }
  return attempt;
}

// A wrong value in one member's state goes into everybody's sums: once members disagree, all that was computed since
// they last agreed is suspect, whatever the majority holds. Only what equals the compared state is good.
void RecoveryBasis::find_trusted_state() {
  plan().lineage = lineage();
  if (in_.mutations.has(Mutation::trust_majority)) return;
  distrusted_ = in_.distrust_state;
  for (std::size_t i = 0; i < count(); ++i) {
    if (outdated(i)) continue;
    const auto& compared = report(i).holdings.compared;
    if (compared && (!compared_ || compared->step > compared_->step)) compared_ = compared;
  }
  for (const auto& [of, hashes] : hashes_of_states()) {
    const auto& [stamp, block] = of;
    const BlockHash first{block, hashes.front().hash};
    distrusted_ = distrusted_ || differ(hashes);
    if (compared_ && stamp == compared_->step) {
      distrusted_ = distrusted_ || !agree(std::span(&first, 1), compared_->blocks);
    }
  }
  plan().lineage = lineage() + (distrusted_ ? 1 : 0);
}

RecoveryBasis::Hashes RecoveryBasis::hashes_of_states() const {
  Hashes hashes;
  for (std::size_t i = 0; i < count(); ++i) {
    if (!in_.members[i].continuing || outdated(i) || report(i).holdings.states.empty()) continue;
    const HeldState& newest = report(i).holdings.states.back();
    for (const BlockHash& block : newest.hashes) hashes[{newest.stamp, block.block}].push_back({worker(i), block.hash});
  }
  return hashes;
}

// Of members whose states or gradients should be alike and aren't.
void RecoveryBasis::judge_members() {
  std::optional<log_record::Disagreement> now;
  for (const auto& [of, hashes] : hashes_of_states()) {
    if (differ(hashes)) now = {of.first, false, of.second, lineage(), hashes, {}, {}};
  }
  if (!now) now = gradient_disagreement();
  if (!now || in_.mutations.has(Mutation::trust_majority)) return;
  gradients_differ_ = now->gradient;
  NumericJudgement judgement = judge_disagreement(*now, in_.disagreements);
  now->decision = to_string(judgement.verdict);
  now->expelled = decision_.expelled = judgement.faulty;
  decision_.disagreement = std::move(now);
  decision_.record.reason = judgement.reason;
  decision_.halt = judgement.verdict == NumericVerdict::halt;
}

std::optional<log_record::Disagreement> RecoveryBasis::gradient_disagreement() const {
  Step step;
  for (std::size_t i = 0; i < count(); ++i) {
    if (belongs_to_previous(i) && !report(i).gradient.empty()) step = std::max(step, report(i).work_step);
  }
  const std::uint32_t attempt = newest_attempt(step);
  std::map<std::uint32_t, std::vector<log_record::MemberHash>> blocks;
  for (std::size_t i = 0; i < count(); ++i) {
    if (!current_work(i, step, attempt)) continue;
    for (const BlockHash& block : report(i).gradient) blocks[block.block].push_back({worker(i), block.hash});
  }
  for (const auto& [block, hashes] : blocks) {
    if (differ(hashes)) return log_record::Disagreement{step, true, block, attempt, hashes, {}, {}};
  }
  return std::nullopt;
}

Status RecoveryBasis::find_base() {
  std::optional<Step> whole, checkpoint;  // the newest state that members hold, or can make, all of
  for (const auto& [stamp, tiles] : available_) {
    if (tiles == all_) whole = stamp;
  }
  for (std::size_t i = 0; i < count(); ++i) {
    for (const Step step : report(i).holdings.checkpoints) {
      checkpoint = checkpoint ? std::max(*checkpoint, step) : step;
    }
  }
  const bool first_start = !in_.previous;
  if (distrusted_) {
    rolled_back_ = true;
    if (!whole) return fall_back(checkpoint);
    base_ = *whole;
    plan().tier = 1;
    return ok_status();
  }
  // State is named by its step, not by a view: what a fenced worker kept is as good as a member's.
  const bool overtaken = whole && works_beyond(whole->next());
  const bool current =
      whole && *whole >= in_.reached && !overtaken && (!first_start || !checkpoint || *whole >= *checkpoint);
  if (current) {
    base_ = finishes(*whole) ? whole->previous() : *whole;
    return ok_status();
  }
  if (overtaken && keep_work_of(whole->next())) {
    base_ = *whole;
    return_to(whole->next());
    return ok_status();
  }
  if (!first_start && !in_.allow_rollback) {
    return Error(ErrorCode::unavailable,
                 "the members don't hold all of the newest state; waiting for workers that may");
  }
  if (!first_start && !in_.checkpoints_listed) return not_listed();
  if (whole && (!checkpoint || *whole >= *checkpoint)) {
    base_ = *whole;
    rolled_back_ = true;
    plan().tier = 1;
    return ok_status();
  }
  return fall_back(checkpoint);
}

// Members that are a step ahead keep that step's gradient until all acknowledged: the others make the state from it.
bool RecoveryBasis::finishes(Step newest) const {
  if (in_.discard_work || gradients_differ_ || newest == Step(0) || !in_.previous) return false;
  bool behind = false;
  const Duties duties(*in_.map, in_.previous->sharded, in_.previous->stages, in_.previous->shards);
  for (std::size_t i = 0; i < count(); ++i) {
    if (belongs_to_previous(i) && report(i).work_step > newest) return false;  // it knows that step's commit
    if (!in_.members[i].continuing || held(i, newest.previous()).state.empty()) continue;
    behind = behind || (held(i, newest).state.empty() && !duties.of(worker(i)).kept.empty());
  }
  return behind && is_available(newest.previous()) && gradient_held(newest);
}

// A member knows the step's commit.
bool RecoveryBasis::works_beyond(Step step) const {
  for (std::size_t i = 0; i < count(); ++i) {
    if (belongs_to_previous(i) && computes(i) && report(i).work_step > step) return true;
  }
  return false;
}

// All members that had a part in the step have its work still, each its own. (Rule 1: until a snapshot protects its
// state.)
bool RecoveryBasis::keep_work_of(Step step) const {
  if (in_.discard_work || gradients_differ_) return false;
  std::optional<std::uint32_t> attempt;
  const std::size_t blocks = in_.map->blocks().size();
  std::vector<bool> told(blocks * in_.slots);
  const auto is_told_first = [&](const StageWork& work) {
    for (std::uint32_t slot = work.slots.begin; slot < work.slots.end; ++slot) {
      for (std::uint32_t block = work.blocks.begin; block < work.blocks.end; ++block) {
        if (told[slot * blocks + block]) return false;
        told[slot * blocks + block] = true;
      }
    }
    return true;
  };
  for (std::size_t i = 0; i < count(); ++i) {
    if (!belongs_to_previous(i) || !computes(i)) continue;
    const std::optional<KeptWork>& kept = report(i).kept;
    const bool in_it = report(i).work_step == step;
    if (!in_it && (!kept || kept->step != step || report(i).work_step != step.next())) return false;
    const std::uint32_t own = in_it ? report(i).attempt : kept->attempt;
    if (own != attempt.value_or(own)) return false;
    attempt = own;
    for (const StageProgress& stage : in_it ? report(i).stages : kept->stages) {
      if (!is_told_first(stage.work)) return false;
    }
  }
  return attempt.has_value();
}

// The members' reports become those of who never left the step.
void RecoveryBasis::return_to(Step step) {
  plan().returns = true;
  std::vector<Report> reports;
  for (const RecoveryMember& member : in_.members) {
    Report& own = reports.emplace_back(*member.report);
    own.alarm = false;  // its commit was the answer to any
    own.nonfinite.clear();
    if (own.work_step == step) continue;
    const KeptWork kept = own.kept && own.kept->step == step ? *own.kept : KeptWork{.step = step};
    plan().skip_update = plan().skip_update || kept.skipped;
    own.work_step = kept.step;
    own.attempt = kept.attempt;
    own.released = kept.stages.empty() && kept.reduced.empty();
    own.stages = kept.stages;
    own.reduced = kept.reduced;
    own.gradient.clear();
  }
  taken_up_ = std::move(reports);
}

// Members compare what they save before they save it: every checkpoint is good.
Status RecoveryBasis::fall_back(std::optional<Step> checkpoint) {
  const bool first_start = !in_.previous;
  if (!first_start && !in_.checkpoints_listed) return not_listed();
  rolled_back_ = true;
  source_ = checkpoint ? StateSource::checkpoint : StateSource::initialize;
  base_ = checkpoint.value_or(Step(0));
  plan().tier = first_start ? 0 : checkpoint ? 2 : 3;
  return ok_status();
}

bool RecoveryBasis::gradient_held(Step step) const {
  TileSet held;
  const std::uint32_t attempt = newest_attempt(step);
  for (std::size_t i = 0; i < count(); ++i) {
    if (current_work(i, step, attempt)) held.add(TileSet(report(i).reduced));
  }
  return held.contains(TileRange{0, in_.map->tile_count()});
}

void RecoveryBasis::judge_numbers() {
  plan().step = base_.next();
  plan().attempt = newest_attempt(plan().step);
  plan().discard = in_.discard_work || rolled_back_ || gradients_differ_;
  bool alarm = false;
  std::set<std::uint32_t> nonfinite;
  for (std::size_t i = 0; i < count(); ++i) {
    if (!current_work(i, plan().step, plan().attempt)) continue;
    alarm = alarm || report(i).alarm;
    for (const SlotRange slots : report(i).nonfinite) {
      for (std::uint32_t slot = slots.begin; slot < slots.end; ++slot) nonfinite.insert(slot);
    }
  }
  if (!alarm || plan().discard) {
    if (plan().discard) ++plan().attempt;
    return;
  }
  std::vector<WorkerId> members;
  for (std::size_t i = 0; i < count(); ++i) {
    if (computes(i)) members.push_back(worker(i));
  }
  log_record::NumericDecision now{plan().step, plan().attempt, {}, {}, {}, {}};
  for (const std::uint32_t slot : nonfinite) {
    if (now.nonfinite.empty() || now.nonfinite.back().end != slot) now.nonfinite.push_back({slot, slot});
    ++now.nonfinite.back().end;
  }
  if (in_.previous) now.computed = previous_stages();
  NumericJudgement judgement = judge_nonfinite(now, in_.numeric, members, in_.nonfinite);
  if (in_.mutations.has(Mutation::nonfinite_at_once)) judgement.verdict = NumericVerdict::skip;
  now.decision = to_string(judgement.verdict);
  now.expelled = decision_.expelled = judgement.faulty;
  decision_.numeric = std::move(now);
  decision_.record.reason = judgement.reason;
  decision_.halt = judgement.verdict == NumericVerdict::halt;
  plan().skip_update = judgement.verdict == NumericVerdict::skip;
  if (judgement.verdict == NumericVerdict::recompute) {
    plan().discard = true;
    ++plan().attempt;
  }
}

}  // namespace planaria

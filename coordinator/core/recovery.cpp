#include "coordinator/core/recovery.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "coordinator/core/numeric_policy.hpp"
#include "coordinator/core/steady_layout.hpp"
#include "proto/block_cost.hpp"

namespace planaria {
namespace {

// Works out one decision; its members are the facts found on the way.
class RecoveryPlanner {
 public:
  explicit RecoveryPlanner(const RecoveryInput& input) : in_(input), speeds_(filled_speeds(input.members)) {}

  Result<RecoveryDecision> decide() {
    find_trusted_state();
    judge_members();
    if (decision_.halt || !decision_.expelled.empty()) return decision_;
    PLANARIA_TRY(find_base());
    judge_numbers();
    if (decision_.halt || !decision_.expelled.empty()) return decision_;
    plan_steady();
    plan_resume();
    plan_fetches();
    explain();
    return decision_;
  }

 private:
  ResumePlan& plan() { return decision_.record.resume; }
  [[nodiscard]] std::size_t count() const { return in_.members.size(); }
  [[nodiscard]] const Report& report(std::size_t i) const { return in_.members[i].report; }
  // Of the states that a member holds, those that may be used.
  [[nodiscard]] std::optional<Step> state(std::size_t i) const {
    const Holdings& held = report(i).holdings;
    return trusted(i, held.state, held.state_hash) ? held.state : std::nullopt;
  }
  [[nodiscard]] std::optional<Step> previous_state(std::size_t i) const {
    const Holdings& held = report(i).holdings;
    return trusted(i, held.previous_state, held.previous_hash) ? held.previous_state : std::nullopt;
  }
  [[nodiscard]] std::uint32_t lineage() const { return in_.previous ? in_.previous->resume.lineage : 0; }
  // It missed that the newest states proved wrong: what it holds may be of them.
  [[nodiscard]] bool outdated(std::size_t i) const {
    return report(i).holdings.lineage < lineage() && !in_.mutations.has(Mutation::trust_old_lineage);
  }
  [[nodiscard]] bool trusted(std::size_t i, const std::optional<Step>& stamp,
                             const std::optional<Hash128>& hash) const {
    if (!stamp) return true;
    const bool compared = compared_ && *stamp == compared_->step;
    if (compared && hash) return *hash == compared_->hash;
    return !distrusted_ && !outdated(i);
  }
  [[nodiscard]] bool holds(std::size_t i, Step stamp) const { return state(i) == stamp || previous_state(i) == stamp; }
  // Its state lets it take part in step r: it is at r-1, or at r already.
  [[nodiscard]] bool takes_part(std::size_t i) const {
    const auto stamp = state(i);
    return stamp && (*stamp == base_ || (!rolled_back_ && *stamp == base_.next()));
  }
  [[nodiscard]] bool belongs_to_previous(std::size_t i) const {
    return in_.previous && in_.members[i].continuing && report(i).view == in_.previous->view;
  }
  // Work of an older view may overlap what the last one gave to others.
  [[nodiscard]] bool current_work(std::size_t i, Step step, std::uint32_t attempt) const {
    return belongs_to_previous(i) && report(i).work_step == step && report(i).attempt == attempt;
  }
  [[nodiscard]] bool works_on_step(std::size_t i) const {
    return !plan().discard && takes_part(i) && current_work(i, plan().step, plan().attempt);
  }
  [[nodiscard]] std::uint32_t newest_attempt(Step step) const {
    std::uint32_t attempt = 0;
    if (in_.previous && in_.previous->resume.step == step) attempt = in_.previous->resume.attempt;
    for (std::size_t i = 0; i < count(); ++i) {
      if (belongs_to_previous(i) && report(i).work_step == step) attempt = std::max(attempt, report(i).attempt);
    }
    return attempt;
  }
  [[nodiscard]] const ResumePlan& plan() const { return decision_.record.resume; }

  // A wrong value in one member's state goes into everybody's sums: once members disagree, all that was computed since
  // they last agreed is suspect, whatever the majority holds. Only what equals the compared state is good.
  void find_trusted_state() {
    plan().lineage = lineage();
    if (in_.mutations.has(Mutation::trust_majority)) return;
    distrusted_ = in_.distrust_state;
    std::map<Step, Hash128> hashes;
    for (std::size_t i = 0; i < count(); ++i) {
      if (outdated(i)) continue;
      const Holdings& held = report(i).holdings;
      if (held.compared && (!compared_ || held.compared->step > compared_->step)) compared_ = held.compared;
      // What a newcomer brings says nothing about the members' states.
      if (!in_.members[i].continuing || !held.state || !held.state_hash) continue;
      const auto known = hashes.try_emplace(*held.state, *held.state_hash).first;
      distrusted_ = distrusted_ || known->second != *held.state_hash;
    }
    for (const auto& [stamp, hash] : hashes) {
      distrusted_ = distrusted_ || (compared_ && stamp == compared_->step && hash != compared_->hash);
    }
    plan().lineage = lineage() + (distrusted_ ? 1 : 0);
  }

  // Of members whose states or gradients should be alike and aren't.
  void judge_members() {
    std::optional<log_record::Disagreement> now;
    std::map<Step, std::vector<log_record::MemberHash>> states;
    std::vector<log_record::MemberHash> gradients;
    Step step;
    for (std::size_t i = 0; i < count(); ++i) {
      if (belongs_to_previous(i) && report(i).digest) step = std::max(step, report(i).work_step);
    }
    const std::uint32_t attempt = newest_attempt(step);
    for (std::size_t i = 0; i < count(); ++i) {
      const WorkerId worker = in_.members[i].member.worker;
      const Holdings& held = report(i).holdings;
      if (current_work(i, step, attempt) && report(i).digest) gradients.push_back({worker, *report(i).digest});
      if (in_.members[i].continuing && !outdated(i) && held.state && held.state_hash) {
        states[*held.state].push_back({worker, *held.state_hash});
      }
    }
    for (const auto& [stamp, hashes] : states) {
      if (differ(hashes)) now = {stamp, false, lineage(), hashes, {}, {}};
    }
    if (!now && differ(gradients)) now = {step, true, attempt, gradients, {}, {}};
    if (!now || in_.mutations.has(Mutation::trust_majority)) return;
    gradients_differ_ = now->gradient;
    NumericJudgement judgement = judge_disagreement(*now, in_.disagreements);
    now->decision = to_string(judgement.verdict);
    now->expelled = decision_.expelled = judgement.faulty;
    decision_.disagreement = std::move(now);
    decision_.record.reason = judgement.reason;
    decision_.halt = judgement.verdict == NumericVerdict::halt;
  }
  static bool differ(const std::vector<log_record::MemberHash>& hashes) {
    return std::ranges::any_of(hashes, [&](const auto& member) { return member.hash != hashes.front().hash; });
  }

  Status find_base() {
    std::optional<Step> newest, oldest, checkpoint;
    for (std::size_t i = 0; i < count(); ++i) {
      for (const Step step : report(i).holdings.checkpoints) {
        checkpoint = checkpoint ? std::max(*checkpoint, step) : step;
      }
      for (const auto& stamp : {state(i), distrusted_ ? previous_state(i) : std::nullopt}) {
        if (stamp) newest = newest ? std::max(*newest, *stamp) : *stamp;
      }
    }
    const bool first_start = !in_.previous;
    if (distrusted_) {
      rolled_back_ = true;
      if (newest) {
        base_ = *newest;
        plan().tier = 1;
        return ok_status();
      }
      return fall_back(checkpoint);
    }
    for (std::size_t i = 0; i < count(); ++i) {
      const auto stamp = state(i);  // one that lags further fetches anyway
      if (!in_.members[i].continuing || !stamp || stamp->next() < *newest) continue;
      oldest = oldest ? std::min(*oldest, *stamp) : *stamp;
    }
    // State is named by its step, not by a view: what a fenced worker kept is as good as a member's.
    const bool current = newest && *newest >= in_.reached && (!first_start || !checkpoint || *newest >= *checkpoint);
    if (current) {
      // A member that is a step ahead keeps that step's gradient until all acknowledged: the others finish it.
      const bool finish_newest = !in_.discard_work && !gradients_differ_ && oldest && oldest->next() == *newest &&
                                 gradient_held(*newest) && base_held(newest->previous());
      base_ = finish_newest ? newest->previous() : *newest;
      return ok_status();
    }
    if (!first_start && !in_.allow_rollback) {
      return Error(ErrorCode::unavailable, "no member holds the newest state; waiting for workers that may");
    }
    if (!first_start && !in_.checkpoints_listed) return not_listed();
    if (newest && (!checkpoint || *newest >= *checkpoint)) {
      base_ = *newest;
      rolled_back_ = true;
      plan().tier = 1;
      return ok_status();
    }
    return fall_back(checkpoint);
  }

  static Error not_listed() { return Error(ErrorCode::not_found, "looking for durable checkpoints"); }

  // Members compare what they save before they save it: every checkpoint is good.
  Status fall_back(std::optional<Step> checkpoint) {
    const bool first_start = !in_.previous;
    if (!first_start && !in_.checkpoints_listed) return not_listed();
    rolled_back_ = true;
    source_ = checkpoint ? StateSource::checkpoint : StateSource::initialize;
    base_ = checkpoint.value_or(Step(0));
    plan().tier = first_start ? 0 : checkpoint ? 2 : 3;
    return ok_status();
  }

  [[nodiscard]] bool base_held(Step stamp) const {
    for (std::size_t i = 0; i < count(); ++i) {
      if (holds(i, stamp)) return true;
    }
    return false;
  }

  [[nodiscard]] bool gradient_held(Step step) const {
    std::vector<bool> held(in_.map->tile_count(), false);
    for (std::size_t i = 0; i < count(); ++i) {
      if (!current_work(i, step, newest_attempt(step))) continue;
      for (const TileRange range : report(i).reduced)
        std::fill(held.begin() + range.begin, held.begin() + range.end, true);
    }
    return std::ranges::find(held, false) == held.end();
  }

  void judge_numbers() {
    plan().step = base_.next();
    plan().attempt = newest_attempt(plan().step);
    plan().discard = in_.discard_work || rolled_back_ || gradients_differ_;
    std::optional<NumericAlarm> alarm;
    for (std::size_t i = 0; i < count(); ++i) {
      if (current_work(i, plan().step, plan().attempt) && report(i).alarm) alarm = report(i).alarm;
    }
    if (!alarm || plan().discard) {
      if (plan().discard) ++plan().attempt;
      return;
    }
    std::vector<WorkerId> members;
    for (const RecoveryMember& member : in_.members) members.push_back(member.member.worker);
    log_record::NumericDecision now{plan().step, plan().attempt, alarm->digest, alarm->slots, {}, {}, {}};
    if (in_.previous) {
      now.computed = previous_stages();
    }
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

  void plan_steady() {
    ViewRecord& record = decision_.record;
    record.view = in_.view;
    std::vector<WorkerId> workers;
    for (const RecoveryMember& member : in_.members) {
      record.members.push_back(member.member);
      workers.push_back(member.member.worker);
    }
    record.stages = steady_stages({workers, speeds_, in_.block_shares, in_.depths, in_.slots});
    if (in_.previous && same_members()) {
      const double now = predicted_time(in_.previous->stages, in_.members, speeds_, in_.block_shares);
      const double then = predicted_time(record.stages, in_.members, speeds_, in_.block_shares);
      if (then * (1 + in_.rebalance_gain) > now) {
        record.stages = in_.previous->stages;
      }
    }
    record.shards = split_shards(*in_.map, workers);
    const bool keep_writer = in_.previous && record.has(in_.previous->checkpoint_writer);
    record.checkpoint_writer = keep_writer ? in_.previous->checkpoint_writer : workers.front();
  }

  [[nodiscard]] bool same_members() const {
    return in_.previous->members.size() == count() &&
           std::ranges::equal(in_.previous->members, in_.members, {}, &Member::worker,
                              [](const RecoveryMember& m) { return m.member.worker; });
  }

  [[nodiscard]] bool epilogue() const { return plan().step > in_.total_steps; }

  // Workers that can compute and sum step r at once; all of them when everybody must load state first.
  void find_able() {
    for (std::size_t i = 0; i < count(); ++i) {
      if (takes_part(i)) able_.push_back(i);
    }
    if (able_.empty()) {
      for (std::size_t i = 0; i < count(); ++i) able_.push_back(i);
    }
  }

  void plan_resume() {
    find_able();
    plan_resume_shards();
    plan().compute = epilogue() || std::ranges::any_of(plan().shards, [](const auto& shard) { return !shard.ready; });
    if (in_.planned || epilogue() || plan().discard || !in_.previous) {
      split_over_able();
    } else {
      carry_stages();
    }
  }

  // After a numeric alarm in equal shares, each at another worker than in the attempt before, and whole: so it shows
  // who computes wrongly.
  void split_over_able() {
    const bool elsewhere = plan().discard && decision_.numeric;
    const std::uint32_t rotation = elsewhere ? plan().attempt : 0;
    std::vector<WorkerId> workers;
    std::vector<double> speeds;
    for (std::size_t k = 0; k < able_.size(); ++k) {
      const std::size_t i = able_[(k + rotation) % able_.size()];
      workers.push_back(in_.members[i].member.worker);
      speeds.push_back(elsewhere ? 1.0 : speeds_[i]);
    }
    const bool steady = able_.size() == count() && !elsewhere;
    const std::vector<std::uint32_t> depths = elsewhere ? std::vector<std::uint32_t>{} : in_.depths;
    plan().stages =
        steady ? decision_.record.stages : steady_stages({workers, speeds, in_.block_shares, depths, in_.slots});
  }

  [[nodiscard]] std::uint32_t blocks() const { return static_cast<std::uint32_t>(in_.map->blocks().size()); }

  // Who had which work of the step. Precondition: there was a view before.
  [[nodiscard]] const std::vector<StageAssignment>& previous_stages() const {
    return in_.previous->resume.step == plan().step ? in_.previous->resume.stages : in_.previous->stages;
  }

  // Inside a step only stages without a worker change hands.
  void carry_stages() {
    std::vector<double> remaining(count(), 0);  // micro-batches' worth of time, in slots
    for (std::size_t i = 0; i < count(); ++i) {
      if (!in_.members[i].continuing || !takes_part(i)) continue;
      for (const StageAssignment& stage : previous_stages()) {
        if (stage.worker != in_.members[i].member.worker || stage.work.empty()) continue;
        plan().stages.push_back({stage.worker, stage.work, false});
        remaining[i] += stage.work.slots.size() * share_of(in_.block_shares, stage.work.blocks);
      }
      if (!works_on_step(i)) continue;
      for (const StageProgress& progress : report(i).stages) {
        remaining[i] -= progress.done * share_of(in_.block_shares, progress.work.blocks);
      }
      remaining[i] = std::max(0.0, remaining[i]);
    }
    if (!plan().compute) return;
    for (const StageWork& gap : uncovered_work(plan().stages, blocks(), in_.slots)) share_lost(gap, remaining);
    for (const SlotRange range : plan().lost_slots()) decision_.lost_slots += range.size();
  }

  // Lost slots go one by one to whoever would be done first, then in contiguous runs to the workers in order.
  void share_lost(StageWork lost, std::vector<double>& remaining) {
    std::map<std::size_t, std::uint32_t> shares;
    const double cost = share_of(in_.block_shares, lost.blocks);
    for (std::uint32_t k = 0; k < lost.slots.size(); ++k) {
      const auto first =
          std::ranges::min_element(able_, {}, [&](std::size_t i) { return (remaining[i] + cost) / speeds_[i]; });
      ++shares[*first];
      remaining[*first] += cost;
    }
    for (const auto& [i, share] : shares) {
      const SlotRange slots{lost.slots.begin, lost.slots.begin + share};
      plan().stages.push_back({in_.members[i].member.worker, {lost.blocks, slots}, true});
      lost.slots.begin = slots.end;
    }
  }

  void plan_resume_shards() {
    std::vector<WorkerId> owners;
    for (const std::size_t i : able_) owners.push_back(in_.members[i].member.worker);
    plan().shards = split_shards(*in_.map, owners);
    if (epilogue()) return;
    // Who holds which reduced tile; the default owner first, else the lowest worker.
    std::vector<std::optional<WorkerId>> holder(in_.map->tile_count());
    std::vector<std::set<WorkerId>> holders(in_.map->tile_count());
    for (std::size_t i = 0; i < count(); ++i) {
      if (!works_on_step(i)) continue;
      for (const TileRange range : report(i).reduced) {
        for (std::uint32_t tile = range.begin; tile < range.end; ++tile)
          holders[tile].insert(in_.members[i].member.worker);
      }
    }
    std::vector<ShardAssignment> shards;
    for (const ShardAssignment& shard : plan().shards) {
      for (std::uint32_t tile = shard.tiles.begin; tile < shard.tiles.end; ++tile) {
        const bool ready = !holders[tile].empty();
        const WorkerId owner = !ready || holders[tile].contains(shard.owner) ? shard.owner : *holders[tile].begin();
        const bool joins = !shards.empty() && shards.back().owner == owner && shards.back().ready == ready &&
                           shards.back().tiles.end == tile && tile > shard.tiles.begin;
        if (joins) {
          ++shards.back().tiles.end;
        } else {
          shards.push_back({owner, {tile, tile + 1}, ready});
        }
      }
    }
    plan().shards = std::move(shards);
  }

  // Who lacks the base gets it from all who hold it, each an equal run of tiles.
  void plan_fetches() {
    const std::uint32_t tiles = in_.map->tile_count();
    std::vector<WorkerId> sources;
    for (std::size_t i = 0; i < count(); ++i) {
      const bool loads =
          source_ == StateSource::checkpoint &&
          std::ranges::find(report(i).holdings.checkpoints, base_) != report(i).holdings.checkpoints.end();
      if (source_ == StateSource::peer ? holds(i, base_) : loads) sources.push_back(in_.members[i].member.worker);
    }
    for (std::size_t i = 0; i < count(); ++i) {
      const WorkerId worker = in_.members[i].member.worker;
      if (takes_part(i)) continue;
      if (source_ == StateSource::peer && previous_state(i) == base_) {  // it goes back on its own
        plan().fetches.push_back({worker, StateSource::own_previous, worker, {0, tiles}, base_});
        continue;
      }
      if (source_ == StateSource::initialize) {
        plan().fetches.push_back({worker, StateSource::initialize, worker, {0, tiles}, base_});
      } else if (source_ == StateSource::checkpoint && std::ranges::find(sources, worker) != sources.end()) {
        plan().fetches.push_back({worker, StateSource::checkpoint, worker, {0, tiles}, base_});
      } else {
        for (std::uint64_t k = 0; k < sources.size(); ++k) {
          const TileRange share{static_cast<std::uint32_t>(k * tiles / sources.size()),
                                static_cast<std::uint32_t>((k + 1) * tiles / sources.size())};
          if (!share.empty()) plan().fetches.push_back({worker, StateSource::peer, sources[k], share, base_});
        }
      }
    }
  }

  void explain() {
    std::string& reason = decision_.record.reason;
    reason += "resume step " + std::to_string(plan().step.value()) + " on " + std::to_string(count()) + " worker(s)";
    if (decision_.lost_slots > 0) reason += ", " + std::to_string(decision_.lost_slots) + " lost slot(s) computed anew";
    if (!plan().compute) reason += ", every sum of the step survives";
    if (plan().tier == 1) {
      reason += distrusted_ ? ", from the state that all members had alike: they differ since"
                            : ", from an older state: nobody within reach holds the newest";
    }
    if (plan().tier == 2) reason += ", from the durable checkpoint of step " + std::to_string(base_.value());
    if (plan().tier == 3) reason += ", from the initial state: no worker and no checkpoint holds a newer one";
    std::set<WorkerId> fetching;
    for (const StateFetch& fetch : plan().fetches) fetching.insert(fetch.worker);
    if (!fetching.empty() && source_ == StateSource::peer) {
      reason += ", " + std::to_string(fetching.size()) + " worker(s) fetch state";
    }
  }

  const RecoveryInput& in_;
  const std::vector<double> speeds_;
  RecoveryDecision decision_;
  std::optional<ComparedState> compared_;  // the newest that a member knows
  bool distrusted_ = false;
  bool gradients_differ_ = false;
  bool rolled_back_ = false;
  StateSource source_ = StateSource::peer;
  Step base_;
  std::vector<std::size_t> able_;
};

}  // namespace

Result<RecoveryDecision> decide_recovery(const RecoveryInput& input) {
  return RecoveryPlanner(input).decide();
}

std::vector<double> filled_speeds(const std::vector<RecoveryMember>& members) {
  double sum = 0;
  std::size_t measured = 0;
  for (const RecoveryMember& member : members) {
    if (member.speed <= 0) continue;
    sum += member.speed;
    ++measured;
  }
  const double mean = measured == 0 ? 1 : sum / static_cast<double>(measured);
  std::vector<double> speeds;
  for (const RecoveryMember& member : members) speeds.push_back(member.speed > 0 ? member.speed : mean);
  return speeds;
}

double predicted_time(const std::vector<StageAssignment>& stages, const std::vector<RecoveryMember>& members,
                      const std::vector<double>& speeds, const std::vector<double>& block_shares) {
  std::map<WorkerId, double> work;
  for (const StageAssignment& stage : stages) {
    work[stage.worker] += stage.work.slots.size() * share_of(block_shares, stage.work.blocks);
  }
  double slowest = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    slowest = std::max(slowest, work[members[i].member.worker] / speeds[i]);
  }
  return slowest;
}

}  // namespace planaria

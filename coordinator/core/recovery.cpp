#include "coordinator/core/recovery.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "coordinator/core/layout_planning.hpp"
#include "coordinator/core/lost_work.hpp"
#include "coordinator/core/recovery_basis.hpp"
#include "coordinator/core/snapshot_planning.hpp"
#include "coordinator/core/state_fetches.hpp"
#include "coordinator/core/steady_layout.hpp"
#include "proto/block_cost.hpp"
#include "proto/duty.hpp"

namespace planaria {
namespace {

// A member that lacks a part of its stage keeps the work when the fetch takes no more than one in so many parts of it.
constexpr double kWorthAFetch = 4;

// Works out one decision; its members are the facts found on the way.
class RecoveryPlanner {
 public:
  explicit RecoveryPlanner(const RecoveryInput& input)
      : in_(input), all_(input.map->tiles_with_state()), speeds_(filled_speeds(speeds_of(input.members))) {}

  static std::vector<double> speeds_of(const std::vector<RecoveryMember>& members) {
    std::vector<double> speeds;
    for (const RecoveryMember& member : members) speeds.push_back(member.speed);
    return speeds;
  }

  Result<RecoveryDecision> decide() {
    PLANARIA_TRY(basis_.find());
    if (decision_.ends_here()) return decision_;
    choose_members();
    describe_cluster();
    find_own_work();
    PLANARIA_TRY(choose_stages());
    plan_steady();
    plan_resume();
    plan_fetches();
    explain();
    return decision_;
  }

 private:
  ResumePlan& plan() { return decision_.record.resume; }
  [[nodiscard]] std::size_t count() const { return in_.members.size(); }
  [[nodiscard]] const ResumePlan& plan() const { return decision_.record.resume; }
  [[nodiscard]] WorkerId worker(std::size_t i) const { return in_.members[i].member.worker; }
  [[nodiscard]] bool computes(std::size_t i) const { return in_.members[i].member.role == Role::worker; }
  // What it holds of the state to go on from.
  [[nodiscard]] const HeldTiles& held(std::size_t i) const { return basis_.held(i, basis_.base()); }

  // Of the snapshots that protect the others until those of the new view are complete.
  [[nodiscard]] bool holds_snapshots(std::size_t i) const {
    if (computes(i) || !in_.previous || in_.mutations.has(Mutation::release_drained_early)) return false;
    return std::ranges::any_of(in_.previous->snapshots.stripes, [&](const Stripe& stripe) {
      return std::ranges::find(stripe.fragments, worker(i), &StripeFragment::keeper) != stripe.fragments.end();
    });
  }

  // Who is drained goes when the others hold all that the job goes on from, and a keeper when a snapshot without it is
  // complete; until then it is a member without a part in what comes after the step.
  void choose_members() {
    TileSet left;
    for (std::size_t i = 0; i < count(); ++i) {
      if (!in_.members[i].leaving) left.add(held(i).state);
    }
    const bool loads_elsewhere = std::ranges::any_of(in_.members, [&](const RecoveryMember& member) {
      const std::vector<Step>& checkpoints = member.report->holdings.checkpoints;
      return !member.leaving && std::ranges::find(checkpoints, basis_.base()) != checkpoints.end();
    });
    const bool may_go = left == all_ || basis_.source() == StateSource::initialize ||
                        (basis_.source() == StateSource::checkpoint && loads_elsewhere);
    for (std::size_t i = 0; i < count(); ++i) {
      if (in_.members[i].leaving && may_go && !holds_snapshots(i)) {
        decision_.released.push_back(worker(i));
      } else {
        members_.push_back(i);
        if (!in_.members[i].leaving && computes(i)) staying_.push_back(i);
      }
    }
  }

  void describe_cluster() {
    std::vector<PlannedWorker> workers;
    for (const std::size_t i : staying_) {
      const RecoveryMember& member = in_.members[i];
      workers.push_back({worker(i), member.member.host, member.resources, speeds_[i], member.beside_s});
    }
    request_ = layout_request(*in_.job, *in_.map, in_.block_shares, workers, in_.depths, {}, in_.links);
    request_.options.losses_per_s = in_.losses_per_s;
    const bool keepers = std::ranges::any_of(members_, [this](std::size_t i) { return !computes(i); });
    request_.options.keeps_finished = keepers && in_.snapshot_every != 0;
    rate_ = usual_rate(request_.cluster);
  }

  // The planner's layout when it is for these members, else what is decided at once; that may need more memory than
  // there is, and then the planner is asked while all wait.
  Status choose_stages() {
    std::vector<StageAssignment>& stages = decision_.record.stages;
    const bool same = in_.previous && same_workers();
    const std::set<WorkerId> wanted = workers_of(in_.wanted);
    const bool all_there = std::ranges::all_of(wanted, [&](WorkerId id) { return stays(id); });
    Forecast& forecast = forecast_.emplace(request_);
    if ((same || !in_.previous) && !wanted.empty() && all_there) {
      stages = in_.wanted;
    } else {
      stages = stages_at_once(forecast);
      if (same && in_.wanted.empty()) {
        const auto now = forecast.step_seconds(in_.previous->stages);
        const auto then = forecast.step_seconds(stages);
        if (now && then && *then * (1 + in_.rebalance_gain) > *now) stages = in_.previous->stages;
      }
      if (!forecast.fits_memory(stages)) PLANARIA_TRY(plan_for_memory(request_));
    }
    allowances_ = forecast.allowances(stages);
    return ok_status();
  }

  Status plan_for_memory(LayoutRequest request) {
    request.options.search = SearchMode::local;  // the members wait
    if (const auto before = stages_before(); !before.empty()) request.options.previous = plan_of(before);
    const auto planned = plan_layout(request.model, request.cluster, request.options);
    if (!planned && planned.error().code() == ErrorCode::exhausted) return planned.error();
    if (planned) decision_.record.stages = stages_of(planned->layout);
    return ok_status();
  }

  // The steady ones that are mended.
  [[nodiscard]] std::span<const StageAssignment> stages_before() const {
    if (!in_.wanted.empty()) return in_.wanted;
    return in_.previous ? std::span<const StageAssignment>(in_.previous->stages) : std::span<const StageAssignment>();
  }

  // Who has no place gets one, or not; what a death broke is mended, or stands still until another change: that moves
  // no state, which all would wait for where the step is nearly done.
  [[nodiscard]] std::vector<StageAssignment> stages_at_once(Forecast& forecast) const {
    std::vector<double> speeds;
    std::vector<WorkerId> workers;
    SteadyLayoutInput layout{{}, {}, in_.block_shares, in_.depths, in_.slots};
    layout.previous = stages_before();
    const std::set<WorkerId> placed = workers_of(layout.previous);
    for (const std::size_t i : staying_) {
      workers.push_back(worker(i));
      speeds.push_back(speeds_[i]);
      const bool keeps_place = in_.depths.empty() && placed.contains(worker(i));
      layout.held.push_back(keeps_place ? std::vector<double>(blocks(), 0) : share_held(i));
    }
    layout.workers = workers;
    layout.speeds = speeds;
    std::vector<StageAssignment> best = forecast.with_slots_shared_out(steady_stages(layout));
    if (!in_.depths.empty() || !in_.previous) return best;

    const auto cost = [&](std::span<const StageAssignment> stages) {
      const auto seconds = forecast.step_seconds(stages);
      return seconds ? std::optional(in_.steps_ahead * *seconds + standstill(stages)) : std::nullopt;
    };
    const auto place = [](const StageAssignment& stage) { return std::pair(stage.worker, stage.work.blocks); };
    double least = cost(best).value_or(0);
    layout.enter = false;
    for (const bool whole_only : {false, true}) {
      layout.whole_only = whole_only;
      std::vector<StageAssignment> stages = steady_stages(layout);
      if (std::ranges::equal(stages, best, {}, place, place)) continue;
      stages = forecast.with_slots_shared_out(std::move(stages));
      const auto now = cost(stages);
      if (!now || *now >= least) continue;
      best = std::move(stages);
      least = *now;
    }
    return best;
  }

  // How long all wait for state that some fetch: inside a step others do the work until it is there, at a boundary
  // those who fetch begin later.
  [[nodiscard]] double standstill(std::span<const StageAssignment> stages) const {
    if (in_.sharded || basis_.source() != StateSource::peer) return 0;
    double longest_s = 0;
    for (const StageAssignment& stage : stages) {
      const TileSet lacking = TileSet(in_.map->tiles_of(stage.work.blocks)).without(held(index_of(stage.worker)).state);
      longest_s = std::max(longest_s, seconds_to_fetch(lacking, {}));
    }
    return std::max(0.0, longest_s - (in_.planned ? 0 : step_left_s_));
  }

  void plan_steady() {
    ViewRecord& record = decision_.record;
    record.view = in_.view;
    record.sharded = in_.sharded;
    record.numeric_class = in_.numeric_class;
    for (const std::size_t i : members_) {
      Member& member = record.members.emplace_back(in_.members[i].member);
      const auto allowance = allowances_.find(worker(i));
      member.allowance = allowance == allowances_.end() ? Allowance{} : allowance->second;
    }
    std::vector<ShardAssignment> former;
    if (in_.previous && in_.sharded) former = in_.previous->shards;
    record.shards = split_shards(*in_.map, record.stages, former);
    const bool keep_writer = in_.previous && stays(in_.previous->checkpoint_writer);
    record.checkpoint_writer = keep_writer ? in_.previous->checkpoint_writer : worker(staying_.front());
    duties_.emplace(*in_.map, in_.sharded, record.stages, record.shards);
    record.snapshot_every = in_.job->snapshot.every_steps;
    std::map<WorkerId, SnapshotKeeper> keepers;
    for (const std::size_t i : members_) {
      const WorkerResources& resources = in_.members[i].resources;
      if (!computes(i) && !in_.members[i].leaving && !in_.members[i].rests)
        keepers[worker(i)] = {resources.zone, resources.memory_bytes};
    }
    SnapshotSpec spec = in_.job->snapshot;
    SnapshotPlan snapshots = plan_snapshots(*in_.map, record.members, *duties_, keepers, spec);
    if (in_.snapshot_every != spec.every_steps && !snapshots.layout.stripes.empty()) {
      spec.every_steps = in_.snapshot_every;
      SnapshotPlan rarer = plan_snapshots(*in_.map, record.members, *duties_, keepers, spec);
      // Rarer ones protect more; not where that is more than keepers have memory for.
      if (rarer.left_out.size() <= snapshots.left_out.size()) {
        snapshots = std::move(rarer);
        record.snapshot_every = in_.snapshot_every;
      }
    }
    record.snapshots = std::move(snapshots.layout);
    left_out_ = std::move(snapshots.left_out);
    for (const std::size_t i : members_) {
      if (const auto found = basis_.distrust(i)) plan().distrusted.push_back(*found);
    }
  }

  [[nodiscard]] bool stays(WorkerId id) const {
    return std::ranges::binary_search(staying_, id, {}, [this](std::size_t i) { return worker(i); });
  }

  // Of each block, the part whose state a member holds.
  [[nodiscard]] std::vector<double> share_held(std::size_t i) const {
    std::vector<double> shares;
    for (std::uint32_t block = 0; block < blocks(); ++block) {
      const TileSet inside = TileSet(in_.map->tiles_of({block, block + 1})).common(all_);
      const double whole = inside.empty() ? 1 : inside.size();
      shares.push_back(held(i).state.common(inside).size() / whole);
    }
    return shares;
  }

  [[nodiscard]] bool same_workers() const {
    std::vector<WorkerId> before, now;
    for (const Member& member : in_.previous->members) {
      if (member.role == Role::worker) before.push_back(member.worker);
    }
    for (const std::size_t i : staying_) now.push_back(worker(i));
    return before == now;
  }

  [[nodiscard]] bool epilogue() const { return plan().step > in_.total_steps; }

  void plan_resume() {
    plan_resume_stages();
    plan_resume_shards();
    plan().compute = epilogue() || std::ranges::any_of(plan().shards, [](const auto& shard) { return !shard.ready; });
    if (plan().compute) return;
    std::erase_if(plan().stages, &StageAssignment::recompute);
    if (decision_.lost_work) decision_.lost_work = decision_.own_work = 0;
  }

  void plan_resume_stages() {
    const auto& steady = decision_.record.stages;
    const bool anew = epilogue() || plan().discard || !in_.previous;
    const bool able = std::ranges::all_of(
        steady, [&](const StageAssignment& stage) { return can_compute(index_of(stage.worker), stage.work.blocks); });
    if (anew || (in_.planned && able && !plan().returns)) {
      plan().stages = steady;
      if (plan().discard) rotate_slots();
    } else {
      carry_stages();
    }
  }

  [[nodiscard]] std::size_t index_of(WorkerId id) const {
    const auto found =
        std::ranges::lower_bound(in_.members, id, {}, [](const RecoveryMember& m) { return m.member.worker; });
    return static_cast<std::size_t>(found - in_.members.begin());
  }
  [[nodiscard]] bool can_compute(std::size_t i, BlockRange of) const {
    return held(i).parameters.contains(in_.map->tiles_of(of));
  }

  // It lacks nothing, or what takes little time to fetch beside the work: tied copies, for instance, which it would
  // have been sent after the update by one that is lost.
  [[nodiscard]] bool can_soon_compute(std::size_t i, const StageWork& work) const {
    const TileSet lacking = TileSet(in_.map->tiles_of(work.blocks)).without(held(i).parameters);
    if (lacking.empty() || plan().tier > 0) return lacking.empty();
    const TileSet state = lacking.common(all_);
    const double micro_batches = work.slots.size() * share_of(in_.block_shares, work.blocks) * micro_batches_per_slot();
    return kWorthAFetch * seconds_to_fetch(state, lacking.without(state)) <= micro_batches / speeds_[i];
  }
  [[nodiscard]] double seconds_to_fetch(const TileSet& state, const TileSet& parameters) const {
    const std::uint64_t bytes = kTensorsOfState * bytes_of(*in_.map, state) + bytes_of(*in_.map, parameters);
    return static_cast<double>(bytes) / rate_;
  }

  // With each numeric alarm about the step each pipeline gets the slots of the next one: so it shows who computes
  // wrongly. By one at a time: no set of workers but all of them has the same slots twice.
  void rotate_slots() {
    std::set<std::uint32_t> alarms;
    if (decision_.numeric) alarms.insert(decision_.numeric->attempt);
    for (const auto& before : in_.numeric) {
      if (before.step == plan().step) alarms.insert(before.attempt);
    }
    std::set<SlotRange> distinct;
    for (const StageAssignment& stage : plan().stages) {
      if (!stage.work.empty()) distinct.insert(stage.work.slots);
    }
    const std::vector<SlotRange> ranges(distinct.begin(), distinct.end());
    for (StageAssignment& stage : plan().stages) {
      if (stage.work.empty()) continue;
      const auto at = std::ranges::lower_bound(ranges, stage.work.slots) - ranges.begin();
      stage.work.slots = ranges[(static_cast<std::size_t>(at) + alarms.size()) % ranges.size()];
    }
  }

  [[nodiscard]] std::uint32_t blocks() const { return static_cast<std::uint32_t>(in_.map->blocks().size()); }

  // The step's work that members have and can do.
  void find_own_work() {
    own_work_.resize(count());
    work_left_.resize(count(), 0);
    if (!in_.previous) return;
    std::map<WorkerId, std::vector<StageWork>> work;
    if (plan().returns) {  // no view tells any more who had which part of the step
      for (std::size_t i = 0; i < count(); ++i) {
        if (!basis_.works_on_step(i)) continue;
        for (const StageProgress& own : basis_.report(i).stages) work[worker(i)].push_back(own.work);
      }
    } else {
      for (const StageAssignment& stage : basis_.previous_stages()) work[stage.worker].push_back(stage.work);
    }
    for (const std::size_t i : members_) {
      if (!in_.members[i].continuing || !computes(i)) continue;
      double& left = work_left_[i];
      for (const StageWork& own : work[worker(i)]) {
        if (own.empty() || !can_soon_compute(i, own)) continue;
        own_work_[i].push_back(own);
        left += own.slots.size() * share_of(in_.block_shares, own.blocks);
      }
      if (!basis_.works_on_step(i)) continue;
      for (const StageProgress& progress : basis_.report(i).stages) {
        left -= progress.done * share_of(in_.block_shares, progress.work.blocks);
      }
      left = std::max(0.0, left);
      step_left_s_ = std::max(step_left_s_, left * micro_batches_per_slot() / speeds_[i]);
    }
  }
  [[nodiscard]] double micro_batches_per_slot() const {
    return static_cast<double>(in_.job->batch.micro_batches) / in_.slots;
  }

  // Inside a step only stages without a worker change hands.
  void carry_stages() {
    double own_slots = 0, lost_slots = 0;  // of whole micro-batches
    std::vector<LostWork::Taker> takers;
    for (std::size_t i = 0; i < count(); ++i) {
      takers.push_back({worker(i), speeds_[i], work_left_[i]});
      own_slots += work_left_[i];
    }
    for (const std::size_t i : members_) {
      for (const StageWork& own : own_work_[i]) plan().stages.push_back({worker(i), own, false});
    }
    LostWork lost(*in_.map, {in_.block_shares, micro_batches_per_slot(), rate_}, std::move(takers));
    for (const StageWork& gap : uncovered_work(plan().stages, blocks(), in_.slots)) {
      for (const auto& [taker, part] : lost.share(gap, [&](std::uint32_t block) { return able_for(block, gap); })) {
        plan().stages.push_back({taker, part, !in_.planned || plan().returns});
        lost_slots += part.slots.size() * share_of(in_.block_shares, part.blocks);
      }
    }
    if (in_.planned && !plan().returns) return;
    decision_.own_work = own_slots * micro_batches_per_slot();
    decision_.lost_work = lost_slots * micro_batches_per_slot();
  }

  // Members that can compute a block; those that have it after the step beside all that they have now; and the others
  // of the broken pipeline, which wait for what is lost, if they have memory for any blocks.
  [[nodiscard]] std::vector<LostWork::Candidate> able_for(std::uint32_t block, const StageWork& lost) {
    std::vector<LostWork::Candidate> able, fetching, helping;
    for (const std::size_t i : members_) {
      if (!computes(i)) continue;
      if (can_compute(i, {block, block + 1})) {
        able.push_back({i, 0});
      } else if (duty(i).used.intersects(in_.map->tiles_of({block, block + 1}))) {
        fetching.push_back({i, fetching_seconds(i, lost.blocks)});
      } else if (waits_for(i, lost.slots)) {
        helping.push_back({i, fetching_seconds(i, lost.blocks)});
      }
    }
    if (able.empty()) return fetching;
    std::ranges::copy_if(fetching, std::back_inserter(able),
                         [&](const auto& one) { return keeps_blocks(one.taker) || has_room(one.taker); });
    std::ranges::copy_if(helping, std::back_inserter(able), [&](const auto& one) { return has_room(one.taker); });
    return able;
  }
  [[nodiscard]] bool waits_for(std::size_t i, SlotRange slots) const {
    return std::ranges::any_of(own_work_[i], [&](const StageWork& own) { return !own.slots.common(slots).empty(); });
  }
  [[nodiscard]] const Duty& duty(std::size_t i) {
    if (duty_by_member_.empty()) duty_by_member_.resize(count(), nullptr);
    if (duty_by_member_[i] == nullptr) duty_by_member_[i] = &duties_->of(worker(i));
    return *duty_by_member_[i];
  }
  [[nodiscard]] bool has_room(std::size_t i) {
    const auto [known, first] = has_room_.try_emplace(i);
    if (first) known->second = stays(worker(i)) && forecast_->fits_any_work(worker(i));
    return known->second;
  }
  [[nodiscard]] bool keeps_blocks(std::size_t i) {
    return std::ranges::all_of(
        own_work_[i], [&](const StageWork& own) { return duty(i).used.contains(in_.map->tiles_of(own.blocks)); });
  }
  // All that it needs after the step, and these blocks.
  [[nodiscard]] double fetching_seconds(std::size_t i, BlockRange lost) {
    const auto [known, first] = fetching_s_.try_emplace({i, lost});
    if (first) {
      const Duty& after = duty(i);
      const TileSet state = after.kept.without(held(i).state);
      TileSet used = after.used;
      used.add(in_.map->tiles_of(lost));
      known->second = seconds_to_fetch(state, used.without(held(i).parameters).without(state));
    }
    return known->second;
  }

  // A tile that is reduced already stays where it is; others are summed by those who keep them after the step, or,
  // where all keep them, by those who make the sums.
  void plan_resume_shards() {
    plan().shards = in_.sharded ? decision_.record.shards : split_shards(*in_.map, plan().stages);
    if (epilogue()) return;
    std::vector<std::set<WorkerId>> holders(in_.map->tile_count());
    for (const std::size_t i : members_) {
      if (!basis_.works_on_step(i)) continue;
      for (const TileRange range : basis_.report(i).reduced) {
        for (std::uint32_t tile = range.begin; tile < range.end; ++tile) holders[tile].insert(worker(i));
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

  void plan_fetches() {
    std::map<WorkerId, TileSet> used;  // by the step's work
    if (plan().compute) {
      for (const StageAssignment& stage : plan().stages) used[stage.worker].add(in_.map->tiles_of(stage.work.blocks));
    }
    std::map<std::string, WorkerId> keepers;  // by host
    for (const std::size_t i : members_) {
      if (!computes(i)) keepers.try_emplace(in_.members[i].member.host, worker(i));
    }
    std::vector<StateNeed> needs;
    std::map<WorkerId, HeldTiles> sources;
    for (const std::size_t i : members_) {
      StateNeed need{worker(i), duty(i).kept, {}, {}};
      if (const auto beside = keepers.find(in_.members[i].member.host); computes(i) && beside != keepers.end()) {
        need.keeper = beside->second;
      }
      if (!computes(i) && decision_.record.protects(basis_.base()))
        need.state = tiles_of(decision_.record.snapshots, worker(i));
      need.state.remove(held(i).state);
      if (computes(i) && !basis_.rolled_back() && !basis_.distrust(i))
        need.state.remove(basis_.held(i, basis_.base().next()).state);
      if (const auto found = used.find(worker(i)); found != used.end()) need.parameters = found->second;
      need.parameters.remove(held(i).parameters);
      need.parameters.remove(need.state);
      needs.push_back(std::move(need));
      const auto& checkpoints = basis_.report(i).holdings.checkpoints;
      if (basis_.source() == StateSource::peer) {
        sources[worker(i)] = held(i);
      } else if (std::ranges::find(checkpoints, basis_.base()) != checkpoints.end()) {
        sources[worker(i)] = {all_, TileSet(TileRange{0, in_.map->tile_count()})};
      }
    }
    if (basis_.source() == StateSource::peer) plan_rebuilds(needs, sources);
    plan().fetches = plan_state_fetches(basis_.source(), needs, sources);
  }

  // What nobody holds is made by the first who needs it, a worker if one does; others get it from there.
  void plan_rebuilds(std::vector<StateNeed>& needs, std::map<WorkerId, HeldTiles>& sources) {
    const StateRebuilds* const rebuilds = basis_.rebuilds();
    TileSet lost = basis_.lost();
    if (rebuilds == nullptr || lost.empty()) return;
    std::map<WorkerId, TileSet> made;
    for (const bool by_workers : {true, false}) {
      for (StateNeed& need : needs) {
        const TileSet own = need.state.common(lost);
        if (computes(index_of(need.worker)) != by_workers || own.empty()) continue;
        lost.remove(own);
        need.state.remove(own);
        made[need.worker] = own;
        sources[need.worker].state.add(own);
        TileSet& parameters = sources[need.worker].parameters;
        parameters.add(own);
        parameters.add(tied_to(*in_.map, own));
      }
    }
    plan().rebuilds = rebuilds->plan(made);
  }

  void explain() {
    std::string& reason = decision_.record.reason;
    reason +=
        "resume step " + std::to_string(plan().step.value()) + " on " + std::to_string(staying_.size()) + " worker(s)";
    const std::uint32_t lost = plan().lost_slot_count();
    if (lost > 0) reason += ", " + std::to_string(lost) + " lost slot(s) computed anew";
    if (plan().returns) reason += ", which was committed: a part of its state is lost, and no snapshot had it yet";
    if (!plan().compute) reason += ", every sum of the step survives";
    if (plan().tier == 1) {
      reason += basis_.distrusted() ? ", from the state that all members had alike: they differ since"
                                    : ", from an older state: nobody within reach holds the newest";
    }
    if (plan().tier == 2) reason += ", from the durable checkpoint of step " + std::to_string(basis_.base().value());
    if (plan().tier == 3) reason += ", from the initial state: no worker and no checkpoint holds a newer one";
    std::set<WorkerId> fetching;
    for (const StateFetch& fetch : plan().fetches) fetching.insert(fetch.worker);
    if (!fetching.empty() && basis_.source() == StateSource::peer) {
      reason += ", " + std::to_string(fetching.size()) + " worker(s) fetch state";
    }
    TileSet made;
    for (const FragmentRebuild& rebuild : plan().rebuilds) made.add(TileSet(rebuild.tiles));
    if (!made.empty()) {
      reason += ", " + std::to_string(kTensorsOfState * bytes_of(*in_.map, made)) +
                " lost bytes are made again from fragments of step " + std::to_string(basis_.base().value());
    }
    for (const std::size_t i : members_) {
      if (in_.members[i].rests)
        reason += ", keeper " + std::to_string(worker(i).value()) + " couldn't take state and rests";
    }
    for (const auto& [keeper, needs] : left_out_) {
      reason += ", keeper " + std::to_string(keeper.value()) + " holds no snapshots: it would need " +
                std::to_string(needs) + " bytes";
    }
    if (std::ranges::any_of(members_, [this](std::size_t i) { return in_.members[i].leaving; })) {
      reason += "; who drains hands over what nobody else holds";
    }
  }

  const RecoveryInput& in_;
  const TileSet all_;  // tiles with state
  const std::vector<double> speeds_;
  RecoveryDecision decision_;
  RecoveryBasis basis_{in_, decision_};
  std::vector<std::size_t> members_;              // of the new view
  std::vector<std::size_t> staying_;              // of those, the workers that work on after the step
  std::vector<std::vector<StageWork>> own_work_;  // of the step, by member
  std::vector<double> work_left_;                 // whole micro-batches' time, in slots
  double step_left_s_ = 0;                        // until the last member has done its own
  std::map<WorkerId, Allowance> allowances_;
  std::map<WorkerId, std::uint64_t> left_out_;  // keepers, for lack of memory
  std::optional<Duties> duties_;
  std::vector<const Duty*> duty_by_member_;                          // by member, once asked for
  LayoutRequest request_;                                            // of who stays, for the planner
  std::map<std::pair<std::size_t, BlockRange>, double> fetching_s_;  // by member and lost blocks, when asked for
  std::map<std::size_t, bool> has_room_;                             // by member, likewise
  std::optional<Forecast> forecast_;                                 // of the request
  double rate_ = 1;                                                  // bytes a second between two members, about
};

}  // namespace

Result<RecoveryDecision> decide_recovery(const RecoveryInput& input) {
  return RecoveryPlanner(input).decide();
}

std::vector<double> filled_speeds(std::vector<double> speeds) {
  double sum = 0;
  std::size_t measured = 0;
  for (const double speed : speeds) {
    if (speed <= 0) continue;
    sum += speed;
    ++measured;
  }
  const double mean = measured == 0 ? 1 : sum / static_cast<double>(measured);
  for (double& speed : speeds) speed = speed > 0 ? speed : mean;
  return speeds;
}

}  // namespace planaria

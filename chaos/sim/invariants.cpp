#include "chaos/sim/invariants.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"

namespace planaria::sim {

using namespace worker_action;  // NOLINT: the checks are about these

namespace {

Hash128 content(const ViewRecord& record) {
  return hash_of(std::span<const std::uint8_t>(encode(record)));
}

bool fetches(const ViewRecord& view, WorkerId worker, Step stamp) {
  const ResumePlan& plan = view.resume;
  return stamp == plan.step.previous() &&
         (std::ranges::any_of(plan.fetches, [&](const StateFetch& fetch) { return fetch.worker == worker; }) ||
          std::ranges::any_of(plan.rebuilds, [&](const FragmentRebuild& rebuild) { return rebuild.worker == worker; }));
}

}  // namespace

void Oracle::fail(const std::string& invariant, const WorkerProcess& process, const std::string& detail) {
  world_.fail(invariant, process.name() + ": " + detail);
}

const Duty& Oracle::duty(const ViewRecord& view, WorkerId worker) {
  constexpr std::size_t kKept = 4;
  if (!duties_.contains(view.view) && duties_.size() >= kKept) duties_.erase(duties_.begin());
  return duties_.try_emplace(view.view, *world_.options.shape.map, view.sharded, view.stages, view.shards)
      .first->second.of(worker);
}

// Every member of the process's view has had state `step`, save those whom the view's plan lets fetch it.
void Oracle::members_hold(const WorkerProcess& process, Step step, const char* invariant) {
  const auto& view = process.core().view_record();
  if (!view || step > world_.options.shape.total_steps || held_.contains({view->view, step})) return;
  for (const Member& member : view->members) {
    const WorkerProcess* other = simulation_.process_at(member.address);
    if (other == nullptr || other->trainer().reached(step, duty(*view, member.worker).kept) ||
        fetches(*view, member.worker, step))
      continue;
    return fail(invariant, process, "step " + to_string(step) + " isn't at " + other->name());
  }
  held_.insert({view->view, step});
}

// ---- what a worker's core decides ----

void Oracle::decided(const WorkerProcess& process, const WorkerAction& action) {
  if (const auto* release = std::get_if<ReleaseStep>(&action)) {
    check_release(process, release->step);
  } else if (const auto* small = std::get_if<SendSmall>(&action)) {
    const auto& view = process.core().view_record();
    const auto& trainer = process.trainer();
    if (const auto* gate = std::get_if<Gate>(&small->meta)) {  // a relay tells its own word as well
      TileSet missing = duty(*view, process.core().identity()->worker).kept;
      missing.remove(trainer.state_tiles(gate->step.previous()));
      missing.remove(trainer.state_tiles(gate->step));
      if (!missing.empty()) fail("14: a worker votes before it holds the state", process, describe(action));
      if (!gate->losses.empty()) check_losses(process, gate->step, gate->losses);
      for (const GateWord& word : gate->words) {
        const std::tuple said(small->view, gate->step, gate->attempt, word.worker);
        if (word.worker == process.core().identity()->worker) said_gates_.insert(said);
        if (!said_gates_.contains(said)) fail("6: a gate is passed on that nobody sent", process, describe(action));
      }
    } else if (const auto* ack = std::get_if<Ack>(&small->meta)) {
      const Duty& own = duty(*view, process.core().identity()->worker);
      const bool held =
          trainer.state_tiles(ack->step).contains(own.kept) && trainer.parameter_tiles(ack->step).contains(own.used);
      if (ack->step <= world_.options.shape.total_steps && !held) {
        fail("2: parameters are acknowledged that aren't there", process, describe(action));
      }
      for (const AckWord& word : ack->words) {
        const std::tuple said(small->view, ack->step, word.worker);
        if (word.worker == process.core().identity()->worker) said_acks_.insert(said);
        if (!said_acks_.contains(said))
          fail("2: an acknowledgement is passed on that nobody sent", process, describe(action));
      }
    }
  } else if (const auto* control = std::get_if<SendControl>(&action)) {
    if (const auto* registration = std::get_if<Register>(&control->message)) {
      check_holdings(process, registration->holdings, "registration");
    } else if (const auto* report = std::get_if<Report>(&control->message)) {
      check_report(process, *report);
    } else if (const auto* commit = std::get_if<StepCommitted>(&control->message)) {
      check_committed(process, *commit);
    } else if (const auto* done = std::get_if<Done>(&control->message)) {
      const TermVector& expected = world_.reference.state(world_.options.shape.total_steps);
      for (const BlockWeights& block : done->weights) {
        if (block == block_weights(world_.options.shape, expected, block.block)) continue;
        wrong("1: the final weights differ from the undisturbed run",
              process.name() + ": " + describe(control->message));
      }
    }
  }
}

void Oracle::check_holdings(const WorkerProcess& process, const Holdings& holdings, const char* what) {
  const auto newest = process.trainer().newest_state();
  for (const HeldState& held : holdings.states) {
    TileSet parameters(held.parameters);
    parameters.add(TileSet(held.state));
    TileSet servable = process.trainer().parameter_tiles(held.stamp);  // a tied copy from the original
    servable.add(tied_to(*world_.options.shape.map, servable));
    if (process.trainer().state_tiles(held.stamp).contains(TileSet(held.state)) && servable.contains(parameters)) {
      continue;
    }
    return fail("8: state is offered that isn't held", process, std::string(what) + " offers " + to_string(held.stamp));
  }
  check_fragments(process, holdings, what);
  if (damaged_ || process.busy() || !newest || !process.trainer().idle()) return;
  const auto offered = std::ranges::find(holdings.states, *newest, &HeldState::stamp);
  const bool all =
      offered != holdings.states.end() && TileSet(offered->state).contains(process.trainer().state_tiles(*newest));
  if (!all) {
    fail("12: good state isn't offered", process,
         std::string(what) + " offers " + to_string(holdings.newest()) + " of " + to_string(newest));
  }
}

// Parity that is told of is held, and is that of the undisturbed run's state.
void Oracle::check_fragments(const WorkerProcess& process, const Holdings& holdings, const char* what) {
  if (process.busy() || !process.trainer().idle()) return;  // its trainer may be behind
  for (const HeldFragment& told : holdings.fragments) {
    const TermVector* const held = process.trainer().parity(told);
    if (held == nullptr) return fail("8: a fragment is offered that isn't held", process, what);
    if (damaged_) continue;
    const TermVector& expected = world_.reference.state(told.snapshot.step);
    for (std::uint32_t i = 0; i < told.layout.data; ++i) {
      for (const TileRange run : told.layout.fragments[i].tiles) {
        if (std::equal(held->begin() + run.begin, held->begin() + run.end, expected.begin() + run.begin)) continue;
        return fail("10: parity isn't of its snapshot's step", process, what);
      }
    }
  }
}

void Oracle::check_report(const WorkerProcess& process, const Report& report) {
  check_holdings(process, report.holdings, "report");
  const StepWork& work = process.core().work();
  const bool same_progress = std::ranges::equal(report.stages, work.stages, [](const auto& told, const auto& own) {
    return told.work == own.work && told.done == own.done;
  });
  if (report.work_step != work.step || report.attempt != work.attempt || !same_progress) {
    fail("8: a report isn't fresh", process, describe(WorkerMessage(report)));
  }
}

// Before members compared, and went back, wrong values could be in everything.
bool Oracle::tainted(ViewNumber view) const {
  return damaged_ && (!clean_from_ || view < *clean_from_);
}

void Oracle::check_committed(const WorkerProcess& process, const StepCommitted& commit) {
  const JobShape& shape = world_.options.shape;
  // Who comes back after a rollback repeats what it knew before.
  if (commit.view >= rolled_back_in_) highest_commit_ = std::max(highest_commit_, commit.step);
  // Until members compare, and go back, what was made from a wrong value is published.
  if (tainted(commit.view) && world_.options.job.integrity.check_every != 1) return;
  const double loss = world_.reference.loss(commit.step) / static_cast<double>(simulation_.sequence_tokens());
  const auto what = [&] { return process.name() + ": " + describe(WorkerMessage(commit)); };
  if (commit.loss != loss) wrong("15: a published loss differs from the undisturbed run", what());
  const auto& compared = process.core().compared();
  const bool alike =
      !compared || compared->step != commit.step || std::ranges::all_of(compared->blocks, [&](const BlockHash& block) {
        return block == block_hash(shape, world_.reference.state(commit.step), block.block);
      });
  if (!alike) {
    wrong("1: members agree on state that differs from the undisturbed run", what());
  }
  if (commit.skipped != (shape.natural_nan == commit.step)) {
    fail("15: a step's update is skipped or not, against its gradient", process, what());
  }
}

void Oracle::check_release(const WorkerProcess& process, Step step) {
  const auto& view = process.core().view_record();
  if (!view || step > world_.options.shape.total_steps) return;
  // The view goes on from a newer state that is whole. Who missed its gate kept this step's work until now.
  if (view->resume.step.previous() > step) return;
  if (process.core().committed() >= step)
    return members_hold(process, step, "8: partial sums are freed before their step is everywhere");
  const ResumePlan& plan = view->resume;
  const bool dropped = plan.discard || plan.tier > 0 || plan.attempt > 0;
  if (process.core().work().step == step && !dropped) {
    fail("8: partial sums are freed while their step is open", process, "step " + to_string(step));
  }
}

void Oracle::micro_batch_starts(const WorkerProcess& process, const ComputeMicroBatch& action) {
  const auto& view = process.core().view_record();
  if (action.item.position != 0 || action.pass == Pass::backward || !view ||
      action.step > world_.options.shape.total_steps)
    return;
  if (process.core().work().step != action.step) return;  // queued before the work was dropped
  if (action.step.value() > 1)
    members_hold(process, action.step.previous(), "9: a step begins before the one before it is everywhere");
  if (view->resume.tier > 0 || view->resume.discard) return;
  for (const Member& member : view->members) {
    const WorkerProcess* other = simulation_.process_at(member.address);
    if (other == nullptr || other == &process || other->state() != ProcessState::running) continue;
    if (other->core().view() != view->view) continue;
    const StageWork one{action.work.blocks, {action.item.slot, action.item.slot + 1}};
    if (other->trainer().holds_slot(action.step, action.attempt, one, member.incarnation)) {
      return fail("13: a slot is computed again that a survivor holds", process,
                  describe(WorkerAction(action)) + " is at " + other->name());
    }
  }
}

void Oracle::micro_batch_ends(const WorkerProcess&, const ComputeMicroBatch&) {
  simulation_.note_progress();
}

// Where somebody computes wrongly in every pipeline, nobody can; and nobody does where the same slot goes wrong by
// chance at two attempts, as if by nature.
void Oracle::check_somebody_contradicts(const ViewRecord& view, Step step) {
  std::map<SlotRange, bool> wrong;  // by pipeline
  for (const StageAssignment& stage : view.resume.stages) {
    const Member* member = view.member(stage.worker);
    const WorkerProcess* process = member == nullptr ? nullptr : simulation_.process_at(member->address);
    wrong[stage.work.slots] |= process != nullptr && process->trainer().computes_wrongly();
  }
  const bool by_chance = std::ranges::any_of(
      nonfinite_once_, [&](const auto& entry) { return entry.first.first == step && entry.second.size() >= 2; });
  if (by_chance || std::ranges::all_of(wrong, &std::pair<const SlotRange, bool>::second)) world_.beyond_promise = true;
}

void Oracle::update_starts(WorkerProcess& process, const ApplyUpdate& action) {
  const auto& view = process.core().view_record();
  // It was fenced since its core saw the gate open, which was looked at as the words came.
  if (!view) return;
  if (action.skip) check_somebody_contradicts(*view, action.step);
  const StepWork& work = process.core().work();
  for (const Member& member : view->members) {
    if (process.core().identity() && member.worker == process.core().identity()->worker) continue;
    if (!process.gate_seen(view->view, action.step, work.attempt, member.worker)) {
      return fail("6: the gate opens without a member", process,
                  describe(WorkerAction(action)) + " without w" + std::to_string(member.worker.value()));
    }
  }
  if (action.step.value() > 1)
    members_hold(process, action.step.previous(), "9: state is overwritten before the next is everywhere");
  if (view->protects(action.step.previous())) snapshot_complete(process, *view, action.step.previous());
  const bool rolled_back = view->resume.tier > 0 || view->resume.discard || damaged_;
  if (process.trainer().state_tiles(action.step).intersects(TileSet(action.tiles)) && !rolled_back) {
    fail("2: an update is made twice", process, describe(WorkerAction(action)));
  }
}

void Oracle::state_written(const WorkerProcess& process, const Buffer& state) {
  simulation_.note_progress();
  if (damaged_) return;  // members find it when they compare, before the step is committed
  const TermVector& expected = world_.reference.state(state.stamp);
  for (std::uint32_t tile = 0; tile < expected.size(); ++tile) {
    if (!state.parameters.contains(TileIndex(tile)) || state.tiles[tile] == expected[tile]) continue;
    return fail("1: state differs from the undisturbed run", process,
                "tile " + std::to_string(tile) + " of step " + to_string(state.stamp));
  }
}

// Each fragment of the view's layout is, or was, at its keeper.
void Oracle::snapshot_complete(const WorkerProcess& process, const ViewRecord& view, Step step) {
  if (complete_.contains({view.view, step})) return;
  for (std::uint32_t s = 0; s < view.snapshots.stripes.size(); ++s) {
    const Stripe& stripe = view.snapshots.stripes[s];
    for (std::uint32_t i = 0; i < stripe.fragments.size(); ++i) {
      const StripeFragment& fragment = stripe.fragments[i];
      const WorkerProcess* const keeper = simulation_.process_at(view.member(fragment.keeper)->address);
      const bool held = i < stripe.data ? keeper->trainer().reached(step, TileSet(fragment.tiles))
                                        : keeper->trainer().held_parity({step, view.view}, s, i);
      if (held) continue;
      return fail("9: a gate opens before the snapshot of the step before is complete", process,
                  keeper->name() + " lacks fragment " + std::to_string(i) + " of stripe " + std::to_string(s) +
                      " of step " + to_string(step));
    }
  }
  complete_.insert({view.view, step});
}

void Oracle::state_made_again(const WorkerProcess&, const RebuildState& action) {
  tiles_rebuilt_ += TileSet(action.tiles).size();
}

void Oracle::state_fetched(const WorkerProcess& process, Step stamp, TileRange tiles) {
  const auto& view = process.core().view_record();
  if (!view || damaged_ || view->resume.tier > 0 || view->resume.discard) return;
  // A keeper writes nothing over what it holds, and may lack the older of two states that a new layout asks it to have.
  if (process.role() == Role::keeper) return;
  for (const BufferRef& held : process.trainer().states()) {
    if (held->stamp < stamp || !held->state.intersects(tiles)) continue;
    fail("8: fetched state replaces state that is as new", process,
         to_string(stamp) + " over " + to_string(held->stamp));
  }
}

void Oracle::check_losses(const WorkerProcess& process, Step step, const std::vector<SlotLoss>& losses) {
  if (damaged_) return;  // members find it when they compare, before the step is committed
  const auto expected = world_.reference.losses(step);
  for (std::size_t slot = 0; slot < expected.size(); ++slot) {
    if (slot < losses.size() && losses[slot].train == expected[slot].train &&
        losses[slot].validation == expected[slot].validation) {
      continue;
    }
    return fail("1: a slot's loss differs from the undisturbed run", process,
                "slot " + std::to_string(slot) + " of step " + to_string(step));
  }
}

void Oracle::step_released(const WorkerProcess&, Step) {
  simulation_.note_progress();
}

void Oracle::stops(const WorkerProcess& process, const Stop& stop) {
  if (!stop.success || !process.core().identity() || finished_logged_) return;
  const auto [worker, incarnation, view, prepared] = *process.core().identity();
  if (!released_.contains({worker, incarnation})) {
    return fail("2: a worker leaves before Finished or its release", process, stop.reason);
  }
  if (last_view_ && last_view_->has(worker) && last_view_->member(worker)->incarnation == incarnation) {
    fail("13: a drained worker leaves before the view without it is committed", process, stop.reason);
  }
}

// ---- the coordinator ----

void Oracle::heard(WorkerId worker, Incarnation incarnation, const WorkerMessage& message) {
  if (incarnation == Incarnation(0)) return;  // it has no name yet
  if (const auto* evidence = std::get_if<Evidence>(&message)) {
    const CoordinatorCore* core = simulation_.coordinator().core();
    const bool counts = core != nullptr && core->view() && core->view()->view == evidence->view;
    if (counts) unnoticed_.erase(evidence->kind);
  }
  last_heard_[worker] = world_.now();
  if (const auto* report = std::get_if<Report>(&message)) {
    reports_.insert({worker, incarnation, report->prepare});
    report_of_[{worker, incarnation}] = *report;
  }
}

void Oracle::appended(const LogRecord& record) {
  if (const auto* prepared = std::get_if<log_record::Prepared>(&record)) {
    ++changes_;
    check_prepared(*prepared);
  } else if (const auto* committed = std::get_if<log_record::Committed>(&record)) {
    ++views_;
    check_view_record(committed->record);
  } else if (const auto* generation = std::get_if<log_record::GenerationStarted>(&record)) {
    if (generation->generation <= highest_generation_) {
      world_.fail("11: a coordinator generation is used twice", describe(record));
    }
  }
}

void Oracle::check_prepared(const log_record::Prepared& record) {
  if (record.view <= highest_prepared_) {
    world_.fail("5: a view number is prepared twice", describe(LogRecord(record)));
  }
  highest_prepared_ = record.view;
  // Hints don't expel: only silence longer than the grace does, or what the worker itself did wrong or left undone.
  const CoordinatorCore* core = simulation_.coordinator().core();
  const ClusterSpec& cluster = world_.options.job.cluster;
  const bool timed_out = world_.now() - prepared_at_ >= std::chrono::milliseconds(cluster.prepare_timeout_ms);
  prepared_at_ = world_.now();
  for (const WorkerId worker : record.excluded) {
    const auto known = core->workers().find(worker);
    const auto heard = last_heard_.find(worker);
    if (known == core->workers().end() || heard == last_heard_.end()) continue;
    const WorkerRecord& about = known->second;
    if (about.status != WorkerStatus::lost || !excluded_.insert({worker, about.incarnation}).second) continue;
    const WorkerProcess* process = simulation_.process_at(about.address);
    const bool well = process != nullptr && process->state() == ProcessState::running &&
                      process->incarnation() == about.incarnation && !simulation_.troubled(process->index());
    const bool heard_lately = world_.now() - heard->second < std::chrono::milliseconds(cluster.suspect_grace_ms);
    if (well && heard_lately && about.faults == 0 && !timed_out) {
      fail("11: a hint alone expels a worker", *process, record.reason);
    }
  }
}

void Oracle::check_view_record(const ViewRecord& record) {
  const Hash128 hash = content(record);
  const auto known = committed_.find(record.view);
  if ((known != committed_.end() && content(known->second) != hash) || appended_views_.contains(record.view)) {
    world_.fail("5: two layouts have one view number", describe(record));
  }
  appended_views_[record.view] = hash;
  for (const Member& member : record.members) {
    if (!reports_.contains({member.worker, member.incarnation, record.view})) {
      world_.fail("8: a view rests on a report of an earlier Prepare",
                  describe(record) + ": w" + std::to_string(member.worker.value()));
    }
  }
  if (record.resume.tier > 0 && !damaged_) check_nothing_better(record);
  if (record.resume.tier > 1 && !damaged_) check_promise(record);
  if (record.resume.tier > 0 && !damaged_) check_claims(record);
  if (record.resume.tier == 0 && record.resume.step < highest_commit_) {
    world_.fail("13: the highest committed step falls", describe(record));
  }
  ++tiers_[record.resume.tier];
  if (record.resume.returns) ++returns_;
}

void Oracle::wrong(const std::string& invariant, const std::string& detail) {
  if (!unnoticed_.empty()) {
    world_.beyond_promise = true;
  } else {
    world_.fail(invariant, detail);
  }
}

// A worse tier is for when those within reach don't hold all of anything newer.
void Oracle::check_nothing_better(const ViewRecord& record) {
  std::map<Step, TileSet> held;
  std::map<Step, std::map<std::pair<SnapshotName, std::uint32_t>, std::set<std::uint32_t>>> parity;
  std::map<std::pair<SnapshotName, std::uint32_t>, Stripe> layouts;
  std::map<Step, std::vector<TileSet>> holders;
  for (const auto& [id, worker] : simulation_.coordinator().core()->workers()) {
    const WorkerProcess* process = simulation_.process_at(worker.address);
    const bool here = worker.session && process != nullptr && process->state() == ProcessState::running &&
                      process->incarnation() == worker.incarnation && worker.status != WorkerStatus::lost &&
                      worker.status != WorkerStatus::left;
    if (!here) continue;
    for (const BufferRef& state : process->trainer().states()) {
      held[state->stamp].add(state->state);
      holders[state->stamp].push_back(state->state);
    }
    for (const HeldFragment& told : worker.holdings.fragments) {
      if (process->trainer().parity(told) == nullptr) continue;
      parity[told.snapshot.step][{told.snapshot, told.stripe}].insert(told.fragment);
      layouts[{told.snapshot, told.stripe}] = told.layout;
    }
  }
  // What could be made: each stripe of which enough is there.
  for (const auto& [stamp, stripes] : parity) {
    TileSet made;
    for (const auto& [key, fragments] : stripes) {
      const Stripe& stripe = layouts[key];
      std::vector<bool> present(stripe.fragments.size());
      for (std::uint32_t i = 0; i < stripe.fragments.size(); ++i) {
        const TileSet tiles(stripe.fragments[i].tiles);
        present[i] = i < stripe.data
                         ? std::ranges::any_of(holders[stamp], [&](const TileSet& has) { return has.contains(tiles); })
                         : fragments.contains(i);
      }
      if (!recoverable(stripe, present)) continue;
      for (std::uint32_t i = 0; i < stripe.data; ++i) made.add(TileSet(stripe.fragments[i].tiles));
    }
    held[stamp].add(made);
  }
  for (const auto& [stamp, tiles] : held) {
    if (stamp < record.resume.step || !tiles.contains(world_.options.shape.map->tiles_with_state())) continue;
    world_.fail("12: a worse tier is chosen while workers within reach hold newer state",
                to_string(stamp) + " against " + describe(record));
  }
}

// Hosts of which a member of the last view isn't one of this.
std::set<std::string> Oracle::hosts_lost(const ViewRecord& record) const {
  std::set<std::string> lost;
  for (const Member& member : last_view_->members) {
    const Member* const now = record.member(member.worker);
    if (now == nullptr || now->incarnation != member.incarnation) lost.insert(member.host);
  }
  return lost;
}

// Once a snapshot of the last view was complete, so many hosts could be lost as its stripes have parity.
void Oracle::check_promise(const ViewRecord& record) {
  if (!last_view_ || last_view_->snapshots.stripes.empty()) return;
  const bool complete = std::ranges::any_of(complete_, [&](const auto& seen) {
    return seen.first == last_view_->view && seen.second >= record.resume.step;  // else the checkpoint is as new
  });
  const std::set<std::string> lost = hosts_lost(record);
  std::uint32_t promised = UINT32_MAX;
  for (const Stripe& stripe : last_view_->snapshots.stripes) promised = std::min(promised, stripe.parity());
  TileSet safe;
  for (const Stripe& stripe : last_view_->snapshots.stripes) {
    for (const StripeFragment& fragment : stripe.fragments) safe.add(TileSet(fragment.tiles));
  }
  for (const Member& member : last_view_->members) {
    // Workers hold the states of the newest steps only.
    if (last_view_->snapshot_every == 1 && !lost.contains(member.host)) {
      safe.add(duty(*last_view_, member.worker).kept);
    }
  }
  if (!complete || lost.size() > promised || safe != TileSet(world_.options.shape.map->tiles_with_state())) return;
  world_.fail("12: a loss that snapshots were to make good needs a checkpoint",
              std::to_string(lost.size()) + " of " + std::to_string(promised) + " hosts; " + describe(record));
}

void Oracle::note_claim() {
  const CoordinatorCore* core = simulation_.coordinator().core();
  if (core == nullptr || !last_view_ || !core->view() || core->view()->view != last_view_->view) return;
  const auto status = core->snapshots();
  if (!status || !status->tolerated || !status->complete) return;
  Claim claim{*status->complete, *status->tolerated, {status->alone.begin(), status->alone.end()}, {}};
  for (const Member& member : last_view_->members) {
    const auto known = core->workers().find(member.worker);
    const bool gone = known == core->workers().end() || known->second.incarnation != member.incarnation ||
                      known->second.status == WorkerStatus::lost || known->second.status == WorkerStatus::left ||
                      known->second.suspect_until;
    if (gone) claim.lost.insert(member.host);
  }
  claims_.push_back(std::move(claim));
}

void Oracle::check_claims(const ViewRecord& record) {
  if (!last_view_) return;
  const std::set<std::string> lost = hosts_lost(record);
  for (const Claim& claim : claims_) {
    if (record.resume.step > claim.newest) continue;  // the checkpoint is as new
    std::set<std::string> since;
    std::ranges::set_difference(lost, claim.lost, std::inserter(since, since.end()));
    const bool tolerated = claim.tolerated > 0 && since.size() <= claim.tolerated;
    const bool not_alone = claim.lost.empty() && since.size() == 1 && !claim.alone.contains(*since.begin());
    if (!tolerated && !not_alone) continue;
    world_.fail("12: a loss that the status promised to make good needs a checkpoint",
                std::to_string(since.size()) + " of " + std::to_string(claim.tolerated) + " hosts, step " +
                    to_string(claim.newest) + "; " + describe(record));
  }
}

void Oracle::durable(const LogRecord& record) {
  if (const auto* prepared = std::get_if<log_record::Prepared>(&record)) {
    prepared_.insert(prepared->view);
  } else if (const auto* committed = std::get_if<log_record::Committed>(&record)) {
    committed_[committed->record.view] = committed->record;
    last_view_ = committed->record;
    claims_.clear();
    const std::uint32_t lineage = committed->record.resume.lineage;
    if (lineage > std::exchange(lineage_, lineage)) clean_from_ = committed->record.view;
    // A worse tier takes the job back on purpose: what counts as committed starts there again.
    if (committed->record.resume.tier > 0) {
      rolled_back_in_ = committed->record.view;
      highest_commit_ = std::min(highest_commit_, committed->record.resume.step.previous());
    }
  } else if (const auto* accepted = std::get_if<log_record::WorkerAccepted>(&record)) {
    accepted_.insert({accepted->worker, accepted->incarnation});
  } else if (const auto* released = std::get_if<log_record::WorkerReleased>(&record)) {
    released_.insert({released->worker, released->incarnation});
  } else if (const auto* generation = std::get_if<log_record::GenerationStarted>(&record)) {
    generations_.insert(generation->generation);
    highest_generation_ = std::max(highest_generation_, generation->generation);
  } else if (std::holds_alternative<log_record::Finished>(record)) {
    finished_logged_ = true;
  }
}

bool Oracle::is_committed(const PackedView& packed) const {
  const auto base = committed_.find(packed.base);
  const auto record = unpack_view(packed, base == committed_.end() ? nullptr : &base->second);
  const auto found = committed_.find(packed.view);
  return record && found != committed_.end() && content(found->second) == content(*record);
}

void Oracle::leaves(const CoordinatorEnvelope& envelope) {
  const CoordinatorMessage& message = envelope.message;
  bool known = generations_.contains(envelope.generation);
  if (const auto* prepare = std::get_if<Prepare>(&message)) {
    known = known && prepared_.contains(prepare->view);
  } else if (const auto* commit = std::get_if<CommitView>(&message)) {
    known = known && (commit->packed == told_view_ || is_committed(*commit->packed));
    told_view_ = commit->packed;
  } else if (const auto* welcome = std::get_if<Welcome>(&message)) {
    known = known && accepted_.contains({welcome->worker, welcome->incarnation});
  } else if (const auto* finish = std::get_if<Finish>(&message)) {
    known = known && (finished_logged_ || !finish->success);
  }
  if (!known) world_.fail("14: an announcement leaves before its record is durable", describe(message));
}

void Oracle::coordinator_died() {
  appended_views_.clear();
  reports_.clear();
  report_of_.clear();
  highest_prepared_ = prepared_.empty() ? ViewNumber(0) : *prepared_.rbegin();
}

void Oracle::job_finished(const CoordinatorCore* core, bool success) {
  const std::uint64_t steps = world_.options.shape.total_steps.value();
  if (success && core->steps_committed() != steps) {
    world_.fail("15: steps are counted more or less than once",
                std::to_string(core->steps_committed()) + " of " + std::to_string(steps));
  }
  if (!finished_logged_) world_.fail("14: the job ends before Finished is durable", "");
  const bool halts = world_.options.shape.nonfinite == NonfinitePolicy::halt && world_.options.shape.natural_nan;
  // Three attempts with three different nonfinite gradients end a job as well.
  std::uint32_t transient = 0;
  for (const std::uint32_t struck : simulation_.injector().struck()[static_cast<std::size_t>(FaultKind::nan)]) {
    transient += struck;
  }
  const bool lasting = std::ranges::any_of(simulation_.processes(),
                                           [](const auto& process) { return process->trainer().computes_wrongly(); });
  if (!success && (transient >= 2 || lasting)) return;
  if (success == halts) {
    world_.fail("15: the job ends otherwise than its numbers say", success ? "it succeeded" : "it failed");
  }
}

}  // namespace planaria::sim

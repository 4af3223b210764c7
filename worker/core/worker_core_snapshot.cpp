// Snapshots: what a worker hands to its host's keeper, what keepers make of it, and lost state made from it again.
#include <algorithm>
#include <utility>

#include "common/overloaded.hpp"
#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

// ---- a worker ----

// After an update, of what it keeps and the keeper protects; what several workers of the host keep, the first of them.
void WorkerCore::hand_to_keeper() {
  const Step step = work_.step;
  if (keeping_ || !in_view() || is_epilogue() || !view_->protects(step)) return;
  const Member* const keeper = view_->keeper_of(config_.registration.host);
  if (keeper == nullptr) return;
  const TileSet tiles = tiles_of(view_->snapshots, keeper->worker).common(duties_->first_kept_by(self()));
  if (!tiles.empty()) emit(SnapshotState{keeper->worker, view_->view, step, tiles.runs()});
}

// Then it goes to the keeper as it does to others.
void WorkerCore::handle(const worker_event::SnapshotCopyFailed& event) {
  if (!in_view() || event.view != view_->view) return;
  const Member* const keeper = view_->keeper_of(config_.registration.host);
  if (keeper == nullptr) return;
  for (const TileRange run : TileSet(event.tiles).common(states_.state(event.stamp)).runs()) {
    serve_state(keeper->worker, {event.stamp, run, false, false});
  }
}

// ---- a keeper ----

// What a report doesn't tell, the next view's plan has it fetch.
bool WorkerCore::takes_copy(WorkerId from, Step stamp, const TileSet& tiles) const {
  const Member* const sender = view_->member(from);
  return sender != nullptr && sender->host == config_.registration.host && !reported_ &&
         (stamp == work_.step || stamp.next() == work_.step) && view_->protects(stamp) &&
         tiles_of(view_->snapshots, self()).contains(tiles);
}

void WorkerCore::take_copy(Step stamp, const TileSet& tiles, const PayloadRef& payload) {
  TileSet lacking = tiles.without(states_.state(stamp));
  if (const auto storing = being_stored_.find(stamp); storing != being_stored_.end()) lacking.remove(storing->second);
  if (fetch_ && fetch_->stamp == stamp) fetch_->state.remove(lacking);
  for (const TileRange run : lacking.runs()) store_state(stamp, run, payload);
}

void WorkerCore::handle(const worker_event::SnapshotSealed& event) {
  const bool current = keeping_ && in_view() && event.view == view_->view;
  const TileSet tiles(event.tiles);
  if (!current || !takes_copy(event.from, event.stamp, tiles)) return refuse("a copy of state that isn't wanted here");
  take_copy(event.stamp, tiles, event.payload);
}

void WorkerCore::make_snapshots(const ResumePlan& plan) {
  if (!keeping_) return;
  keeping_->enter(*view_, self());
  parts_.clear();
  emit(KeepFragments{keeping_->whole(), {}});
  make_snapshot(plan.step.previous());
  make_snapshot(plan.step);
}

void WorkerCore::make_snapshot(Step step) {
  if (!keeping_ || step > config_.total_steps || !view_->protects(step)) return;
  carry_out(keeping_->begin(step, states_.state(step)));
}

// The gate of the next step opens when the snapshots before it are placed at all keepers: who passes it knows that they
// are complete.
bool WorkerCore::snapshot_holds_gate() const {
  const Step before = work_.step.previous();
  return keeping_ && view_->protects(before) && !keeping_->placed(before);
}

// At a boundary: the copy of the step's state that is on its way here is in time for the report, and for the next view.
bool WorkerCore::expects_copies() const {
  return keeping_ && in_view() && holding() && *committed_ <= config_.total_steps && view_->protects(*committed_) &&
         !states_.state(*committed_).contains(tiles_of(view_->snapshots, self()));
}

std::optional<WorkerId> WorkerCore::waiting_for_snapshot() const {
  if (!snapshot_holds_gate()) return std::nullopt;
  const Step before = work_.step.previous();
  const TileSet missing = tiles_of(view_->snapshots, self()).without(states_.state(before));
  if (missing.empty()) return keeping_->waiting_for(before);
  for (const FragmentFetch& rebuild : rebuilds_) {
    if (const auto owes = rebuild.waiting_for()) return owes;
  }
  for (const Member& member : view_->members) {
    if (member.host == config_.registration.host && duty(member.worker).kept.intersects(missing)) return member.worker;
  }
  return std::nullopt;
}

// Precondition: the gate of the step is open.
void WorkerCore::give_up_older_snapshots() {
  const Step before = work_.step.previous();
  states_.drop_empty_before(before);
  if (!view_->protects(before) || !keeping_->placed(before)) return;
  save_snapshot(before);
  give_up_state_before(before);
  keeping_->complete(before);
  emit(KeepFragments{keeping_->whole(), keeping_->building()});
}

bool WorkerCore::is_due(Step step) const {
  return config_.checkpoint_every != 0 && step.value() % config_.checkpoint_every == 0;
}

// The last step's state is saved by the checkpoint writer: it is the result, and no gate comes after it.
bool WorkerCore::keepers_save(Step step) const {
  return config_.durable_snapshots && keepers_have_all_ && view_->protects(step) && step < config_.total_steps;
}

// Members compared it before: a damaged state must not become the durable one.
void WorkerCore::save_snapshot(Step step) {
  if (!is_due(step) || !keepers_save(step) || !compared_ || compared_->step != step) return;
  const TileSet own = tiles_of(view_->snapshots, self());
  if (!own.empty()) emit(SaveSnapshot{{step, view_->view}, view_->numeric_class, own.runs()});
}

void WorkerCore::handle(const worker_event::SnapshotWritten& event) {
  send_control(SnapshotSaved{event.snapshot, event.ok, event.bytes, event.detail});
}

void WorkerCore::carry_out(const std::vector<SnapshotAction>& actions) {
  const auto take = [this](const FragmentPart& part) { return std::move(parts_.extract(part).mapped()); };
  for (const SnapshotAction& action : actions) {
    std::visit(
        Overloaded{
            [&](const snapshot_action::SendFragment& a) {
              emit(SendFragment{a.to, view_->view, keeping_->layout(), a.snapshot, a.stripe, a.fragment});
            },
            [&](const snapshot_action::AddPart& a) {
              Arrived arrived = take(a.part);
              emit(AddFragmentPart{keeping_->layout(), a.part, std::move(arrived.payload), std::move(arrived.hashes)});
            },
            [&](const snapshot_action::SendParity& a) {
              emit(SendParity{a.to, view_->view, a.part});
            },
            [&](const snapshot_action::StorePart& a) {
              Arrived arrived = take(a.part);
              emit(
                  StoreFragmentPart{keeping_->layout(), a.part, std::move(arrived.payload), std::move(arrived.hashes)});
            },
            [&](const snapshot_action::SendWord& a) {
              emit(SendSmall{a.to, view_->view, a.word});
            },
        },
        action);
  }
}

void WorkerCore::data(WorkerId from, const FragmentData& meta, const PayloadRef& payload) {
  if (!keeping_) return refuse("a part of a snapshot, and this is no keeper");
  const auto actions = keeping_->take(from, meta.part);
  if (!actions) return refuse(actions.error().message());
  ++progress_;
  parts_[meta.part] = {payload, meta.hashes};
  carry_out(*actions);
}

void WorkerCore::handle(const worker_event::FragmentStored& event) {
  ++progress_;
  if (!event.ok) return report_evidence(EvidenceKind::fetch_failed, self(), event.detail);
  if (keeping_ && view_) carry_out(keeping_->stored(event.part));
}

// Who asked for it is told by an answer of its own. A snapshot that is being made can't become whole: a new view begins
// it anew.
void WorkerCore::handle(const worker_event::SnapshotDamaged& event) {
  ++progress_;
  states_.remove_state(event.stamp, TileSet(event.tiles));
  if (keeping_) {
    for (const HeldFragment& parity : event.parity) keeping_->lose(parity);
  }
  report_evidence(EvidenceKind::fetch_failed, self(), event.detail);
}

void WorkerCore::data(WorkerId from, const StripeWord& meta, const PayloadRef&) {
  if (!keeping_) return refuse("a word about a snapshot, and this is no keeper");
  const auto actions = keeping_->take(from, meta);
  if (!actions) return refuse(actions.error().message());
  ++progress_;
  carry_out(*actions);
}

// ---- state made again ----

// Of parity its stripe, of tiles none; nothing when it can't be served.
std::optional<Stripe> WorkerCore::serves(const FragmentRequest& request) const {
  const FragmentPart& part = request.part;
  Stripe layout;
  const std::uint64_t most =
      kTensorsOfState * sizeof(float) * config_.map->tile_elements() * std::uint64_t{config_.state_chunk_tiles};
  std::uint64_t bytes = 0;  // of the whole fragment
  if (request.tiles.empty()) {
    if (!keeping_) return std::nullopt;
    for (const HeldFragment& held : keeping_->whole()) {
      const bool asked = held.snapshot == part.snapshot && held.stripe == part.stripe && held.fragment == part.fragment;
      if (asked) layout = held.layout;
    }
    bytes = stripe_bytes(*config_.map, layout);
  } else {
    for (const TileRange run : request.tiles) {
      if (run.empty() || !states_.state(part.snapshot.step).contains(run)) return std::nullopt;
      bytes += kTensorsOfState * config_.map->bytes(run);
    }
  }
  const bool inside = part.offset <= bytes && part.bytes <= bytes - part.offset;
  return part.bytes > 0 && part.bytes <= most && inside ? std::optional(layout) : std::nullopt;
}

void WorkerCore::data(WorkerId from, const FragmentRequest& meta, const PayloadRef&) {
  ++progress_;
  if (auto layout = serves(meta)) {
    emit(SendFragmentReply{from, view_->view, {meta.part, true, {}}, meta.tiles, std::move(*layout), meta.lost});
  } else {
    emit(SendSmall{from, view_->view, FragmentReply{meta.part, false, {}}});
  }
}

void WorkerCore::data(WorkerId from, const FragmentReply& meta, const PayloadRef& payload) {
  const auto fetch =
      std::ranges::find_if(rebuilds_, [&](const FragmentFetch& candidate) { return candidate.wants(from, meta.part); });
  if (fetch == rebuilds_.end()) return;  // asked for by an earlier plan, or here already
  if (!meta.available) {
    report_evidence(EvidenceKind::fetch_failed, from, "it doesn't hold the fragment of the snapshot");
    return;
  }
  ++progress_;
  if (auto made = fetch->take(meta, payload)) rebuild(std::move(*made));
  if (fetch->done()) rebuilds_.erase(fetch);
}

void WorkerCore::rebuild(RebuildState action) {
  if (fetch_) fetch_->state.remove(TileSet(action.tiles));
  ++storing_;
  being_stored_[action.snapshot.step].add(TileSet(action.tiles));
  emit(std::move(action));
}

}  // namespace planaria

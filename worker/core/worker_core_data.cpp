// What arrives on the data plane, and state on its way.
#include <algorithm>
#include <utility>

#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

namespace {

// The block above the border over which a stage gives tensors of this kind to its neighbour, and over which it takes
// them.
std::uint32_t gives_at(const StageWork& work, BoundaryKind kind) {
  return kind == BoundaryKind::activation ? work.blocks.end : work.blocks.begin;
}
std::uint32_t takes_at(const StageWork& work, BoundaryKind kind) {
  return kind == BoundaryKind::activation ? work.blocks.begin : work.blocks.end;
}

}  // namespace

void WorkerCore::handle(const worker_event::Data& event) {
  const bool current = in_view() && event.view == view_->view;
  if (!current && !(mutated(Mutation::accept_stale_view) && view_)) return refuse("data of a view that is over");
  const Member* sender = view_->member(event.from);
  if (sender == nullptr || sender->incarnation != event.incarnation)
    return refuse("data of a worker that is no member");
  const auto step_of = [](const auto& meta) -> std::optional<Step> {
    if constexpr (requires { meta.step; }) return meta.step;
    return std::nullopt;
  };
  const std::optional<Step> step = std::visit(step_of, event.meta);
  if (step && *step == work_.step.next() && work_.step != Step(0)) {
    early_.push_back(event);  // its sender knows the commit that this worker still waits for
    return;
  }
  if (step && *step != work_.step) return refuse("data of a step that is over");
  std::visit([&](const auto& meta) { data(event.from, meta, event.payload); }, event.meta);
}

void WorkerCore::handle(const worker_event::CorruptData& event) {
  if (in_view() && event.view == view_->view) {
    report_evidence(EvidenceKind::corrupt_payload, event.from, "a payload doesn't match its hash");
  }
}

void WorkerCore::handle(const worker_event::PeerUnreachable& event) {
  if (in_view() && view_->has(event.peer)) {
    report_evidence(EvidenceKind::peer_unreachable, event.peer, event.detail);
  }
}

void WorkerCore::store_losses(const std::vector<SlotLoss>& losses) {
  for (const SlotLoss& loss : losses) {
    if (loss.slot.value() < work_.losses.size()) work_.losses[loss.slot.value()] = loss;
  }
}

// ---- what crosses the borders of stages ----

// Consumers ask: so a stage that was taken over gets everything from its start, and one that goes on gets only what it
// hadn't.
void WorkerCore::request_inputs() {
  for (const StepWork::Stage& stage : work_.stages) {
    if (stage.computed()) continue;
    if (stage.work.blocks.begin != 0) request_input(BoundaryKind::activation, stage);
    if (!holds_head(stage.work.blocks)) request_input(BoundaryKind::gradient, stage);
  }
}

void WorkerCore::request_input(BoundaryKind kind, const StepWork::Stage& stage) {
  const bool up = kind == BoundaryKind::activation;
  const std::uint32_t block = takes_at(stage.work, kind);
  for (const StageAssignment& other : exchange_.stages) {
    const SlotRange slots = other.work.slots.common(stage.work.slots);
    const bool adjacent = gives_at(other.work, kind) == block;
    if (other.worker == self() || !adjacent || slots.empty()) continue;
    const SlotItem first = std::max(up ? stage.forward : stage.backward, work_.items.first(slots, !up));
    if (first.slot >= slots.end) continue;
    emit(SendSmall{other.worker, view_->view, BoundaryRequest{work_.step, work_.attempt, {kind, block, first}, slots}});
  }
}

// What a pass begins from: nothing while it isn't here, null when an own stage made it.
std::optional<PayloadRef> WorkerCore::take_input(const BoundaryId& id) {
  if (const auto arrived = exchange_.inputs.find(id); arrived != exchange_.inputs.end()) {
    PayloadRef payload = std::move(arrived->second);
    exchange_.inputs.erase(arrived);
    return payload;
  }
  const bool up = id.kind == BoundaryKind::activation;
  const bool made_here = std::ranges::any_of(work_.stages, [&](const StepWork::Stage& stage) {
    return gives_at(stage.work, id.kind) == id.block && stage.work.slots.contains(id.item.slot) &&
           id.item < (up ? stage.forward : stage.backward);
  });
  return made_here ? std::optional(PayloadRef()) : std::nullopt;
}

// Sends what a stage is making to whom it may concern; the trainer does so when it is made.
void WorkerCore::offer(const BoundaryId& id) {
  if (!in_view()) return;
  for (const auto& [to, request] : exchange_.requests) {
    const bool wanted = request.from.kind == id.kind && request.from.block == id.block &&
                        request.slots.contains(id.item.slot) && request.from.item <= id.item;
    if (wanted) emit(SendBoundary{to, view_->view, Boundary{work_.step, work_.attempt, id}});
  }
}

void WorkerCore::data(WorkerId from, const BoundaryRequest& meta, const PayloadRef&) {
  if (meta.attempt != work_.attempt) return refuse("a request for boundaries of another attempt");
  const bool up = meta.from.kind == BoundaryKind::activation;
  if (!work_.items.has(meta.from.item, !up))
    return refuse("a request for boundaries of a micro-batch that there isn't");
  const bool asks_beside = std::ranges::any_of(exchange_.stages, [&](const StageAssignment& stage) {
    return stage.worker == from && takes_at(stage.work, meta.from.kind) == meta.from.block &&
           stage.work.slots.begin <= meta.slots.begin && meta.slots.end <= stage.work.slots.end;
  });
  if (!asks_beside) return refuse("a request for boundaries of a stage that its sender doesn't have");
  // A stage asks once in a view for each slot: more would be a copy, or an endless list.
  const bool known = std::ranges::any_of(exchange_.requests, [&](const auto& request) {
    return request.first == from && request.second.from.kind == meta.from.kind &&
           request.second.from.block == meta.from.block && !request.second.slots.common(meta.slots).empty();
  });
  if (known) return;
  ++progress_;
  exchange_.requests.emplace_back(from, meta);
  for (const StepWork::Stage& stage : work_.stages) {
    const SlotRange slots = stage.work.slots.common(meta.slots);
    if (gives_at(stage.work, meta.from.kind) != meta.from.block || slots.empty()) continue;
    const SlotItem made = up ? stage.forward : stage.backward;
    SlotItem item = std::max(meta.from.item, work_.items.first(slots, !up));
    for (; item.slot < slots.end && item < made; item = work_.items.next(item, slots.end, !up)) {
      emit(SendBoundary{from, view_->view,
                        Boundary{work_.step, work_.attempt, {meta.from.kind, meta.from.block, item}}});
    }
  }
}

void WorkerCore::data(WorkerId from, const Boundary& meta, const PayloadRef& payload) {
  if (meta.attempt != work_.attempt) return refuse("a boundary of another attempt");
  const BoundaryId& id = meta.id;
  const bool up = id.kind == BoundaryKind::activation;
  if (!work_.items.has(id.item, !up)) return refuse("a boundary of a micro-batch that there isn't");
  const bool sent_by_owner = std::ranges::any_of(exchange_.stages, [&](const StageAssignment& stage) {
    return stage.worker == from && gives_at(stage.work, id.kind) == id.block && stage.work.slots.contains(id.item.slot);
  });
  const auto stage = std::ranges::find_if(work_.stages, [&](const StepWork::Stage& own) {
    return takes_at(own.work, id.kind) == id.block && own.work.slots.contains(id.item.slot);
  });
  if (!sent_by_owner || stage == work_.stages.end()) return refuse("a boundary between other stages");
  if (id.item < (up ? stage->forward : stage->backward)) return;  // it came before: this is the second time
  if (exchange_.inputs.try_emplace(id, payload).second) ++progress_;
}

// ---- sums ----

void WorkerCore::data(WorkerId from, const Piece& meta, const PayloadRef& payload) {
  if (meta.attempt != work_.attempt) return refuse("a piece of another attempt");
  const bool in_tree = meta.node.level < 31 && (std::uint64_t{meta.node.index} + 1) << meta.node.level <= config_.slots;
  if (!in_tree) return refuse("a piece outside the slots");
  const SlotRange slots = meta.node.slots();
  const bool tells_losses = holds_head(meta.blocks);
  if (meta.blocks.empty() || meta.blocks.end > all_blocks().end ||
      meta.losses.size() != (tells_losses ? slots.size() : 0)) {
    return refuse("a piece outside the slots");
  }
  std::uint32_t senders = 0;  // of the node's slots; neighbouring stages of a worker may fold together
  for (const StageAssignment& stage : exchange_.stages) {
    if (stage.worker == from && stage.work.blocks == meta.blocks) senders += stage.work.slots.common(slots).size();
  }
  const bool assigned = senders == slots.size();
  if (!assigned && !is_epilogue()) return refuse("a piece of slots that its sender doesn't have");
  const StageNode node{meta.blocks, meta.node};
  // Stored under its node, never added on arrival: what arrives twice counts once.
  if (exchange_.pieces.contains(node)) {
    if (mutated(Mutation::add_twice)) exchange_.repeated.push_back({node, payload, meta.tiles});
    return;
  }
  if (!is_epilogue() && unready_shards(self(), meta.blocks) != meta.tiles)
    return refuse("a piece for other shards, from " + std::to_string(from.value()));
  exchange_.pieces[node] = {node, payload, meta.tiles};
  exchange_.piece_slots.resize(block_count());
  for (std::uint32_t block = meta.blocks.begin; block < meta.blocks.end; ++block) {
    exchange_.piece_slots[block] += slots.size();
  }
  ++progress_;
  store_losses(meta.losses);
  work_.mark_nonfinite(meta.nonfinite);
}

void WorkerCore::data(WorkerId from, const Reduced& meta, const PayloadRef& payload) {
  if (meta.attempt != work_.attempt) return refuse("a sum of another attempt");
  const TileSet tiles(meta.tiles);
  if (tiles.runs() != meta.tiles || !own_duty().summed.contains(tiles)) {
    return refuse("a sum of tiles that aren't kept here");
  }
  if (!owned_by(exchange_.shards, from).contains(tiles)) return refuse("a sum of tiles that its sender doesn't own");
  const bool held = work_.reduced.contains(tiles);
  ++progress_;
  store_losses(meta.losses);
  if (held) return;
  work_.reduced.add(tiles);
  emit(StoreReduced{work_.step, meta.tiles, payload});
}

void WorkerCore::data(WorkerId from, const Parameters& meta, const PayloadRef& payload) {
  const TileSet tiles(meta.tiles);
  const TileSet wanted = own_duty().used.without(own_duty().made);
  if (tiles.runs() != meta.tiles || !wanted.contains(tiles) ||
      sent_by(*config_.map, view_->shards, from, tiles) != tiles) {
    return refuse("parameters that aren't its sender's to send");
  }
  if (exchange_.parameters_taken.contains(tiles) || states_.parameters(work_.step).contains(tiles)) return;
  exchange_.parameters_taken.add(tiles);
  ++progress_;
  if (exchange_.update_asked) {
    store_parameters(meta, payload);
  } else {  // the state that they belong to isn't begun
    exchange_.parameters.emplace_back(meta, payload);
  }
}

void WorkerCore::store_parameters(const Parameters& meta, const PayloadRef& payload) {
  ++storing_;
  emit(StoreParameters{meta.step, meta.tiles, payload});
}

// ---- state on its way ----

void WorkerCore::data(WorkerId from, const StateRequest& meta, const PayloadRef&) {
  if (meta.tiles.empty() || meta.tiles.end > config_.map->tile_count()) return refuse("a request for unknown tiles");
  const bool known = std::ranges::any_of(
      waiting_requests_, [&](const auto& waiting) { return waiting.first == from && waiting.second == meta; });
  if (known) return;
  // Nobody lacks a tile more often than once of each kind.
  constexpr std::ptrdiff_t kKinds = 4;
  const auto waiting = std::ranges::count(waiting_requests_, from, [](const auto& request) { return request.first; });
  if (waiting >= kKinds * config_.map->tile_count()) return refuse("more requests for state than there is state");
  waiting_requests_.emplace_back(from, meta);
}

bool WorkerCore::is_coming(const StateRequest& request) const {
  if (fetch_ && fetch_->stamp == request.stamp) return true;
  return work_.step == request.stamp && (updating_ || storing_ > 0);
}

void WorkerCore::serve_waiting_requests() {
  if (waiting_requests_.empty() || !in_view()) return;
  std::vector<std::pair<WorkerId, StateRequest>> waiting;
  for (const auto& [to, request] : std::exchange(waiting_requests_, {})) {
    if (states_.can_serve(request.stamp, request.tiles, request.parameters_only)) {
      serve_state(to, request);
    } else if (is_coming(request)) {
      waiting.emplace_back(to, request);
    } else {
      emit(SendSmall{to, view_->view,
                     StateTiles{request.stamp, request.tiles, request.parameters_only, request.for_checkpoint, false}});
    }
  }
  waiting_requests_ = std::move(waiting);
}

void WorkerCore::serve_state(WorkerId to, const StateRequest& request) {
  for (std::uint32_t tile = request.tiles.begin; tile < request.tiles.end; tile += config_.state_chunk_tiles) {
    const std::uint32_t end = std::min(tile + config_.state_chunk_tiles, request.tiles.end);
    emit(SendState{to, view_->view,
                   StateTiles{request.stamp, {tile, end}, request.parameters_only, request.for_checkpoint, true}});
  }
}

void WorkerCore::data(WorkerId from, const StateTiles& meta, const PayloadRef& payload) {
  if (meta.for_checkpoint) return add_to_checkpoint(meta, payload);
  TileSet* wanted = nullptr;
  if (fetch_ && fetch_->stamp == meta.stamp) wanted = meta.parameters_only ? &fetch_->parameters : &fetch_->state;
  if (wanted == nullptr || meta.tiles.empty() || !wanted->contains(meta.tiles)) {
    const bool copied = keeping_ && meta.available && !meta.parameters_only && !meta.tiles.empty();
    if (copied && takes_copy(from, meta.stamp, TileSet(meta.tiles))) {
      TileSet here = states_.state(meta.stamp);
      if (const auto storing = being_stored_.find(meta.stamp); storing != being_stored_.end())
        here.add(storing->second);
      if (!here.contains(meta.tiles)) store_state(meta.stamp, meta.tiles, payload);
      return;
    }
    // Asked for by an earlier plan, or here already.
    if (mutated(Mutation::replace_local_state) && meta.available && !meta.parameters_only) {
      emit(StoreState{meta.stamp, meta.tiles, payload});
    }
    return;
  }
  if (!meta.available) {
    report_evidence(EvidenceKind::fetch_failed, from, "it doesn't hold the state of the step");
    return;
  }
  wanted->remove(meta.tiles);
  if (!meta.parameters_only) return store_state(meta.stamp, meta.tiles, payload);
  ++progress_;
  ++storing_;
  emit(StoreParameters{meta.stamp, {meta.tiles}, payload});
}

// What the host's keeper has needs no network.
void WorkerCore::fetch_from(WorkerId from, Step stamp, TileRange tiles, bool parameters_only) {
  const Member* const source = view_->member(from);
  const bool beside =
      !keeping_ && source != nullptr && source->role == Role::keeper && source->host == config_.registration.host;
  if (!beside) return emit(SendSmall{from, view_->view, StateRequest{stamp, tiles, parameters_only, false}});
  attaching_.tiles_left += tiles.end - tiles.begin;
  emit(AttachState{from, view_->view, stamp, tiles, parameters_only});
}

void WorkerCore::handle(const worker_event::StateAttached& event) {
  if (!in_view() || event.view != view_->view) return;
  attaching_.bytes += (event.parameters_only ? 1 : kTensorsOfState) * config_.map->bytes(event.tiles);
  attaching_.took += event.took;
  attach_ended(event.tiles);
  data(event.keeper, StateTiles{event.stamp, event.tiles, event.parameters_only, false, true}, event.payload);
}

// The network may have what memory hasn't, and the keeper finds out why.
void WorkerCore::handle(const worker_event::AttachFailed& event) {
  if (!in_view() || event.view != view_->view) return;
  attach_ended(event.tiles);
  emit(SendSmall{event.keeper, view_->view, StateRequest{event.stamp, event.tiles, event.parameters_only, false}});
}

void WorkerCore::attach_ended(TileRange tiles) {
  attaching_.tiles_left -= std::min<std::uint64_t>(tiles.end - tiles.begin, attaching_.tiles_left);
  if (attaching_.tiles_left > 0 || attaching_.bytes == 0) return;
  send_control(AttachNotice{view_->view, attaching_.bytes, to_seconds(attaching_.took)});
  attaching_ = Attaching{};
}

void WorkerCore::store_state(Step stamp, TileRange tiles, const PayloadRef& payload) {
  ++progress_;
  ++storing_;
  being_stored_[stamp].add(tiles);
  emit(StoreState{stamp, tiles, payload});
}

void WorkerCore::handle(const worker_event::StateStored& event) {
  ++progress_;
  if (storing_ > 0) --storing_;
  const TileSet tiles(event.tiles);
  if (!event.parameters_only) being_stored_[event.stamp].remove(tiles);
  if (being_stored_[event.stamp].empty()) being_stored_.erase(event.stamp);
  const bool fetched = fetch_ && fetch_->stamp == event.stamp;
  if (!event.ok) {
    if (fetched) (event.parameters_only ? fetch_->parameters : fetch_->state).add(tiles);
    report_evidence(EvidenceKind::fetch_failed, event.blamed.value_or(self()), event.detail);
    return;
  }
  if (event.parameters_only) {
    states_.add_parameters(event.stamp, tiles);
  } else {
    states_.add_state(event.stamp, tiles);
  }
  if (keeping_ && view_) carry_out(keeping_->seal(event.stamp, tiles));
  consider_fetch_done();
}

void WorkerCore::handle(const worker_event::StateLoaded& event) {
  ++progress_;
  const auto loaded = std::exchange(loading_, std::nullopt);
  if (!event.ok) {
    checkpoints_.erase(event.stamp);
    damaged_checkpoints_.insert(event.stamp);
    report_evidence(EvidenceKind::fetch_failed, self(), event.detail);
    return;
  }
  if (event.loss) final_loss_ = *event.loss;
  if (!loaded) return;
  states_.add_state(event.stamp, loaded->state);
  states_.add_parameters(event.stamp, loaded->parameters);
  consider_fetch_done();
}

// What stages of the step need of tied copies, and is here as the original only.
void WorkerCore::copy_tied() {
  if (!view_ || work_.step == Step(0)) return;
  const Step base = work_.step.previous();
  const TileSet& here = states_.parameters(base);
  const TileSet copies =
      tiles_used(*config_.map, exchange_.stages, self()).without(here).common(tied_to(*config_.map, here));
  if (copies.empty()) return;
  emit(CopyTied{base, copies.runs()});
  states_.add_parameters(base, copies);
}

void WorkerCore::consider_fetch_done() {
  copy_tied();
  if (!fetch_ || storing_ > 0 || loading_) return;
  if (fetch_->state.empty() && fetch_->parameters.empty()) fetch_.reset();
}

}  // namespace planaria

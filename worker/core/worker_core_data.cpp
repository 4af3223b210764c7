// What arrives on the data plane, and state on its way.
#include <algorithm>
#include <utility>

#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

void WorkerCore::send_to_others(const DataMeta& meta) {
  for (const WorkerId to : others()) emit(SendSmall{to, view_->view, meta});
}

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

void WorkerCore::data(WorkerId from, const Piece& meta, const PayloadRef& payload) {
  if (meta.attempt != work_.attempt) return refuse("a piece of another attempt");
  const SlotRange slots = meta.node.slots();
  if (meta.node.level > 31 || slots.empty() || slots.end > config_.slots || meta.losses.size() != slots.size()) {
    return refuse("a piece outside the slots");
  }
  std::uint32_t senders = 0;  // of the node's slots; neighbouring ranges of a worker may fold together
  for (const SlotAssignment& assignment : exchange_.slots) {
    const SlotRange common{std::max(assignment.slots.begin, slots.begin), std::min(assignment.slots.end, slots.end)};
    if (assignment.worker == from) senders += common.size();
  }
  const bool assigned = senders == slots.size();
  if (!assigned && !is_epilogue()) return refuse("a piece of slots that its sender doesn't have");
  // Stored under its node, never added on arrival: what arrives twice counts once.
  if (exchange_.pieces.contains(meta.node)) {
    if (mutated(Mutation::add_twice)) exchange_.repeated.push_back({meta.node, payload, meta.tiles});
    return;
  }
  if (!is_epilogue() && own_shards(false) != meta.tiles)
    return refuse("a piece for other shards, from " + std::to_string(from.value()));
  exchange_.pieces[meta.node] = {meta.node, payload, meta.tiles};
  exchange_.slots_covered += slots.size();
  ++progress_;
  store_losses(meta.losses);
}

void WorkerCore::data(WorkerId from, const Reduced& meta, const PayloadRef& payload) {
  if (meta.attempt != work_.attempt) return refuse("a sum of another attempt");
  for (const TileRange range : meta.tiles) {
    if (range.empty() || range.end > config_.tiles) return refuse("a sum of unknown tiles");
    const bool owned = std::ranges::any_of(exchange_.shards, [&](const ShardAssignment& shard) {
      return shard.owner == from && shard.tiles.begin <= range.begin && range.end <= shard.tiles.end;
    });
    if (!owned) return refuse("a sum of tiles that its sender doesn't own");
  }
  const bool held = std::ranges::all_of(meta.tiles, [this](TileRange range) { return work_.holds_reduced(range); });
  ++progress_;
  store_losses(meta.losses);
  if (held) return;
  work_.mark_reduced(meta.tiles);
  emit(StoreReduced{work_.step, meta.tiles, payload});
}

void WorkerCore::data(WorkerId from, const Gate& meta, const PayloadRef&) {
  if (meta.attempt != work_.attempt) return refuse("a gate of another attempt");
  exchange_.gates[from] = meta;
  ++progress_;
}

void WorkerCore::data(WorkerId from, const Ack& meta, const PayloadRef&) {
  exchange_.acks[from] = meta;
  ++progress_;
}

// ---- state on its way ----

void WorkerCore::data(WorkerId from, const StateRequest& meta, const PayloadRef&) {
  if (meta.tiles.empty() || meta.tiles.end > config_.tiles) return refuse("a request for unknown tiles");
  const bool coming = fetch_stamp_ == meta.stamp || (updating_ && state_ && state_->next() == meta.stamp);
  if (coming) {
    waiting_requests_.emplace_back(from, meta);
  } else {
    serve_state(from, meta);
  }
}

void WorkerCore::serve_waiting_requests() {
  if (waiting_requests_.empty() || fetch_stamp_ || updating_ || !in_view()) return;
  for (const auto& [to, request] : std::exchange(waiting_requests_, {})) serve_state(to, request);
}

void WorkerCore::serve_state(WorkerId to, const StateRequest& request) {
  if (state_ != request.stamp && previous_ != request.stamp) {
    emit(SendSmall{to, view_->view, StateTiles{request.stamp, request.tiles, false}});
    return;
  }
  for (std::uint32_t tile = request.tiles.begin; tile < request.tiles.end; tile += config_.state_chunk_tiles) {
    const std::uint32_t end = std::min(tile + config_.state_chunk_tiles, request.tiles.end);
    emit(SendState{to, view_->view, StateTiles{request.stamp, {tile, end}, true}});
  }
}

void WorkerCore::data(WorkerId from, const StateTiles& meta, const PayloadRef& payload) {
  if (fetch_stamp_ != meta.stamp) {
    if (mutated(Mutation::replace_local_state) && meta.available) emit(StoreState{meta.stamp, meta.tiles, payload});
    return;  // asked for by an earlier plan, or here already
  }
  if (!meta.available) {
    report_evidence(EvidenceKind::fetch_failed, from, "it doesn't hold the state of the step");
    return;
  }
  if (meta.tiles.empty() || meta.tiles.end > config_.tiles) return refuse("state of unknown tiles");
  const auto begin = fetch_handed_.begin() + meta.tiles.begin;
  const auto end = fetch_handed_.begin() + meta.tiles.end;
  if (std::find(begin, end, false) == end) return;  // they arrived before: twice, or in an earlier view
  std::fill(begin, end, true);
  ++progress_;
  emit(StoreState{meta.stamp, meta.tiles, payload});
}

void WorkerCore::handle(const worker_event::StateStored& event) {
  if (event.local) loading_ = false;
  if (!event.ok) {
    if (event.local) {
      checkpoints_.erase(event.stamp);
      damaged_checkpoints_.insert(event.stamp);
    } else if (fetch_stamp_ == event.stamp) {
      std::fill(fetch_handed_.begin() + event.tiles.begin, fetch_handed_.begin() + event.tiles.end, false);
    }
    report_evidence(EvidenceKind::fetch_failed, self(), event.detail);
    return;
  }
  if (event.loss) final_loss_ = *event.loss;
  base_tiles_arrived(event.stamp, event.tiles);
}

void WorkerCore::base_tiles_arrived(Step stamp, TileRange tiles) {
  if (fetch_stamp_ != stamp) return;
  ++progress_;
  std::fill(fetched_.begin() + tiles.begin, fetched_.begin() + tiles.end, true);
  if (std::ranges::find(fetched_, false) != fetched_.end()) return;
  fetch_stamp_.reset();
  drop_states();
  state_ = stamp;
}

}  // namespace planaria

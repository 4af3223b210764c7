// Durable checkpoints, and the end of the job.
#include <algorithm>
#include <chrono>
#include <utility>

#include "proto/evaluation.hpp"
#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

namespace {

constexpr Duration kCheckpointRetryDelay = std::chrono::seconds(2);

}  // namespace

// ---- the end ----

void WorkerCore::pump_done() {
  if (!view_ || !committed_ || *committed_ <= config_.total_steps || done_sent_) return;
  if (!weights_) {
    if (!hashing_weights_) emit(HashWeights{config_.total_steps});
    hashing_weights_ = true;
    return;
  }
  if (checkpoint_pending_ && view_->checkpoint_writer == self()) {
    if (now_ < checkpoint_retry_at_ || !in_view()) return;
    checkpoint_retry_at_ = kFarFuture;
    save_checkpoint(*checkpoint_pending_, final_loss_);
    return;
  }
  if (!in_view()) return;
  // A writer that took over after the last step's commit saves it as well: the result must be durable somewhere.
  if (view_->checkpoint_writer == self() && !checkpoints_.contains(config_.total_steps) &&
      checkpoint_retries_ <= config_.checkpoint_retries) {
    save_checkpoint(config_.total_steps, final_loss_);
    return;
  }
  done_sent_ = true;
  send_control(Done{view_->view, config_.total_steps, *weights_, final_loss_, final_validation_loss_});
  if (mutated(Mutation::exit_before_finished)) {
    stopped_ = true;
    emit(Stop{true, "left before Finished", false});
  }
}

void WorkerCore::handle(const worker_event::WeightsHashed& event) {
  if (event.step == config_.total_steps) weights_ = event.weights;
  hashing_weights_ = false;
}

// ---- checkpoints ----

// The writer has them all: what it doesn't keep itself, it asks from the owners of the shards.
void WorkerCore::save_checkpoint(Step step, std::optional<double> loss) {
  const TileSet own = states_.state(step);
  checkpoint_pending_ = step;
  emit(BeginCheckpoint{step, view_->view, loss, own.runs()});
  collection_ = Collection{step, TileSet(config_.map->tiles_with_state()).without(own)};
  if (collection_->missing.intersects(owned_by(view_->shards, self()))) {
    return abandon_checkpoint("its writer is fetching a part of it");
  }
  for (const ShardAssignment& shard : view_->shards) {
    if (shard.owner == self()) continue;
    for (const TileRange tiles : collection_->missing.common(shard.tiles).runs()) {
      emit(SendSmall{shard.owner, view_->view, StateRequest{step, tiles, false, true}});
    }
  }
  write_whole_checkpoint();
}

void WorkerCore::add_to_checkpoint(const StateTiles& meta, const PayloadRef& payload) {
  if (!collection_ || collection_->step != meta.stamp || meta.parameters_only) return;
  if (meta.tiles.empty() || !collection_->missing.contains(meta.tiles)) return;
  if (!meta.available) return abandon_checkpoint("another worker holds that state no more");
  ++progress_;
  collection_->missing.remove(meta.tiles);
  emit(AddToCheckpoint{meta.stamp, meta.tiles, payload});
  write_whole_checkpoint();
}

void WorkerCore::write_whole_checkpoint() {
  if (!collection_->missing.empty()) return;
  const bool compared = compared_ && compared_->step == collection_->step;
  emit(WriteCheckpoint{collection_->step, compared ? compared_->blocks : std::vector<BlockHash>{}, view_->sharded});
  collection_.reset();
}

void WorkerCore::abandon_checkpoint(const std::string& why) {
  const auto collection = std::exchange(collection_, std::nullopt);
  if (collection) handle(worker_event::CheckpointWritten{collection->step, false, why});
}

void WorkerCore::handle(const worker_event::CheckpointsListed& event) {
  listing_checkpoints_ = false;
  checkpoints_fresh_ = true;
  checkpoints_.clear();
  for (const Step step : event.steps) {
    if (!damaged_checkpoints_.contains(step)) checkpoints_.insert(step);
  }
}

void WorkerCore::handle(const worker_event::CheckpointWritten& event) {
  send_control(CheckpointSaved{event.step, event.ok, event.detail});
  if (event.ok) {
    checkpoints_.insert(event.step);
    damaged_checkpoints_.erase(event.step);
  }
  if (checkpoint_pending_ != event.step) return;
  if (event.ok || event.step != config_.total_steps || ++checkpoint_retries_ > config_.checkpoint_retries) {
    checkpoint_pending_.reset();
  } else {
    checkpoint_retry_at_ = now_ + kCheckpointRetryDelay;  // the last one matters: the result lives in memory only
  }
}

}  // namespace planaria

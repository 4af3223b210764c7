// Micro-batches: which comes next, what becomes of one that is done, and the rehearsal of a joiner.
#include <algorithm>
#include <utility>

#include "proto/block_cost.hpp"
#include "proto/evaluation.hpp"
#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

namespace {

// Micro-batches given to the trainer ahead of its completions: two hide the core's latency, more would delay the
// slots that a recovery puts first.
constexpr std::uint32_t kComputeAhead = 2;
// A rehearsal may come when the others have almost finished: they wait for a part of it, which must be little beside
// what they compute.
constexpr double kRehearsedBeside = 8;

}  // namespace

void WorkerCore::pump_compute() {
  if (!view_ || work_.step == Step(0) || holding() || !exchange_.compute) return;
  while (outstanding_ < kComputeAhead && issue_next()) {
  }
}

// Who joins computes nothing in its first step: once its state is here it gets ready for the stage of the next one.
void WorkerCore::pump_rehearsal() {
  const bool idle = work_.step != Step(0) && !is_epilogue() && exchange_.compute && work_.stages.empty() && !holding();
  const bool others_compute = !work_.begun() && exchange_.pieces.empty() && exchange_.gates.of.empty();
  if (!idle || !others_compute || outstanding_ > 0 || fetch_ || loading_ || storing_ > 0) return;
  if (practised_.contains(own_duty().used)) return;  // spares have nothing to get ready for, at each event
  std::map<WorkerId, double> computes;               // whole micro-batches' time
  double most = 0;
  for (const StageAssignment& stage : exchange_.stages) {
    double& time = computes[stage.worker];
    time +=
        stage.work.slots.size() * config_.micro_batches_per_slot * share_of(config_.block_shares, stage.work.blocks);
    most = std::max(most, time);
  }
  for (const StageAssignment& stage : view_->stages) {
    const TileRange tiles = config_.map->tiles_of(stage.work.blocks);
    if (stage.worker != self() || stage.work.empty() || practised_.contains(tiles)) continue;
    if (most < kRehearsedBeside * share_of(config_.block_shares, stage.work.blocks)) continue;
    practised_.add(tiles);
    ++rehearsing_;
    emit(Rehearse{work_.step, stage.work, own_duty().kept.runs()});
  }
}

void WorkerCore::handle(const worker_event::Rehearsed&) {
  ++progress_;
  if (rehearsing_ > 0) --rehearsing_;
}

// Lost work comes first: the others wait for it. Then what makes room before what takes it.
bool WorkerCore::issue_next() {
  for (const bool recompute : {true, false}) {
    for (const bool backward : {true, false}) {
      for (StepWork::Stage& stage : work_.stages) {
        if (stage.recompute == recompute && (backward ? issue_backward(stage) : issue_forward(stage))) return true;
      }
    }
  }
  return false;
}

bool WorkerCore::issue_forward(StepWork::Stage& stage) {
  const SlotItem item = stage.forward;
  if (item.slot >= stage.work.slots.end || !can_compute(stage)) return false;
  const bool training = work_.items.is_training(item);
  const bool at_head = holds_head(stage.work.blocks);
  if (training && !at_head && stage.in_flight >= stage.depth) return false;
  PayloadRef input;
  if (stage.work.blocks.begin != 0) {
    auto from_below = take_input({BoundaryKind::activation, stage.work.blocks.begin, item});
    if (!from_below) return false;
    input = std::move(*from_below);
  }
  stage.forward = work_.items.next(item, stage.work.slots.end, false);
  const bool both = training && at_head;
  if (both) {
    stage.backward = work_.items.next(item, stage.work.slots.end, true);
  } else if (training) {
    ++stage.in_flight;
  }
  issue(stage, item, both ? Pass::both : Pass::forward, std::move(input));
  return true;
}

bool WorkerCore::issue_backward(StepWork::Stage& stage) {
  const SlotItem item = stage.backward;
  if (holds_head(stage.work.blocks) || item >= stage.forward || item.slot >= stage.work.slots.end) return false;
  auto from_above = take_input({BoundaryKind::gradient, stage.work.blocks.end, item});
  if (!from_above) return false;
  stage.backward = work_.items.next(item, stage.work.slots.end, true);
  --stage.in_flight;
  issue(stage, item, Pass::backward, std::move(*from_above));
  return true;
}

void WorkerCore::issue(const StepWork::Stage& stage, SlotItem item, Pass pass, PayloadRef input) {
  ++work_.micro_batches_issued;
  ++outstanding_;
  emit(ComputeMicroBatch{work_.step, work_.attempt, stage.work, item, pass, stage.recompute, stage.waiting,
                         std::move(input)});
  if (pass == Pass::forward && !holds_head(stage.work.blocks)) {
    offer({BoundaryKind::activation, stage.work.blocks.end, item});
  }
  if (pass != Pass::forward && stage.work.blocks.begin != 0) {
    offer({BoundaryKind::gradient, stage.work.blocks.begin, item});
  }
}

void WorkerCore::handle(const worker_event::MicroBatchDone& event) {
  if (outstanding_ > 0) --outstanding_;
  ++progress_;
  compute_rate_.computed(event.took, event.at_quota,
                         event.pass == Pass::forward ? 0 : share_of(config_.block_shares, event.blocks));
  block_times_.computed(event.blocks, event.block_took);
  practised_.add(config_.map->tiles_of(event.blocks));
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  const auto stage = std::ranges::find_if(work_.stages, [&](const StepWork::Stage& s) {
    return s.work.blocks == event.blocks && s.work.slots.contains(event.item.slot);
  });
  if (stage == work_.stages.end()) return;
  // Items end in order; one that was issued for an earlier view of the epilogue may come a second time.
  const auto ends = [&](SlotItem& next, bool backward) {
    if (next != event.item) return false;
    next = work_.items.next(event.item, stage->work.slots.end, backward);
    return true;
  };
  const bool forward = event.pass != Pass::backward && ends(stage->forward_end, false);
  const bool backward =
      event.pass != Pass::forward && work_.items.is_training(event.item) && ends(stage->backward_end, true);
  if (!forward && !backward) return;
  if (event.pass == Pass::both) ++work_.micro_batches_computed;
  if (!event.finite) work_.nonfinite[event.item.slot] = true;
  if (stage->recompute && view_ && !recompute_) {
    recompute_ = RecomputeNotice{view_->view, work_.step, now_ - event.elapsed, std::nullopt};
    send_control(*recompute_);
  }
  finish_slots(*stage, event.loss);
  const bool all_recomputed =
      std::ranges::all_of(work_.stages, [](const auto& s) { return !s.recompute || s.computed(); });
  if (stage->recompute && recompute_ && !recompute_->last_slot_done && all_recomputed) {
    recompute_->last_slot_done = now_;
    send_control(*recompute_);
  }
}

// Takes slots off the list whose items have all ended; in the epilogue many have none.
void WorkerCore::finish_slots(StepWork::Stage& stage, const std::optional<SlotLoss>& newest) {
  const std::uint32_t reached = std::min(stage.forward_end.slot, stage.backward_end.slot);
  while (stage.work.slots.begin + stage.done < reached) {
    const SlotIndex slot(stage.work.slots.begin + stage.done);
    if (holds_head(stage.work.blocks)) {
      work_.losses[slot.value()] = newest && newest->slot == slot ? *newest : SlotLoss{.slot = slot};
    }
    fold_finished_slot(stage, slot);
  }
}

// Adds the last nodes of a run while they are the two children of one.
void WorkerCore::fold_siblings(std::vector<TreeNode>& nodes, std::vector<TreeAddition>& additions) const {
  while (nodes.size() >= 2) {
    const TreeNode left = nodes[nodes.size() - 2];
    const TreeNode right = nodes.back();
    if (left.sibling() != right || left.index > right.index) break;
    if (mutated(Mutation::fold_out_of_order)) {
      additions.push_back({right, left, left.parent()});
    } else {
      additions.push_back({left, right, left.parent()});
    }
    nodes.pop_back();
    nodes.back() = left.parent();
  }
}

void WorkerCore::fold_finished_slot(StepWork::Stage& stage, SlotIndex slot) {
  ++stage.done;
  if (is_epilogue()) return;
  stage.nodes.push_back({0, slot.value()});
  FoldNodes fold{work_.step, stage.work.blocks, {}};
  fold_siblings(stage.nodes, fold.additions);
  if (!fold.additions.empty()) emit(std::move(fold));
}

}  // namespace planaria

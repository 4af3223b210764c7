#include "worker/core/step_work.hpp"

#include <algorithm>

namespace planaria {

void StepWork::reset(Step to, std::uint32_t to_attempt, const StepItems& of_step, std::uint32_t tiles) {
  *this = StepWork{};
  step = to;
  attempt = to_attempt;
  items = of_step;
  losses.resize(items.slots);
  nonfinite.assign(items.slots, false);
  reduced.assign(tiles, false);
}

StepWork::Stage StepWork::new_stage(const StageAssignment& assignment) const {
  Stage stage;
  stage.work = assignment.work;
  stage.recompute = assignment.recompute;
  stage.forward = stage.forward_end = items.first(stage.work.slots, false);
  stage.backward = stage.backward_end = items.first(stage.work.slots, true);
  return stage;
}

bool StepWork::begun() const {
  return micro_batches_issued > 0 || std::ranges::find(reduced, true) != reduced.end();
}

bool StepWork::computed() const {
  return std::ranges::all_of(stages, &Stage::computed);
}

bool StepWork::losses_complete() const {
  return std::ranges::all_of(losses, [](const auto& loss) { return loss.has_value(); });
}

bool StepWork::gradient_complete() const {
  return std::ranges::find(reduced, false) == reduced.end();
}

bool StepWork::holds_reduced(TileRange tiles) const {
  return std::ranges::all_of(reduced.begin() + tiles.begin, reduced.begin() + tiles.end, std::identity{});
}

std::vector<TileRange> StepWork::reduced_ranges() const {
  std::vector<TileRange> ranges_held;
  for (std::uint32_t tile = 0; tile < reduced.size(); ++tile) {
    if (!reduced[tile]) continue;
    if (!ranges_held.empty() && ranges_held.back().end == tile) {
      ++ranges_held.back().end;
    } else {
      ranges_held.push_back({tile, tile + 1});
    }
  }
  return ranges_held;
}

std::vector<SlotRange> StepWork::nonfinite_slots(SlotRange among) const {
  std::vector<SlotRange> slots;
  for (std::uint32_t slot = among.begin; slot < among.end; ++slot) {
    if (!nonfinite[slot]) continue;
    if (!slots.empty() && slots.back().end == slot) {
      ++slots.back().end;
    } else {
      slots.push_back({slot, slot + 1});
    }
  }
  return slots;
}

void StepWork::mark_nonfinite(const std::vector<SlotRange>& slots) {
  for (const SlotRange range : slots) {
    if (range.end <= nonfinite.size()) std::fill(nonfinite.begin() + range.begin, nonfinite.begin() + range.end, true);
  }
}

void StepWork::mark_reduced(const std::vector<TileRange>& tiles) {
  for (const TileRange range : tiles) std::fill(reduced.begin() + range.begin, reduced.begin() + range.end, true);
}

}  // namespace planaria

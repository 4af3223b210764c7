#include "worker/core/step_work.hpp"

#include <algorithm>
#include <span>

#include "common/hash.hpp"

namespace planaria {

void StepWork::reset(Step to, std::uint32_t to_attempt, const StepItems& of_step, std::uint32_t tiles) {
  *this = StepWork{};
  step = to;
  attempt = to_attempt;
  items = of_step;
  losses.resize(items.slots);
  nonfinite.assign(items.slots, false);
  skipped = false;
  sums.assign(tiles, 0.0);
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
  return micro_batches_issued > 0 || !reduced.empty();
}

bool StepWork::computed() const {
  return std::ranges::all_of(stages, &Stage::computed);
}

bool StepWork::losses_complete() const {
  return std::ranges::all_of(losses, [](const auto& loss) { return loss.has_value(); });
}

std::vector<SlotLoss> StepWork::known_losses() const {
  std::vector<SlotLoss> known;
  if (!losses_complete()) return known;
  for (const auto& loss : losses) known.push_back(*loss);
  return known;
}

std::vector<SlotRange> StepWork::nonfinite_slots(SlotRange among) const {
  std::vector<SlotRange> slots;
  const std::uint32_t end = std::min(among.end, static_cast<std::uint32_t>(nonfinite.size()));
  for (std::uint32_t slot = among.begin; slot < end; ++slot) {
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
    if (range.begin <= range.end && range.end <= nonfinite.size())
      std::fill(nonfinite.begin() + range.begin, nonfinite.begin() + range.end, true);
  }
}

Hash128 StepWork::hash_of_sums(const TileSet& tiles) const {
  Hasher hasher;
  for (const TileRange run : tiles.runs()) {
    hasher.update(std::as_bytes(std::span(sums).subspan(run.begin, run.end - run.begin)));
  }
  return hasher.digest();
}

}  // namespace planaria

#include "worker/core/step_work.hpp"

#include <algorithm>

namespace planaria {

void StepWork::reset(Step to, std::uint32_t to_attempt, std::uint32_t slots, std::uint32_t tiles) {
  *this = StepWork{};
  step = to;
  attempt = to_attempt;
  losses.resize(slots);
  reduced.assign(tiles, false);
}

bool StepWork::begun() const {
  return micro_batches_issued > 0 || std::ranges::find(reduced, true) != reduced.end();
}

bool StepWork::computed() const {
  return std::ranges::all_of(ranges, [](const Range& range) { return range.done == range.slots.size(); });
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

std::vector<SlotRange> StepWork::nonfinite_slots() const {
  std::vector<SlotRange> slots;
  for (std::uint32_t slot = 0; slot < losses.size(); ++slot) {
    if (!losses[slot] || losses[slot]->finite) continue;
    if (!slots.empty() && slots.back().end == slot) {
      ++slots.back().end;
    } else {
      slots.push_back({slot, slot + 1});
    }
  }
  return slots;
}

void StepWork::mark_reduced(const std::vector<TileRange>& tiles) {
  for (const TileRange range : tiles) std::fill(reduced.begin() + range.begin, reduced.begin() + range.end, true);
}

}  // namespace planaria

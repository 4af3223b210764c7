#include "worker/model/update.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "worker/model/schedule.hpp"

namespace planaria {
namespace {

// The tied tensor of the head, or null.
const TensorInfo* tied_tensor(const StateMap& map) {
  const auto& tensors = map.blocks().back().tensors;
  const auto found = std::ranges::find_if(tensors, &TensorInfo::tied);
  return found == tensors.end() ? nullptr : &*found;
}

}  // namespace

double tree_sum(std::span<const double> slots) {
  assert(std::has_single_bit(slots.size()));
  if (slots.size() == 1) return slots.front();
  const std::size_t half = slots.size() / 2;
  return tree_sum(slots.first(half)) + tree_sum(slots.last(half));
}

void add_tied_gradient(Device& device, const StateMap& map, float* gradient) {
  const TensorInfo* tied = tied_tensor(map);
  if (tied == nullptr) return;
  float* embedding = gradient + map.blocks().front().tensor("token.weight").offset;
  device.add(tied->elements(), embedding, gradient + map.blocks().back().offset + tied->offset, embedding);
}

void after_update(Device& device, const StateMap& map, float* parameters) {
  const TensorInfo* tied = tied_tensor(map);
  if (tied == nullptr) return;
  device.copy(parameters + map.blocks().back().offset + tied->offset,
              parameters + map.blocks().front().tensor("token.weight").offset, tied->elements() * sizeof(float));
}

void tile_sums(Device& device, const StateMap& map, TileRange range, const float* gradient, double* sums) {
  std::uint32_t plain_end = range.begin;
  while (plain_end < range.end && !map.is_tied(TileIndex(plain_end))) ++plain_end;
  std::fill(sums + (plain_end - range.begin), sums + (range.end - range.begin), 0.0);
  if (plain_end == range.begin) return;
  assert(map.block_of(TileIndex(range.begin)) == map.block_of(TileIndex(plain_end - 1)));
  const std::uint64_t count = map.tile(TileIndex(plain_end - 1)).end - map.tile(TileIndex(range.begin)).begin;
  device.tile_sums_of_squares(map.tile_elements(), count, gradient, sums);
}

double sum_of_tiles(const StateMap& map, std::span<const double> sums) {
  assert(sums.size() == map.tile_count());
  double total = 0.0;
  for (std::uint32_t tile = 0; tile < sums.size(); ++tile) {
    if (!map.is_tied(TileIndex(tile))) total += sums[tile];
  }
  return total;
}

ClipDecision clip_decision(double sum_of_squares, std::uint64_t tokens, double clip_norm) {
  const double inverse = 1.0 / static_cast<double>(tokens);
  ClipDecision decision;
  decision.norm = std::sqrt(sum_of_squares) * inverse;
  decision.finite = std::isfinite(decision.norm);
  if (!decision.finite) return decision;
  const bool clips = clip_norm > 0.0 && decision.norm > clip_norm;
  decision.scale = static_cast<float>(clips ? inverse * (clip_norm / decision.norm) : inverse);
  return decision;
}

AdamwStep adamw_step(const OptimizerSpec& optimizer, std::uint64_t total_steps, Step step, float scale) {
  return {.learning_rate = static_cast<float>(learning_rate(optimizer, total_steps, step)),
          .beta1 = static_cast<float>(optimizer.beta1),
          .beta2 = static_cast<float>(optimizer.beta2),
          .epsilon = static_cast<float>(optimizer.epsilon),
          .weight_decay = static_cast<float>(optimizer.weight_decay),
          .bias_correction1 = static_cast<float>(bias_correction(optimizer.beta1, step)),
          .bias_correction2 = static_cast<float>(bias_correction(optimizer.beta2, step)),
          .gradient_scale = scale};
}

std::vector<UpdateRange> update_ranges(const StateMap& map, TileRange range) {
  std::vector<UpdateRange> ranges;
  const auto append = [&](std::uint64_t begin, std::uint64_t end, bool decays) {
    if (begin >= end) return;
    if (!ranges.empty() && ranges.back().end == begin && ranges.back().decays == decays) {
      ranges.back().end = end;
    } else {
      ranges.push_back({begin, end, decays});
    }
  };
  for (std::uint32_t index = range.begin; index < range.end; ++index) {
    const TileIndex tile(index);
    if (map.is_tied(tile)) continue;
    const ElementRange elements = map.tile(tile);
    const BlockInfo& block = map.block(map.block_of(tile));
    std::uint64_t at = elements.begin;
    for (const TensorInfo& tensor : block.tensors) {
      const std::uint64_t first = block.offset + tensor.offset;
      const std::uint64_t begin = std::clamp(first, at, elements.end);
      const std::uint64_t end = std::clamp(first + tensor.elements(), at, elements.end);
      append(at, begin, false);
      append(begin, end, tensor.decays);
      at = std::max(at, end);
    }
    append(at, elements.end, false);
  }
  return ranges;
}

}  // namespace planaria

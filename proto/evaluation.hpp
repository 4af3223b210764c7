// Which steps evaluate, which validation micro-batches ride on which slot, and how slot losses become one loss: pure
// in the step and the slot, so that the reported numbers don't depend on the layout.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/ids.hpp"
#include "proto/data_message.hpp"
#include "proto/layout.hpp"

namespace planaria {

// Step s evaluates the parameters of step s-1 when s-1 is a multiple of `every`; the epilogue step total+1 always does.
[[nodiscard]] constexpr bool evaluates(Step step, std::uint32_t every, Step total) {
  if (step > total) return true;
  return every != 0 && step.value() > 1 && (step.value() - 1) % every == 0;
}

// The validation micro-batches [begin, end) of `batches` that ride on a slot: spread evenly.
[[nodiscard]] constexpr SlotRange evaluation_batches_of(SlotIndex slot, std::uint32_t slots, std::uint32_t batches) {
  const auto at = [&](std::uint64_t index) { return static_cast<std::uint32_t>(index * batches / slots); };
  return {at(slot.value()), at(std::uint64_t{slot.value()} + 1)};
}

// The micro-batches of a step, slot by slot: what stages work through, in this order.
struct StepItems {
  std::uint32_t slots = 1;
  std::uint32_t micro_batches = 1;  // of a slot
  bool trains = true;               // else it is the epilogue, which only evaluates
  std::uint32_t evaluated = 0;      // validation micro-batches of the step

  [[nodiscard]] bool is_training(SlotItem item) const { return item.position < micro_batches; }
  [[nodiscard]] bool has(SlotItem item, bool backward) const {
    return item.slot < slots && item.position >= first_position() && first({item.slot, slots}, backward).slot < slots &&
           item.position < positions(item.slot, backward);
  }
  // The first item of `slots` for a forward pass (all items) or a backward pass (training ones); its slot is the end
  // of the range when there is none.
  [[nodiscard]] SlotItem first(SlotRange range, bool backward) const {
    return settle({range.begin, first_position()}, range.end, backward);
  }
  [[nodiscard]] SlotItem next(SlotItem item, std::uint32_t end, bool backward) const {
    return settle({item.slot, item.position + 1}, end, backward);
  }

 private:
  [[nodiscard]] std::uint32_t first_position() const { return trains ? 0 : micro_batches; }
  [[nodiscard]] std::uint32_t positions(std::uint32_t slot, bool backward) const {
    return micro_batches + (backward ? 0 : evaluation_batches_of(SlotIndex(slot), slots, evaluated).size());
  }
  [[nodiscard]] SlotItem settle(SlotItem item, std::uint32_t end, bool backward) const {
    while (item.slot < end && item.position >= positions(item.slot, backward)) item = {item.slot + 1, first_position()};
    if (item.slot >= end) item = {end, 0};
    return item;
  }
};

// Adds the slots' losses along the canonical tree, in double. Precondition: all are there, a power of two of them.
inline void fold_losses(const std::vector<std::optional<SlotLoss>>& losses, double& train, double& validation) {
  std::vector<SlotLoss> level;
  level.reserve(losses.size());
  for (const auto& loss : losses) level.push_back(*loss);
  for (std::size_t size = level.size(); size > 1; size /= 2) {
    for (std::size_t i = 0; i < size / 2; ++i) {
      level[i].train = level[2 * i].train + level[2 * i + 1].train;
      level[i].validation = level[2 * i].validation + level[2 * i + 1].validation;
    }
  }
  train = level.empty() ? 0 : level[0].train;
  validation = level.empty() ? 0 : level[0].validation;
}

}  // namespace planaria

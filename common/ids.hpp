// Strong identifiers: values that name different things don't convert into each other.
//
// Thread contract: plain values.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>

namespace planaria {

template <class Tag, class Rep>
class StrongId {
 public:
  using Representation = Rep;

  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}

  [[nodiscard]] constexpr Rep value() const { return value_; }
  constexpr auto operator<=>(const StrongId&) const = default;

  // The successor; ids of this kind count steps, views and the like.
  [[nodiscard]] constexpr StrongId next() const { return StrongId(static_cast<Rep>(value_ + 1)); }
  [[nodiscard]] constexpr StrongId previous() const { return StrongId(static_cast<Rep>(value_ - 1)); }

  friend std::ostream& operator<<(std::ostream& out, StrongId id) { return out << +id.value_; }

 private:
  Rep value_{};
};

using WorkerId = StrongId<struct WorkerIdTag, std::uint32_t>;        // order of first start, never reused
using Incarnation = StrongId<struct IncarnationTag, std::uint32_t>;  // a worker's start, thaw or rejoin, from 1
using ViewNumber = StrongId<struct ViewNumberTag, std::uint64_t>;    // 0 = no view yet
using Generation = StrongId<struct GenerationTag, std::uint64_t>;    // a coordinator's start, durable, from 1
using Step = StrongId<struct StepTag, std::uint64_t>;                // optimizer updates, from 1; 0 = initial state
using BlockIndex = StrongId<struct BlockIndexTag, std::uint32_t>;    // embed = 0, layer.i = i + 1, head = last
using SlotIndex = StrongId<struct SlotIndexTag, std::uint32_t>;      // 0 … V-1
using MicroBatchIndex = StrongId<struct MicroBatchTag, std::uint32_t>;  // 0 … M-1 within a step
using TileIndex = StrongId<struct TileIndexTag, std::uint32_t>;      // over all blocks in order (proto/state_map.hpp)

}  // namespace planaria

template <class Tag, class Rep>
struct std::hash<planaria::StrongId<Tag, Rep>> {
  std::size_t operator()(planaria::StrongId<Tag, Rep> id) const noexcept { return std::hash<Rep>{}(id.value()); }
};

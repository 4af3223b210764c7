// Where the values of tiles lie in a flat vector, and payloads of such values as the data plane carries them
// (proto/data_message.hpp).
//
// Thread contract: pure functions and values.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "common/transport/transport.hpp"
#include "proto/data_message.hpp"
#include "proto/state_map.hpp"
#include "worker/core/events.hpp"

namespace planaria {

// The elements of `tiles` in order, as few runs as possible (padding between blocks breaks a run).
[[nodiscard]] std::vector<ElementRange> element_runs(const StateMap& map, std::span<const TileRange> tiles);
// The same with tied copies read from the embedding, whoever holds that.
[[nodiscard]] std::vector<ElementRange> original_runs(const StateMap& map, std::span<const TileRange> tiles);

[[nodiscard]] std::size_t total_elements(std::span<const ElementRange> runs);

// A received payload; the values lie in the transport's buffer.
struct FramePayload final : Payload {
  MutableSlice frame;
  std::span<const float> values;
};

// The values of a payload that arrived in a frame; none of any other.
[[nodiscard]] std::span<const float> payload_values(const PayloadRef& payload);

struct DataFrame {
  DataMeta meta;
  std::shared_ptr<const FramePayload> payload;  // null when the message carries no values
};

// Reads a frame's payload; corrupt unless meta, tiles and the number of values fit together and the model.
[[nodiscard]] Result<DataFrame> read_data_frame(const StateMap& map, std::size_t boundary_elements, MutableSlice frame);

// A flat vector and what keeps its values as they are.
struct ValueSource {
  const float* vector = nullptr;
  std::shared_ptr<const void> owner;
};
// A message's values: `vectors` (one for gradients; master and both moments for state), each by `runs`.
[[nodiscard]] std::vector<ConstSlice> value_slices(std::span<const ElementRange> runs,
                                                   std::span<const ValueSource> vectors);
// The message's head, then its values.
[[nodiscard]] std::vector<ConstSlice> data_slices(const DataMeta& meta, std::vector<ConstSlice> values = {});

}  // namespace planaria

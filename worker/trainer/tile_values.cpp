#include "worker/trainer/tile_values.hpp"

#include <utility>

namespace planaria {

namespace {

template <class Elements>
void append_runs(TileRange tiles, std::vector<ElementRange>& runs, Elements&& elements_of) {
  for (std::uint32_t i = tiles.begin; i < tiles.end; ++i) {
    const ElementRange elements = elements_of(i);
    if (!runs.empty() && runs.back().end == elements.begin) {
      runs.back().end = elements.end;
    } else {
      runs.push_back(elements);
    }
  }
}

bool fits(const StateMap& map, TileRange tiles) {
  return tiles.begin <= tiles.end && tiles.end <= map.tile_count();
}

Result<std::size_t> expected_values(const StateMap& map, std::size_t boundary_elements, const DataMeta& meta) {
  const auto bad = [] { return Error(ErrorCode::corrupt, "a data message names tiles that the model doesn't have"); };
  const auto values_of = [&](const std::vector<TileRange>& tiles) -> Result<std::size_t> {
    std::size_t count = 0;
    for (const TileRange& range : tiles) {
      if (!fits(map, range)) return bad();
      count += map.bytes(range) / sizeof(float);
    }
    return count;
  };
  if (const auto* piece = std::get_if<Piece>(&meta)) return values_of(piece->tiles);
  if (const auto* reduced = std::get_if<Reduced>(&meta)) return values_of(reduced->tiles);
  if (const auto* parameters = std::get_if<Parameters>(&meta)) return values_of(parameters->tiles);
  if (const auto* request = std::get_if<StateRequest>(&meta)) {
    if (!fits(map, request->tiles)) return bad();
  }
  if (const auto* state = std::get_if<StateTiles>(&meta)) {
    if (!fits(map, state->tiles)) return bad();
    if (state->available)
      return (state->parameters_only ? 1 : kTensorsOfState) * (map.bytes(state->tiles) / sizeof(float));
  }
  const auto of_fragment = [](const FragmentPart& part) -> Result<std::size_t> {
    if (part.bytes % sizeof(float) == 0) return part.bytes / sizeof(float);
    return Error(ErrorCode::corrupt, "a part of a fragment that ends inside a value");
  };
  if (const auto* data = std::get_if<FragmentData>(&meta)) return of_fragment(data->part);
  if (const auto* reply = std::get_if<FragmentReply>(&meta); reply != nullptr && reply->available) {
    return of_fragment(reply->part);
  }
  return std::holds_alternative<Boundary>(meta) ? boundary_elements : std::size_t{0};
}

}  // namespace

std::vector<ElementRange> element_runs(const StateMap& map, std::span<const TileRange> tiles) {
  std::vector<ElementRange> runs;
  for (const TileRange& range : tiles) {
    append_runs(range, runs, [&](std::uint32_t tile) { return map.tile(TileIndex(tile)); });
  }
  return runs;
}

std::vector<ElementRange> original_runs(const StateMap& map, std::span<const TileRange> tiles) {
  std::vector<ElementRange> runs;
  for (const TileRange& range : tiles) {
    append_runs(range, runs, [&](std::uint32_t tile) {
      const ElementRange own = map.tile(TileIndex(tile));
      if (!map.is_tied(TileIndex(tile))) return own;
      const std::uint64_t first = map.tile(TileIndex(map.originals_of({tile, tile + 1}).begin)).begin;
      return ElementRange{first, first + own.size()};
    });
  }
  return runs;
}

std::size_t total_elements(std::span<const ElementRange> runs) {
  std::size_t count = 0;
  for (const ElementRange& run : runs) count += run.size();
  return count;
}

std::span<const float> payload_values(const PayloadRef& payload) {
  const auto* frame = dynamic_cast<const FramePayload*>(payload.get());
  return frame == nullptr ? std::span<const float>{} : frame->values;
}

Result<DataFrame> read_data_frame(const StateMap& map, std::size_t boundary_elements, MutableSlice frame) {
  PLANARIA_ASSIGN(DataHead head, decode_data_head(frame.bytes));
  PLANARIA_ASSIGN(const std::size_t expected, expected_values(map, boundary_elements, head.meta));
  if (head.values_offset > frame.bytes.size() || frame.bytes.size() - head.values_offset != expected * sizeof(float)) {
    return Error(ErrorCode::corrupt, "a data message of " + std::to_string(frame.bytes.size()) + " bytes should hold " +
                                         std::to_string(expected) + " values");
  }
  DataFrame read{std::move(head.meta), nullptr};
  if (expected == 0) return read;
  const std::byte* values = frame.bytes.data() + head.values_offset;
  if (reinterpret_cast<std::uintptr_t>(values) % alignof(float) != 0) {
    return Error(ErrorCode::internal, "the transport delivered a frame that is not aligned for floats");
  }
  auto payload = std::make_shared<FramePayload>();
  payload->values = {reinterpret_cast<const float*>(values), expected};
  payload->frame = std::move(frame);
  read.payload = std::move(payload);
  return read;
}

std::vector<ConstSlice> value_slices(std::span<const ElementRange> runs, std::span<const ValueSource> vectors) {
  std::vector<ConstSlice> values;
  values.reserve(1 + runs.size() * vectors.size());
  for (const ValueSource& source : vectors) {
    for (const ElementRange& run : runs) {
      values.push_back({std::as_bytes(std::span(source.vector + run.begin, run.size())), source.owner});
    }
  }
  return values;
}

std::vector<ConstSlice> data_slices(const DataMeta& meta, std::vector<ConstSlice> values) {
  auto head = std::make_shared<const std::vector<std::byte>>(encode_data_head(meta));
  values.insert(values.begin(), {std::span(*head), head});
  return values;
}

}  // namespace planaria

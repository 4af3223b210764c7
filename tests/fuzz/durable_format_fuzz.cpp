// A keeper's index and its segments may hold anything; what is accepted is what we would have written, and fits the
// model.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "common/codec.hpp"
#include "storage/durable_format.hpp"
#include "tests/small_model.hpp"

namespace {

using namespace planaria;

void check(bool holds) {
  if (!holds) std::abort();
}

void check_head(std::span<const std::uint8_t> bytes) {
  const auto head = parse_segment_head(std::as_bytes(bytes));
  if (head) check(std::ranges::equal(render(*head), std::as_bytes(bytes.first(kSegmentHeadBytes))));
}

// The first byte is the length of the part's record; a segment's follows.
void check_records(std::span<const std::uint8_t> bytes) {
  static const StateMap map(small_model(), 128);
  if (bytes.empty() || bytes[0] >= bytes.size()) return;
  const auto part = decode<DurablePart>(bytes.subspan(1, bytes[0]));
  const auto segment = decode<DurableSegment>(bytes.subspan(1 + bytes[0]));
  if (!part || !segment) return;
  const auto tiles = check_part(map, *part, std::span(&*segment, 1));
  if (!tiles) return;
  check(TileSet(map.tiles_with_state()).contains(*tiles) && tiles->size() == segment->hashes.size());
  check(segment->bytes == kSegmentHeadBytes + kTensorsOfState * bytes_of(map, *tiles));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto key = parse_durable_key(text)) check(render(*key) == text);
  check_head({data, size});
  check_records({data, size});
  static_cast<void>(decode<DurableOwner>({data, size}));
  return 0;
}

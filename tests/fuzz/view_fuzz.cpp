// Views as packed by anyone, alone (first byte even) or as a change of a small view. What unpacks is packed again to
// what unpacks to the same.
#include <cstdint>
#include <cstdlib>

#include "proto/view_packing.hpp"

namespace {

using namespace planaria;

const ViewRecord& small_view() {
  static const ViewRecord view = [] {
    ViewRecord record;
    record.view = ViewNumber(1);
    for (std::uint32_t i = 0; i < 3; ++i) {
      record.members.push_back({WorkerId(i), Incarnation(1), "host", ByteVector(8, 7)});
      record.stages.push_back({WorkerId(i), {{0, 4}, {i * 8, i * 8 + 8}}, false});
      record.shards.push_back({WorkerId(i), {i * 10, i * 10 + 10}, false});
    }
    return record;
  }();
  return view;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bool alone = data[0] % 2 == 0;
  const PackedView packed{ViewNumber(2), ViewNumber(alone ? 0 : 1), ByteVector(data + 1, data + size)};
  const auto record = unpack_view(packed, alone ? nullptr : &small_view());
  if (!record) return 0;
  const auto again = unpack_view(pack_view(*record, &small_view()), &small_view());
  if (!again || encode(*again) != encode(*record)) std::abort();
  return 0;
}

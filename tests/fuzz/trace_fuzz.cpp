// Traces of capacity from anyone. What is read is written as what is read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "chaos/fleet/capacity_trace.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria::fleet;
  const auto trace = parse_trace({reinterpret_cast<const char*>(data), size}, "trace.csv");
  if (!trace) return 0;
  const auto again = parse_trace(trace_to_csv(*trace), "trace.csv");
  if (!again || again->events.size() != trace->events.size()) std::abort();
  return 0;
}

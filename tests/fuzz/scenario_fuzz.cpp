// A scenario file may hold anything; one that is accepted comes back the same from its own text.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "chaos/faults/scenario.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto scenario = parse_scenario(text, "fuzz");
  if (!scenario) return 0;
  const std::string written = scenario_to_toml(*scenario);
  const auto again = parse_scenario(written, "again");
  if (!again || scenario_to_toml(*again) != written) std::abort();
  return 0;
}

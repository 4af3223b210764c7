// A manifest may hold anything; one that is accepted is, byte for byte, what we would have written.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "storage/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto manifest = parse_manifest(text);
  if (manifest && render(*manifest) != text) std::abort();
  return 0;
}

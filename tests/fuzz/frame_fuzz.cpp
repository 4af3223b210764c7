// A data-plane header from anyone: what decodes is, byte for byte, what we would have sent. The header carries a check
// that random bytes never pass, so each input is tried as it is and as a header's changed bytes.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "common/transport/frame.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const auto input = std::as_bytes(std::span(data, size));
  if (const auto header = decode_wire_header(input); header && !std::ranges::equal(encode_wire_header(*header), input)) {
    std::abort();
  }
  WireHeaderBytes changed = encode_wire_header({});
  for (std::size_t i = 0; i < std::min(size, changed.size()); ++i) changed[i] ^= input[i];
  if (const auto header = decode_wire_header(changed); header && encode_wire_header(*header) != changed) std::abort();
  return 0;
}

// A config.json may hold anything; a model that is accepted survives being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/codec.hpp"
#include "storage/export.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const auto model = parse_hugging_face_config(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!model) return 0;
  const auto again = parse_hugging_face_config(hugging_face_config(*model));
  if (!again || encode(*again) != encode(*model)) std::abort();
  return 0;
}

// A tensor file may hold anything; in one that is accepted every byte of the data belongs to exactly one tensor.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "storage/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const FileView mapped(nullptr, std::as_bytes(std::span(data, size)));
  const auto file = SafetensorsFile::parse(mapped, "fuzz");
  if (!file) return 0;
  std::uint64_t used = file->header().data_offset;
  for (const TensorEntry& entry : file->header().tensors) {
    const auto bytes = file->bytes(entry);
    used += bytes.size();
    std::vector<float> values(entry.elements());
    static_cast<void>(file->copy_floats(entry.name, entry.shape, values));
  }
  if (used != size) std::abort();
  return 0;
}

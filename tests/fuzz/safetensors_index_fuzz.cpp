// An index may hold anything; one that is accepted names each tensor once, in files that lie beside it.
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "storage/safetensors_index.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const auto index = parse_safetensors_index(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!index) return 0;
  if (index->empty() || index->size() > kMaxShards) std::abort();
  std::set<std::string> seen;
  for (const auto& [file, tensors] : *index) {
    if (file.empty() || file.find('/') != std::string::npos || file == "..") std::abort();
    for (const std::string& tensor : tensors) {
      if (!seen.insert(tensor).second) std::abort();
    }
  }
  return 0;
}

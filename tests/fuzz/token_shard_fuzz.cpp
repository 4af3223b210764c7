// A token shard may hold anything: the tokens found lie within the file.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "worker/data/token_shard.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const auto file = std::as_bytes(std::span(data, size));
  const auto tokens = shard_tokens(file, "fuzz");
  if (!tokens || tokens->empty()) return 0;
  if (tokens->data() < file.data() || tokens->data() + tokens->size() > file.data() + file.size()) std::abort();
  return 0;
}

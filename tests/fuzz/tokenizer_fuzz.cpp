// A tokenizer.json may hold anything. One that is accepted tokenizes any bytes, and what it can write it can read.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "worker/data/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = parse_bpe_tokenizer(text, "fuzz");
  if (!tokenizer) return 0;
  for (const TokenId token : (*tokenizer)->encode(text)) {
    if (token >= (*tokenizer)->vocabulary()) std::abort();
  }
  return 0;
}

// Choices of matrix products from anyone: as they are, and with the hash that lets them in. What decodes is canonical.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "common/codec.hpp"
#include "common/hash.hpp"
#include "kernels/cuda/matmul_choices.hpp"

namespace {

void check(std::span<const std::byte> bytes) {
  const auto choices = planaria::cuda::decode_choices(bytes);
  if (!choices) return;
  const auto again = planaria::cuda::encode_choices(*choices);
  if (!again || !std::ranges::equal(*again, bytes)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  check(bytes);
  const planaria::ByteVector hash = planaria::encode(planaria::hash_bytes(bytes));
  std::vector<std::byte> sealed(bytes.begin(), bytes.end());
  for (const std::uint8_t byte : hash) sealed.push_back(std::byte{byte});
  check(sealed);
  return 0;
}

#include "kernels/cuda/matmul_choices.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "common/codec.hpp"
#include "common/hash.hpp"

namespace planaria::cuda {
namespace {

constexpr std::uint32_t kMagic = 0x4d4d4c50;  // "PLMM"

struct Head {
  std::uint32_t magic = kMagic;
  std::uint32_t format = kMatmulChoicesFormat;

  template <class Visitor>
  void fields(Visitor& visit) {
    visit(magic, format);
  }
};
constexpr std::size_t kHeadBytes = 8;
constexpr std::size_t kHashBytes = 16;

Error corrupt(std::string_view why) {
  return {ErrorCode::corrupt, fmt::format("the choices of matrix products are damaged: {}", why)};
}

}  // namespace

std::string describe(const MatmulOrigin& origin) {
  return fmt::format("{} ({} multiprocessors) with cuBLASLt {}", origin.gpu, origin.multiprocessors, origin.version);
}

Result<std::vector<std::byte>> encode_choices(const MatmulChoices& choices) {
  if (choices.choices.size() > kMaxMatmulChoices || choices.origin.gpu.size() > kMaxGpuName) {
    return Error(ErrorCode::exhausted, fmt::format("{} choices of matrix products: at most {} can be handed on",
                                                   choices.choices.size(), kMaxMatmulChoices));
  }
  Encoder encoder;
  encoder(Head(), choices);
  ByteVector bytes = encoder.take();
  const ByteVector hash = encode(hash_of(std::span<const std::uint8_t>(bytes)));
  bytes.insert(bytes.end(), hash.begin(), hash.end());
  const auto view = std::as_bytes(std::span(bytes));
  return std::vector<std::byte>(view.begin(), view.end());
}

Result<MatmulChoices> decode_choices(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxMatmulChoicesBytes) return corrupt(fmt::format("{} bytes are too many", bytes.size()));
  if (bytes.size() < kHeadBytes + kHashBytes) return corrupt("they end early");
  const std::span all(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());  // NOLINT: bytes as bytes
  PLANARIA_ASSIGN(const Head head, decode<Head>(all.first(kHeadBytes)));
  if (head.magic != kMagic) return corrupt("they begin otherwise");
  if (head.format != kMatmulChoicesFormat) {
    return Error(ErrorCode::mismatch, fmt::format("the choices of matrix products are of format {}, this build's is {}",
                                                  head.format, kMatmulChoicesFormat));
  }
  PLANARIA_ASSIGN(const Hash128 hash, decode<Hash128>(all.last(kHashBytes)));
  if (hash_bytes(bytes.first(bytes.size() - kHashBytes)) != hash) return corrupt("their hash is another");
  PLANARIA_ASSIGN(MatmulChoices choices,
                  decode<MatmulChoices>(all.subspan(kHeadBytes, all.size() - kHeadBytes - kHashBytes)));
  if (choices.origin.gpu.size() > kMaxGpuName) return corrupt("the GPU's name is too long");
  if (choices.choices.size() > kMaxMatmulChoices) return corrupt("there are too many");
  for (const MatmulChoice& choice : choices.choices) {
    if (const Status valid = validate(choice.shape); !valid) return corrupt(valid.error().message());
    if (!std::isfinite(choice.microseconds) || std::signbit(choice.microseconds)) return corrupt("a time is none");
  }
  if (std::ranges::adjacent_find(choices.choices, std::ranges::greater_equal(), &MatmulChoice::shape) !=
      choices.choices.end()) {
    return corrupt("they are out of order");
  }
  return choices;
}

}  // namespace planaria::cuda

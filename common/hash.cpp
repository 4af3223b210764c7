#include "common/hash.hpp"

#include <fmt/format.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // by what the processor can, more than twice as fast; the same hashes
#else
#include <xxhash.h>
#endif

#include <bit>
#include <charconv>
#include <cstring>

namespace planaria {
namespace {

Hash128 from_xxh(XXH128_hash_t hash) {
  return {hash.high64, hash.low64};
}

}  // namespace

std::string Hash128::hex() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

Result<Hash128> Hash128::from_hex(std::string_view text) {
  Hash128 hash;
  if (text.size() != 32) return Error(ErrorCode::invalid_argument, "a hash has 32 hex digits");
  const auto parse = [](std::string_view digits, std::uint64_t& out) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out, 16);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (!parse(text.substr(0, 16), hash.high) || !parse(text.substr(16), hash.low)) {
    return Error(ErrorCode::invalid_argument, "a hash has hex digits only");
  }
  return hash;
}

Hash128 hash_bytes(std::span<const std::byte> bytes) {
  return from_xxh(XXH3_128bits(bytes.data(), bytes.size()));
}

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() { XXH3_128bits_reset(xxh); }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

void Hasher::update(const Hash128& hash) {
  update(hash.high);
  update(hash.low);
}

void Hasher::update(std::uint64_t value) {
  static_assert(std::endian::native == std::endian::little, "hashes are defined over little-endian bytes");
  update(std::as_bytes(std::span(&value, 1)));
}

Hash128 Hasher::digest() const {
  return from_xxh(XXH3_128bits_digest(state_->xxh));
}

}  // namespace planaria

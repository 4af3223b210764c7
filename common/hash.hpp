// Content hashes: XXH3-128 over bytes (xxHash). Every moved or stored byte is checked against one. It finds damage,
// not malice; frames that cross a network are authenticated separately (common/transport).
//
// Thread contract: Hash128 is a value; Hasher belongs to one thread.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/result.hpp"

namespace planaria {

struct Hash128 {
  std::uint64_t high = 0;
  std::uint64_t low = 0;

  constexpr auto operator<=>(const Hash128&) const = default;

  // 32 lower-case hex digits, high half first.
  [[nodiscard]] std::string hex() const;
  [[nodiscard]] static Result<Hash128> from_hex(std::string_view text);

  template <class Visitor>
  void fields(Visitor& visit) {
    visit(high, low);
  }
};

[[nodiscard]] Hash128 hash_bytes(std::span<const std::byte> bytes);

template <class T>
[[nodiscard]] Hash128 hash_of(std::span<const T> values) {
  return hash_bytes(std::as_bytes(values));
}

// Streaming form: the digest of everything given to update, in order.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text.data(), text.size()))); }
  void update(const Hash128& hash);
  void update(std::uint64_t value);
  [[nodiscard]] Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace planaria

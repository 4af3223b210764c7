// The binary codec of every control message, manifest and log record: little-endian, no padding, bounded.
//
// A struct names its members once, in `template <class V> void fields(V& visit) { visit(a, b, c); }`; encoding and
// decoding follow from that list. Supported members: integers, bool, double, enums (with a `count_` enumerator as
// bound), StrongIds, Instants, strings, byte vectors, vectors, optionals, variants, and structs with `fields`.
// Lengths are u32, optionals a u8 flag, variants a u8 index.
//
// Decoding never trusts a length: a claimed count is checked against the bytes that are left and a hard bound, so
// hostile input costs no more memory than its own size times a constant. Trailing bytes are an error.
//
// Thread contract: values.
#pragma once

#include <bit>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "common/clock.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"

namespace planaria {

using ByteVector = std::vector<std::uint8_t>;

static_assert(std::endian::native == std::endian::little, "the codec copies little-endian values as they are");

inline constexpr std::size_t kMaxStringBytes = 1U << 20;
inline constexpr std::size_t kMaxBlobBytes = 64U << 20;
inline constexpr std::size_t kMaxElements = 1U << 20;

namespace detail {

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsShared : std::false_type {};
template <class T>
struct IsShared<std::shared_ptr<const T>> : std::true_type {};
template <class T>
struct IsVariant : std::false_type {};
template <class... T>
struct IsVariant<std::variant<T...>> : std::true_type {};
template <class T>
struct IsStrongId : std::false_type {};
template <class Tag, class Rep>
struct IsStrongId<StrongId<Tag, Rep>> : std::true_type {};

template <class T>
concept Scalar = std::same_as<T, bool> || std::integral<T> || std::same_as<T, double> || std::same_as<T, float>;

}  // namespace detail

class Encoder {
 public:
  template <class... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }
  [[nodiscard]] ByteVector take() { return std::move(bytes_); }

 private:
  // Not inlined: GCC 12 takes the growth of a vector that it sees through for an overflow.
  [[gnu::noinline]] void raw(const void* data, std::size_t size) {
    const auto* first = static_cast<const std::uint8_t*>(data);
    bytes_.insert(bytes_.end(), first, first + size);
  }
  void length(std::size_t size, [[maybe_unused]] std::size_t bound) {
    assert(size <= bound && "a message that no one would accept");
    const auto count = static_cast<std::uint32_t>(size);
    raw(&count, sizeof count);
  }

  template <class T>
  void put(const T& value) {
    if constexpr (std::same_as<T, bool>) {
      const std::uint8_t flag = value ? 1 : 0;
      raw(&flag, 1);
    } else if constexpr (detail::Scalar<T>) {
      raw(&value, sizeof value);
    } else if constexpr (std::is_enum_v<T>) {
      put(static_cast<std::underlying_type_t<T>>(value));
    } else if constexpr (detail::IsStrongId<T>::value) {
      put(value.value());
    } else if constexpr (std::same_as<T, Instant>) {
      put(value.ns);
    } else if constexpr (std::same_as<T, Duration>) {
      put(static_cast<std::int64_t>(value.count()));
    } else if constexpr (std::same_as<T, std::string> || std::same_as<T, ByteVector>) {
      length(value.size(), std::same_as<T, std::string> ? kMaxStringBytes : kMaxBlobBytes);
      raw(value.data(), value.size());
    } else if constexpr (detail::IsVector<T>::value) {
      length(value.size(), kMaxElements);
      for (const auto& element : value) put(element);
    } else if constexpr (detail::IsOptional<T>::value) {
      put(value.has_value());
      if (value) put(*value);
    } else if constexpr (detail::IsShared<T>::value) {
      put(*value);
    } else if constexpr (detail::IsVariant<T>::value) {
      put(static_cast<std::uint8_t>(value.index()));
      std::visit([this](const auto& alternative) { put(alternative); }, value);
    } else {
      // fields() is shared with decoding, hence not const; encoding never writes through it.
      const_cast<T&>(value).fields(*this);  // NOLINT
    }
  }

  ByteVector bytes_;
};

class Decoder {
 public:
  explicit Decoder(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  template <class... T>
  void operator()(T&... values) {
    (get(values), ...);
  }

  // Success when everything was read, nothing was left over and every bound held.
  [[nodiscard]] Status finish() const {
    if (failure_ != nullptr) return Error(ErrorCode::corrupt, std::string("malformed message: ") + failure_);
    if (at_ != bytes_.size()) return Error(ErrorCode::corrupt, "malformed message: bytes left over at its end");
    return ok_status();
  }

 private:
  void fail(const char* why) {
    if (failure_ == nullptr) failure_ = why;
  }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }
  bool raw(void* out, std::size_t size) {
    if (failure_ != nullptr) return false;
    if (left() < size) {
      fail("it ends early");
      return false;
    }
    if (size != 0) std::memcpy(out, bytes_.data() + at_, size);
    at_ += size;
    return true;
  }
  std::size_t length(std::size_t bound) {
    std::uint32_t count = 0;
    if (!raw(&count, sizeof count)) return 0;
    if (count > bound || count > left()) {
      fail("a length is larger than what follows or than its bound");
      return 0;
    }
    return count;
  }

  template <class T>
  void get(T& value) {
    if (failure_ != nullptr) return;
    if constexpr (std::same_as<T, bool>) {
      std::uint8_t flag = 0;
      if (raw(&flag, 1)) {
        if (flag > 1) fail("a flag is neither 0 nor 1");
        value = flag == 1;
      }
    } else if constexpr (detail::Scalar<T>) {
      raw(&value, sizeof value);
    } else if constexpr (std::is_enum_v<T>) {
      static_assert(std::is_unsigned_v<std::underlying_type_t<T>>, "the bound below is the only check");
      std::underlying_type_t<T> number{};
      if (raw(&number, sizeof number)) {
        if (number >= static_cast<std::underlying_type_t<T>>(T::count_)) {
          fail("an enumerator is out of range");
        } else {
          value = static_cast<T>(number);
        }
      }
    } else if constexpr (detail::IsStrongId<T>::value) {
      typename T::Representation number{};
      if (raw(&number, sizeof number)) value = T(number);
    } else if constexpr (std::same_as<T, Instant>) {
      raw(&value.ns, sizeof value.ns);
    } else if constexpr (std::same_as<T, Duration>) {
      std::int64_t count = 0;
      if (raw(&count, sizeof count)) value = Duration(count);
    } else if constexpr (std::same_as<T, std::string>) {
      value.resize(length(kMaxStringBytes));
      raw(value.data(), value.size());
    } else if constexpr (std::same_as<T, ByteVector>) {
      value.resize(length(kMaxBlobBytes));
      raw(value.data(), value.size());
    } else if constexpr (detail::IsVector<T>::value) {
      const std::size_t count = length(kMaxElements);
      value.clear();
      for (std::size_t i = 0; i < count && failure_ == nullptr; ++i) get(value.emplace_back());
    } else if constexpr (detail::IsOptional<T>::value) {
      bool present = false;
      get(present);
      value.reset();
      if (present && failure_ == nullptr) get(value.emplace());
    } else if constexpr (detail::IsShared<T>::value) {
      auto read = std::make_shared<std::remove_const_t<typename T::element_type>>();
      get(*read);
      value = std::move(read);
    } else if constexpr (detail::IsVariant<T>::value) {
      std::uint8_t index = 0;
      if (raw(&index, 1)) alternative<0>(value, index);
    } else {
      value.fields(*this);
    }
  }

  template <std::size_t I, class... T>
  void alternative(std::variant<T...>& value, std::uint8_t index) {
    if constexpr (I == sizeof...(T)) {
      fail("a variant has no such alternative");
    } else if (index == I) {
      get(value.template emplace<I>());
    } else {
      alternative<I + 1>(value, index);
    }
  }

  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
  const char* failure_ = nullptr;
};

template <class T>
[[nodiscard]] ByteVector encode(const T& value) {
  Encoder encoder;
  encoder(value);
  return encoder.take();
}

template <class T>
[[nodiscard]] Result<T> decode(std::span<const std::uint8_t> bytes) {
  Decoder decoder(bytes);
  T value{};
  decoder(value);
  PLANARIA_TRY(decoder.finish());
  return value;
}

}  // namespace planaria

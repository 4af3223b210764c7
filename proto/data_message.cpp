#include "proto/data_message.hpp"

#include <algorithm>

#include <cstring>

#include "common/codec.hpp"

namespace planaria {

Hash128 hash_of_sums(std::span<const double> sums) {
  return hash_bytes(std::as_bytes(sums));
}

bool agree(std::span<const BlockHash> a, std::span<const BlockHash> b) {
  return std::ranges::all_of(a, [&](const BlockHash& one) {
    return std::ranges::none_of(
        b, [&](const BlockHash& other) { return other.block == one.block && other.hash != one.hash; });
  });
}
namespace {

constexpr std::size_t kValuesAlignment = 64;
// A head names at most a few thousand tile ranges and losses.
constexpr std::size_t kMaxHeadBytes = 8U << 20;

std::size_t values_offset_of(std::size_t meta_bytes) {
  const std::size_t end = sizeof(std::uint32_t) + meta_bytes;
  return (end + kValuesAlignment - 1) / kValuesAlignment * kValuesAlignment;
}

}  // namespace

std::vector<std::byte> encode_data_head(const DataMeta& meta) {
  const ByteVector encoded = encode(meta);
  const auto length = static_cast<std::uint32_t>(encoded.size());
  std::vector<std::byte> head(values_offset_of(encoded.size()), std::byte{0});
  std::memcpy(head.data(), &length, sizeof length);
  std::memcpy(head.data() + sizeof length, encoded.data(), encoded.size());
  return head;
}

Result<DataHead> decode_data_head(std::span<const std::byte> payload) {
  std::uint32_t length = 0;
  if (payload.size() < sizeof length) return Error(ErrorCode::corrupt, "a data message ends before its head");
  std::memcpy(&length, payload.data(), sizeof length);
  if (length > kMaxHeadBytes || values_offset_of(length) > payload.size()) {
    return Error(ErrorCode::corrupt, "a data message's head is longer than the message");
  }
  const auto* meta = reinterpret_cast<const std::uint8_t*>(payload.data()) + sizeof length;
  PLANARIA_ASSIGN(DataMeta decoded, decode<DataMeta>(std::span(meta, length)));
  return DataHead{std::move(decoded), values_offset_of(length)};
}

}  // namespace planaria

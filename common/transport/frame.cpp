#include "common/transport/frame.hpp"

#include <xxhash.h>

#include <cstring>

namespace planaria {
namespace {

constexpr std::uint8_t kKeyedFlag = 1;

template <class T>
void put(WireHeaderBytes& out, std::size_t at, T value) {
  std::memcpy(out.data() + at, &value, sizeof value);
}

template <class T>
T get(std::span<const std::byte> in, std::size_t at) {
  T value;
  std::memcpy(&value, in.data() + at, sizeof value);
  return value;
}

Error malformed(const char* why) {
  return {ErrorCode::corrupt, std::string("frame header: ") + why};
}

}  // namespace

WireHeaderBytes encode_wire_header(const WireHeader& header) {
  WireHeaderBytes out{};
  const FrameHeader& frame = header.frame;
  put(out, 0, kWireMagic);
  put(out, 4, kWireVersion);
  put(out, 6, frame.kind);
  put(out, 8, static_cast<std::uint8_t>(frame.delivery));
  put(out, 9, header.keyed ? kKeyedFlag : std::uint8_t{0});
  put(out, 12, frame.from.worker.value());
  put(out, 16, frame.from.incarnation.value());
  put(out, 20, header.to.worker.value());
  put(out, 24, header.to.incarnation.value());
  put(out, 32, frame.job);
  put(out, 40, frame.view.value());
  put(out, 48, frame.tag);
  put(out, 56, frame.payload_bytes);
  put(out, 64, frame.payload_hash.high);
  put(out, 72, frame.payload_hash.low);
  put(out, 80, header.session);
  put(out, 88, header.sequence);
  std::memcpy(out.data() + 96, header.auth.data(), header.auth.size());
  put(out, 112, header.chunk_offset);
  put(out, kHeaderCheckAt, static_cast<std::uint64_t>(XXH3_64bits(out.data(), kHeaderCheckAt)));
  return out;
}

Result<WireHeader> decode_wire_header(std::span<const std::byte> bytes) {
  if (bytes.size() != kWireHeaderBytes) return malformed("wrong size");
  if (get<std::uint32_t>(bytes, 0) != kWireMagic) return malformed("wrong magic");
  if (get<std::uint64_t>(bytes, kHeaderCheckAt) != XXH3_64bits(bytes.data(), kHeaderCheckAt))
    return malformed("wrong check");
  if (get<std::uint16_t>(bytes, 4) != kWireVersion) {
    return Error(ErrorCode::mismatch, "frame header: another version of the wire format");
  }
  const auto delivery = get<std::uint8_t>(bytes, 8);
  const auto flags = get<std::uint8_t>(bytes, 9);
  if (delivery >= static_cast<std::uint8_t>(Delivery::count_)) return malformed("unknown delivery");
  if (flags > kKeyedFlag || get<std::uint16_t>(bytes, 10) != 0 || get<std::uint32_t>(bytes, 28) != 0) {
    return malformed("reserved bits are set");
  }
  WireHeader header;
  FrameHeader& frame = header.frame;
  frame.kind = get<std::uint16_t>(bytes, 6);
  frame.delivery = static_cast<Delivery>(delivery);
  frame.from = {WorkerId(get<std::uint32_t>(bytes, 12)), Incarnation(get<std::uint32_t>(bytes, 16))};
  frame.job = get<std::uint64_t>(bytes, 32);
  frame.view = ViewNumber(get<std::uint64_t>(bytes, 40));
  frame.tag = get<std::uint64_t>(bytes, 48);
  frame.payload_bytes = get<std::uint64_t>(bytes, 56);
  frame.payload_hash = {get<std::uint64_t>(bytes, 64), get<std::uint64_t>(bytes, 72)};
  header.to = {WorkerId(get<std::uint32_t>(bytes, 20)), Incarnation(get<std::uint32_t>(bytes, 24))};
  header.keyed = flags == kKeyedFlag;
  header.session = get<std::uint64_t>(bytes, 80);
  header.sequence = get<std::uint64_t>(bytes, 88);
  std::memcpy(header.auth.data(), bytes.data() + 96, header.auth.size());
  header.chunk_offset = get<std::uint64_t>(bytes, 112);
  if (header.chunk_offset != 0 && header.chunk_offset >= frame.payload_bytes) return malformed("chunk past the end");
  return header;
}

}  // namespace planaria

// What a frame's bytes on the wire begin with. A frame travels as one or more chunks, each behind a whole header of
// 128 bytes, little-endian:
//
//   0 magic u32 · 4 version u16 · 6 kind u16 · 8 delivery u8 · 9 flags u8 · 10 zero u16 · 12 from u32
//   16 from incarnation u32 · 20 to u32 · 24 to incarnation u32 · 28 zero u32 · 32 job u64 · 40 view u64 · 48 tag u64
//   56 payload bytes u64 · 64 payload hash 16 (high, low) · 80 session u64 · 88 sequence u64 · 96 authentication 16
//   112 chunk offset u64 · 120 header check u64 (XXH3-64 of the 120 bytes before; when keyed, frame_auth.hpp masks it)
//
// A session numbers one sender's connections, ever growing; a sequence numbers the frames of a session from 0.
//
// Thread contract: values and pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/transport/transport.hpp"

namespace planaria {

inline constexpr std::size_t kWireHeaderBytes = 128;
inline constexpr std::size_t kHeaderCheckAt = 120;
// The part that authentication covers: all but the tag itself and what differs between chunks.
inline constexpr std::size_t kAuthenticatedHeaderBytes = 96;
inline constexpr std::uint32_t kWireMagic = 0x464E4C50;  // "PLNF"
inline constexpr std::uint16_t kWireVersion = 1;

using AuthTag = std::array<std::byte, 16>;
using WireHeaderBytes = std::array<std::byte, kWireHeaderBytes>;

struct WireHeader {
  FrameHeader frame;
  PeerId to;
  bool keyed = false;  // auth is present
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  AuthTag auth{};
  std::uint64_t chunk_offset = 0;

  bool operator==(const WireHeader&) const = default;
};

[[nodiscard]] WireHeaderBytes encode_wire_header(const WireHeader& header);

// Refuses (corrupt) any other size, a wrong check, unknown magic or enumerators, set reserved bits, and a chunk offset
// outside the payload; mismatch: another version.
[[nodiscard]] Result<WireHeader> decode_wire_header(std::span<const std::byte> bytes);

}  // namespace planaria

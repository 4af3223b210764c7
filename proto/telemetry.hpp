// What workers (who push telemetry) and the coordinator (who aggregates it) agree on besides the messages: version,
// bounds, keys.
//
// The messages themselves are generated from proto/telemetry.proto; include "proto/telemetry.pb.h" for them and link
// planaria_telemetry_proto.
//
// Thread contract: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/result.hpp"

namespace planaria {

inline constexpr std::uint32_t kTelemetryVersion = 1;

// A larger frame is dropped unread.
inline constexpr std::size_t kMaxTelemetryBytes = 256U << 10;

// Topic of the frames that the coordinator publishes: this prefix, then one Envelope.
inline constexpr char kTelemetryTopic[] = "telemetry/1 ";

// A CURVE key pair as ZeroMQ takes it: 32 bytes each.
struct TelemetryKeyPair {
  std::array<std::uint8_t, 32> public_key{};
  std::array<std::uint8_t, 32> secret_key{};
};

struct TelemetryKeys {
  TelemetryKeyPair server;  // the coordinator's sockets
  TelemetryKeyPair client;  // every worker's and subscriber's
};

// Both pairs follow from the job's frame key (Welcome.frame_key, not empty), so that nothing but it is handed out. Who
// doesn't know the frame key doesn't know the server's public key, without which CURVE answers nothing.
[[nodiscard]] Result<TelemetryKeys> telemetry_keys(std::span<const std::uint8_t> frame_key);

}  // namespace planaria

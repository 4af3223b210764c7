// The telemetry messages' version and bounds, shared by workers (who push) and the coordinator (who aggregates).
//
// The messages themselves are generated from proto/telemetry.proto; include "proto/telemetry.pb.h" for them and link
// planaria_telemetry_proto.
#pragma once

#include <cstddef>
#include <cstdint>

namespace planaria {

inline constexpr std::uint32_t kTelemetryVersion = 1;

// A larger frame is dropped unread.
inline constexpr std::size_t kMaxTelemetryBytes = 256U << 10;

// Topic of the frames that the coordinator publishes: this prefix, then one Envelope.
inline constexpr char kTelemetryTopic[] = "telemetry/1 ";

}  // namespace planaria

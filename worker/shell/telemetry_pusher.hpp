// Pushes telemetry samples to the coordinator over ZeroMQ, and drops them when it doesn't keep up.
//
// Thread contract: belongs to one thread; never waits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/codec.hpp"
#include "common/result.hpp"

namespace planaria::telemetry {
class Envelope;
}

namespace planaria {

class TelemetryPusher {
 public:
  // `endpoint`: "tcp://host:port". With a frame key (Welcome.frame_key) CURVE is spoken. invalid_argument: a malformed
  // endpoint or key.
  [[nodiscard]] static Result<std::unique_ptr<TelemetryPusher>> open(const std::string& endpoint,
                                                                     const ByteVector& frame_key);
  ~TelemetryPusher();
  TelemetryPusher(const TelemetryPusher&) = delete;
  TelemetryPusher& operator=(const TelemetryPusher&) = delete;

  void push(const telemetry::Envelope& envelope);
  [[nodiscard]] std::uint64_t dropped() const { return dropped_; }

 private:
  TelemetryPusher() = default;
  void* context_ = nullptr;
  void* socket_ = nullptr;
  std::uint64_t dropped_ = 0;
};

// Resident memory of this process; 0 when it can't be told.
[[nodiscard]] std::uint64_t resident_bytes();

}  // namespace planaria

// Telemetry's hub: workers push samples in (ZeroMQ PULL), subscribers get every sample out (XPUB), and the newest of
// each worker, with a window of the last minutes, are kept in memory. Nothing decides by telemetry.
//
// Frames are bounded and parsed with care: what isn't a sample of this job is counted and dropped. With a secret, both
// sockets speak CURVE; a peer proves that it knows the secret by knowing the server key that follows from it.
//
// Thread contract: one thread of its own serves the sockets; the other calls may come from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "common/clock.hpp"
#include "common/codec.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/telemetry.pb.h"

namespace planaria {

struct TelemetryOptions {
  std::string address = "127.0.0.1";
  std::uint16_t push_port = 0;     // workers push here; 0 = any free one
  std::uint16_t publish_port = 0;  // subscribers connect here
  std::uint64_t job_key = 0;
  ByteVector secret;  // empty = no CURVE
  std::chrono::minutes window{10};
  std::size_t max_samples_per_worker = 2400;
};

struct TelemetryCounts {
  std::uint64_t samples = 0;
  std::uint64_t dropped = 0;  // frames: too large, malformed, of another job or a newer version
};

class TelemetryHub {
 public:
  // What comes from outside doesn't grow without bound.
  static constexpr std::size_t kMaxWorkers = 16384;
  static constexpr std::size_t kMaxKeptBytes = 64U << 20;

  // `unavailable` when a port is taken.
  [[nodiscard]] static Result<std::unique_ptr<TelemetryHub>> start(TelemetryOptions options, const Clock& clock);
  ~TelemetryHub();
  TelemetryHub(const TelemetryHub&) = delete;
  TelemetryHub& operator=(const TelemetryHub&) = delete;

  [[nodiscard]] std::uint16_t push_port() const { return push_port_; }
  [[nodiscard]] std::uint16_t publish_port() const { return publish_port_; }
  [[nodiscard]] TelemetryCounts counts() const;

  // The newest sample of every worker in the window.
  [[nodiscard]] std::map<WorkerId, telemetry::Sample> newest() const;
  // A worker's samples in the window, oldest first.
  [[nodiscard]] std::deque<telemetry::Sample> window(WorkerId worker) const;

 private:
  struct Sockets;
  struct Kept {
    Instant at;
    std::size_t bytes = 0;
    telemetry::Sample sample;
  };

  TelemetryHub(TelemetryOptions options, const Clock& clock);
  [[nodiscard]] Status open();
  void run();
  void receive(std::span<const std::uint8_t> frame);
  void keep(const telemetry::Sample& sample);

  const TelemetryOptions options_;
  const Clock& clock_;
  std::uint16_t push_port_ = 0;
  std::uint16_t publish_port_ = 0;
  std::unique_ptr<Sockets> sockets_;  // the serving thread's, once it runs

  std::atomic<std::uint64_t> samples_{0};
  std::atomic<std::uint64_t> dropped_{0};
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;
  std::map<WorkerId, std::deque<Kept>> kept_;
  std::size_t kept_bytes_ = 0;

  std::thread thread_;
};

}  // namespace planaria

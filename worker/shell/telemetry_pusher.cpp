#include "worker/shell/telemetry_pusher.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <zmq.h>

#include <fstream>
#include <string>

#include "proto/telemetry.hpp"
#include "proto/telemetry.pb.h"

namespace planaria {

namespace {

constexpr int kQueuedMessages = 64;

Error refused(const std::string& endpoint) {
  return {ErrorCode::invalid_argument,
          fmt::format("can't send telemetry to '{}': {}", endpoint, zmq_strerror(zmq_errno()))};
}

}  // namespace

Result<std::unique_ptr<TelemetryPusher>> TelemetryPusher::open(const std::string& endpoint,
                                                               const ByteVector& frame_key) {
  std::unique_ptr<TelemetryPusher> pusher(new TelemetryPusher());
  pusher->context_ = zmq_ctx_new();
  if (pusher->context_ == nullptr) return refused(endpoint);
  pusher->socket_ = zmq_socket(pusher->context_, ZMQ_PUSH);
  if (pusher->socket_ == nullptr) return refused(endpoint);
  const int linger = 0;
  const int high_water = kQueuedMessages;
  zmq_setsockopt(pusher->socket_, ZMQ_LINGER, &linger, sizeof linger);
  zmq_setsockopt(pusher->socket_, ZMQ_SNDHWM, &high_water, sizeof high_water);
  if (!frame_key.empty()) {
    PLANARIA_ASSIGN(const TelemetryKeys keys, telemetry_keys(frame_key));
    const auto set = [&](int option, const auto& key) {
      return zmq_setsockopt(pusher->socket_, option, key.data(), key.size()) == 0;
    };
    if (!set(ZMQ_CURVE_PUBLICKEY, keys.client.public_key) || !set(ZMQ_CURVE_SECRETKEY, keys.client.secret_key) ||
        !set(ZMQ_CURVE_SERVERKEY, keys.server.public_key)) {
      return refused(endpoint + " with CURVE");
    }
  }
  if (zmq_connect(pusher->socket_, endpoint.c_str()) != 0) return refused(endpoint);
  return pusher;
}

TelemetryPusher::~TelemetryPusher() {
  if (socket_ != nullptr) zmq_close(socket_);
  if (context_ != nullptr) zmq_ctx_term(context_);
}

void TelemetryPusher::push(const telemetry::Envelope& envelope) {
  const std::string bytes = envelope.SerializeAsString();
  const bool sent =
      bytes.size() <= kMaxTelemetryBytes && zmq_send(socket_, bytes.data(), bytes.size(), ZMQ_DONTWAIT) >= 0;
  if (!sent) ++dropped_;
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  if (!(statm >> total >> resident)) return 0;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace planaria

// The control port: worker bridges' messages in, the coordinator's out, over CAF.
//
// A message either way is (atom "ctl", std::vector<uint8_t>): an encoded WorkerEnvelope with the bridge as its sender,
// or an encoded CoordinatorEnvelope. A session is one bridge actor, named at its first message and gone when CAF says
// that the actor or its connection is down; that is a hint, leases decide. What can't be decoded is counted, told once
// a session and dropped; another protocol version is answered with Refused. No CAF type leaves gateway.cpp.
//
// Thread contract: any thread may call; the listener runs on one of CAF's threads, one call at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/clock.hpp"
#include "common/codec.hpp"
#include "common/result.hpp"
#include "coordinator/core/coordinator_core.hpp"
#include "proto/control.hpp"

namespace planaria {

inline constexpr std::size_t kMaxSessions = 16384;

struct GatewayOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;  // 0 = any free one
  // PEM files; all three or none. With them both ends show certificates that the authority signed.
  std::string tls_certificate, tls_key, tls_authority;
  std::size_t max_message_bytes = std::size_t{4} << 20;
};

// What a session said, or that it is gone.
struct GatewayEvent {
  SessionId session;
  std::optional<WorkerEnvelope> envelope;
};

class ControlGateway {
 public:
  // Returns false when it can't take the event now: a heartbeat is dropped then, for anything else the session is
  // closed, so that its worker registers again. Never refuses the end of a session.
  using Listener = std::function<bool(GatewayEvent)>;

  // `unavailable` when the port is taken, `invalid_argument` for an address that isn't this machine's or for bad keys.
  [[nodiscard]] static Result<std::unique_ptr<ControlGateway>> start(const GatewayOptions& options, Listener listener);
  ~ControlGateway();
  ControlGateway(const ControlGateway&) = delete;
  ControlGateway& operator=(const ControlGateway&) = delete;

  [[nodiscard]] std::uint16_t port() const;

  // Messages to one session arrive in order; those to a session that is gone are dropped.
  void send(SessionId session, const CoordinatorEnvelope& envelope);

  // Whether everything that had reached this machine has been handed to the listener: CAF's network thread can be held
  // up (a stranger's connection that announces gigabytes makes it clear as many), and the silence of workers proves
  // nothing meanwhile. False: ask again in a millisecond. True at the latest after a bounded number of calls with a
  // thread that answers at all. One thread asks.
  [[nodiscard]] bool caught_up(Instant now);

  // The generation under which the gateway itself refuses other protocol versions.
  void set_generation(Generation generation);

  // Waits until every worker has left; true when they have.
  bool await_no_sessions(std::chrono::milliseconds timeout);

  [[nodiscard]] std::uint64_t refused_messages() const;

 private:
  struct Impl;
  explicit ControlGateway(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

// The worker's connection to the coordinator, over CAF: finds the gateway, sends and receives envelopes, notices that
// it is gone and finds it again.
//
// Messages are (atom "ctl", bytes) both ways, with this link's actor as the sender (coordinator/shell/gateway.hpp).
// After a loss the next attempt follows at once, then with waits that double from kFirstRetry to kLastRetry, for ever.
// What can't be decoded is counted, and the connection given up. No CAF type leaves control_link.cpp.
//
// Thread contract: any thread may call; handlers run one at a time on the link's threads and must not block. None runs
// after the destructor returned.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.hpp"
#include "common/result.hpp"
#include "proto/control.hpp"

namespace planaria {

inline constexpr Duration kFirstRetry = std::chrono::milliseconds(10);  // within the grace of a broken connection
inline constexpr Duration kLastRetry = std::chrono::seconds(1);

struct ControlLinkOptions {
  std::string host;
  std::uint16_t port = 0;
  // PEM files; all three or none.
  std::string tls_certificate, tls_key, tls_authority;
};

struct ControlLinkHandlers {
  std::function<void()> connected;
  std::function<void(std::string reason)> lost;  // after connected only
  // An attempt to connect. invalid_argument: what listens there speaks another protocol; else unavailable.
  std::function<void(Error)> failed;
  std::function<void(CoordinatorEnvelope)> message;
};

class ControlLink {
 public:
  // Begins to connect. invalid_argument: the keys can't be used.
  [[nodiscard]] static Result<std::unique_ptr<ControlLink>> start(const ControlLinkOptions& options,
                                                                  ControlLinkHandlers handlers);
  ~ControlLink();
  ControlLink(const ControlLink&) = delete;
  ControlLink& operator=(const ControlLink&) = delete;

  // Dropped while there is no connection.
  void send(const WorkerEnvelope& envelope);

 private:
  struct Impl;
  explicit ControlLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

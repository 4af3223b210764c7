// The coordinator's HTTP port: routes (coordinator/http/routes.hpp) served from immutable snapshots, and a stream of
// status changes as server-sent events. Requests are bounded in size, number and time; none touches the core.
//
// Thread contract: one thread of its own serves everything; publish may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "common/result.hpp"
#include "coordinator/http/routes.hpp"
#include "coordinator/http/status.hpp"

namespace planaria {

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;  // 0 = any free one
  HttpPolicy policy;
  std::chrono::milliseconds request_timeout{10'000};  // to send a whole request, and to take a whole reply
  std::chrono::milliseconds idle_timeout{60'000};     // between requests of one connection
  std::chrono::milliseconds stream_interval{200};     // the stream tells at most one change in this time
};

class HttpServer {
 public:
  static constexpr std::size_t kMaxConnections = 256;
  static constexpr std::size_t kMaxHeaderBytes = 16U << 10;

  // `unavailable` when the port is taken, `invalid_argument` for an address that isn't one of this machine.
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> start(HttpServerOptions options, HttpControls controls,
                                                                 std::shared_ptr<const StatusSnapshot> first);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  [[nodiscard]] std::uint16_t port() const;

  // What requests are answered from, from now on.
  void publish(std::shared_ptr<const StatusSnapshot> snapshot);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria

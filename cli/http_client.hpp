// The few HTTP requests that the command line makes of a coordinator.
//
// Thread contract: free functions; each call opens and closes its own connection.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "common/result.hpp"

namespace planaria {

struct HttpTarget {
  std::string host = "127.0.0.1";
  std::string port;
};

// "host:port" or "port".
[[nodiscard]] Result<HttpTarget> parse_target(const std::string& text);

// The body of a 2xx answer, as JSON. Other answers become errors with the server's message: `unavailable` when trying
// again may help, `invalid_argument` when the request has to change.
[[nodiscard]] Result<nlohmann::json> http_get(const HttpTarget& target, const std::string& path, int timeout_ms = 2000);
[[nodiscard]] Result<nlohmann::json> http_post(const HttpTarget& target, const std::string& path,
                                               const nlohmann::json& body, int timeout_ms = 2000);

}  // namespace planaria

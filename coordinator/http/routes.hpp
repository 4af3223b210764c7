// What the HTTP server answers, without the server: a request and the newest snapshot in, a reply out.
//
// Requests that steer the job come from browsers too, so a POST must be JSON, from the page's own origin, to a host
// name that can't be made to point here by another site (an address, localhost or a configured name), and, unless the
// operator said `insecure`, from this machine.
//
// Thread contract: pure, but for the controls, which are called on the caller's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "coordinator/http/status.hpp"
#include "coordinator/log/event_log.hpp"

namespace planaria {

inline constexpr std::size_t kMaxHttpBody = 64U << 10;

struct HttpRequest {
  std::string method;
  std::string target;  // path and query
  std::string host;
  std::string origin;
  std::string content_type;
  std::string body;
  bool from_loopback = true;
};

struct HttpReply {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  bool stream = false;  // answer with the endless stream of status changes instead of the body
};

// What a request may read or ask for. All are safe to call from the server's thread and don't block for long.
struct HttpControls {
  std::function<Result<LogPage>(std::uint64_t after, std::size_t limit, bool with_steps)> events;
  std::function<Status(WorkerId worker, const std::string& reason)> drain;
  std::function<Status(const std::string& reason)> stop;
  std::function<Status(const log_record::FaultFired& fault)> fault;
};

struct HttpPolicy {
  bool insecure = false;                // POSTs may come from other machines
  std::vector<std::string> host_names;  // by which this machine is rightly called, besides addresses and localhost
};

[[nodiscard]] HttpReply route(const HttpRequest& request, const StatusSnapshot& snapshot, const HttpControls& controls,
                              const HttpPolicy& policy);

// {"error": {"code", "message"}} with the status; the message says what to do.
[[nodiscard]] HttpReply error_reply(unsigned status, std::string_view code, std::string_view message);

}  // namespace planaria

#include "coordinator/http/routes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "coordinator/dashboard/dashboard.hpp"

namespace planaria {

namespace {

using nlohmann::json;

constexpr std::size_t kDefaultEvents = 100;
constexpr std::size_t kMaxReason = 500;
constexpr std::size_t kMaxFaultWord = 32;

HttpReply json_reply(const json& value, unsigned status = 200) {
  return {status, "application/json", to_text(value) + "\n", {}, false};
}

std::optional<std::uint64_t> to_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// "name" of "name:80" and "[::1]:80".
std::string host_name(std::string_view host) {
  if (host.starts_with('[')) return lower(host.substr(0, host.find(']') + 1));
  return lower(host.substr(0, host.rfind(':')));
}

bool is_address(std::string_view name) {
  if (name.starts_with('[')) return name.ends_with(']');
  const bool digits = std::ranges::all_of(name, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
  return digits && std::ranges::count(name, '.') == 3;
}

bool is_own_name(std::string_view host, const HttpPolicy& policy) {
  const auto name = host_name(host);
  if (name.empty()) return false;
  if (is_address(name) || name == "localhost") return true;
  return std::ranges::any_of(policy.host_names, [&](const std::string& own) { return lower(own) == name; });
}

// Why a POST is refused, or nothing.
std::optional<HttpReply> refuse_post(const HttpRequest& request, const HttpPolicy& policy) {
  if (!request.from_loopback && !policy.insecure) {
    return error_reply(403, "forbidden",
                       "the job is steered from the coordinator's own machine: run planaria there, or use an ssh "
                       "tunnel; security.insecure = true lifts this");
  }
  if (!is_own_name(request.host, policy)) {
    return error_reply(403, "forbidden",
                       "the Host header names another host; use the machine's address or localhost in the URL");
  }
  if (!request.origin.empty() && lower(request.origin) != "http://" + lower(request.host)) {
    return error_reply(403, "forbidden", "the request comes from another site's page; use the coordinator's own page");
  }
  const auto type = lower(request.content_type.substr(0, request.content_type.find(';')));
  if (type != "application/json") {
    return error_reply(415, "unsupported_media_type", "send the header Content-Type: application/json");
  }
  return std::nullopt;
}

HttpReply refusal(const Error& error) {
  switch (error.code()) {
    case ErrorCode::not_found:
      return error_reply(404, "not_found", error.message());
    case ErrorCode::invalid_argument:
      return error_reply(400, "bad_request", error.message());
    case ErrorCode::unavailable:
    case ErrorCode::cancelled:
      return error_reply(503, "unavailable", error.message());
    default:
      return error_reply(500, "internal", error.message());
  }
}

// The "reason" of a POST's body, which may be empty.
Result<std::string> reason_of(const std::string& body, const char* fallback) {
  if (body.empty()) return std::string(fallback);
  const auto parsed = json::parse(body, nullptr, false);
  if (!parsed.is_object()) {
    return Error(ErrorCode::invalid_argument, R"(the body isn't a JSON object; send {} or {"reason": "why"})");
  }
  for (const auto& [key, value] : parsed.items()) {
    if (key != "reason" || !value.is_string()) {
      return Error(ErrorCode::invalid_argument, R"(the body may hold "reason", a string, and nothing else)");
    }
  }
  if (!parsed.contains("reason")) return std::string(fallback);
  auto reason = parsed["reason"].get<std::string>();
  if (reason.size() > kMaxReason) {
    return Error(ErrorCode::invalid_argument, fmt::format("the reason is longer than {} bytes", kMaxReason));
  }
  return reason;
}

HttpReply events(std::string_view query, const HttpControls& controls) {
  std::uint64_t after = 0;
  std::uint64_t limit = kDefaultEvents;
  std::uint64_t steps = 0;
  while (!query.empty()) {
    const auto pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const auto name = pair.substr(0, pair.find('='));
    const auto value = to_number(pair.substr(std::min(pair.size(), name.size() + 1)));
    auto* target = name == "after" ? &after : name == "limit" ? &limit : name == "steps" ? &steps : nullptr;
    if (target == nullptr || !value) {
      return error_reply(400, "bad_request", "the query may hold after=NUMBER, limit=NUMBER and steps=0 or 1");
    }
    *target = *value;
  }
  if (limit == 0 || limit > EventLog::kMaxPage || steps > 1) {
    return error_reply(400, "bad_request", fmt::format("limit is 1 to {}, steps 0 or 1", EventLog::kMaxPage));
  }
  const auto page = controls.events(after, limit, steps == 1);
  if (!page) return refusal(page.error());
  json list = json::array();
  for (const auto& entry : page->entries) list.push_back(event_json(entry));
  return json_reply({{"events", std::move(list)}, {"next", page->next}});
}

HttpReply drain(std::string_view worker, const HttpRequest& request, const HttpControls& controls) {
  const auto id = to_number(worker);
  if (!id || *id > UINT32_MAX) return error_reply(404, "not_found", "workers are named by their number");
  const auto reason = reason_of(request.body, "asked for over HTTP");
  if (!reason) return refusal(reason.error());
  if (const auto asked = controls.drain(WorkerId(static_cast<std::uint32_t>(*id)), *reason); !asked) {
    return refusal(asked.error());
  }
  return json_reply({{"accepted", true}, {"worker", *id}}, 202);
}

HttpReply stop(const HttpRequest& request, const HttpControls& controls) {
  const auto reason = reason_of(request.body, "asked for over HTTP");
  if (!reason) return refusal(reason.error());
  if (const auto asked = controls.stop(*reason); !asked) return refusal(asked.error());
  return json_reply({{"accepted", true}}, 202);
}

Result<log_record::FaultFired> fault_of(const std::string& body) {
  const Error unreadable(
      ErrorCode::invalid_argument,
      R"(send {"number": 0, "kind": "kill", "step": 5, "phase": "forward", "worker": 1}; the last three may be null)");
  const auto parsed = json::parse(body, nullptr, false);
  if (!parsed.is_object()) return unreadable;
  log_record::FaultFired fault;
  const auto is_word = [](const json& value) {
    return value.is_string() && value.get_ref<const std::string&>().size() <= kMaxFaultWord;
  };
  const auto is_number = [](const json& value) {
    return value.is_number_unsigned() && value.get<std::uint64_t>() <= UINT32_MAX;
  };
  bool has_number = false;
  for (const auto& [key, value] : parsed.items()) {
    if (key == "number" && is_number(value)) {
      fault.number = value.get<std::uint32_t>();
      has_number = true;
    } else if (key == "kind" && is_word(value)) {
      fault.kind = value.get<std::string>();
    } else if (key == "step" && value.is_number_unsigned()) {
      fault.step = Step(value.get<std::uint64_t>());
    } else if (key == "phase" && is_word(value)) {
      fault.phase = value.get<std::string>();
    } else if (key == "worker" && is_number(value)) {
      fault.worker = value.get<std::uint32_t>();
    } else if (!value.is_null() || (key != "step" && key != "phase" && key != "worker")) {
      return unreadable;
    }
  }
  if (!has_number || fault.kind.empty()) return unreadable;
  return fault;
}

HttpReply fault(const HttpRequest& request, const HttpControls& controls) {
  const auto fired = fault_of(request.body);
  if (!fired) return refusal(fired.error());
  if (const auto noted = controls.fault(*fired); !noted) return refusal(noted.error());
  return json_reply({{"accepted", true}}, 202);
}

HttpReply health(const StatusSnapshot& snapshot) {
  const bool healthy = snapshot.log_error.empty();
  json body = {{"healthy", healthy}, {"status", snapshot.status}};
  if (!healthy) body["reason"] = snapshot.log_error;
  return json_reply(body, healthy ? 200 : 503);
}

HttpReply page() {
  HttpReply reply{200, "text/html; charset=utf-8", std::string(status_page()), {}, false};
  reply.headers.emplace_back("Content-Security-Policy",
                             "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                             "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                             "frame-ancestors 'none'");
  return reply;
}

}  // namespace

HttpReply error_reply(unsigned status, std::string_view code, std::string_view message) {
  return json_reply({{"error", {{"code", code}, {"message", message}}}}, status);
}

HttpReply route(const HttpRequest& request, const StatusSnapshot& snapshot, const HttpControls& controls,
                const HttpPolicy& policy) {
  const std::string_view target = request.target;
  const auto path = target.substr(0, target.find('?'));
  const auto query = target.substr(std::min(target.size(), path.size() + 1));
  constexpr std::string_view kWorkers = "/v1/workers/";
  constexpr std::string_view kDrain = "/drain";
  const bool is_drain =
      path.starts_with(kWorkers) && path.ends_with(kDrain) && path.size() > kWorkers.size() + kDrain.size();
  const bool posts = is_drain || path == "/v1/stop" || path == "/v1/faults";
  const bool gets = path == "/" || path == "/healthz" || path == "/metrics" || path == "/v1/status" ||
                    path == "/v1/events" || path == "/v1/stream" || path == "/v1/snapshots";
  if (!posts && !gets) {
    return error_reply(
        404, "not_found",
        "there is /, /healthz, /metrics, /v1/status, /v1/snapshots, /v1/events and /v1/stream to GET, and "
        "/v1/workers/NUMBER/drain, /v1/stop and /v1/faults to POST");
  }
  if (posts ? request.method != "POST" : request.method != "GET" && request.method != "HEAD") {
    auto reply = error_reply(405, "method_not_allowed", posts ? "use POST here" : "use GET here");
    reply.headers.emplace_back("Allow", posts ? "POST" : "GET, HEAD");
    return reply;
  }
  if (posts) {
    if (auto refusal = refuse_post(request, policy)) return *std::move(refusal);
    if (path == "/v1/faults") return fault(request, controls);
    if (!is_drain) return stop(request, controls);
    return drain(path.substr(kWorkers.size(), path.size() - kWorkers.size() - kDrain.size()), request, controls);
  }
  if (path == "/") return page();
  if (path == "/healthz") return health(snapshot);
  if (path == "/metrics") return {200, "text/plain; version=0.0.4; charset=utf-8", metrics_text(snapshot), {}, false};
  if (path == "/v1/events") return events(query, controls);
  if (path == "/v1/snapshots") return json_reply(snapshots_json(snapshot.snapshots));
  if (path == "/v1/stream") {
    HttpReply reply;
    reply.stream = true;
    return reply;
  }
  return json_reply(status_json(snapshot));
}

}  // namespace planaria

#include "cli/http_client.hpp"

#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>

namespace planaria {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr std::size_t kMaxAnswerBytes = 64U << 20;

Error unreachable(const HttpTarget& target, const std::string& why) {
  return {ErrorCode::unavailable, "no coordinator answers at " + target.host + ":" + target.port + " (" + why +
                                      "); is the job running, and is this its HTTP port?"};
}

// The message of an answer's {"error": {"code", "message"}}, or `otherwise` from a server that speaks differently.
std::string error_message(const nlohmann::json& error, const std::string& otherwise) {
  const auto found = error.is_object() ? error.find("message") : error.end();
  return error.is_object() && found != error.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

Result<nlohmann::json> request(const HttpTarget& target, http::verb verb, const std::string& path,
                               const std::string& body, int timeout_ms) {
  asio::io_context context;
  asio::ip::tcp::resolver resolver(context);
  beast::tcp_stream stream(context);
  beast::error_code error;
  const auto places = resolver.resolve(target.host, target.port, error);
  if (error) return unreachable(target, error.message());

  http::request<http::string_body> message(verb, path, 11);
  const bool ipv6 = target.host.find(':') != std::string::npos;
  message.set(http::field::host, (ipv6 ? "[" + target.host + "]" : target.host) + ":" + target.port);
  if (verb == http::verb::post) message.set(http::field::content_type, "application/json");
  message.body() = body;
  message.prepare_payload();
  http::response_parser<http::string_body> answer;
  answer.body_limit(kMaxAnswerBytes);
  beast::flat_buffer buffer;

  // Timeouts of a tcp_stream work for asynchronous operations only.
  bool done = false;
  const auto finish = [&](beast::error_code result) {
    error = result;
    done = !result;
  };
  stream.expires_after(std::chrono::milliseconds(timeout_ms));
  stream.async_connect(places, [&](beast::error_code result, const auto&) {
    if (result) return finish(result);
    http::async_write(stream, message, [&](beast::error_code written, std::size_t) {
      if (written) return finish(written);
      http::async_read(stream, buffer, answer, [&](beast::error_code read, std::size_t) { finish(read); });
    });
  });
  context.run();
  if (!done) return unreachable(target, error.message());

  auto json = nlohmann::json::parse(answer.get().body(), nullptr, false);
  if (answer.get().result_int() / 100 != 2) {
    std::string why = "HTTP status " + std::to_string(answer.get().result_int());
    if (json.is_object() && json.contains("error")) why = error_message(json["error"], why);
    const auto code = answer.get().result_int();
    return Error(code / 100 == 5 ? ErrorCode::unavailable : ErrorCode::invalid_argument, why);
  }
  if (json.is_discarded()) return Error(ErrorCode::corrupt, "the coordinator's answer is not JSON");
  return json;
}

}  // namespace

Result<HttpTarget> parse_target(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  HttpTarget target;
  if (colon == std::string::npos) {
    target.port = text;
  } else {
    target.host = text.substr(0, colon);
    target.port = text.substr(colon + 1);
    const bool bracketed = target.host.size() > 2 && target.host.front() == '[' && target.host.back() == ']';
    if (bracketed) {
      target.host = target.host.substr(1, target.host.size() - 2);
    } else if (target.host.find(':') != std::string::npos) {
      return Error(ErrorCode::invalid_argument, "'" + text + "': an IPv6 address stands in brackets, as in [::1]:8080");
    }
  }
  const bool number = !target.port.empty() && target.port.find_first_not_of("0123456789") == std::string::npos;
  if (!number || target.host.empty()) {
    return Error(ErrorCode::invalid_argument, "'" + text + "' is not host:port of a coordinator");
  }
  return target;
}

Result<nlohmann::json> http_get(const HttpTarget& target, const std::string& path, int timeout_ms) {
  return request(target, http::verb::get, path, {}, timeout_ms);
}

Result<nlohmann::json> http_post(const HttpTarget& target, const std::string& path, const nlohmann::json& body,
                                 int timeout_ms) {
  return request(target, http::verb::post, path, body.dump(), timeout_ms);
}

}  // namespace planaria

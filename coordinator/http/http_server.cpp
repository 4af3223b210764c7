// Asio in Boost 1.74 uses std::exchange without including it.
#include <utility>
// The one file that compiles Beast, for its build time.
#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "common/log.hpp"
#include "coordinator/http/http_server.hpp"

namespace planaria {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;

constexpr std::size_t kMaxStreams = 64;
constexpr auto kStreamBeat = std::chrono::seconds(10);  // a comment, so that dead clients show
constexpr char kStreamHead[] =
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: text/event-stream\r\n"
    "Cache-Control: no-store\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n\r\n"
    "retry: 1000\n\n";

class Connection;

// Everything here runs on the io thread, once it runs.
struct Server {
  Server(HttpServerOptions o, HttpControls c, std::shared_ptr<const StatusSnapshot> first)
      : options(std::move(o)), controls(std::move(c)), snapshot(std::move(first)) {}

  Status listen();
  void accept();
  void changed();
  void tell();
  void beat();
  void each_stream(const std::shared_ptr<const std::string>& frame);

  const HttpServerOptions options;
  const HttpControls controls;
  std::shared_ptr<const StatusSnapshot> snapshot;
  std::vector<std::weak_ptr<Connection>> streams;
  std::size_t connections = 0;
  bool tell_planned = false;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer accept_again{io};
  asio::steady_timer next_tell{io};
  asio::steady_timer next_beat{io};
};

std::shared_ptr<const std::string> stream_frame(const StatusSnapshot& snapshot) {
  return std::make_shared<const std::string>(fmt::format("event: status\nid: {}\ndata: {}\n\n", snapshot.serial,
                                                         to_text(status_json(snapshot, StatusDetail::brief))));
}

// One client: requests one after another, or, once asked for, the stream.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Server& server, tcp::socket socket) : server_(server), stream_(std::move(socket)) {
    ++server_.connections;
    error_code failure;
    const auto peer = stream_.socket().remote_endpoint(failure);
    from_loopback_ = !failure && peer.address().is_loopback();
  }
  ~Connection() { --server_.connections; }

  // The first bytes may take as long as a connection may idle, the rest of the request only its own time.
  void read() {
    stream_.expires_after(server_.options.idle_timeout);
    if (buffer_.size() > 0) return read_request();
    stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code failure, std::size_t size) {
      if (failure) return;
      self->buffer_.commit(size);
      self->read_request();
    });
  }

  // Precondition: streaming() began. A client that doesn't keep up skips frames and gets the newest later.
  void tell(std::shared_ptr<const std::string> frame) {
    const auto now = std::chrono::steady_clock::now();
    if (writing_) {
      next_ = std::move(frame);
      if (now - write_began_ > server_.options.request_timeout) stream_.close();
      return;
    }
    writing_ = std::move(frame);
    write_began_ = now;
    asio::async_write(stream_.socket(), asio::buffer(*writing_),
                      [self = shared_from_this()](error_code failure, std::size_t) {
                        self->writing_.reset();
                        if (failure) return self->stream_.close();
                        if (auto next = std::exchange(self->next_, nullptr)) self->tell(std::move(next));
                      });
  }

 private:
  void read_request() {
    parser_.emplace();
    parser_->header_limit(HttpServer::kMaxHeaderBytes);
    parser_->body_limit(kMaxHttpBody);
    stream_.expires_after(server_.options.request_timeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code failure, std::size_t) { self->answer(failure); });
  }

  void answer(error_code failure) {
    if (failure == http::error::body_limit) {
      return reply(error_reply(413, "too_large", fmt::format("a body may have {} bytes", kMaxHttpBody)), true);
    }
    if (failure == http::error::header_limit || failure == http::error::buffer_overflow) {
      return reply(error_reply(431, "too_large", "the header is too long; send fewer and shorter fields"), true);
    }
    const bool gone = failure == beast::error::timeout || failure == http::error::end_of_stream ||
                      failure == asio::error::eof || failure.category() == asio::error::get_system_category();
    if (failure && gone) return stream_.close();
    if (failure) {
      return reply(error_reply(400, "bad_request", "this isn't HTTP/1.1 that can be read: " + failure.message()), true);
    }
    auto message = parser_->release();
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.target = std::string(message.target());
    request.host = std::string(message[http::field::host]);
    request.origin = std::string(message[http::field::origin]);
    request.content_type = std::string(message[http::field::content_type]);
    request.body = std::move(message.body());
    request.from_loopback = from_loopback_;
    head_ = message.method() == http::verb::head;
    auto made = route(request, *server_.snapshot, server_.controls, server_.options.policy);
    if (made.stream && !head_) return begin_stream();
    reply(std::move(made), !message.keep_alive());
  }

  void reply(HttpReply made, bool close) {
    response_ = {};
    response_.version(11);
    response_.result(made.status);
    response_.set(http::field::content_type, made.content_type);
    response_.set(http::field::cache_control, "no-store");
    response_.set("X-Content-Type-Options", "nosniff");
    for (const auto& [name, value] : made.headers) response_.set(name, value);
    response_.keep_alive(!close);
    response_.content_length(made.body.size());
    if (!head_) response_.body() = std::move(made.body);
    head_ = false;
    stream_.expires_after(server_.options.request_timeout);
    http::async_write(stream_, response_, [self = shared_from_this(), close](error_code failure, std::size_t) {
      if (failure) return self->stream_.close();
      if (!close) return self->read();
      self->linger();
    });
  }

  // Lets the client read the reply before its unread bytes would reset the connection.
  void linger() {
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_.expires_after(std::chrono::seconds(1));
    drop_input();
  }
  void drop_input() {
    buffer_.clear();
    stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code failure, std::size_t) {
      if (failure) return self->stream_.close();
      self->drop_input();
    });
  }

  void begin_stream() {
    std::erase_if(server_.streams, [](const auto& stream) { return stream.expired(); });
    if (server_.streams.size() >= kMaxStreams) {
      return reply(error_reply(503, "unavailable", "too many open streams; close one, or GET /v1/status"), true);
    }
    stream_.expires_never();
    server_.streams.push_back(weak_from_this());
    tell(std::make_shared<const std::string>(kStreamHead + *stream_frame(*server_.snapshot)));
    drop_input();
  }

  Server& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{HttpServer::kMaxHeaderBytes + kMaxHttpBody};
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  bool from_loopback_ = false;
  bool head_ = false;
  std::shared_ptr<const std::string> writing_, next_;
  std::chrono::steady_clock::time_point write_began_;
};

Status Server::listen() {
  const auto explain = [&](const error_code& failure) {
    return Error(ErrorCode::unavailable,
                 fmt::format("can't listen for HTTP on {}:{}: {}; set cluster.http_port to a free port (0 for any) and "
                             "cluster.listen to an address of this machine",
                             options.address, options.port, failure.message()));
  };
  error_code failure;
  const auto address = asio::ip::make_address(options.address, failure);
  if (failure) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("cluster.listen is \"{}\"; write an IP address such as 127.0.0.1", options.address));
  }
  const tcp::endpoint endpoint(address, options.port);
  acceptor.open(endpoint.protocol(), failure);
  if (!failure) acceptor.set_option(tcp::acceptor::reuse_address(true), failure);
  if (!failure) acceptor.bind(endpoint, failure);
  if (!failure) acceptor.listen(asio::socket_base::max_listen_connections, failure);
  if (failure) return explain(failure);
  return ok_status();
}

void Server::accept() {
  acceptor.async_accept([this](error_code failure, tcp::socket socket) {
    if (failure == asio::error::operation_aborted) return;
    if (failure) {  // out of descriptors, mostly: they come back
      accept_again.expires_after(std::chrono::milliseconds(100));
      accept_again.async_wait([this](error_code cancelled) {
        if (!cancelled) accept();
      });
      return;
    }
    if (connections < HttpServer::kMaxConnections) {
      std::make_shared<Connection>(*this, std::move(socket))->read();
    }
    accept();
  });
}

void Server::changed() {
  if (tell_planned || streams.empty()) return;
  tell_planned = true;
  next_tell.async_wait([this](error_code cancelled) {
    if (!cancelled) tell();
  });
}

void Server::tell() {
  tell_planned = false;
  next_tell.expires_after(options.stream_interval);
  each_stream(stream_frame(*snapshot));
}

void Server::beat() {
  next_beat.expires_after(kStreamBeat);
  next_beat.async_wait([this](error_code cancelled) {
    if (cancelled) return;
    each_stream(std::make_shared<const std::string>(": still here\n\n"));
    beat();
  });
}

void Server::each_stream(const std::shared_ptr<const std::string>& frame) {
  std::erase_if(streams, [](const auto& stream) { return stream.expired(); });
  for (const auto& stream : std::vector(streams)) {
    if (const auto connection = stream.lock()) connection->tell(frame);
  }
}

}  // namespace

struct HttpServer::Impl {
  Server server;
  std::uint16_t port = 0;
  std::thread thread;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(HttpServerOptions options, HttpControls controls,
                                                      std::shared_ptr<const StatusSnapshot> first) {
  try {
    std::unique_ptr<Impl> impl(new Impl{{std::move(options), std::move(controls), std::move(first)}, 0, {}});
    auto& server = impl->server;
    PLANARIA_TRY(server.listen());
    impl->port = server.acceptor.local_endpoint().port();
    server.accept();
    server.beat();
    impl->thread = std::thread([&server] {
      for (;;) {
        try {
          server.io.run();
          return;
        } catch (const std::exception& failure) {  // of one handler; the others go on
          Log("http").error("a request failed", {{"why", failure.what()}});
        }
      }
    });
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::exception& failure) {
    return Error(ErrorCode::io, fmt::format("can't start the HTTP server: {}", failure.what()));
  }
}

HttpServer::~HttpServer() {
  impl_->server.io.stop();
  impl_->thread.join();
}

std::uint16_t HttpServer::port() const {
  return impl_->port;
}

void HttpServer::publish(std::shared_ptr<const StatusSnapshot> snapshot) {
  asio::post(impl_->server.io, [server = &impl_->server, snapshot = std::move(snapshot)]() mutable {
    server->snapshot = std::move(snapshot);
    server->changed();
  });
}

}  // namespace planaria

#include "coordinator/shell/gateway.hpp"

#include <fmt/format.h>
#include <openssl/ssl.h>

#include <atomic>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <caf/openssl/all.hpp>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>

#include "common/log.hpp"

namespace planaria {

namespace {

// Hands a message from the service to the gateway's actor. Not a registered type, so no peer can send one.
struct Outgoing {
  SessionId session;
  ByteVector bytes;
};

struct Shared {
  ControlGateway::Listener listener;
  std::size_t max_message_bytes = 0;
  std::atomic<std::uint64_t> generation{0};
  std::atomic<std::uint64_t> refused{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t sessions = 0;
};

}  // namespace
}  // namespace planaria

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(planaria::Outgoing)

namespace planaria {

namespace {

using ControlAtom = caf::atom_constant<caf::atom("ctl")>;

// Actor "gateway": (ctl, bytes) from bridges, Outgoing from the service, DOWN of bridges.
struct GatewayState {
  struct Session {
    caf::actor bridge;
    bool told = false;  // that it sends what can't be decoded
  };
  const char* name = "gateway";
  std::map<caf::actor_addr, SessionId> by_address;
  std::map<SessionId, Session> sessions;
  SessionId last;
  Log log{"gateway"};
};
using GatewayActor = caf::stateful_actor<GatewayState>;

void count_sessions(GatewayActor* self, Shared& shared) {
  const std::lock_guard lock(shared.mutex);
  shared.sessions = self->state.sessions.size();
  shared.changed.notify_all();
}

void reply(GatewayActor* self, const caf::actor& bridge, const Shared& shared, const std::string& reason,
           bool permanent) {
  const CoordinatorEnvelope envelope{kProtocolVersion, Generation(shared.generation.load()),
                                     Refused{reason, permanent}};
  self->send(bridge, ControlAtom::value, encode(envelope));
}

void forget(GatewayActor* self, Shared& shared, SessionId session) {
  auto& state = self->state;
  const auto found = state.sessions.find(session);
  if (found == state.sessions.end()) return;
  state.by_address.erase(found->second.bridge.address());
  state.sessions.erase(found);
  count_sessions(self, shared);
  shared.listener({session, std::nullopt});
}

// The session of the current message's sender, made when it is new; nothing when there is no room.
std::optional<SessionId> session_of_sender(GatewayActor* self, Shared& shared, const caf::actor& bridge) {
  auto& state = self->state;
  if (const auto found = state.by_address.find(bridge.address()); found != state.by_address.end()) return found->second;
  if (state.sessions.size() >= kMaxSessions) {
    reply(self, bridge, shared, "the coordinator has no room for more workers; try again later", false);
    return std::nullopt;
  }
  state.last = state.last.next();
  state.by_address.emplace(bridge.address(), state.last);
  state.sessions.emplace(state.last, GatewayState::Session{bridge});
  self->monitor(bridge);
  count_sessions(self, shared);
  return state.last;
}

void refuse_bytes(GatewayActor* self, Shared& shared, SessionId session, const std::string& why) {
  shared.refused.fetch_add(1);
  auto& told = self->state.sessions.at(session).told;
  if (!told) self->state.log.warning("a session sends what can't be read", {{"session", session}, {"why", why}});
  told = true;
}

void receive(GatewayActor* self, Shared& shared, const ByteVector& bytes) {
  const auto sender = caf::actor_cast<caf::actor>(self->current_sender());
  if (!sender) {
    shared.refused.fetch_add(1);  // nobody to answer to
    return;
  }
  const auto session = session_of_sender(self, shared, sender);
  if (!session) return;
  if (bytes.size() > shared.max_message_bytes) {
    return refuse_bytes(self, shared, *session,
                        fmt::format("{} bytes; at most {} are allowed", bytes.size(), shared.max_message_bytes));
  }
  // The version stands first in every version's envelope, so that it can be told even when the rest can't be read.
  std::uint32_t protocol = 0;
  if (bytes.size() >= sizeof protocol) std::memcpy(&protocol, bytes.data(), sizeof protocol);
  if (bytes.size() >= sizeof protocol && protocol != kProtocolVersion) {
    const auto reason = fmt::format(
        "the worker speaks control protocol {}, this coordinator {}; use the same release "
        "for both",
        protocol, kProtocolVersion);
    refuse_bytes(self, shared, *session, reason);
    return reply(self, sender, shared, reason, true);
  }
  auto envelope = decode<WorkerEnvelope>(bytes);
  if (!envelope) return refuse_bytes(self, shared, *session, envelope.error().message());
  const bool spare = std::holds_alternative<Heartbeat>(envelope->message);
  if (!shared.listener({*session, std::move(*envelope)}) && !spare) {
    self->state.log.warning("closing a session: the coordinator is overloaded", {{"session", *session}});
    reply(self, sender, shared, "the coordinator is overloaded; register again", false);
    forget(self, shared, *session);
  }
}

caf::behavior gateway(GatewayActor* self, std::shared_ptr<Shared> shared) {
  self->set_down_handler([=](const caf::down_msg& down) {
    const auto found = self->state.by_address.find(down.source);
    if (found != self->state.by_address.end()) forget(self, *shared, found->second);
  });
  // Peers can send exits and errors too; only the service ends this actor.
  self->set_exit_handler([=](const caf::exit_msg& message) {
    if (shared->stopping.load()) self->quit(message.reason);
  });
  self->set_error_handler([](const caf::error&) {});
  self->set_default_handler(caf::drop);
  return {
      [=](ControlAtom, const ByteVector& bytes) { receive(self, *shared, bytes); },
      [=](const Outgoing& out) {
        const auto found = self->state.sessions.find(out.session);
        if (found != self->state.sessions.end()) self->send(found->second.bridge, ControlAtom::value, out.bytes);
      },
  };
}

class GatewayConfig : public caf::actor_system_config {
 public:
  explicit GatewayConfig(const GatewayOptions& options) {
    load<caf::io::middleman>();
    add_message_type<ByteVector>(kControlBytesType);
    // Waiting threads sleep on a condition; the default polls, which costs up to 10 ms a message after a pause.
    set("scheduler.policy", caf::atom("sharing"));
    set("scheduler.max-threads", std::size_t{2});
    set("middleman.workers", std::size_t{1});
    if (!options.tls_certificate.empty()) {
      load<caf::openssl::manager>();
      openssl_certificate = options.tls_certificate;
      openssl_key = options.tls_key;
      openssl_cafile = options.tls_authority;
    }
  }
};

// CAF would find out only when the first worker connects.
Status check_tls_files(const GatewayOptions& options) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_method()), SSL_CTX_free);
  const auto refuse = [](const char* key, const std::string& path) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("security.{} = \"{}\" can't be used: it must be a readable PEM file, and the key must "
                             "belong to the certificate",
                             key, path));
  };
  const auto& certificate = options.tls_certificate;
  if (!context || SSL_CTX_use_certificate_chain_file(context.get(), certificate.c_str()) != 1) {
    return refuse("tls_certificate", certificate);
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), options.tls_key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return refuse("tls_key", options.tls_key);
  }
  if (SSL_CTX_load_verify_locations(context.get(), options.tls_authority.c_str(), nullptr) != 1) {
    return refuse("tls_authority", options.tls_authority);
  }
  return ok_status();
}

Error publish_error(const GatewayOptions& options, const std::string& why) {
  return {ErrorCode::unavailable,
          fmt::format("can't listen for workers on {}:{}: {}; another program may use the port (set "
                      "cluster.control_port to a free one, or 0 for any), or the address isn't this machine's",
                      options.address, options.port, why)};
}

// Answers of the network thread since the question was put. After a late one some prompt ones show that it has caught
// up with what arrived meanwhile.
constexpr Duration kPromptly = std::chrono::milliseconds(10);
constexpr std::uint32_t kPromptAfterDelay = 2;
constexpr std::uint32_t kMaxAnswers = 20;  // where every answer is late, it is the machine

struct NetworkCheck {
  std::optional<Instant> asked_at;
  std::shared_ptr<std::atomic<bool>> answered;
  std::uint32_t answers = 0;
  std::uint32_t prompt_wanted = 0;
};

}  // namespace

struct ControlGateway::Impl {
  explicit Impl(const GatewayOptions& options) : config(options), system(config) {}

  GatewayConfig config;
  caf::actor_system system;
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
  caf::actor actor;
  std::uint16_t port = 0;
  NetworkCheck check;
};

ControlGateway::ControlGateway(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<ControlGateway>> ControlGateway::start(const GatewayOptions& options, Listener listener) {
  const bool tls = !options.tls_certificate.empty();
  if (tls) PLANARIA_TRY(check_tls_files(options));
  try {
    auto impl = std::make_unique<Impl>(options);
    impl->shared->listener = std::move(listener);
    impl->shared->max_message_bytes = options.max_message_bytes;
    // Not detached: in CAF 0.17 a system that ends may await a detached actor's thread for ever.
    impl->actor = impl->system.spawn(gateway, impl->shared);
    std::unique_ptr<ControlGateway> made(new ControlGateway(std::move(impl)));
    auto& self = *made->impl_;
    const auto port = tls ? caf::openssl::publish(self.actor, options.port, options.address.c_str(), true)
                          : self.system.middleman().publish(self.actor, options.port, options.address.c_str(), true);
    if (!port) return publish_error(options, self.system.render(port.error()));
    self.port = *port;
    return made;
  } catch (const std::exception& failure) {
    if (tls) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("can't start the control port with TLS: {}; check security.tls_certificate, tls_key and "
                               "tls_authority",
                               failure.what()));
    }
    return publish_error(options, failure.what());
  }
}

ControlGateway::~ControlGateway() {
  impl_->shared->stopping.store(true);
  caf::anon_send_exit(impl_->actor, caf::exit_reason::user_shutdown);
  impl_->actor = nullptr;
}

std::uint16_t ControlGateway::port() const {
  return impl_->port;
}

void ControlGateway::send(SessionId session, const CoordinatorEnvelope& envelope) {
  caf::anon_send(impl_->actor, Outgoing{session, encode(envelope)});
}

void ControlGateway::set_generation(Generation generation) {
  impl_->shared->generation.store(generation.value());
}

bool ControlGateway::await_no_sessions(std::chrono::milliseconds timeout) {
  auto& shared = *impl_->shared;
  std::unique_lock lock(shared.mutex);
  return shared.changed.wait_for(lock, timeout, [&] { return shared.sessions == 0; });
}

bool ControlGateway::caught_up(Instant now) {
  NetworkCheck& check = impl_->check;
  const bool answered = check.asked_at && check.answered->load();
  if (answered) {
    const bool prompt = now - *check.asked_at < kPromptly;
    check.asked_at.reset();
    ++check.answers;
    if (!prompt) {
      check.prompt_wanted = kPromptAfterDelay;
    } else if (check.prompt_wanted > 0) {
      --check.prompt_wanted;
    }
    if (check.prompt_wanted == 0 || check.answers >= kMaxAnswers) {
      check = NetworkCheck{};
      return true;
    }
  }
  if (!check.asked_at) {
    check.asked_at = now;
    check.answered = std::make_shared<std::atomic<bool>>(false);
    impl_->system.middleman().backend().post([answer = check.answered] { answer->store(true); });
  }
  return false;
}

std::uint64_t ControlGateway::refused_messages() const {
  return impl_->shared->refused.load();
}

}  // namespace planaria

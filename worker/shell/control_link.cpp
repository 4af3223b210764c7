#include "worker/shell/control_link.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <caf/openssl/all.hpp>
#include <set>
#include <utility>

namespace planaria {

namespace {

constexpr std::size_t kMaxControlBytes = 64U << 20;
constexpr Duration kConnectTimeout = std::chrono::seconds(3);

// Hands bytes from the agent to the link's actor. Not a registered type, so no peer can send one.
struct LinkOutgoing {
  ByteVector bytes;
};
struct LinkConnect {};

struct LinkShared {
  ControlLinkOptions options;
  ControlLinkHandlers handlers;
  std::atomic<bool> stopping{false};
};

}  // namespace
}  // namespace planaria

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(planaria::LinkOutgoing)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(planaria::LinkConnect)

namespace planaria {

namespace {

using ControlAtom = caf::atom_constant<caf::atom("ctl")>;

// Actor "link": LinkConnect (own), LinkOutgoing (the agent), (ctl, bytes) and DOWN of the gateway.
//
//   connecting ──gateway found──> connected ──DOWN, bad bytes──> connecting
struct LinkState {
  const char* name = "link";
  caf::actor gateway;  // none while connecting
  Duration retry = kFirstRetry;
};
using LinkActor = caf::stateful_actor<LinkState>;

void reconnect(LinkActor* self, Duration after) {
  self->delayed_send(self, after, LinkConnect{});
}

void attempt_failed(LinkActor* self, const LinkShared& shared, Error why) {
  shared.handlers.failed(std::move(why));
  reconnect(self, self->state.retry);
  self->state.retry = std::min(self->state.retry * 2, kLastRetry);
}

Error reason_of(LinkActor* self, const caf::error& failure) {
  if (failure == caf::sec::malformed_basp_message) {
    return {ErrorCode::invalid_argument,
            "what listens there doesn't speak the control protocol: this may be the HTTP port, or one of both uses TLS "
            "and the other doesn't"};
  }
  if (failure == caf::sec::cannot_connect_to_node) return {ErrorCode::unavailable, "nobody listens there"};
  return {ErrorCode::unavailable, self->system().render(failure)};
}

void lose(LinkActor* self, const LinkShared& shared, const std::string& why) {
  auto& state = self->state;
  if (!state.gateway) return;
  self->demonitor(state.gateway);
  state.gateway = nullptr;
  state.retry = kFirstRetry;
  shared.handlers.lost(why);
  reconnect(self, Duration(0));
}

void connect(LinkActor* self, const std::shared_ptr<LinkShared>& shared) {
  if (self->state.gateway) return;
  const bool tls = !shared->options.tls_certificate.empty();
  const auto broker = tls ? self->system().openssl_manager().actor_handle() : self->system().middleman().actor_handle();
  self->request(broker, kConnectTimeout, caf::connect_atom::value, shared->options.host, shared->options.port)
      .then(
          [=](const caf::node_id&, caf::strong_actor_ptr& published, const std::set<std::string>&) {
            if (!published) {
              return attempt_failed(self, *shared, {ErrorCode::unavailable, "what listens there is no coordinator"});
            }
            auto& state = self->state;
            state.gateway = caf::actor_cast<caf::actor>(published);
            state.retry = kFirstRetry;
            self->monitor(state.gateway);
            shared->handlers.connected();
          },
          [=](const caf::error& failure) { attempt_failed(self, *shared, reason_of(self, failure)); });
}

void receive(LinkActor* self, LinkShared& shared, const ByteVector& bytes) {
  if (!self->state.gateway || self->current_sender() != self->state.gateway) return;
  auto envelope = bytes.size() <= kMaxControlBytes
                      ? decode<CoordinatorEnvelope>(bytes)
                      : Result<CoordinatorEnvelope>(Error(ErrorCode::corrupt, "a message is too long"));
  if (!envelope) {
    return lose(self, shared, "the coordinator sends what can't be read: " + envelope.error().message());
  }
  shared.handlers.message(std::move(*envelope));
}

caf::behavior link(LinkActor* self, std::shared_ptr<LinkShared> shared) {
  self->set_down_handler([=](const caf::down_msg& down) {
    if (self->state.gateway && down.source == self->state.gateway.address()) {
      lose(self, *shared, "the connection broke: " + self->system().render(down.reason));
    }
  });
  // Peers can send exits and errors too; only the agent ends this actor.
  self->set_exit_handler([=](const caf::exit_msg& message) {
    if (shared->stopping.load()) self->quit(message.reason);
  });
  self->set_error_handler([](const caf::error&) {});
  self->set_default_handler(caf::drop);
  self->send(self, LinkConnect{});
  return {
      [=](const LinkConnect&) { connect(self, shared); },
      [=](const LinkOutgoing& out) {
        if (self->state.gateway) self->send(self->state.gateway, ControlAtom::value, out.bytes);
      },
      [=](ControlAtom, const ByteVector& bytes) { receive(self, *shared, bytes); },
  };
}

class LinkConfig : public caf::actor_system_config {
 public:
  explicit LinkConfig(const ControlLinkOptions& options) {
    load<caf::io::middleman>();
    add_message_type<ByteVector>(kControlBytesType);
    // Waiting threads sleep on a condition; the default polls, which costs up to 10 ms a message after a pause.
    set("scheduler.policy", caf::atom("sharing"));
    set("scheduler.max-threads", std::size_t{1});
    set("middleman.workers", std::size_t{1});
    if (!options.tls_certificate.empty()) {
      load<caf::openssl::manager>();
      openssl_certificate = options.tls_certificate;
      openssl_key = options.tls_key;
      openssl_cafile = options.tls_authority;
    }
  }
};

}  // namespace

struct ControlLink::Impl {
  explicit Impl(const ControlLinkOptions& options) : config(options), system(config) {}

  LinkConfig config;
  caf::actor_system system;
  std::shared_ptr<LinkShared> shared = std::make_shared<LinkShared>();
  caf::actor actor;
};

ControlLink::ControlLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<ControlLink>> ControlLink::start(const ControlLinkOptions& options,
                                                        ControlLinkHandlers handlers) {
  try {
    auto impl = std::make_unique<Impl>(options);
    impl->shared->options = options;
    impl->shared->handlers = std::move(handlers);
    // Not detached: in CAF 0.17 a system that ends may await a detached actor's thread for ever.
    impl->actor = impl->system.spawn(link, impl->shared);
    return std::unique_ptr<ControlLink>(new ControlLink(std::move(impl)));
  } catch (const std::exception& failure) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("can't set up the connection to the coordinator: {}; check security.tls_certificate, "
                             "tls_key and tls_authority",
                             failure.what()));
  }
}

ControlLink::~ControlLink() {
  impl_->shared->stopping.store(true);
  caf::anon_send_exit(impl_->actor, caf::exit_reason::user_shutdown);
  impl_->actor = nullptr;
}

void ControlLink::send(const WorkerEnvelope& envelope) {
  caf::anon_send(impl_->actor, LinkOutgoing{encode(envelope)});
}

}  // namespace planaria

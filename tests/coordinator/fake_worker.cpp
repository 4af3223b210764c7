#include "tests/coordinator/fake_worker.hpp"

#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <caf/openssl/all.hpp>

namespace planaria {

namespace {

using ControlAtom = caf::atom_constant<caf::atom("ctl")>;

class Config : public caf::actor_system_config {
 public:
  explicit Config(const FakeWorkerTls& tls) {
    load<caf::io::middleman>();
    add_message_type<ByteVector>(kControlBytesType);
    set("scheduler.policy", caf::atom("sharing"));
    set("scheduler.max-threads", std::size_t{1});
    if (!tls.certificate.empty()) {
      load<caf::openssl::manager>();
      openssl_certificate = tls.certificate;
      openssl_key = tls.key;
      openssl_cafile = tls.authority;
    }
  }
};

}  // namespace

struct FakeWorker::Impl {
  explicit Impl(const FakeWorkerTls& tls) : config(tls), system(config), self(system) {}
  Config config;
  caf::actor_system system;
  caf::scoped_actor self;
  caf::actor gateway;
};

FakeWorker::FakeWorker(std::uint16_t port, const FakeWorkerTls& tls) : impl_(std::make_unique<Impl>(tls)) {
  auto remote = tls.certificate.empty() ? impl_->system.middleman().remote_actor<caf::actor>("127.0.0.1", port)
                                        : caf::openssl::remote_actor<caf::actor>(impl_->system, "127.0.0.1", port);
  if (remote) impl_->gateway = *remote;
}

FakeWorker::~FakeWorker() = default;

bool FakeWorker::connected() const {
  return static_cast<bool>(impl_->gateway);
}

void FakeWorker::send(const WorkerMessage& message) {
  send_bytes(encode(WorkerEnvelope{kProtocolVersion, worker, incarnation, message}));
}

void FakeWorker::send_bytes(ByteVector bytes) {
  impl_->self->send(impl_->gateway, ControlAtom::value, std::move(bytes));
}

void FakeWorker::send_nonsense() {
  impl_->self->send(impl_->gateway, std::string("hello"));
  impl_->self->send(impl_->gateway, 42);
  impl_->self->send(impl_->gateway, ControlAtom::value, std::string("not bytes"));
  impl_->self->send(impl_->gateway, caf::make_error(caf::sec::runtime_error, "not yours"));
  caf::anon_send_exit(impl_->gateway, caf::exit_reason::user_shutdown);
  caf::anon_send(impl_->gateway, ControlAtom::value, ByteVector{1, 2, 3});
}

std::optional<CoordinatorEnvelope> FakeWorker::receive(std::chrono::milliseconds timeout) {
  std::optional<CoordinatorEnvelope> received;
  impl_->self->receive(
      [&](ControlAtom, const ByteVector& bytes) {
        auto envelope = decode<CoordinatorEnvelope>(bytes);
        if (envelope) received = std::move(*envelope);
      },
      caf::after(timeout) >> [] {});
  return received;
}

}  // namespace planaria

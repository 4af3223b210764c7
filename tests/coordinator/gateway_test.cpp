#include "coordinator/shell/gateway.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>

#include "tests/coordinator/fake_worker.hpp"
#include "tests/coordinator/raw_socket.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

// Collects what the gateway tells its owner.
class Inbox {
 public:
  ControlGateway::Listener listener() {
    return [this](GatewayEvent event) {
      const std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
      changed_.notify_all();
      return accepts_;
    };
  }
  GatewayEvent next() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, seconds(10), [&] { return !events_.empty(); })) {
      ADD_FAILURE() << "no event came";
      return {};
    }
    auto event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  void accept(bool accepts) {
    const std::lock_guard lock(mutex_);
    accepts_ = accepts;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<GatewayEvent> events_;
  bool accepts_ = true;
};

class Gateway : public testing::Test {
 protected:
  void start(const GatewayOptions& options = {}) {
    auto started = ControlGateway::start(options, inbox_.listener());
    ASSERT_TRUE(started) << started.error().message();
    gateway_ = std::move(*started);
  }
  CoordinatorEnvelope finish() { return {kProtocolVersion, Generation(3), Finish{"done", true}}; }

  // A worker that says something, to see that the port still serves.
  void expect_service() {
    FakeWorker worker(gateway_->port());
    ASSERT_TRUE(worker.connected());
    worker.send(DrainRequest{"enough"});
    const auto event = inbox_.next();
    ASSERT_TRUE(event.envelope);
    gateway_->send(event.session, finish());
    EXPECT_TRUE(worker.await<Finish>());
  }

  Inbox inbox_;
  std::unique_ptr<ControlGateway> gateway_;
};

TEST_F(Gateway, CarriesEnvelopesBothWays) {
  start();
  FakeWorker worker(gateway_->port());
  worker.worker = WorkerId(4);
  worker.send(DrainRequest{"enough"});
  const auto event = inbox_.next();
  ASSERT_TRUE(event.envelope);
  EXPECT_EQ(event.envelope->worker, WorkerId(4));
  EXPECT_EQ(std::get<DrainRequest>(event.envelope->message).reason, "enough");
  gateway_->send(event.session, finish());
  const auto answer = worker.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->generation, Generation(3));
}

TEST_F(Gateway, KeepsTheOrderOfASessionsMessages) {
  start();
  FakeWorker worker(gateway_->port());
  for (std::uint64_t i = 0; i < 200; ++i) worker.send(BoundaryPassed{ViewNumber(i), Step(i)});
  for (std::uint64_t i = 0; i < 200; ++i) {
    const auto event = inbox_.next();
    ASSERT_TRUE(event.envelope);
    ASSERT_EQ(std::get<BoundaryPassed>(event.envelope->message).step, Step(i));
  }
}

TEST_F(Gateway, TellsThatASessionIsGoneAndNamesTheNextOneAnew) {
  start();
  SessionId first;
  {
    FakeWorker worker(gateway_->port());
    worker.send(DrainRequest{});
    first = inbox_.next().session;
  }
  const auto gone = inbox_.next();
  EXPECT_FALSE(gone.envelope);
  EXPECT_EQ(gone.session, first);
  EXPECT_TRUE(gateway_->await_no_sessions(seconds(5)));
  FakeWorker next(gateway_->port());
  next.send(DrainRequest{});
  EXPECT_NE(inbox_.next().session, first);
  EXPECT_FALSE(gateway_->await_no_sessions(std::chrono::milliseconds(1)));
}

TEST_F(Gateway, AnotherProtocolVersionIsRefusedWithBothNumbers) {
  start();
  FakeWorker worker(gateway_->port());
  auto bytes = encode(WorkerEnvelope{kProtocolVersion + 7, {}, {}, DrainRequest{}});
  bytes.push_back(99);  // a newer version may be laid out in any way behind its number
  worker.send_bytes(bytes);
  const auto refused = worker.await<Refused>();
  ASSERT_TRUE(refused);
  EXPECT_TRUE(refused->permanent);
  EXPECT_THAT(refused->reason, HasSubstr("control protocol 8, this coordinator 1"));
}

TEST_F(Gateway, UndecodableMessagesAreDroppedAndCounted) {
  start();
  FakeWorker worker(gateway_->port());
  auto torn = encode(WorkerEnvelope{kProtocolVersion, {}, {}, DrainRequest{"enough"}});
  torn.pop_back();
  worker.send_bytes(torn);
  worker.send_bytes({});
  worker.send(DrainRequest{"after"});
  const auto event = inbox_.next();
  ASSERT_TRUE(event.envelope);
  EXPECT_EQ(std::get<DrainRequest>(event.envelope->message).reason, "after");
  EXPECT_EQ(gateway_->refused_messages(), 2U);
}

TEST_F(Gateway, AnOversizedMessageIsRefusedAndTheSessionGoesOn) {
  GatewayOptions options;
  options.max_message_bytes = 10'000;
  start(options);
  FakeWorker worker(gateway_->port());
  worker.send_bytes(ByteVector(10'001));
  worker.send(DrainRequest{"after"});
  EXPECT_TRUE(inbox_.next().envelope);
  EXPECT_EQ(gateway_->refused_messages(), 1U);
}

TEST_F(Gateway, NeitherStrangeMessagesNorExitsNorErrorsEndIt) {
  start();
  FakeWorker worker(gateway_->port());
  worker.send_nonsense();
  worker.send(DrainRequest{"after"});
  EXPECT_TRUE(inbox_.next().envelope);
  expect_service();
}

TEST_F(Gateway, RandomBytesOnThePortDoNoHarm) {
  start();
  for (const auto seed : {1U, 2U, 3U, 4U, 5U}) {
    RawSocket socket(gateway_->port());
    socket.send_random(seed, 64 * 1024);
    EXPECT_TRUE(socket.closed_by_peer()) << "seed " << seed;
  }
  RawSocket silent(gateway_->port());
  RawSocket half(gateway_->port());
  half.send_random(6, 7);
  expect_service();
}

TEST_F(Gateway, AnOverloadedOwnerLosesTheSessionButNoHeartbeatsSession) {
  start();
  inbox_.accept(false);
  FakeWorker worker(gateway_->port());
  worker.send(Heartbeat{});
  const auto beat = inbox_.next();
  worker.send(DrainRequest{"enough"});
  EXPECT_EQ(inbox_.next().session, beat.session);
  const auto refused = worker.await<Refused>();
  ASSERT_TRUE(refused);
  EXPECT_FALSE(refused->permanent);
  const auto gone = inbox_.next();
  EXPECT_EQ(gone.session, beat.session);
  EXPECT_FALSE(gone.envelope);
}

// A certificate that is its own authority; empty when it can't be made.
FakeWorkerTls make_certificate(const std::string& directory) {
  const auto certificate = directory + "/certificate.pem";
  const auto key = directory + "/key.pem";
  const auto command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=planaria -keyout " + key +
                       " -out " + certificate + " >/dev/null 2>&1";
  if (std::system(command.c_str()) != 0) return {};
  return {certificate, key, certificate};
}

TEST_F(Gateway, WithTlsOnlyThoseWithACertificateAreHeard) {
  const TemporaryDirectory directory;
  const auto tls = make_certificate(directory.path());
  if (tls.certificate.empty()) GTEST_SKIP() << "the openssl program is not installed";
  start({"127.0.0.1", 0, tls.certificate, tls.key, tls.authority});
  FakeWorker plain(gateway_->port());
  EXPECT_FALSE(plain.connected());
  RawSocket noise(gateway_->port());
  noise.send_random(7, 10'000);
  EXPECT_TRUE(noise.closed_by_peer());
  FakeWorker worker(gateway_->port(), tls);
  ASSERT_TRUE(worker.connected());
  worker.send(DrainRequest{"enough"});
  const auto event = inbox_.next();
  ASSERT_TRUE(event.envelope);
  gateway_->send(event.session, finish());
  EXPECT_TRUE(worker.await<Finish>());
}

TEST_F(Gateway, MissingTlsFilesAreToldWithTheirKeys) {
  const auto started =
      ControlGateway::start({"127.0.0.1", 0, "/none/c.pem", "/none/k.pem", "/none/a.pem"}, inbox_.listener());
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message(), HasSubstr("security.tls_certificate"));
}

TEST_F(Gateway, ABusyPortIsToldWithTheKeyToChange) {
  start();
  const auto second = ControlGateway::start({.port = gateway_->port()}, inbox_.listener());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("cluster.control_port"));
}

TEST_F(Gateway, AnAddressOfAnotherMachineIsRefused) {
  const auto started = ControlGateway::start({.address = "192.0.2.1"}, inbox_.listener());
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message(), HasSubstr("192.0.2.1"));
}

}  // namespace
}  // namespace planaria

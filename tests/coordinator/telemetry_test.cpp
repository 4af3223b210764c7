#include "coordinator/telemetry/telemetry_hub.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zmq.h>

#include "proto/telemetry.hpp"
#include "tests/coordinator/raw_socket.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kJobKey = 42;

// A worker's or subscriber's end.
class Client {
 public:
  Client(int type, std::uint16_t port, const TelemetryKeys* keys = nullptr)
      : context_(zmq_ctx_new()), socket_(zmq_socket(context_, type)) {
    const int linger = 0;
    const int patience_ms = 5000;
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &patience_ms, sizeof patience_ms);
    if (type == ZMQ_SUB) zmq_setsockopt(socket_, ZMQ_SUBSCRIBE, kTelemetryTopic, sizeof kTelemetryTopic - 1);
    if (keys != nullptr) {
      zmq_setsockopt(socket_, ZMQ_CURVE_SERVERKEY, keys->server.public_key.data(), 32);
      zmq_setsockopt(socket_, ZMQ_CURVE_PUBLICKEY, keys->client.public_key.data(), 32);
      zmq_setsockopt(socket_, ZMQ_CURVE_SECRETKEY, keys->client.secret_key.data(), 32);
    }
    zmq_connect(socket_, ("tcp://127.0.0.1:" + std::to_string(port)).c_str());
  }
  ~Client() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Whom the hub turned away has no connection left, and would wait for one for ever.
  void push(const std::string& bytes) { zmq_send(socket_, bytes.data(), bytes.size(), ZMQ_DONTWAIT); }
  std::string receive(int flags = 0) {
    std::string bytes(65536, '\0');
    const int size = zmq_recv(socket_, bytes.data(), bytes.size(), flags);
    bytes.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return bytes;
  }

 private:
  void* context_;
  void* socket_;
};

telemetry::Envelope envelope(std::uint32_t worker, std::uint64_t step) {
  telemetry::Envelope made;
  made.set_version(kTelemetryVersion);
  made.set_job_key(kJobKey);
  auto* sample = made.add_samples();
  sample->set_worker(worker);
  sample->set_incarnation(1);
  sample->set_step(step);
  sample->set_monotonic_ns(step);
  return made;
}

class Telemetry : public testing::Test {
 protected:
  void start(TelemetryOptions options = {}) {
    options.job_key = kJobKey;
    auto started = TelemetryHub::start(options, clock_);
    ASSERT_TRUE(started) << started.error().message();
    hub_ = std::move(*started);
  }
  // The hub's thread is asynchronous and has nothing to wait on but its counters.
  bool await(std::uint64_t samples, std::uint64_t dropped) {
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (std::chrono::steady_clock::now() < patience) {
      const auto counts = hub_->counts();
      if (counts.samples >= samples && counts.dropped >= dropped) return true;
      std::this_thread::yield();
    }
    return false;
  }

  ManualClock clock_;
  std::unique_ptr<TelemetryHub> hub_;
};

TEST_F(Telemetry, KeepsTheNewestSampleOfEachWorker) {
  start();
  Client worker(ZMQ_PUSH, hub_->push_port());
  worker.push(envelope(1, 10).SerializeAsString());
  worker.push(envelope(2, 11).SerializeAsString());
  worker.push(envelope(1, 12).SerializeAsString());
  worker.push(envelope(1, 9).SerializeAsString());  // late
  ASSERT_TRUE(await(4, 0));
  const auto newest = hub_->newest();
  ASSERT_EQ(newest.size(), 2U);
  EXPECT_EQ(newest.at(WorkerId(1)).step(), 12U);
  EXPECT_EQ(hub_->window(WorkerId(1)).size(), 2U);
}

TEST_F(Telemetry, ForgetsWhatIsOlderThanTheWindow) {
  start({.window = std::chrono::minutes(1)});
  Client worker(ZMQ_PUSH, hub_->push_port());
  worker.push(envelope(1, 10).SerializeAsString());
  ASSERT_TRUE(await(1, 0));
  clock_.advance(std::chrono::minutes(2));
  EXPECT_TRUE(hub_->newest().empty());
  worker.push(envelope(1, 11).SerializeAsString());
  ASSERT_TRUE(await(2, 0));
  EXPECT_EQ(hub_->window(WorkerId(1)).size(), 1U);
}

TEST_F(Telemetry, DropsWhatIsMalformedForeignOrNewer) {
  start();
  Client worker(ZMQ_PUSH, hub_->push_port());
  auto foreign = envelope(1, 1);
  foreign.set_job_key(kJobKey + 1);
  auto newer = envelope(1, 1);
  newer.set_version(kTelemetryVersion + 1);
  worker.push("\xff\xff\xff");
  worker.push("");
  worker.push(foreign.SerializeAsString());
  worker.push(newer.SerializeAsString());
  worker.push(envelope(1, 5).SerializeAsString());
  ASSERT_TRUE(await(1, 4));
  EXPECT_EQ(hub_->counts().samples, 1U);
}

TEST_F(Telemetry, PassesSamplesOnToSubscribers) {
  start();
  Client subscriber(ZMQ_SUB, hub_->publish_port());
  Client worker(ZMQ_PUSH, hub_->push_port());
  std::string frame;
  for (std::uint64_t step = 1; frame.empty() && step < 1000; ++step) {  // until the subscription has arrived
    worker.push(envelope(3, step).SerializeAsString());
    ASSERT_TRUE(await(step, 0));
    frame = subscriber.receive(ZMQ_DONTWAIT);
  }
  ASSERT_TRUE(frame.starts_with(kTelemetryTopic));
  telemetry::Envelope received;
  ASSERT_TRUE(received.ParseFromString(frame.substr(sizeof kTelemetryTopic - 1)));
  EXPECT_EQ(received.samples(0).worker(), 3U);
}

TEST_F(Telemetry, RandomBytesOnItsPortsDoNoHarm) {
  start();
  for (const auto port : {hub_->push_port(), hub_->publish_port()}) {
    const RawSocket socket(port);
    socket.send_random(21, 100'000);
    EXPECT_TRUE(socket.closed_by_peer());
  }
  Client worker(ZMQ_PUSH, hub_->push_port());
  worker.push(envelope(1, 5).SerializeAsString());
  EXPECT_TRUE(await(1, 0));
}

TEST_F(Telemetry, WithASecretOnlyThoseWhoKnowItAreHeard) {
  const ByteVector secret(32, 7);
  const ByteVector guess(32, 8);
  start({.secret = secret});
  const auto keys = telemetry_keys(secret);
  const auto wrong = telemetry_keys(guess);
  ASSERT_TRUE(keys && wrong);
  Client plain(ZMQ_PUSH, hub_->push_port());
  Client guesser(ZMQ_PUSH, hub_->push_port(), &*wrong);
  Client worker(ZMQ_PUSH, hub_->push_port(), &*keys);
  plain.push(envelope(1, 5).SerializeAsString());
  guesser.push(envelope(2, 5).SerializeAsString());
  worker.push(envelope(3, 5).SerializeAsString());
  ASSERT_TRUE(await(1, 0));
  EXPECT_EQ(hub_->newest().begin()->first, WorkerId(3));
  EXPECT_EQ(hub_->newest().size(), 1U);
}

TEST_F(Telemetry, ABusyPortIsToldWithTheKeyToChange) {
  start();
  const auto second = TelemetryHub::start({.push_port = hub_->push_port()}, clock_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("cluster.telemetry_port"));
}

}  // namespace
}  // namespace planaria

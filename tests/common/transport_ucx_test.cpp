// The UCX transport over loopback: several transports of this process, and children that are killed or stopped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "common/transport/faulty.hpp"
#include "common/transport/frame.hpp"
#include "common/transport/ucx_transport.hpp"
#include "tests/common/transport_support.hpp"

namespace {

// Sends to let through before one fails as to a peer that is gone; below 0: none fails.
std::atomic<int> sends_before_failure{-1};

}  // namespace

// Stands between the transport and the system.
extern "C" ssize_t sendto(int socket, const void* bytes, size_t size, int flags, const sockaddr* to,
                          socklen_t to_size) {
  if (sends_before_failure >= 0 && sends_before_failure-- == 0) {
    errno = ECONNRESET;
    return -1;
  }
  return syscall(SYS_sendto, socket, bytes, size, flags, to, to_size);
}

namespace planaria::testing {
namespace {

using Texts = std::vector<std::string>;

std::shared_ptr<Transport> make(PeerId self, UcxOptions options = {}) {
  options.self = self;
  auto made = make_ucx_transport(options);
  EXPECT_TRUE(made) << made.error().describe();
  return std::move(*made);
}

void join(Node& a, Node& b) {
  a.connect(b);
  b.connect(a);
  a->set_view(ViewNumber(1));
  b->set_view(ViewNumber(1));
}

class Ucx : public ::testing::Test {
 protected:
  Ucx() { join(a, b); }

  Node a{make(peer(1)), peer(1)};
  Node b{make(peer(2)), peer(2)};
};

TEST_F(Ucx, ASmallFrameArrivesWithItsHeader) {
  a.send(b, frame_of("hello", 1, 99));
  ASSERT_TRUE(b.wait_frames(1) && a.wait_sent(1));
  EXPECT_EQ(b.frame_texts(), Texts{"hello"});
  EXPECT_EQ(b.frame(0).header.from, peer(1));
  EXPECT_EQ(b.frame(0).header.tag, 99U);
  EXPECT_EQ(a.sent(), Texts{"ok"});
}

TEST(UcxDevices, OnesThatArentThereAreRefusedByName) {
  const auto made = make_ucx_transport({.self = peer(1), .devices = "eth987,ib5:1"});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), ErrorCode::invalid_argument);
  EXPECT_NE(made.error().message().find("eth987"), std::string::npos);
  EXPECT_NE(made.error().message().find("lo"), std::string::npos);
  EXPECT_TRUE(make_ucx_transport({.self = peer(1), .devices = "eth987,lo"}));
}

TEST_F(Ucx, AnEmptyFrameArrives) {
  OutgoingFrame frame = frame_of("");
  frame.payload.clear();
  a.send(b, frame);
  ASSERT_TRUE(b.wait_frames(1));
  EXPECT_EQ(b.frame(0).payload.bytes.size(), 0U);
}

TEST_F(Ucx, ALargeScatteredFrameLandsInThePostedBuffer) {
  const MutableSlice source = pattern((9U << 20) + 13);
  const MutableSlice buffer = allocate_payload(source.bytes.size() + 100);
  OutgoingFrame frame = frame_of("", 1, 5);
  frame.payload.clear();
  std::size_t at = 0;
  for (std::size_t part : {3UL, 100UL, 5UL << 20, 7UL, 0UL, 1UL << 20, 40'000UL, 9UL}) {
    frame.payload.push_back({source.bytes.subspan(at, part), source.owner});
    at += part;
  }
  frame.payload.push_back({source.bytes.subspan(at), source.owner});
  b.receive(a, buffer, 1, 5);
  a.send(b, frame);
  ASSERT_TRUE(b.wait_received(1));
  EXPECT_EQ(b.received(), Texts{"ok"});
  EXPECT_TRUE(std::ranges::equal(source.bytes, buffer.bytes.first(source.bytes.size())));
}

TEST_F(Ucx, ASentBufferIsReleasedWhenItIsReported) {
  MutableSlice source = pattern(1U << 20);
  const std::weak_ptr<void> watch = source.owner;
  OutgoingFrame frame = frame_of("");
  frame.payload = {{source.bytes, source.owner}};
  source = {};
  a.send(b, std::move(frame));
  ASSERT_TRUE(b.wait_frames(1) && a.wait_sent(1));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!watch.expired() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(watch.expired());
}

TEST_F(Ucx, FramesOfOneTagKeepTheirOrderWhateverTheirSize) {
  PhiloxStream random(philox_key(3, RandomPurpose::tests));
  Texts expected;
  for (int i = 0; i < 200; ++i) {
    const std::size_t size = random.chance(0.1) ? random.below(600'000) : random.below(3'000);
    expected.push_back(std::to_string(i) + std::string(size, 'x'));
    a.send(b, frame_of(expected.back(), 1, 5));
  }
  ASSERT_TRUE(b.wait_frames(expected.size()));
  EXPECT_EQ(b.frame_texts(), expected);
}

TEST_F(Ucx, AMatchedFrameWaitsForItsReceive) {
  a.send(b, frame_of("tagged", 1, 4, Delivery::matched));
  a.send(b, frame_of("behind it", 1, 5));
  ASSERT_TRUE(b.wait_frames(1));
  EXPECT_EQ(b.frame_texts(), Texts{"behind it"});
  const MutableSlice buffer = allocate_payload(6);
  b.receive(a, buffer, 1, 4);
  ASSERT_TRUE(b.wait_received(1));
  EXPECT_EQ(text_of(buffer.bytes), "tagged");
}

TEST_F(Ucx, FutureFramesAreHeldAndStaleOnesRefused) {
  a.send(b, frame_of("future", 2));
  a.send(b, frame_of("now", 1));
  ASSERT_TRUE(b.wait_frames(1));
  EXPECT_EQ(b.frame_texts(), Texts{"now"});
  b->set_view(ViewNumber(2));
  ASSERT_TRUE(b.wait_frames(2));
  a.send(b, frame_of("stale", 1));
  a.send(b, frame_of("now", 2));
  ASSERT_TRUE(b.wait_frames(3));
  EXPECT_EQ(b.frame_texts(), (Texts{"now", "future", "now"}));
  EXPECT_EQ(b->stats(a.worker()).refused_stale, 1U);
  EXPECT_EQ(b->stats(a.worker()).held, 1U);
}

TEST_F(Ucx, AFenceCancelsReceivesAndLaterSends) {
  b.receive(a, allocate_payload(4), 1, 4);
  b.fence(1);
  ASSERT_TRUE(b.wait_fences(1) && b.wait_received(1));
  EXPECT_EQ(b.received(), Texts{"cancelled"});
  b.send(a, frame_of("late", 1));
  ASSERT_TRUE(b.wait_sent(1));
  EXPECT_EQ(b.sent(), Texts{"cancelled"});
}

TEST_F(Ucx, AFenceAmidALargeFrameFreesEverythingInTheEnd) {
  MutableSlice buffer = allocate_payload(64U << 20);
  const std::weak_ptr<void> watch = buffer.owner;
  b.receive(a, buffer, 1, 4);
  const MutableSlice source = pattern(buffer.bytes.size());
  buffer = {};
  OutgoingFrame frame = frame_of("", 1, 4);
  frame.payload = {{source.bytes, source.owner}};
  a.send(b, std::move(frame));
  b.fence(1);
  a.fence(1);
  ASSERT_TRUE(b.wait_received(1) && a.wait_sent(1));
  b->set_view(ViewNumber(2));
  a.send(b, frame_of("after", 2));
  ASSERT_TRUE(b.wait_frames(1));
  const auto quiet = [&] {
    return b->stats(a.worker()).quarantined_bytes == 0 && a->stats(b.worker()).quarantined_bytes == 0;
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!(quiet() && watch.expired()) && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(quiet());
  EXPECT_TRUE(watch.expired());
}

TEST_F(Ucx, ADamagedFrameIsAnEvent) {
  OutgoingFrame bad = frame_of("bad", 1, 4);
  bad.payload_hash = Hash128{1, 2};
  a.send(b, bad);
  a.send(b, frame_of("good", 1, 4));
  ASSERT_TRUE(b.wait_frames(1) && b.wait_event(TransportEvent::Kind::corrupt));
  EXPECT_EQ(b.frame_texts(), Texts{"good"});
  EXPECT_EQ(b.event(0).header->tag, 4U);
  EXPECT_EQ(b->stats(a.worker()).corrupt, 1U);
}

TEST_F(Ucx, StatisticsAreExact) {
  for (int i = 0; i < 10; ++i) a.send(b, frame_of(std::string(1000, 'x')));
  ASSERT_TRUE(b.wait_frames(10) && a.wait_sent(10));
  EXPECT_EQ(a->stats(b.worker()), (PeerStats{.frames_out = 10, .bytes_out = 10'000}));
  EXPECT_EQ(b->stats(a.worker()), (PeerStats{.frames_in = 10, .bytes_in = 10'000}));
  EXPECT_EQ(b->foreign_frames(), 0U);
}

TEST_F(Ucx, AProbeMeasuresTheRoundTrip) {
  // A reply needs the peer's connection, which a frame from it proves to stand.
  b.send(a, frame_of("here"));
  ASSERT_TRUE(a.wait_frames(1));
  a->probe(b.worker());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (a->stats(b.worker()).last_rtt == Duration(0) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_GT(a->stats(b.worker()).last_rtt, Duration(0));
}

TEST_F(Ucx, SendingWithoutAConnectionIsUnavailable) {
  a.send(peer(77).worker, frame_of("nowhere"));
  ASSERT_TRUE(a.wait_sent(1));
  EXPECT_EQ(a.sent(), Texts{"unavailable"});
}

TEST_F(Ucx, AMalformedOrForeignAddressIsRefused) {
  ByteVector address = b->address();
  EXPECT_FALSE(a->connect(peer(3), address));
  address[address.size() / 2] ^= 1;
  EXPECT_FALSE(a->connect(peer(2), address));
  EXPECT_FALSE(a->connect(peer(2), {}));
}

TEST_F(Ucx, ADisconnectedPeersFramesAreRefusedUntilItIsConnectedAgain) {
  a.send(b, frame_of("before"));
  ASSERT_TRUE(b.wait_frames(1));
  b->disconnect(a.worker());
  b.fence(0);  // takes effect behind the call before
  ASSERT_TRUE(b.wait_fences(1));
  a.connect(b);
  a.send(b, frame_of("unwanted"));
  ASSERT_TRUE(a.wait_sent(2));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (b->stats(a.worker()).refused_stale == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(b->stats(a.worker()).refused_stale, 1U);
  b.connect(a);
  b.fence(0);
  ASSERT_TRUE(b.wait_fences(2));
  a.connect(b);
  a.send(b, frame_of("after"));
  ASSERT_TRUE(b.wait_frames(2));
  EXPECT_EQ(b.frame_texts(), (Texts{"before", "after"}));
}

TEST_F(Ucx, APeersNextLifeConnectsUnderItsNumber) {
  a.send(b, frame_of("first life"));
  ASSERT_TRUE(b.wait_frames(1));
  b->stop();
  Node again(make(peer(2, 2)), peer(2, 2));
  join(a, again);
  a.send(again, frame_of("second life"));
  ASSERT_TRUE(again.wait_frames(1));
  EXPECT_FALSE(a->connect(peer(2, 1), b->address()));
}

TEST_F(Ucx, ADeadAddressIsReportedWithoutBlocking) {
  ByteVector address;
  {
    Node dead(make(peer(3)), peer(3));
    address = dead->address();
  }
  ASSERT_TRUE(a->connect(peer(3), address));
  a.send(peer(3).worker, frame_of("nowhere"));
  a.send(b, frame_of("meanwhile"));
  ASSERT_TRUE(b.wait_frames(1));
  ASSERT_TRUE(a.wait_event(TransportEvent::Kind::peer_error));
}

TEST_F(Ucx, StopCancelsWhatIsOpenAndEndsInTime) {
  a.receive(b, allocate_payload(10), 1, 4);
  const auto begin = std::chrono::steady_clock::now();
  a->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_EQ(a.received(), Texts{"cancelled"});
  a.send(b, frame_of("too late"));
}

TEST(UcxOptionsTest, LargeFramesAreStripedOverSeveralEndpoints) {
  UcxOptions options;
  options.endpoints_per_peer = 3;
  options.chunk_bytes = 256U << 10;
  options.window_bytes = 512U << 10;
  Node a(make(peer(1), options), peer(1));
  Node b(make(peer(2), options), peer(2));
  join(a, b);
  for (std::uint8_t seed = 1; seed <= 4; ++seed) {
    const MutableSlice source = pattern((5U << 20) + seed, seed);
    OutgoingFrame frame = frame_of("", 1, 5);
    frame.payload = {{source.bytes, source.owner}};
    a.send(b, std::move(frame));
    a.send(b, frame_of("small", 1, 5));
  }
  ASSERT_TRUE(b.wait_frames(8));
  for (std::uint8_t seed = 1; seed <= 4; ++seed) {
    const auto expected = pattern((5U << 20) + seed, seed);
    EXPECT_TRUE(std::ranges::equal(b.frame((seed - 1) * 2U).payload.bytes, expected.bytes));
  }
}

TEST(UcxOptionsTest, KeyedPeersUnderstandEachOther) {
  UcxOptions options;
  options.key.emplace().fill(std::byte{9});
  options.chunk_bytes = 128U << 10;
  Node a(make(peer(1), options), peer(1));
  Node b(make(peer(2), options), peer(2));
  join(a, b);
  a.send(b, frame_of("secret-free but signed"));
  a.send(b, frame_of(std::string(1U << 20, 'x')));
  ASSERT_TRUE(b.wait_frames(2));
  EXPECT_EQ(b->stats(a.worker()).unauthenticated, 0U);
}

TEST(UcxOptionsTest, AFrameUnderAnotherKeyOrNoneIsDroppedAndCounted) {
  UcxOptions keyed;
  keyed.key.emplace().fill(std::byte{9});
  UcxOptions other = keyed;
  other.key->front() = std::byte{8};
  Node b(make(peer(2), keyed), peer(2));
  Node wrong(make(peer(1), other), peer(1));
  Node plain(make(peer(3)), peer(3));
  Node right(make(peer(4), keyed), peer(4));
  for (Node* node : {&wrong, &plain, &right}) {
    join(*node, b);
    node->send(b, frame_of("hello"));
    ASSERT_TRUE(node->wait_sent(1));
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (b->foreign_frames() < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_EQ(b->foreign_frames(), 2U);
  ASSERT_TRUE(b.wait_frames(1));
  EXPECT_EQ(b.frame(0).header.from, peer(4));
}

TEST(UcxOptionsTest, AnotherJobsFramesAreForeign) {
  UcxOptions options;
  options.job = 1;
  Node a(make(peer(1), options), peer(1));
  options.job = 2;
  Node b(make(peer(2), options), peer(2));
  join(a, b);
  a.send(b, frame_of("wrong job"));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (b->foreign_frames() == 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_EQ(b->foreign_frames(), 1U);
}

TEST(UcxOptionsTest, AWorkerMaySendToItself) {
  Node a(make(peer(1)), peer(1));
  a.connect(a);
  a.send(a, frame_of("me", 0));
  ASSERT_TRUE(a.wait_frames(1));
}

TEST(UcxOptionsTest, FaultsActOnRealFrames) {
  const SteadyClock clock;
  const auto faulty = std::make_shared<FaultyTransport>(make(peer(1)), 5, clock, true);
  Node a(faulty, peer(1));
  Node b(make(peer(2)), peer(2));
  join(a, b);
  faulty->set_rule(b.worker(), Direction::outbound, {.corrupt = 1});
  a.send(b, frame_of("damaged"));
  ASSERT_TRUE(b.wait_event(TransportEvent::Kind::corrupt));
  faulty->set_rule(b.worker(), Direction::outbound, {.delay = std::chrono::milliseconds(5)});
  a.send(b, frame_of("late"));
  faulty->clear_rules();
  a.send(b, frame_of("later"));
  ASSERT_TRUE(b.wait_frames(2) && a.wait_sent(3));
  EXPECT_EQ(b.frame_texts(), (Texts{"late", "later"}));
}

// A transport in a child process (transport_peer.cpp), connected with `parent`.
class Child {
 public:
  Child(Node& parent, PeerId id) : id_(id) {
    int to_child[2];
    int from_child[2];
    if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(from_child, O_CLOEXEC) != 0) return;
    const std::string worker = std::to_string(id.worker.value());
    const std::string incarnation = std::to_string(id.incarnation.value());
    const std::string parent_worker = std::to_string(parent.worker().value());
    pid_ = fork();
    if (pid_ == 0) {
      dup2(to_child[0], STDIN_FILENO);
      dup2(from_child[1], STDOUT_FILENO);
      execl(PLANARIA_TRANSPORT_PEER, "transport_peer", worker.c_str(), incarnation.c_str(), parent_worker.c_str(),
            nullptr);
      _exit(127);
    }
    close(to_child[0]);
    close(from_child[1]);
    input_ = to_child[1];
    std::FILE* output = fdopen(from_child[0], "r");
    std::string line;
    for (int c = std::fgetc(output); c != EOF && c != '\n'; c = std::fgetc(output)) line += static_cast<char>(c);
    std::fclose(output);
    ByteVector address;
    for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
      address.push_back(static_cast<std::uint8_t>(std::stoul(line.substr(i, 2), nullptr, 16)));
    }
    EXPECT_TRUE(parent->connect(id, address));
    std::string hex;
    for (const std::uint8_t byte : parent->address()) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15];
    }
    hex += '\n';
    EXPECT_EQ(write(input_, hex.data(), hex.size()), static_cast<ssize_t>(hex.size()));
  }
  ~Child() {
    signal(SIGKILL);
    close(input_);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }
  void signal(int number) const {
    if (pid_ > 0) kill(pid_, number);
  }
  [[nodiscard]] PeerId id() const { return id_; }

 private:
  PeerId id_;
  pid_t pid_ = -1;
  int input_ = -1;
};

class UcxChild : public ::testing::Test {
 protected:
  UcxChild() { parent->set_view(ViewNumber(1)); }

  Node parent{make(peer(1)), peer(1)};
};

TEST_F(UcxChild, AKilledPeerIsReportedAndItsNextLifeIsWelcome) {
  {
    const Child child(parent, peer(2));
    ASSERT_TRUE(parent.wait_frames(1));
    child.signal(SIGKILL);
    ASSERT_TRUE(parent.wait_event(TransportEvent::Kind::peer_error));
  }
  EXPECT_EQ(parent.event(0).peer, peer(2));
  const Child again(parent, peer(2, 2));
  ASSERT_TRUE(parent.wait_frames(2));
  parent.send(again.id().worker, frame_of("echo"));
  ASSERT_TRUE(parent.wait_frames(3));
  EXPECT_EQ(parent.frame_texts().back(), "echo");
}

// Some of them die between the connection's beginning and its end, where UCX 1.13 by itself ends the process.
TEST_F(UcxChild, APeerKilledWhileItConnectsDoesNoHarm) {
  for (std::uint32_t round = 0; round < 40; ++round) {
    const Child child(parent, peer(2, round + 1));
    for (int i = 0; i < 3; ++i) parent.send(child.id().worker, frame_of("early"));
    std::this_thread::sleep_for(std::chrono::microseconds(round * 97 % 2500));
    child.signal(SIGKILL);
  }
  const Child last(parent, peer(2, 41));
  parent.send(last.id().worker, frame_of("echo"));
  EXPECT_TRUE(parent.wait_text("echo"));
}

TEST_F(UcxChild, ASendThatFailsWhileAPeerConnectsIsOnlyALoss) {
  for (int before = 0; before < 16; ++before) {
    sends_before_failure = before;
    const Child child(parent, peer(2, static_cast<std::uint32_t>(before) + 1));
    for (int i = 0; i < 3; ++i) parent.send(child.id().worker, frame_of("early"));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    sends_before_failure = -1;
    child.signal(SIGKILL);
  }
  const Child last(parent, peer(2, 17));
  parent.send(last.id().worker, frame_of("echo"));
  EXPECT_TRUE(parent.wait_text("echo"));
}

TEST_F(UcxChild, APeerKilledAmidTransfersEndsThemAll) {
  const Child child(parent, peer(2));
  ASSERT_TRUE(parent.wait_frames(1));
  MutableSlice source = pattern(32U << 20);
  const std::weak_ptr<void> watch = source.owner;
  for (int i = 0; i < 4; ++i) {
    OutgoingFrame frame = frame_of("", 1, 8);
    frame.payload = {{source.bytes, source.owner}};
    parent.send(child.id().worker, std::move(frame));
  }
  source = {};
  child.signal(SIGKILL);
  ASSERT_TRUE(parent.wait_sent(4));
  ASSERT_TRUE(parent.wait_event(TransportEvent::Kind::peer_error));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!watch.expired() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(parent->stats(child.id().worker).quarantined_bytes, 0U);
}

TEST_F(UcxChild, AStoppedPeersBuffersStayQuarantinedUntilItIsClosed) {
  const Child child(parent, peer(2));
  ASSERT_TRUE(parent.wait_frames(1));
  child.signal(SIGSTOP);
  MutableSlice source = pattern(32U << 20);
  const std::weak_ptr<void> watch = source.owner;
  OutgoingFrame frame = frame_of("", 1, 8);
  frame.payload = {{source.bytes, source.owner}};
  source = {};
  parent.send(child.id().worker, std::move(frame));
  // Two rounds of the transport's thread: then the first chunks are with the network.
  for (std::size_t round = 1; round <= 2; ++round) {
    parent.fence(0);
    ASSERT_TRUE(parent.wait_fences(round));
  }
  parent.fence(1);
  ASSERT_TRUE(parent.wait_sent(1));
  EXPECT_EQ(parent.sent(), Texts{"cancelled"});
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(parent->stats(child.id().worker).quarantined_bytes, 32U << 20);

  parent->disconnect(child.id().worker);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!watch.expired() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(parent->stats(child.id().worker).quarantined_bytes, 0U);
}

TEST_F(UcxChild, StopEndsInTimeBesideAStoppedPeer) {
  const Child child(parent, peer(2));
  ASSERT_TRUE(parent.wait_frames(1));
  child.signal(SIGSTOP);
  const MutableSlice source = pattern(8U << 20);
  OutgoingFrame frame = frame_of("", 1, 8);
  frame.payload = {{source.bytes, source.owner}};
  parent.send(child.id().worker, std::move(frame));
  const auto begin = std::chrono::steady_clock::now();
  parent->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
  EXPECT_EQ(parent.sent(), Texts{"cancelled"});
}

}  // namespace
}  // namespace planaria::testing

#include <gtest/gtest.h>

#include "common/transport/faulty.hpp"
#include "common/transport/in_process.hpp"
#include "tests/common/transport_support.hpp"

namespace planaria::testing {
namespace {

using Texts = std::vector<std::string>;
using std::chrono::milliseconds;

// Frames go from a, which may misbehave, to b; `a_inbound` tests send the other way.
class Faulty : public ::testing::Test {
 protected:
  Faulty() {
    a.connect(b);
    b.connect(a);
    a->set_view(ViewNumber(1));
    b->set_view(ViewNumber(1));
    run();
  }
  void run() {
    do {
      faulty->poll();
    } while (network.pump() != 0);
  }
  void rule(Direction direction, FaultRule rule) { faulty->set_rule(peer(2).worker, direction, rule); }

  static constexpr std::uint64_t kSeed = 11;
  ManualClock clock;
  InProcessNetwork network;
  std::shared_ptr<FaultyTransport> faulty =
      std::make_shared<FaultyTransport>(network.create(peer(1)), kSeed, clock, false);
  Node a{faulty, peer(1)};
  Node b{network.create(peer(2)), peer(2)};
};

TEST_F(Faulty, WithoutRulesNothingChanges) {
  a.send(b, frame_of("plain"));
  run();
  EXPECT_EQ(b.frame_texts(), Texts{"plain"});
  EXPECT_EQ(a.sent(), Texts{"ok"});
}

TEST_F(Faulty, ADroppedFrameStillReportsSuccess) {
  rule(Direction::outbound, {.drop = 1});
  a.send(b, frame_of("lost"));
  EXPECT_TRUE(a.sent().empty());
  run();
  EXPECT_EQ(a.sent(), Texts{"ok"});
  EXPECT_TRUE(b.frame_texts().empty());
}

TEST_F(Faulty, ADoubledFrameArrivesTwice) {
  rule(Direction::outbound, {.duplicate = 1});
  a.send(b, frame_of("twin"));
  run();
  EXPECT_EQ(b.frame_texts(), (Texts{"twin", "twin"}));
  EXPECT_EQ(a.sent(), Texts{"ok"});
}

TEST_F(Faulty, ADamagedFrameIsFoundByTheReceiver) {
  rule(Direction::outbound, {.corrupt = 1});
  a.send(b, frame_of("damaged"));
  run();
  EXPECT_TRUE(b.frame_texts().empty());
  EXPECT_EQ(b.event(0).kind, TransportEvent::Kind::corrupt);
}

TEST_F(Faulty, ADelayKeepsTheOrder) {
  rule(Direction::outbound, {.delay = milliseconds(10), .jitter = milliseconds(10)});
  a.send(b, frame_of("first"));
  rule(Direction::outbound, {});
  a.send(b, frame_of("second"));
  run();
  EXPECT_TRUE(b.frame_texts().empty());
  clock.advance(milliseconds(20));
  run();
  EXPECT_EQ(b.frame_texts(), (Texts{"first", "second"}));
}

TEST_F(Faulty, ARateLimitSpreadsFrames) {
  rule(Direction::outbound, {.bytes_per_second = 1000});
  for (int i = 0; i < 3; ++i) a.send(b, frame_of(std::string(100, 'x')));
  clock.advance(milliseconds(250));
  run();
  EXPECT_EQ(b.frame_texts().size(), 2U);
  clock.advance(milliseconds(50));
  run();
  EXPECT_EQ(b.frame_texts().size(), 3U);
}

TEST_F(Faulty, APartitionHoldsFramesUntilItIsLifted) {
  rule(Direction::outbound, {.block = true});
  a.send(b, frame_of("held up"));
  clock.advance(milliseconds(1000));
  run();
  EXPECT_TRUE(b.frame_texts().empty());
  faulty->clear_rules();
  run();
  EXPECT_EQ(b.frame_texts(), Texts{"held up"});
}

TEST_F(Faulty, AFenceEndsWhatAPartitionHolds) {
  rule(Direction::outbound, {.block = true});
  a.send(b, frame_of("held up"));
  a.fence(1);
  run();
  EXPECT_EQ(a.sent(), Texts{"cancelled"});
  faulty->clear_rules();
  run();
  EXPECT_TRUE(b.frame_texts().empty());
}

TEST_F(Faulty, EnteringAViewEndsWhatADelayHolds) {
  rule(Direction::inbound, {.delay = milliseconds(10)});
  b.send(a, frame_of("old"));
  run();
  a->set_view(ViewNumber(2));
  run();
  clock.advance(milliseconds(20));
  run();
  EXPECT_TRUE(a.frame_texts().empty());
}

TEST_F(Faulty, InboundFaultsActOnHandledFrames) {
  rule(Direction::inbound, {.drop = 1});
  b.send(a, frame_of("lost"));
  run();
  rule(Direction::inbound, {.duplicate = 1});
  b.send(a, frame_of("twin"));
  run();
  rule(Direction::inbound, {.corrupt = 1});
  b.send(a, frame_of("damaged"));
  run();
  EXPECT_EQ(a.frame_texts(), (Texts{"twin", "twin"}));
  EXPECT_EQ(a.event(0).kind, TransportEvent::Kind::corrupt);
}

TEST_F(Faulty, AReceiveOutlivesADroppedAndADamagedFrame) {
  const MutableSlice buffer = allocate_payload(4);
  a.receive(b, buffer, 1, 3);
  rule(Direction::inbound, {.drop = 1});
  b.send(a, frame_of("lost", 1, 3));
  run();
  rule(Direction::inbound, {.corrupt = 1});
  b.send(a, frame_of("torn", 1, 3));
  run();
  EXPECT_TRUE(a.received().empty());
  rule(Direction::inbound, {});
  b.send(a, frame_of("good", 1, 3));
  run();
  EXPECT_EQ(a.received(), Texts{"ok"});
  EXPECT_EQ(text_of(buffer.bytes), "good");
}

TEST_F(Faulty, OneSeedHitsTheSameFrames) {
  const auto survivors = [](std::uint64_t seed) {
    ManualClock still;
    InProcessNetwork net;
    Node to(net.create(peer(2)), peer(2));
    const auto unreliable = std::make_shared<FaultyTransport>(net.create(peer(1)), seed, still, false);
    Node from(unreliable, peer(1));
    from.connect(to);
    net.pump();
    unreliable->set_default_rule(Direction::outbound, {.drop = 0.5});
    for (int i = 0; i < 64; ++i) from.send(to, frame_of(std::to_string(i), 0));
    unreliable->poll();
    net.pump();
    return to.frame_texts();
  };
  EXPECT_EQ(survivors(1), survivors(1));
  EXPECT_NE(survivors(1), survivors(2));
}

TEST_F(Faulty, StopCancelsWhatItHolds) {
  rule(Direction::outbound, {.block = true});
  a.send(b, frame_of("held up"));
  a->stop();
  EXPECT_EQ(a.sent(), Texts{"cancelled"});
}

}  // namespace
}  // namespace planaria::testing

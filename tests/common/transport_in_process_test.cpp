#include <gtest/gtest.h>

#include "common/transport/in_process.hpp"
#include "tests/common/transport_support.hpp"

namespace planaria::testing {
namespace {

using Texts = std::vector<std::string>;

class InProcess : public ::testing::Test {
 protected:
  InProcess() {
    a.connect(b);
    b.connect(a);
    a->set_view(ViewNumber(1));
    b->set_view(ViewNumber(1));
    network.pump();
  }

  static constexpr WaitingBounds kBounds{.frames = 3, .bytes = 100, .frame_bytes = 60};
  InProcessNetwork network{5};
  Node a{network.create(peer(1)), peer(1)};
  Node b{network.create(peer(2), kBounds), peer(2)};
};

TEST_F(InProcess, AFrameArrivesWithItsHeader) {
  a.send(b, frame_of("hello", 1, 99));
  network.pump();
  ASSERT_EQ(b.frame_texts(), Texts{"hello"});
  const FrameHeader header = b.frame(0).header;
  EXPECT_EQ(header.job, 5U);
  EXPECT_EQ(header.from, peer(1));
  EXPECT_EQ(header.kind, 7);
  EXPECT_EQ(header.tag, 99U);
  EXPECT_EQ(header.payload_hash, hash_bytes(std::as_bytes(std::span("hello", 5))));
  EXPECT_EQ(a.sent(), Texts{"ok"});
}

TEST_F(InProcess, NothingHappensBeforeThePump) {
  a.send(b, frame_of("later"));
  EXPECT_TRUE(b.frame_texts().empty());
}

TEST_F(InProcess, AReceivePostedBeforeTheFrameTakesIt) {
  const MutableSlice buffer = allocate_payload(10);
  b.receive(a, buffer, 1, 4);
  a.send(b, frame_of("tagged", 1, 4));
  network.pump();
  EXPECT_EQ(b.received(), Texts{"ok"});
  EXPECT_EQ(text_of(buffer.bytes.first(6)), "tagged");
  EXPECT_TRUE(b.frame_texts().empty());
}

TEST_F(InProcess, AMatchedFrameWaitsForItsReceive) {
  a.send(b, frame_of("tagged", 1, 4, Delivery::matched));
  network.pump();
  EXPECT_TRUE(b.frame_texts().empty());
  EXPECT_EQ(b->stats(peer(1).worker).waiting_bytes, 6U);
  const MutableSlice buffer = allocate_payload(6);
  b.receive(a, buffer, 1, 4);
  network.pump();
  EXPECT_EQ(text_of(buffer.bytes), "tagged");
  EXPECT_EQ(b->stats(peer(1).worker).waiting_bytes, 0U);
}

TEST_F(InProcess, ReceivesOfOneTagTakeFramesInOrder) {
  const MutableSlice first = allocate_payload(1);
  const MutableSlice second = allocate_payload(1);
  a.send(b, frame_of("1", 1, 4, Delivery::matched));
  network.pump();
  b.receive(a, first, 1, 4);
  b.receive(a, second, 1, 4);
  a.send(b, frame_of("2", 1, 4, Delivery::matched));
  network.pump();
  EXPECT_EQ(text_of(first.bytes) + text_of(second.bytes), "12");
}

TEST_F(InProcess, AFrameLargerThanItsBufferIsReportedAndGone) {
  b.receive(a, allocate_payload(3), 1, 4);
  a.send(b, frame_of("too long", 1, 4));
  network.pump();
  EXPECT_EQ(b.received(), Texts{"mismatch"});
  EXPECT_TRUE(b.frame_texts().empty());
}

TEST_F(InProcess, FramesOfAFutureViewAreHeldUntilSetView) {
  a->set_view(ViewNumber(2));
  a.send(b, frame_of("early", 2));
  a.send(b, frame_of("early too", 2));
  network.pump();
  EXPECT_TRUE(b.frame_texts().empty());
  EXPECT_EQ(b->stats(peer(1).worker).held, 2U);
  b->set_view(ViewNumber(2));
  network.pump();
  EXPECT_EQ(b.frame_texts(), (Texts{"early", "early too"}));
}

TEST_F(InProcess, AReceiveOfAFutureViewCompletesAtSetView) {
  const MutableSlice buffer = allocate_payload(5);
  b.receive(a, buffer, 2, 4);
  a.send(b, frame_of("early", 2, 4));
  network.pump();
  EXPECT_TRUE(b.received().empty());
  b->set_view(ViewNumber(2));
  network.pump();
  EXPECT_EQ(text_of(buffer.bytes), "early");
}

TEST_F(InProcess, HoldingIsBoundedByFramesAndBytes) {
  for (int i = 0; i < 4; ++i) a.send(b, frame_of("x", 2));
  network.pump();
  EXPECT_EQ(b->stats(peer(1).worker).refused_overflow, 1U);
  EXPECT_EQ(b.event(0).kind, TransportEvent::Kind::overflow);
  b->set_view(ViewNumber(2));
  for (int i = 0; i < 3; ++i) a.send(b, frame_of(std::string(40, 'y'), 3));
  a.send(b, frame_of(std::string(61, 'z'), 2));
  network.pump();
  EXPECT_EQ(b->stats(peer(1).worker).refused_overflow, 3U);
  EXPECT_EQ(b->stats(peer(1).worker).waiting_bytes, 80U);
}

TEST_F(InProcess, FramesOfAFencedViewAreRefusedAndCounted) {
  b->set_view(ViewNumber(2));
  network.pump();
  a.send(b, frame_of("stale", 1));
  network.pump();
  EXPECT_TRUE(b.frame_texts().empty());
  EXPECT_EQ(b->stats(peer(1).worker).refused_stale, 1U);
}

TEST_F(InProcess, AFenceWithoutANewViewHoldsTheNextOne) {
  b.fence(1);
  network.pump();
  a.send(b, frame_of("old", 1));
  a.send(b, frame_of("new", 2));
  network.pump();
  EXPECT_TRUE(b.frame_texts().empty());
  b->set_view(ViewNumber(2));
  network.pump();
  EXPECT_EQ(b.frame_texts(), Texts{"new"});
}

TEST_F(InProcess, AFenceCancelsWhatItsViewHasUnfinished) {
  b.receive(a, allocate_payload(4), 1, 4);
  b.receive(a, allocate_payload(4), 2, 4);
  b.fence(1);
  network.pump();
  EXPECT_EQ(b.received(), Texts{"cancelled"});
  b.send(a, frame_of("late", 1));
  b.receive(a, allocate_payload(4), 1, 5);
  network.pump();
  EXPECT_EQ(b.sent(), Texts{"cancelled"});
  EXPECT_EQ(b.received(), (Texts{"cancelled", "cancelled"}));
  EXPECT_EQ(b->stats(peer(1).worker).cancelled, 3U);
}

TEST_F(InProcess, AFenceEndsAFrameUnderWay) {
  a.send(b, frame_of("under way", 1));
  a.fence(1);
  network.pump();
  EXPECT_EQ(a.sent(), Texts{"cancelled"});
  EXPECT_TRUE(b.frame_texts().empty());
}

TEST_F(InProcess, ViewsNeverGoBack) {
  b->set_view(ViewNumber(3));
  b->set_view(ViewNumber(2));
  network.pump();
  a.send(b, frame_of("3", 3));
  network.pump();
  EXPECT_EQ(b.frame_texts(), Texts{"3"});
}

TEST_F(InProcess, ADamagedPayloadIsAnEventAndItsReceiveStaysPosted) {
  const MutableSlice buffer = allocate_payload(4);
  b.receive(a, buffer, 1, 4);
  OutgoingFrame bad = frame_of("good", 1, 4);
  bad.payload_hash = Hash128{1, 2};
  a.send(b, bad);
  network.pump();
  ASSERT_TRUE(b.received().empty());
  EXPECT_EQ(b.event(0).kind, TransportEvent::Kind::corrupt);
  EXPECT_EQ(b.event(0).header->tag, 4U);
  EXPECT_EQ(b->stats(peer(1).worker).corrupt, 1U);
  a.send(b, frame_of("good", 1, 4));
  network.pump();
  EXPECT_EQ(b.received(), Texts{"ok"});
}

TEST_F(InProcess, AKilledPeerIsReportedAndItsNextLifeConnects) {
  network.kill(peer(2).worker);
  network.pump();
  EXPECT_EQ(a.event(0).kind, TransportEvent::Kind::peer_error);
  a.send(b, frame_of("lost"));
  network.pump();
  EXPECT_EQ(a.sent(), Texts{"unavailable"});
  Node again(network.create(peer(2, 2)), peer(2, 2));
  again->set_view(ViewNumber(1));
  a.connect(again);
  a.send(again, frame_of("back"));
  network.pump();
  EXPECT_EQ(again.frame_texts(), Texts{"back"});
  EXPECT_FALSE(a->connect(peer(2, 1), b->address()));
}

TEST_F(InProcess, ADisconnectedPeersFramesAreRefused) {
  b->disconnect(peer(1).worker);
  network.pump();
  a.send(b, frame_of("unwanted"));
  network.pump();
  EXPECT_EQ(b->stats(peer(1).worker).refused_stale, 1U);
  b.connect(a);
  a.send(b, frame_of("wanted"));
  network.pump();
  EXPECT_EQ(b.frame_texts(), Texts{"wanted"});
}

TEST_F(InProcess, ADisconnectedPeersNextLifeIsHeldForTheViewThatTakesIt) {
  a->disconnect(peer(2).worker);
  network.kill(peer(2).worker);
  network.pump();
  Node again(network.create(peer(2, 2)), peer(2, 2));
  again.connect(a);
  again->set_view(ViewNumber(2));
  again.send(a, frame_of("first word", 2));
  network.pump();
  EXPECT_TRUE(a.frame_texts().empty());
  a.connect(again);
  a->set_view(ViewNumber(2));
  network.pump();
  EXPECT_EQ(a.frame_texts(), Texts{"first word"});
}

TEST_F(InProcess, StopCancelsWhatIsOpen) {
  b.receive(a, allocate_payload(4), 1, 4);
  network.pump();
  b->stop();
  EXPECT_EQ(b.received(), Texts{"cancelled"});
}

TEST_F(InProcess, StatisticsAreExact) {
  a.send(b, frame_of("12345"));
  a.send(b, frame_of(""));
  b->set_view(ViewNumber(2));
  network.pump();
  const PeerStats out = a->stats(peer(2).worker);
  const PeerStats in = b->stats(peer(1).worker);
  EXPECT_EQ(out, (PeerStats{.frames_out = 2, .bytes_out = 5}));
  EXPECT_EQ(in.frames_in + in.refused_stale, 2U);
  EXPECT_EQ(in.waiting_frames, 0U);
}

}  // namespace
}  // namespace planaria::testing

#include "worker/shell/link_reporter.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using namespace std::chrono_literals;

PeerStats sent(double bytes_per_second, Duration rtt, std::uint64_t frames = 1) {
  PeerStats stats;
  stats.frames_out = frames;
  stats.bytes_per_second = bytes_per_second;
  stats.rated_frames = bytes_per_second > 0 ? 1 : 0;
  stats.last_rtt = rtt;
  return stats;
}

// A reporter that is asked every 300 ms.
class Reporting : public ::testing::Test {
 protected:
  std::vector<LinkMeasure> news(Duration later = 300ms) {
    now_ = now_ + later;
    return reporter_.news(peers_, now_);
  }
  PeerStats& peer(std::uint32_t id) { return peers_[WorkerId(id)]; }

  LinkReporter reporter_;
  std::map<WorkerId, PeerStats> peers_;
  Instant now_{};
};

TEST(LinkReporter, PeersThatNothingIsSentToAreNotProbed) {
  LinkReporter reporter;
  EXPECT_FALSE(reporter.next_probe({}));
  const std::map<WorkerId, PeerStats> peers{
      {WorkerId(1), sent(0, {})}, {WorkerId(2), sent(0, {}, 0)}, {WorkerId(5), sent(0, {})}};
  for (const std::uint32_t expected : {1U, 5U, 1U, 5U}) EXPECT_EQ(reporter.next_probe(peers), WorkerId(expected));
}

TEST_F(Reporting, WhatChangedIsToldAtOnceAndTheRestNowAndThen) {
  peer(1) = sent(1e9, 190us);
  peer(2) = sent(0, {});
  static_cast<void>(news());
  peer(1).last_rtt = 200us;
  const auto first = news();
  ASSERT_EQ(first.size(), 1U) << "a latency is told from the second round trip on";
  EXPECT_EQ(first[0].to, WorkerId(1));
  EXPECT_EQ(first[0].bytes_per_second, 1e9);
  EXPECT_NEAR(first[0].latency_seconds, 1e-4, 1e-5);
  peer(1).bytes_per_second = 1.1e9;
  EXPECT_TRUE(news().empty());
  peer(1).bytes_per_second = 1.3e9;
  EXPECT_EQ(news().size(), 1U);
  EXPECT_TRUE(news().empty());
  reporter_.tell_all_again();
  EXPECT_EQ(news().size(), 1U);
  EXPECT_EQ(news(61s).size(), 1U) << "a message may have been lost";
}

TEST_F(Reporting, ABusyPeersLateAnswerIsNotItsLatency) {
  peer(1) = sent(0, 90ms);
  EXPECT_TRUE(news().empty());
  peer(1).last_rtt = 100us;
  ASSERT_EQ(news().size(), 1U);
  peer(1).last_rtt = 90ms;
  EXPECT_TRUE(news().empty());
}

TEST_F(Reporting, ARateThatNoTransferConfirmsIsForgotten) {
  peer(1) = sent(1e6, {});
  EXPECT_EQ(news().size(), 1U);
  ++peer(1).rated_frames;
  ASSERT_EQ(news(200s).size(), 1U);
  EXPECT_EQ(news(200s)[0].bytes_per_second, 1e6);
  EXPECT_EQ(news(200s)[0].bytes_per_second, 0);
}

TEST_F(Reporting, ManyAreToldInTurnsThoughTheFirstOnesChangeAgain) {
  constexpr std::size_t kMost = Heartbeat::kMostLinks;
  std::set<WorkerId> told;
  for (std::uint32_t w = 0; w < 40; ++w) peer(w) = sent(1e9, {});
  for (int i = 0; i < 3; ++i) {
    const auto some = news();
    EXPECT_LE(some.size(), kMost);
    for (const LinkMeasure& link : some) told.insert(link.to);
    for (std::uint32_t w = 0; w < kMost; ++w) peer(w).bytes_per_second *= 2;
  }
  EXPECT_EQ(told.size(), 40U);
}

}  // namespace
}  // namespace planaria

#include "worker/shell/link_reporter.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using std::chrono::microseconds;

PeerStats sent(double bytes_per_second, Duration rtt, std::uint64_t frames = 1) {
  PeerStats stats;
  stats.frames_out = frames;
  stats.bytes_per_second = bytes_per_second;
  stats.last_rtt = rtt;
  return stats;
}

TEST(LinkReporter, PeersThatNothingIsSentToAreNotProbed) {
  LinkReporter reporter;
  EXPECT_FALSE(reporter.next_probe({}));
  const std::map<WorkerId, PeerStats> peers{
      {WorkerId(1), sent(0, {})}, {WorkerId(2), sent(0, {}, 0)}, {WorkerId(5), sent(0, {})}};
  for (const std::uint32_t expected : {1U, 5U, 1U, 5U}) EXPECT_EQ(reporter.next_probe(peers), WorkerId(expected));
}

TEST(LinkReporter, OnlyWhatChangedIsToldAgain) {
  LinkReporter reporter;
  std::map<WorkerId, PeerStats> peers{{WorkerId(1), sent(1e9, microseconds(200))}, {WorkerId(2), sent(0, {})}};
  auto news = reporter.news(peers);
  ASSERT_EQ(news.size(), 1U);
  EXPECT_EQ(news[0].to, WorkerId(1));
  EXPECT_EQ(news[0].bytes_per_second, 1e9);
  EXPECT_NEAR(news[0].latency_seconds, 1e-4, 1e-9);
  peers[WorkerId(1)] = sent(1.1e9, microseconds(190));
  EXPECT_TRUE(reporter.news(peers).empty());
  peers[WorkerId(1)] = sent(1.3e9, microseconds(190));
  EXPECT_EQ(reporter.news(peers).size(), 1U);
  reporter.tell_all_again();
  EXPECT_EQ(reporter.news(peers).size(), 1U);
}

TEST(LinkReporter, ABusyPeersLateAnswerIsNotItsLatency) {
  LinkReporter reporter;
  std::map<WorkerId, PeerStats> peers{{WorkerId(1), sent(0, microseconds(100))}};
  EXPECT_EQ(reporter.news(peers).size(), 1U);
  peers[WorkerId(1)] = sent(0, microseconds(90'000));
  EXPECT_TRUE(reporter.news(peers).empty());
}

TEST(LinkReporter, ManyAreToldInTurns) {
  LinkReporter reporter;
  std::map<WorkerId, PeerStats> peers;
  for (std::uint32_t w = 0; w < 40; ++w) peers[WorkerId(w)] = sent(1e9, {});
  EXPECT_EQ(reporter.news(peers).size(), LinkReporter::kMostTold);
  EXPECT_EQ(reporter.news(peers).size(), LinkReporter::kMostTold);
  EXPECT_EQ(reporter.news(peers).size(), 8U);
  EXPECT_TRUE(reporter.news(peers).empty());
}

}  // namespace
}  // namespace planaria

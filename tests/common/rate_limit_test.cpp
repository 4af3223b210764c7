#include "common/rate_limit.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMegabyte = 1'000'000;

TEST(RateLimit, WithoutABoundNothingWaits) {
  RateLimit limit(0);
  EXPECT_EQ(limit.spend(UINT64_MAX, Instant{5}), Instant{5});
}

TEST(RateLimit, BytesTakeTheirTime) {
  RateLimit limit(10 * kMegabyte);
  const Instant start = Instant{} + seconds(100);
  Instant now = start;
  for (int i = 0; i < 50; ++i) now = limit.spend(kMegabyte, now);
  EXPECT_EQ(now - start, seconds(5) - milliseconds(100));
}

TEST(RateLimit, WhoWakesLateDoesNotFallBehind) {
  RateLimit limit(10 * kMegabyte);
  const Instant start = Instant{} + seconds(100);
  Instant now = start;
  for (int i = 0; i < 50; ++i) now = limit.spend(kMegabyte, now) + milliseconds(30);
  EXPECT_LE(now - start, seconds(5));
}

TEST(RateLimit, TimeThatPassedUnusedIsNoCredit) {
  RateLimit limit(10 * kMegabyte);
  Instant now = limit.spend(kMegabyte, Instant{} + seconds(100)) + seconds(1000);
  const Instant start = now;
  for (int i = 0; i < 50; ++i) now = limit.spend(kMegabyte, now);
  EXPECT_GE(now - start, milliseconds(4900));
}

TEST(RateLimit, AbsurdAmountsDoNotOverflow) {
  RateLimit limit(1);
  const Instant first = limit.spend(UINT64_MAX, Instant{});
  EXPECT_GT(limit.spend(UINT64_MAX, first), first);
}

}  // namespace
}  // namespace planaria

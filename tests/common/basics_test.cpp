// Results, ids, clocks, hashes and the random generator.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <set>
#include <vector>

#include "common/clock.hpp"
#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/philox.hpp"
#include "common/result.hpp"

namespace planaria {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return Error(ErrorCode::invalid_argument, "odd");
  return value / 2;
}

Result<int> quarter(int value) {
  PLANARIA_ASSIGN(const int once, half(value));
  PLANARIA_ASSIGN(const int twice, half(once));
  return twice;
}

Status even(int value) {
  PLANARIA_TRY(half(value));
  return ok_status();
}

TEST(Result, AssignHandsOnTheValueOrTheFirstError) {
  EXPECT_EQ(*quarter(12), 3);
  ASSERT_FALSE(quarter(6));
  EXPECT_EQ(quarter(6).error().message(), "odd");
}

TEST(Result, TryHandsOnTheErrorOnly) {
  EXPECT_TRUE(even(2));
  ASSERT_FALSE(even(3));
  EXPECT_EQ(even(3).error().code(), ErrorCode::invalid_argument);
}

TEST(Result, HoldsValuesThatOnlyMove) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(4));
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 4);
}

TEST(Result, ErrorsTellWhereAndWhat) {
  const Error error = Error(ErrorCode::corrupt, "hash differs").within("tile 7").within("layer.3");
  EXPECT_EQ(error.describe(), "corrupt: layer.3: tile 7: hash differs");
}

TEST(Result, EveryCodeHasAName) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code) {
    names.insert(to_string(static_cast<ErrorCode>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(ErrorCode::internal) + 1);
  EXPECT_FALSE(names.contains("unknown"));
}

TEST(Ids, OfDifferentKindsDoNotConvert) {
  static_assert(!std::is_convertible_v<WorkerId, SlotIndex>);
  static_assert(!std::is_convertible_v<std::uint32_t, WorkerId>);
  static_assert(!std::is_constructible_v<Step, ViewNumber>);
  EXPECT_EQ(Step(4).next(), Step(5));
  EXPECT_EQ(Step(4).previous(), Step(3));
  EXPECT_LT(WorkerId(1), WorkerId(2));
}

TEST(Clock, AManualClockMovesOnlyWhenTold) {
  ManualClock clock;
  EXPECT_EQ(clock.now(), Instant{0});
  clock.advance(std::chrono::milliseconds(3));
  EXPECT_EQ(clock.now() - Instant{0}, std::chrono::milliseconds(3));
  EXPECT_DOUBLE_EQ(to_ms(std::chrono::microseconds(1500)), 1.5);
}

TEST(Clock, TheSteadyClockNeverGoesBack) {
  const SteadyClock clock;
  Instant last = clock.now();
  for (int i = 0; i < 1000; ++i) {
    const Instant now = clock.now();
    ASSERT_GE(now, last);
    last = now;
  }
}

// Random123 1.14, tests/kat_vectors, "philox4x32 10".
TEST(Philox, GivesThePublishedVectors) {
  EXPECT_EQ(philox(0, 0, 0), (PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ULL, ~0ULL, ~0ULL), (PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, PurposesAndSeedsHaveKeysOfTheirOwn) {
  std::set<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    for (std::uint32_t purpose = 1; purpose <= 7; ++purpose) {
      keys.insert(philox_key(seed, static_cast<RandomPurpose>(purpose)));
    }
  }
  EXPECT_EQ(keys.size(), 700U);
}

TEST(Philox, AStreamIsItsCountersInOrder) {
  PhiloxStream stream(42, 5);
  for (std::uint64_t counter = 0; counter < 3; ++counter) {
    for (const std::uint32_t word : philox(42, 5, counter)) EXPECT_EQ(stream.next_u32(), word);
  }
}

TEST(Philox, UnitValuesStayBelowOne) {
  EXPECT_EQ(unit_float(0), 0.0F);
  EXPECT_LT(unit_float(0xFFFFFFFF), 1.0F);
  PhiloxStream stream(1);
  for (int i = 0; i < 10000; ++i) {
    const double value = stream.unit_double();
    ASSERT_TRUE(value >= 0.0 && value < 1.0);
    ASSERT_LT(stream.below(7), 7U);
  }
}

TEST(Philox, BelowReachesEveryValueAboutEquallyOften) {
  PhiloxStream stream(philox_key(3, RandomPurpose::tests));
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts[stream.below(7)];
  // Standard deviation of a count: sqrt(70000 · 1/7 · 6/7) ≈ 93.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 6 * 93);
}

// xxHash 0.8, XXH3_128bits with seed 0.
TEST(Hash, GivesThePublishedVectorOfNothing) {
  EXPECT_EQ(hash_bytes({}).hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Hash, StreamingInPiecesEqualsOneCall) {
  std::vector<std::uint8_t> bytes(5000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 31);
  const std::span<const std::byte> all = std::as_bytes(std::span(bytes));
  Hasher hasher;
  for (std::size_t at = 0, size = 1; at < all.size(); at += size, size = size * 2 + 1) {
    hasher.update(all.subspan(at, std::min(size, all.size() - at)));
  }
  EXPECT_EQ(hasher.digest(), hash_bytes(all));
}

TEST(Hash, OneFlippedBitChangesIt) {
  std::vector<std::uint8_t> bytes(300, 7);
  const Hash128 before = hash_of(std::span<const std::uint8_t>(bytes));
  for (std::size_t bit = 0; bit < bytes.size() * 8; bit += 37) {
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    EXPECT_NE(hash_of(std::span<const std::uint8_t>(bytes)), before);
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
  }
}

TEST(Hash, HexComesBackAndNonsenseIsRefused) {
  const Hash128 hash{0x0123456789abcdefULL, 0xfULL};
  EXPECT_EQ(hash.hex(), "0123456789abcdef000000000000000f");
  EXPECT_EQ(*Hash128::from_hex(hash.hex()), hash);
  for (const std::string_view bad : {"", "0123", "0123456789abcdef000000000000000g", " 123456789abcdef000000000000000f",
                                     "0123456789abcdef0000000000000000f", "-123456789abcdef000000000000000f"}) {
    EXPECT_FALSE(Hash128::from_hex(bad)) << bad;
  }
}

}  // namespace
}  // namespace planaria

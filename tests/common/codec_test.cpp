#include "common/codec.hpp"

#include <gtest/gtest.h>

#include <string>

#include "common/hash.hpp"
#include "common/philox.hpp"

namespace planaria {
namespace {

enum class Colour : std::uint8_t { red, green, count_ };
enum class Wide : std::uint32_t { a, b, c, count_ };

struct Point {
  std::int32_t x = 0;
  std::int64_t y = 0;
  auto operator<=>(const Point&) const = default;
  template <class V>
  void fields(V& v) {
    v(x, y);
  }
};

// One member of every kind the codec knows.
struct Everything {
  bool flag = false;
  std::uint8_t small = 0;
  std::int16_t negative = 0;
  std::uint64_t large = 0;
  double real = 0;
  float single = 0;
  Colour colour = Colour::red;
  Wide wide = Wide::a;
  WorkerId worker;
  Step step;
  Instant at;
  Duration length{};
  std::string text;
  ByteVector blob;
  std::vector<Point> points;
  std::vector<std::vector<std::string>> nested;
  std::optional<Point> maybe;
  std::optional<std::uint32_t> absent;
  std::variant<Point, std::string, ViewNumber> choice;
  Hash128 hash;

  bool operator==(const Everything&) const = default;
  template <class V>
  void fields(V& v) {
    v(flag, small, negative, large, real, single, colour, wide, worker, step, at, length, text, blob, points, nested,
      maybe, absent, choice, hash);
  }
};

Everything sample() {
  Everything value;
  value.flag = true;
  value.small = 200;
  value.negative = -12345;
  value.large = 0xFEDCBA9876543210ULL;
  value.real = -0.1;
  value.single = 1.5F;
  value.colour = Colour::green;
  value.wide = Wide::c;
  value.worker = WorkerId(7);
  value.step = Step(1ULL << 40);
  value.at = Instant{-5};
  value.length = std::chrono::milliseconds(250);
  value.text = std::string("zero\0inside", 11);
  value.blob = {1, 2, 255};
  value.points = {{1, 2}, {-3, -4}};
  value.nested = {{"a", ""}, {}, {"bc"}};
  value.maybe = Point{5, 6};
  value.choice = ViewNumber(9);
  value.hash = {1, 2};
  return value;
}

ByteVector le32(std::uint32_t value) {
  ByteVector bytes(4);
  std::memcpy(bytes.data(), &value, 4);
  return bytes;
}

template <class T>
ErrorCode refusal(const ByteVector& bytes) {
  const auto decoded = decode<T>(bytes);
  return decoded ? ErrorCode::internal : decoded.error().code();
}

TEST(Codec, EveryKindOfMemberComesBackAsItWas) {
  const Everything value = sample();
  const auto decoded = decode<Everything>(encode(value));
  ASSERT_TRUE(decoded) << decoded.error().describe();
  EXPECT_EQ(*decoded, value);
}

TEST(Codec, DefaultValuesComeBackAsTheyWere) {
  const auto decoded = decode<Everything>(encode(Everything{}));
  ASSERT_TRUE(decoded) << decoded.error().describe();
  EXPECT_EQ(*decoded, Everything{});
}

TEST(Codec, EachAlternativeOfAVariantComesBack) {
  using Choice = std::variant<Point, std::string, ViewNumber>;
  for (const Choice& choice : {Choice(Point{1, 2}), Choice("text"), Choice(ViewNumber(3))}) {
    const auto decoded = decode<Choice>(encode(choice));
    ASSERT_TRUE(decoded);
    EXPECT_EQ(*decoded, choice);
  }
}

TEST(Codec, BytesAreLittleEndianAndUnpadded) {
  EXPECT_EQ(encode(Point{1, -1}), (ByteVector{1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}));
  EXPECT_EQ(encode(std::string("ab")), (ByteVector{2, 0, 0, 0, 'a', 'b'}));
  EXPECT_EQ(encode(std::optional<std::uint8_t>(7)), (ByteVector{1, 7}));
  EXPECT_EQ(encode(std::optional<std::uint8_t>()), (ByteVector{0}));
}

TEST(Codec, EveryTruncationIsRefused) {
  const ByteVector bytes = encode(sample());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(refusal<Everything>(ByteVector(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))),
              ErrorCode::corrupt)
        << "cut to " << size << " of " << bytes.size();
  }
}

TEST(Codec, TrailingBytesAreRefused) {
  ByteVector bytes = encode(sample());
  bytes.push_back(0);
  EXPECT_EQ(refusal<Everything>(bytes), ErrorCode::corrupt);
}

TEST(Codec, CountsBeyondWhatFollowsAreRefusedWithoutMemory) {
  for (const std::uint32_t count : {5U, 1U << 20, 0xFFFFFFFFU}) {
    ByteVector bytes = le32(count);
    bytes.insert(bytes.end(), 4, 0);
    EXPECT_EQ(refusal<std::string>(bytes), ErrorCode::corrupt);
    EXPECT_EQ(refusal<ByteVector>(bytes), ErrorCode::corrupt);
    EXPECT_EQ(refusal<std::vector<Point>>(bytes), ErrorCode::corrupt);
    EXPECT_EQ(refusal<std::vector<std::vector<Point>>>(bytes), ErrorCode::corrupt);
  }
}

TEST(Codec, CountsBeyondTheirBoundAreRefusedThoughTheBytesAreThere) {
  ByteVector text = le32(kMaxStringBytes + 1);
  text.resize(text.size() + kMaxStringBytes + 1, 'x');
  EXPECT_EQ(refusal<std::string>(text), ErrorCode::corrupt);
  ByteVector flags = le32(kMaxElements + 1);
  flags.resize(flags.size() + kMaxElements + 1, 0);
  EXPECT_EQ(refusal<std::vector<std::uint8_t>>(flags), ErrorCode::internal) << "bytes have the blob's bound";
  EXPECT_EQ(refusal<std::vector<Colour>>(flags), ErrorCode::corrupt);
}

TEST(Codec, EnumeratorsOutOfRangeAreRefused) {
  EXPECT_EQ(refusal<Colour>({2}), ErrorCode::corrupt);
  EXPECT_EQ(refusal<Colour>({255}), ErrorCode::corrupt);
  EXPECT_EQ(refusal<Wide>({3, 0, 0, 0}), ErrorCode::corrupt);
  EXPECT_EQ(refusal<Wide>({0, 0, 0, 1}), ErrorCode::corrupt);
}

TEST(Codec, FlagsOtherThanZeroAndOneAreRefused) {
  EXPECT_EQ(refusal<bool>({2}), ErrorCode::corrupt);
  EXPECT_EQ(refusal<std::optional<std::uint8_t>>({2, 0}), ErrorCode::corrupt);
}

TEST(Codec, AVariantsUnknownAlternativeIsRefused) {
  using Choice = std::variant<std::uint8_t, bool>;
  EXPECT_EQ(refusal<Choice>({2, 0}), ErrorCode::corrupt);
  EXPECT_EQ(refusal<Choice>({255, 0}), ErrorCode::corrupt);
}

// Damaged messages either fail or decode to a value that encodes to the same bytes: the form is canonical.
TEST(Codec, RandomDamageNeverCrashesAndWhatDecodesIsCanonical) {
  constexpr std::uint64_t kSeed = 20240601;
  PhiloxStream random(philox_key(kSeed, RandomPurpose::tests));
  const ByteVector good = encode(sample());
  for (int round = 0; round < 20000; ++round) {
    ByteVector bytes = round % 2 == 0 ? good : ByteVector(random.below(200));
    if (round % 2 == 1) {
      for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random.next_u32());
    }
    for (std::uint64_t flips = random.below(4); flips > 0 && !bytes.empty(); --flips) {
      bytes[random.below(bytes.size())] ^= static_cast<std::uint8_t>(1U << random.below(8));
    }
    const auto decoded = decode<Everything>(bytes);
    if (decoded) {
      ASSERT_EQ(encode(*decoded), bytes) << "seed " << kSeed << ", round " << round;
    }
  }
}

}  // namespace
}  // namespace planaria

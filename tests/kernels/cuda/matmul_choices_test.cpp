// The kernel table's bytes: what was written is read again, and nothing else is.
#include "kernels/cuda/matmul_choices.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "common/codec.hpp"
#include "common/hash.hpp"

namespace planaria::cuda {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::size_t kHashBytes = 16;

MatmulChoices two_choices() {
  MatmulChoices choices{{"NVIDIA H200", 132, 130100}, {}};
  choices.choices.push_back({{MatmulKind::forward, 128, 64, 97, 104, true}, {66, 1, 2, 3, 4, 5, 6, 7}, 0, 12.5F});
  choices.choices.push_back({{MatmulKind::weight_gradient, 128, 64, 96, 96, false}, {67, 8, 9}, 1 << 20, 0.25F});
  return choices;
}

Bytes encoded(const MatmulChoices& choices) {
  auto bytes = encode_choices(choices);
  EXPECT_TRUE(bytes.ok());
  return bytes ? std::move(bytes).value() : Bytes();
}

// With the hash that belongs to what is before it.
Bytes sealed(Bytes bytes) {
  const ByteVector hash = encode(hash_bytes(std::span(bytes).first(bytes.size() - kHashBytes)));
  std::memcpy(bytes.data() + bytes.size() - kHashBytes, hash.data(), kHashBytes);
  return bytes;
}

void expect_refused(const Bytes& bytes, ErrorCode code) {
  const auto read = decode_choices(bytes);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code(), code) << read.error().describe();
}

TEST(MatmulChoices, AreReadAsTheyWereWritten) {
  for (const MatmulChoices& choices : {two_choices(), MatmulChoices{{"", 0, 0}, {}}}) {
    const auto read = decode_choices(encoded(choices));
    ASSERT_TRUE(read.ok()) << read.error().describe();
    EXPECT_EQ(*read, choices);
  }
}

TEST(MatmulChoices, TruncatedBytesAreRefused) {
  const Bytes bytes = encoded(two_choices());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    SCOPED_TRACE(size);
    const Bytes shorter(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    expect_refused(shorter, ErrorCode::corrupt);
    if (size >= 8 + kHashBytes) expect_refused(sealed(shorter), ErrorCode::corrupt);
  }
}

TEST(MatmulChoices, BytesLeftOverAreRefused) {
  Bytes bytes = encoded(two_choices());
  bytes.push_back(std::byte{0});
  expect_refused(bytes, ErrorCode::corrupt);
  expect_refused(sealed(bytes), ErrorCode::corrupt);
}

TEST(MatmulChoices, AnyFlippedBitIsRefused) {
  const Bytes good = encoded(two_choices());
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    SCOPED_TRACE(bit);
    Bytes bytes = good;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    const bool in_format = bit / 32 == 1;
    expect_refused(bytes, in_format ? ErrorCode::mismatch : ErrorCode::corrupt);
  }
}

TEST(MatmulChoices, FlippedBitsUnderARightHashAreRefusedOrReadAsTheyAre) {
  const Bytes good = encoded(two_choices());
  for (std::size_t bit = 0; bit < 8 * (good.size() - kHashBytes); ++bit) {
    Bytes bytes = good;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    bytes = sealed(std::move(bytes));
    const auto read = decode_choices(bytes);
    if (!read) continue;
    EXPECT_EQ(encoded(*read), bytes) << "bit " << bit;
  }
}

TEST(MatmulChoices, ShapesThatContradictThemselvesAreRefused) {
  MatmulChoices narrow = two_choices(), empty = narrow, biased = narrow;
  narrow.choices[0].shape.out_stride = 96;
  empty.choices[0].shape.rows = 0;
  biased.choices[1].shape.bias = true;
  for (const auto& choices : {narrow, empty, biased}) expect_refused(encoded(choices), ErrorCode::corrupt);
}

TEST(MatmulChoices, TimesThatAreNoneAreRefused) {
  for (const float time : {-1.0F, -0.0F, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    MatmulChoices choices = two_choices();
    choices.choices[1].microseconds = time;
    expect_refused(encoded(choices), ErrorCode::corrupt);
  }
}

TEST(MatmulChoices, RepeatedOrUnorderedShapesAreRefused) {
  MatmulChoices twice = two_choices(), swapped = twice;
  twice.choices[1].shape = twice.choices[0].shape;
  std::swap(swapped.choices[0], swapped.choices[1]);
  for (const auto& choices : {twice, swapped}) expect_refused(encoded(choices), ErrorCode::corrupt);
}

TEST(MatmulChoices, TheMostThatAreAllowedFitAndOneMoreIsRefused) {
  MatmulChoices choices{{std::string(kMaxGpuName, 'x'), 132, 130100}, {}};
  for (std::uint32_t i = 1; i <= kMaxMatmulChoices; ++i) {
    choices.choices.push_back({{MatmulKind::forward, i, 8, 8, 8, false}, {}, 0, 1.0F});
  }
  const Bytes bytes = encoded(choices);
  EXPECT_LE(bytes.size(), kMaxMatmulChoicesBytes);
  EXPECT_TRUE(decode_choices(bytes).ok());
  MatmulChoices longer = choices;
  longer.origin.gpu += 'x';
  choices.choices.push_back({{MatmulKind::forward_gelu, 8, 8, 8, 8, false}, {}, 0, 1.0F});
  for (const auto& more : {longer, choices}) {
    const auto refused = encode_choices(more);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code(), ErrorCode::exhausted);
  }
  expect_refused(Bytes(kMaxMatmulChoicesBytes + 1), ErrorCode::corrupt);
}

}  // namespace
}  // namespace planaria::cuda

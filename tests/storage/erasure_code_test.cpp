#include "storage/erasure_code.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "common/philox.hpp"

namespace planaria {
namespace {

// Fragments of random data with their parity, numbered as the code does.
class Coded {
 public:
  Coded(unsigned data, unsigned parity, std::size_t length)
      : code_(ErasureCode::make(data, parity)), fragments_(data + parity, std::vector<std::byte>(length)) {
    PhiloxStream random(philox_key(data * 100 + parity, RandomPurpose::tests));
    for (unsigned i = 0; i < data; ++i) {
      for (std::byte& byte : fragments_[i]) byte = static_cast<std::byte>(random.next_u32());
    }
    code_->encode().write(bytes({0, data}), buffers({data, data + parity}));
  }

  [[nodiscard]] const ErasureCode& code() const { return *code_; }
  [[nodiscard]] const std::vector<std::byte>& operator[](unsigned i) const { return fragments_[i]; }
  [[nodiscard]] std::vector<FragmentBytes> bytes(std::pair<unsigned, unsigned> range) const {
    return {fragments_.begin() + range.first, fragments_.begin() + range.second};
  }
  [[nodiscard]] std::vector<FragmentBuffer> buffers(std::pair<unsigned, unsigned> range) {
    return {fragments_.begin() + range.first, fragments_.begin() + range.second};
  }

 private:
  Result<ErasureCode> code_;
  std::vector<std::vector<std::byte>> fragments_;
};

// Each set of k fragments of k + m, with all others.
void expect_any_k_give_the_others(const Coded& coded) {
  const unsigned data = coded.code().data(), all = data + coded.code().parity();
  for (std::uint32_t set = 0; set < (1U << all); ++set) {
    if (std::popcount(set) != static_cast<int>(data)) continue;
    std::vector<unsigned> from, lost;
    for (unsigned i = 0; i < all; ++i) ((set >> i & 1) != 0 ? from : lost).push_back(i);
    const auto sums = coded.code().rebuild(from, lost);
    ASSERT_TRUE(sums);
    std::vector<FragmentBytes> sources;
    for (const unsigned i : from) sources.emplace_back(coded[i]);
    std::vector<std::vector<std::byte>> rebuilt(lost.size(), std::vector<std::byte>(coded[0].size()));
    sums->write(sources, std::vector<FragmentBuffer>(rebuilt.begin(), rebuilt.end()));
    for (std::size_t i = 0; i < lost.size(); ++i) ASSERT_EQ(rebuilt[i], coded[lost[i]]) << "fragment " << lost[i];
  }
}

TEST(ErasureCode, AnyDataManyFragmentsGiveTheOthers) {
  for (const auto& [data, parity] : {std::pair(1U, 1U), {1U, 3U}, {3U, 1U}, {4U, 2U}, {8U, 3U}, {5U, 5U}}) {
    SCOPED_TRACE(fmt::format("{}+{}", data, parity));
    expect_any_k_give_the_others(Coded(data, parity, 96));
  }
}

TEST(ErasureCode, LengthsNeedNotFitRegistersNorStrips) {
  for (const std::size_t length : {0U, 1U, 15U, 31U, 33U, 65'535U, 65'537U, 200'001U}) {
    SCOPED_TRACE(length);
    expect_any_k_give_the_others(Coded(3, 2, length));
  }
}

TEST(ErasureCode, TheFirstParityIsTheExclusiveOr) {
  const Coded coded(7, 4, 1000);
  for (std::size_t at = 0; at < 1000; ++at) {
    std::byte sum{};
    for (unsigned i = 0; i < 7; ++i) sum ^= coded[i][at];
    ASSERT_EQ(coded[7][at], sum);
  }
}

TEST(ErasureCode, FragmentsAddedOneByOneInAnyOrderGiveTheSameParity) {
  const Coded coded(6, 3, 70'000);
  std::vector<std::vector<std::byte>> parity(3, std::vector<std::byte>(70'000));
  const std::vector<FragmentBuffer> buffers(parity.begin(), parity.end());
  for (const unsigned i : {4U, 0U, 5U, 2U, 1U, 3U}) coded.code().encode().add(i, coded[i], buffers);
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(parity[i], coded[6 + i]);
}

TEST(ErasureCode, WithoutParityThereIsNothingToWrite) {
  const auto code = ErasureCode::make(4, 0);
  ASSERT_TRUE(code);
  EXPECT_EQ(code->encode().outputs(), 0U);
}

TEST(ErasureCode, CodesOfNoDataOrOfTooManyFragmentsAreRefused) {
  EXPECT_FALSE(ErasureCode::make(0, 1));
  EXPECT_FALSE(ErasureCode::make(kMaxFragments, 1));
  EXPECT_FALSE(ErasureCode::make(1, ~0U));
  EXPECT_TRUE(ErasureCode::make(kMaxFragments - 1, 1));
}

TEST(ErasureCode, RebuildingRefusesWrongFragments) {
  const auto code = ErasureCode::make(3, 2);
  const auto refused = [&](std::vector<unsigned> from, std::vector<unsigned> lost) {
    const auto sums = code->rebuild(from, lost);
    return !sums && sums.error().code() == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused({0, 1}, {2}));
  EXPECT_TRUE(refused({0, 1, 2, 3}, {4}));
  EXPECT_TRUE(refused({0, 1, 1}, {2}));
  EXPECT_TRUE(refused({0, 1, 2}, {2}));
  EXPECT_TRUE(refused({0, 1, 5}, {2}));
  EXPECT_TRUE(refused({0, 1, 2}, {77}));
}

}  // namespace
}  // namespace planaria

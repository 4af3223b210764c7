#include "worker/keeper/tile_hashes.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/philox.hpp"

namespace planaria {
namespace {

using Bytes = std::vector<std::byte>;

class TileHashesTest : public testing::TestWithParam<std::size_t> {
 protected:
  TileHashesTest() {
    PhiloxStream random(philox_key(7, RandomPurpose::tests), 0);
    for (std::size_t i = 0; i < 300; ++i) tiles_.push_back(i % 5 == 3 ? 0 : random.below(400'000));
    state_.resize(std::accumulate(tiles_.begin(), tiles_.end(), std::size_t{0}));
    for (std::size_t i = 0; i < state_.size(); ++i) state_[i] = static_cast<std::byte>(i * 2654435761U >> 13);
  }
  [[nodiscard]] std::vector<Hash128> expected() const {
    std::vector<Hash128> hashes;
    std::span<const std::byte> rest(state_);
    for (const std::uint64_t bytes : tiles_) {
      hashes.push_back(hash_bytes(rest.first(bytes)));
      rest = rest.subspan(bytes);
    }
    return hashes;
  }

  std::vector<std::uint64_t> tiles_;
  Bytes state_;
};
INSTANTIATE_TEST_SUITE_P(Threads, TileHashesTest, testing::Values(1, 2, 5), testing::PrintToStringParamName());

TEST_P(TileHashesTest, AreThoseOfTheBytesHoweverTheyArrive) {
  for (const std::size_t piece : {std::size_t{100'003}, std::size_t{16} << 20, state_.size()}) {
    Bytes memory(state_.size());
    TileHashes hashes(memory, tiles_, GetParam());
    for (std::size_t begin = 0; begin < memory.size(); begin += piece) {
      const std::size_t end = std::min(begin + piece, memory.size());
      std::copy(state_.begin() + static_cast<std::ptrdiff_t>(begin), state_.begin() + static_cast<std::ptrdiff_t>(end),
                memory.begin() + static_cast<std::ptrdiff_t>(begin));
      hashes.arrived(end);
    }
    EXPECT_EQ(hashes.take(), expected()) << piece;
  }
}

TEST_P(TileHashesTest, AreLeftWhereTheRestDoesNotArrive) {
  TileHashes hashes(state_, tiles_, GetParam());
  hashes.arrived(state_.size() / 2);
}

TEST(TileHashes, OfNothingAreNone) {
  TileHashes hashes({}, {}, 3);
  EXPECT_TRUE(hashes.take().empty());
}

TEST(TileHashes, TakeAtLeastOneThread) {
  EXPECT_GE(hashing_threads(), 1U);
}

}  // namespace
}  // namespace planaria

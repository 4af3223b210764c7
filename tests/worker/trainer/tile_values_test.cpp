#include "worker/trainer/tile_values.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/small_model.hpp"

namespace planaria {
namespace {

class TileValuesTest : public ::testing::Test {
 protected:
  TileValuesTest() : map_(small_model(1, 64), 256), values_(map_.vector_elements()) {
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(i);
  }
  MutableSlice frame(const std::vector<ConstSlice>& slices) {
    std::size_t bytes = 0;
    for (const ConstSlice& slice : slices) bytes += slice.bytes.size();
    auto buffer = std::make_shared<std::vector<double>>(bytes / sizeof(double) + 1);
    auto* at = reinterpret_cast<std::byte*>(buffer->data());
    const std::span<std::byte> whole(at, bytes);
    for (const ConstSlice& slice : slices) {
      std::memcpy(at, slice.bytes.data(), slice.bytes.size());
      at += slice.bytes.size();
    }
    return {whole, buffer};
  }
  ValueSource source() const { return {values_.data(), nullptr}; }

  StateMap map_;
  std::vector<float> values_;
};

TEST_F(TileValuesTest, APieceComesBackAsItWasSent) {
  const std::vector<TileRange> tiles{{0, 2}, {3, 5}};
  const Piece piece{Step(2), 0, {0, 2}, {1, 1}, tiles, {}, {}};
  const auto runs = element_runs(map_, tiles);
  const ValueSource from = source();
  const auto read = read_data_frame(map_, 0, frame(data_slices(piece, value_slices(runs, std::span(&from, 1)))));
  ASSERT_TRUE(read.ok()) << read.error().describe();
  EXPECT_EQ(std::get<Piece>(read->meta).node, piece.node);
  std::size_t at = 0;
  for (const ElementRange& run : runs) {
    for (std::uint64_t i = run.begin; i < run.end; ++i) EXPECT_EQ(read->payload->values[at++], values_[i]);
  }
  EXPECT_EQ(at, read->payload->values.size());
}

TEST_F(TileValuesTest, RunsBreakOnlyWhereBlocksDo) {
  const TileRange all{0, map_.tile_count()};
  EXPECT_LE(element_runs(map_, std::span(&all, 1)).size(), map_.blocks().size());
  EXPECT_EQ(total_elements(element_runs(map_, std::span(&all, 1))) * sizeof(float), map_.bytes(all));
}

TEST_F(TileValuesTest, TiedCopiesAreReadFromTheEmbedding) {
  const TileRange tied = map_.tied_tiles();
  ASSERT_FALSE(tied.empty());
  const auto runs = original_runs(map_, std::span(&tied, 1));
  EXPECT_EQ(total_elements(runs) * sizeof(float), map_.bytes(tied));
  EXPECT_EQ(runs.front().begin, map_.blocks().front().tensor("token.weight").offset);
  EXPECT_EQ(runs.size(), 1U);
}

TEST_F(TileValuesTest, WrongSizesAndUnknownTilesAreRefused) {
  const std::vector<TileRange> tiles{{0, 2}};
  const auto runs = element_runs(map_, tiles);
  const ValueSource from = source();
  MutableSlice shorter = frame(data_slices(Reduced{Step(1), 0, tiles, {}}, value_slices(runs, std::span(&from, 1))));
  shorter.bytes = shorter.bytes.first(shorter.bytes.size() - 4);
  EXPECT_FALSE(read_data_frame(map_, 0, shorter).ok());
  const std::vector<TileRange> beyond{{0, map_.tile_count() + 1}};
  EXPECT_FALSE(read_data_frame(map_, 0, frame(data_slices(Reduced{Step(1), 0, beyond, {}}))).ok());
  EXPECT_FALSE(read_data_frame(map_, 0, frame(data_slices(StateRequest{Step(1), {5, 2}, false, false}))).ok());
}

TEST_F(TileValuesTest, MessagesWithoutValuesHaveNoPayload) {
  const auto read = read_data_frame(map_, 0, frame(data_slices(Ack{Step(4), {}})));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->payload, nullptr);
  EXPECT_EQ(std::get<Ack>(read->meta).step, Step(4));
}

}  // namespace
}  // namespace planaria

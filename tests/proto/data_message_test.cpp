#include "proto/data_message.hpp"

#include <gtest/gtest.h>

#include "common/philox.hpp"

namespace planaria {
namespace {

TEST(DataMessage, HeadsSurviveTheWireAndAlignTheirValues) {
  const Piece piece{Step(7), 1, {1, 4}, {3, 2}, {{0, 4}, {9, 12}}, {{SlotIndex(16), 1.5, 0.25}}, {{17, 18}}};
  const std::vector<std::byte> head = encode_data_head(piece);
  EXPECT_EQ(head.size() % 64, 0U);
  const auto decoded = decode_data_head(head);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->values_offset, head.size());
  const auto* meta = std::get_if<Piece>(&decoded->meta);
  ASSERT_NE(meta, nullptr);
  EXPECT_EQ(meta->blocks, piece.blocks);
  EXPECT_EQ(meta->node, piece.node);
  EXPECT_EQ(meta->tiles, piece.tiles);
  EXPECT_EQ(meta->losses.front().train, 1.5);
}

TEST(DataMessage, TruncatedHeadsAreRefused) {
  const std::vector<std::byte> head =
      encode_data_head(Gate{Step(1), 0, {{WorkerId(3), {{0, 2}}, {1.5, 2.5}, {7, 8}}}, {{SlotIndex(0), 1, 2}}});
  for (std::size_t size = 0; size < head.size(); ++size) {
    EXPECT_FALSE(decode_data_head(std::span(head).first(size)).ok()) << size;
  }
}

TEST(DataMessage, RandomBytesNeverCrash) {
  PhiloxStream random(philox_key(3, RandomPurpose::tests));
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes(random.below(300));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
    if (bytes.size() >= 4) bytes[1] = bytes[2] = bytes[3] = std::byte{0};  // a plausible length
    (void)decode_data_head(bytes);
  }
}

}  // namespace
}  // namespace planaria

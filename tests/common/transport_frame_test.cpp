#include <gtest/gtest.h>

#include "common/philox.hpp"
#include "common/transport/frame.hpp"
#include "common/transport/frame_auth.hpp"
#include "tests/common/transport_support.hpp"

namespace planaria::testing {
namespace {

WireHeader sample() {
  WireHeader header;
  header.frame = {.job = 0x1122334455667788,
                  .view = ViewNumber(9),
                  .from = peer(3, 2),
                  .kind = 513,
                  .delivery = Delivery::matched,
                  .tag = 0xAABB,
                  .payload_bytes = 5,
                  .payload_hash = {1, 2}};
  header.to = peer(4, 7);
  header.keyed = true;
  header.session = 77;
  header.sequence = 88;
  header.auth.fill(std::byte{0x5A});
  header.chunk_offset = 4;
  return header;
}

TEST(FrameHeader, EveryFieldSurvivesTheWire) {
  const auto decoded = decode_wire_header(encode_wire_header(sample()));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, sample());
}

TEST(FrameHeader, EveryTruncationAndEveryExtensionIsRefused) {
  const WireHeaderBytes wire = encode_wire_header(sample());
  for (std::size_t size = 0; size < wire.size(); ++size) {
    EXPECT_FALSE(decode_wire_header(std::span(wire).first(size))) << size;
  }
  std::vector<std::byte> longer(wire.begin(), wire.end());
  longer.push_back(std::byte{});
  EXPECT_FALSE(decode_wire_header(longer));
}

TEST(FrameHeader, EveryFlippedBitIsRefused) {
  for (std::size_t bit = 0; bit < kWireHeaderBytes * 8; ++bit) {
    WireHeaderBytes wire = encode_wire_header(sample());
    wire[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(decode_wire_header(wire)) << bit;
  }
}

TEST(FrameHeader, AChunkPastThePayloadIsRefused) {
  WireHeader header = sample();
  header.chunk_offset = header.frame.payload_bytes;
  EXPECT_FALSE(decode_wire_header(encode_wire_header(header)));
}

TEST(FrameHeader, RandomBytesAreRefused) {
  PhiloxStream random(philox_key(1, RandomPurpose::tests));
  for (int round = 0; round < 10'000; ++round) {
    WireHeaderBytes wire;
    for (std::byte& byte : wire) byte = static_cast<std::byte>(random.next_u32());
    if (round % 2 == 0) std::memcpy(wire.data(), &kWireMagic, sizeof kWireMagic);
    EXPECT_FALSE(decode_wire_header(wire));
  }
}

class FrameAuth : public ::testing::Test {
 protected:
  FrameAuth() {
    key.fill(std::byte{42});
    payload = {slice_of("ab"), slice_of("cde")};
    header.auth = FrameAuthenticator(key, header).tag(header, payload);
  }
  [[nodiscard]] bool accepts(const WireHeader& changed, std::string_view text) const {
    return FrameAuthenticator(key, changed).verify(changed, std::as_bytes(std::span(text)));
  }

  SessionKey key;
  WireHeader header = sample();
  std::vector<ConstSlice> payload;
};

TEST_F(FrameAuth, TheGatheredPayloadIsAccepted) {
  EXPECT_TRUE(accepts(header, "abcde"));
}

TEST_F(FrameAuth, AChangedPayloadIsRefused) {
  EXPECT_FALSE(accepts(header, "abcdf"));
  EXPECT_FALSE(accepts(header, "abcd"));
}

TEST_F(FrameAuth, EveryChangedFieldIsRefused) {
  const auto refused = [&](auto change) {
    WireHeader changed = header;
    change(changed);
    EXPECT_FALSE(accepts(changed, "abcde"));
  };
  refused([](WireHeader& h) { h.frame.view = ViewNumber(10); });
  refused([](WireHeader& h) { h.frame.tag ^= 1; });
  refused([](WireHeader& h) { h.frame.from = peer(5, 2); });
  refused([](WireHeader& h) { h.to = peer(4, 8); });
  refused([](WireHeader& h) { ++h.session; });
  refused([](WireHeader& h) { ++h.sequence; });
  refused([](WireHeader& h) { h.auth[0] ^= std::byte{1}; });
  refused([](WireHeader& h) { h.keyed = false; });
}

TEST_F(FrameAuth, ChunksOfOneFrameShareItsTag) {
  WireHeader chunk = header;
  chunk.chunk_offset = 2;
  EXPECT_TRUE(accepts(chunk, "abcde"));
}

TEST_F(FrameAuth, AMaskedHeaderIsReadableWithItsKeyOnly) {
  WireHeaderBytes wire = encode_wire_header(header);
  mask_header_check(wire, key);
  EXPECT_FALSE(decode_wire_header(wire));
  WireHeaderBytes forged = wire;
  forged[16] ^= std::byte{1};
  mask_header_check(forged, key);
  EXPECT_FALSE(decode_wire_header(forged));
  mask_header_check(wire, key);
  EXPECT_TRUE(decode_wire_header(wire));
}

TEST_F(FrameAuth, AnotherKeyRefuses) {
  SessionKey other = key;
  other[31] ^= std::byte{1};
  EXPECT_FALSE(FrameAuthenticator(other, header).verify(header, std::as_bytes(std::span(std::string_view("abcde")))));
}

}  // namespace
}  // namespace planaria::testing

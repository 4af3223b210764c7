#include "proto/view_packing.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/philox.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;

// Pipelines of four stages, and shards of a thousand tiles.
ViewRecord view_of(std::uint32_t pipelines, std::uint64_t number) {
  PhiloxStream random(1);
  ViewRecord record;
  record.view = ViewNumber(number);
  record.reason = "worker 7 lost: no heartbeat for 1000 ms";
  for (std::uint32_t p = 0; p < pipelines; ++p) {
    for (std::uint32_t k = 0; k < 4; ++k) {
      const WorkerId worker(4 * p + k);
      ByteVector address(32);
      for (auto& byte : address) byte = static_cast<std::uint8_t>(random.next_u32());
      record.members.push_back({worker, Incarnation(1), "host-" + std::to_string(p), std::move(address)});
      record.stages.push_back({worker, {{k * 3, k * 3 + 3}, {p * 8, p * 8 + 8}}, false});
      record.shards.push_back({worker, {(4 * p + k) * 10, (4 * p + k) * 10 + 10}, false});
    }
  }
  record.resume.step = Step(12);
  record.resume.stages = record.stages;
  record.resume.shards = record.shards;
  return record;
}

// Without the second pipeline, whose slots the first one takes over.
ViewRecord after_a_loss(const ViewRecord& before) {
  ViewRecord record = before;
  record.view = before.view.next();
  record.members.erase(record.members.begin() + 4, record.members.begin() + 8);
  record.stages.erase(record.stages.begin() + 4, record.stages.begin() + 8);
  for (std::uint32_t k = 0; k < 4; ++k) record.stages[k].work.slots.end = 16;
  for (std::uint32_t k = 4; k < 8; ++k) record.shards[k].owner = WorkerId(k - 4);
  record.resume.stages[5] = {WorkerId(1), record.resume.stages[5].work, true};
  record.resume.shards[9].ready = true;
  record.resume.fetches.push_back({WorkerId(1), StateSource::peer, WorkerId(9), {40, 80}, false});
  return record;
}

TEST(ViewPacking, GivesBackTheRecordAloneAndAsAChange) {
  for (const std::uint32_t pipelines : {1U, 2U, 3U, 40U}) {
    const ViewRecord base = view_of(std::max(2U, pipelines), 4);
    const ViewRecord record = after_a_loss(view_of(std::max(3U, pipelines), 4));
    for (const ViewRecord* from : {static_cast<const ViewRecord*>(nullptr), &base}) {
      const PackedView packed = pack_view(record, from);
      EXPECT_EQ(packed.base, from == nullptr ? ViewNumber(0) : ViewNumber(4));
      const auto unpacked = unpack_view(packed, from);
      ASSERT_TRUE(unpacked.ok()) << unpacked.error().message();
      EXPECT_EQ(encode(*unpacked), encode(record));
    }
  }
}

TEST(ViewPacking, ALossAmongThousandsCostsLittle) {
  const ViewRecord base = view_of(500, 4);
  const ViewRecord record = after_a_loss(base);
  EXPECT_GT(encode(record).size(), 200'000U);
  EXPECT_LT(pack_view(record, &base).bytes.size(), 2'000U);
}

TEST(ViewPacking, AChangeOfAViewThatIsNotHereIsRefused) {
  const ViewRecord base = view_of(3, 4);
  const PackedView packed = pack_view(after_a_loss(base), &base);
  const ViewRecord other = view_of(3, 3);
  for (const ViewRecord* here : {static_cast<const ViewRecord*>(nullptr), &other}) {
    const auto unpacked = unpack_view(packed, here);
    ASSERT_FALSE(unpacked.ok());
    EXPECT_EQ(unpacked.error().code(), ErrorCode::stale);
    EXPECT_THAT(unpacked.error().message(), HasSubstr("a change of view 4"));
  }
}

TEST(ViewPacking, AnotherRecordUnderTheSameNumberIsNoticed) {
  const ViewRecord base = view_of(3, 4);
  const PackedView packed = pack_view(after_a_loss(base), &base);
  ViewRecord other = base;
  other.members[2].incarnation = Incarnation(9);
  const auto unpacked = unpack_view(packed, &other);
  ASSERT_FALSE(unpacked.ok());
  EXPECT_EQ(unpacked.error().code(), ErrorCode::corrupt);
}

TEST(ViewPacking, DamageIsNoticedWhereverItIs) {
  const ViewRecord base = view_of(3, 4);
  const PackedView packed = pack_view(after_a_loss(base), &base);
  for (std::size_t at = 0; at < packed.bytes.size(); ++at) {
    PackedView damaged = packed;
    damaged.bytes[at] ^= 0x10;
    const auto unpacked = unpack_view(damaged, &base);
    if (!unpacked) continue;
    EXPECT_EQ(encode(*unpacked), encode(after_a_loss(base))) << "byte " << at;  // a bit that nobody reads
  }
  for (std::size_t size = 0; size < packed.bytes.size(); ++size) {
    PackedView cut = packed;
    cut.bytes.resize(size);
    EXPECT_FALSE(unpack_view(cut, &base).ok()) << size << " bytes";
  }
}

TEST(ViewPacking, AViewThatClaimsToBeHugeCostsNothing) {
  // A frame's header with a content size of 2^60.
  const PackedView packed{
      ViewNumber(2), ViewNumber(0), {0x28, 0xB5, 0x2F, 0xFD, 0xC0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0}};
  const auto unpacked = unpack_view(packed, nullptr);
  ASSERT_FALSE(unpacked.ok());
  EXPECT_THAT(unpacked.error().message(), HasSubstr("claims to have"));
}

}  // namespace
}  // namespace planaria

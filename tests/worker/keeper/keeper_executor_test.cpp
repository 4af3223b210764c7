// A keeper's actions on real bytes.
#include "worker/keeper/keeper_executor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "tests/small_model.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {
namespace {

using namespace std::chrono_literals;
using namespace worker_action;
using Bytes = std::vector<std::byte>;

constexpr SnapshotName kName{Step(5), ViewNumber(3)};

struct Sent {
  WorkerId to;
  DataMeta meta;
  std::vector<float> values;
};

// The keepers of two hosts: 0 has tiles 0 to 3 as data, 1 the parity.
class Keepers : public testing::Test {
 protected:
  Keepers() {
    job_.model = small_model();
    job_.train.tile_elements = 64;
    for (std::size_t i = 0; i < 2; ++i) {
      ExecutorHooks hooks;
      hooks.completed = [this, i](WorkerEvent event) {
        const std::scoped_lock lock(mutex_);
        events_[i].push_back(std::move(event));
        changed_.notify_all();
      };
      hooks.failed = [](const Error& error) { FAIL() << error.message(); };
      hooks.send = [this](WorkerId to, ViewNumber, const std::vector<ConstSlice>& payload) {
        Bytes frame;
        for (const ConstSlice& slice : payload) frame.insert(frame.end(), slice.bytes.begin(), slice.bytes.end());
        auto head = decode_data_head(frame);
        ASSERT_TRUE(head);
        std::vector<float> values((frame.size() - head->values_offset) / sizeof(float));
        std::memcpy(values.data(), frame.data() + head->values_offset, values.size() * sizeof(float));
        const std::scoped_lock lock(mutex_);
        sent_.push_back({to, std::move(head->meta), std::move(values)});
        changed_.notify_all();
      };
      keepers_.push_back(std::make_unique<KeeperExecutor>(job_, memory_, hooks));
    }
    for (std::size_t i = 0; i < state_.size(); ++i) state_[i] = static_cast<float>(i) * 0.25F;
  }

  // State of tiles 0 to 3 as it lies in fragments, sealed by a worker of keeper 0's host.
  void seal() {
    auto memory = memory_->take(state_.size() * sizeof(float));
    ASSERT_TRUE(memory);
    std::ranges::copy(std::as_bytes(std::span(state_)), (*memory)->bytes().begin());
    auto payload = std::make_shared<SealedPayload>();
    payload->copy = {WorkerId(7), Incarnation(1), ViewNumber(3), kName.step, {{0, 3}}, {}, *memory, 0};
    for (std::uint32_t tile = 0; tile < 3; ++tile) {
      const std::uint64_t begin = kTensorsOfState * map().bytes({0, tile});
      payload->copy.hashes.push_back(
          hash_bytes((*memory)->bytes().subspan(tile == 0 ? 0 : begin, bytes({tile, tile + 1}))));
    }
    sealed_ = *memory;
    keepers_[0]->post(StoreState{kName.step, {0, 1}, payload}, ViewNumber(3));
    keepers_[0]->post(StoreState{kName.step, {1, 3}, payload}, ViewNumber(3));
  }
  static std::size_t elements() { return kTensorsOfState * map().bytes({0, 3}) / sizeof(float); }
  static std::uint64_t bytes(TileRange tiles) { return kTensorsOfState * map().bytes(tiles); }
  static const StateMap& map() {
    static const StateMap kMap(small_model(), 64);
    return kMap;
  }
  [[nodiscard]] static std::shared_ptr<const SnapshotLayout> layout() {
    return std::make_shared<const SnapshotLayout>(SnapshotLayout{{{1, {{WorkerId(0), {{0, 3}}}, {WorkerId(1), {}}}}}});
  }
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, condition);
  }
  Sent next_sent() {
    EXPECT_TRUE(wait([this] { return !sent_.empty(); }));
    const std::scoped_lock lock(mutex_);
    Sent sent = std::move(sent_.front());
    sent_.erase(sent_.begin());
    return sent;
  }
  // As the transport delivers it.
  static PayloadRef delivered(const std::vector<float>& values) {
    auto payload = std::make_shared<FramePayload>();
    auto owner = std::make_shared<std::vector<float>>(values);
    payload->values = *owner;
    payload->frame = {std::as_writable_bytes(std::span(*owner)), owner};
    return payload;
  }
  static Bytes joined(const std::vector<ConstSlice>& slices) {
    Bytes bytes;
    for (const ConstSlice& slice : slices) bytes.insert(bytes.end(), slice.bytes.begin(), slice.bytes.end());
    return bytes;
  }
  template <class Event>
  std::size_t count(std::size_t keeper) {
    return static_cast<std::size_t>(std::ranges::count_if(
        events_[keeper], [](const WorkerEvent& event) { return std::holds_alternative<Event>(event); }));
  }

  JobSpec job_;
  const std::shared_ptr<SnapshotMemory> memory_ = SnapshotMemory::within(64 << 20);
  std::vector<float> state_ = std::vector<float>(elements());
  std::shared_ptr<SharedMemory> sealed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<WorkerEvent> events_[2];
  std::vector<Sent> sent_;
  std::vector<std::unique_ptr<KeeperExecutor>> keepers_;
};

TEST_F(Keepers, ASealedCopyBecomesParityElsewhereAndIsMadeAgainFromIt) {
  seal();
  keepers_[0]->post(SendFragment{WorkerId(1), ViewNumber(3), layout(), kName, 0, 0}, ViewNumber(3));
  const Sent data = next_sent();
  const auto* part = std::get_if<FragmentData>(&data.meta);
  ASSERT_NE(part, nullptr);
  EXPECT_EQ(part->part, (FragmentPart{kName, 0, 0, 0, bytes({0, 3})}));
  EXPECT_EQ(part->hashes.size(), 3U);
  EXPECT_EQ(data.values, state_);
  keepers_[1]->post(AddFragmentPart{layout(), part->part, delivered(data.values), part->hashes}, ViewNumber(3));
  ASSERT_TRUE(wait([this] { return count<worker_event::FragmentStored>(1) == 1; }));

  // The host is lost: another member makes the tiles again.
  keepers_[1]->post(
      SendFragmentReply{
          WorkerId(2), ViewNumber(4), {{kName, 0, 1, 0, bytes({0, 3})}, true, {}}, {}, layout()->stripes[0], 0},
      ViewNumber(4));
  const Sent parity = next_sent();
  const auto& reply = std::get<FragmentReply>(parity.meta);
  EXPECT_TRUE(reply.available);
  EXPECT_EQ(reply.hashes, part->hashes);
  RebuildState rebuild{kName,         0,        layout()->stripes[0],          0,  0,
                       bytes({0, 3}), {{0, 3}}, {{1, bytes({0, 3}), nullptr}}, {}, WorkerId(1)};
  // Bytes that are sound on the way, and aren't the owner's.
  std::vector<float> others = parity.values;
  others[5] += 1;
  rebuild.inputs[0].payload = delivered(others);
  rebuild.hashes = reply.hashes;
  keepers_[1]->post(rebuild, ViewNumber(4));
  ASSERT_TRUE(wait([this] { return count<worker_event::StateStored>(1) == 1; }));
  const auto refused = std::get<worker_event::StateStored>(events_[1].back());
  EXPECT_FALSE(refused.ok);
  EXPECT_EQ(refused.blamed, WorkerId(1)) << refused.detail;

  rebuild.inputs[0].payload = delivered(parity.values);
  keepers_[1]->post(rebuild, ViewNumber(4));
  ASSERT_TRUE(wait([this] { return count<worker_event::StateStored>(1) == 2; }));
  const auto here = keepers_[0]->state_payload(StateTiles{kName.step, {0, 3}});
  const auto again = keepers_[1]->state_payload(StateTiles{kName.step, {0, 3}});
  ASSERT_TRUE(here && again);
  EXPECT_EQ(joined(*again), joined(*here));
}

TEST_F(Keepers, ADamagedTileIsToldAndNotServed) {
  seal();
  ASSERT_TRUE(wait([this] { return count<worker_event::StateStored>(0) == 2; }));
  sealed_->bytes()[bytes({0, 1}) + 3] ^= std::byte{8};
  EXPECT_FALSE(keepers_[0]->state_payload(StateTiles{kName.step, {1, 2}}));
  ASSERT_TRUE(wait([this] { return count<worker_event::SnapshotDamaged>(0) == 1; }));
  const auto& damaged = std::get<worker_event::SnapshotDamaged>(events_[0].back());
  EXPECT_EQ(damaged.tiles, (std::vector<TileRange>{{1, 2}}));
  EXPECT_EQ(keepers_[0]->keeper_counters().damaged_tiles, 1U);
  EXPECT_TRUE(keepers_[0]->state_payload(StateTiles{kName.step, {2, 3}}));
  keepers_[0]->post(SendFragmentReply{WorkerId(2), ViewNumber(4), {{kName, 0, 0, 0, 64}, true, {}}, {{0, 3}}, {}},
                    ViewNumber(4));
  EXPECT_TRUE(std::get<FragmentReply>(next_sent().meta).available);  // of the first tile, which is well
  keepers_[0]->post(
      SendFragmentReply{WorkerId(2), ViewNumber(4), {{kName, 0, 0, bytes({0, 1}), 64}, true, {}}, {{0, 3}}, {}},
      ViewNumber(4));
  EXPECT_FALSE(std::get<FragmentReply>(next_sent().meta).available);
}

TEST_F(Keepers, TheNormIsToldWithoutState) {
  job_.train.steps = 10;
  keepers_[0]->post(ApplyUpdate{Step(1), {}, {}, std::vector<double>(map().tile_count(), 1.0)}, ViewNumber(3));
  ASSERT_TRUE(wait([this] { return count<worker_event::UpdateDone>(0) == 1; }));
  EXPECT_GT(std::get<worker_event::UpdateDone>(events_[0].back()).gradient_norm, 0);
}

}  // namespace
}  // namespace planaria

// What is read of a device's state, and made again in it, is the same whether the host can touch its memory or not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "common/transport/inbox.hpp"
#include "trainer_cluster.hpp"
#include "worker/model/init.hpp"
#include "worker/trainer/step_executor.hpp"

namespace planaria {
namespace {

using Bytes = std::vector<std::byte>;

const SnapshotName kSnapshot{Step(0), ViewNumber(2)};
const TileRange kFirst{0, 3}, kSecond{3, 6};  // of one block, all of one size
constexpr std::size_t kTiles = 3;

class FarState : public ::testing::TestWithParam<bool> {
 protected:
  FarState() : dataset_(open_data(job_)), device_(make_device(1, GetParam())) {
    initialize_parameters(job_.model, map_, job_.train.seed, parameters_);
    auto made = StepExecutor::create({.job = job_,
                                      .device = device_,
                                      .dataset = dataset_,
                                      .files = &posix_file_system(),
                                      .checkpoint_root = folder_.path() + "/checkpoints"},
                                     [](const WorkerEvent&) {});
    EXPECT_TRUE(made.ok()) << made.error().describe();
    executor_ = std::move(*made);
  }
  void initialize(std::vector<TileRange> tiles) {
    const auto done = executor_->initialize({std::move(tiles), {}});
    ASSERT_TRUE(done.ok()) << done.error().describe();
  }
  // Tile after tile, master and both moments of each: as snapshots have it.
  [[nodiscard]] Bytes state_of(TileRange tiles) const {
    Bytes bytes;
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const ElementRange at = map_.tile(TileIndex(tile));
      const auto master = std::as_bytes(std::span(parameters_).subspan(at.begin, at.size()));
      bytes.insert(bytes.end(), master.begin(), master.end());
      bytes.resize(bytes.size() + 2 * master.size());
    }
    return bytes;
  }
  static Bytes joined(std::span<const ConstSlice> slices) {
    Bytes bytes;
    for (const ConstSlice& slice : slices) bytes.insert(bytes.end(), slice.bytes.begin(), slice.bytes.end());
    return bytes;
  }
  static PayloadRef delivered(const Bytes& bytes) {
    auto payload = std::make_shared<FramePayload>();
    payload->frame = allocate_payload(bytes.size());
    std::ranges::copy(bytes, payload->frame.bytes.begin());
    payload->values = {reinterpret_cast<const float*>(payload->frame.bytes.data()), bytes.size() / sizeof(float)};
    return payload;
  }

  JobSpec job_ = cluster_job();
  const StateMap map_{job_.model, job_.train.tile_elements};
  std::vector<float> parameters_ = std::vector<float>(map_.vector_elements());
  const TemporaryDirectory folder_;
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<StepExecutor> executor_;
};
INSTANTIATE_TEST_SUITE_P(Device, FarState, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "FarMemory" : "HostMemory"; });

TEST_P(FarState, ACopyForTheKeeperHasTheTilesBytes) {
  initialize({map_.tiles_with_state()});
  const auto copy = executor_->state_copy({WorkerId(7), ViewNumber(2), Step(0), {kSecond}});
  ASSERT_TRUE(copy.ok());
  Bytes read(state_of(kSecond).size());
  std::byte* to = read.data();
  for (const ConstSlice& slice : copy->values) {
    const HostRead part{to, slice.bytes.data(), slice.bytes.size()};
    ASSERT_TRUE(copy->device->read(std::span(&part, 1)));
    to += slice.bytes.size();
  }
  EXPECT_EQ(read, state_of(kSecond));
}

TEST_P(FarState, APartOfAFragmentHasItsBytes) {
  initialize({map_.tiles_with_state()});
  const Bytes all = state_of(kFirst);
  const FragmentPart part{kSnapshot, 0, 0, 400, all.size() - 1200};
  const auto payload = executor_->fragment_payload({WorkerId(1), ViewNumber(2), {part, true, {}}, {kFirst}, {}, 0});
  ASSERT_TRUE(payload.ok());
  EXPECT_EQ(joined(std::span(*payload).subspan(1)), Bytes(all.begin() + 400, all.end() - 800));
}

TEST_P(FarState, LostTilesAreMadeAgainFromItsOwnAndParity) {
  initialize({kFirst});
  const Bytes own = state_of(kFirst), lost = state_of(kSecond);
  Bytes parity(own.size());  // of one: the exclusive or
  std::ranges::transform(own, lost, parity.begin(), [](std::byte a, std::byte b) { return a ^ b; });
  const Stripe stripe{2, {{WorkerId(0), {kFirst}}, {WorkerId(1), {kSecond}}, {WorkerId(2), {}}}};
  std::vector<Hash128> hashes;
  const std::size_t tile = lost.size() / kTiles;
  for (std::size_t i = 0; i < kTiles; ++i) hashes.push_back(hash_bytes(std::span(lost).subspan(i * tile, tile)));
  const auto made = executor_->rebuild_state({kSnapshot,
                                              0,
                                              stripe,
                                              1,
                                              0,
                                              lost.size(),
                                              {kSecond},
                                              {{0, own.size(), nullptr}, {2, parity.size(), delivered(parity)}},
                                              hashes,
                                              WorkerId(2)});
  ASSERT_TRUE(made.ok());
  const auto& stored = std::get<worker_event::StateStored>(*made);
  EXPECT_TRUE(stored.ok) << stored.detail;
  const auto copy = executor_->fragment_payload(
      {WorkerId(1), ViewNumber(2), {{kSnapshot, 0, 1, 0, lost.size()}, true, {}}, {kSecond}, {}, 0});
  ASSERT_TRUE(copy.ok());
  EXPECT_EQ(joined(std::span(*copy).subspan(1)), lost);
}

TEST_P(FarState, HashesAreThoseOfTheValues) {
  initialize({map_.tiles_with_state()});
  const auto hashed = executor_->hash_state({Step(0), false});
  ASSERT_TRUE(hashed.ok());
  fill_tied_copy(map_, parameters_);
  const std::vector<float> zeros(map_.vector_elements());
  const float* const vectors[] = {parameters_.data(), zeros.data(), zeros.data()};
  const TileSet with_state(map_.tiles_with_state());
  const auto& told = std::get<worker_event::StateHashed>(*hashed).hashes;
  EXPECT_FALSE(told.empty());
  EXPECT_EQ(told, hash_blocks(map_, vectors, with_state, with_state));
}

}  // namespace
}  // namespace planaria

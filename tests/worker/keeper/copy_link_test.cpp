// Both ends of the link over which workers hand their state to the keeper of their host.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/codec.hpp"
#include "common/local_socket.hpp"
#include "tests/far_device.hpp"
#include "tests/temporary_directory.hpp"
#include "worker/keeper/copy_link.hpp"
#include "worker/keeper/memory_lender.hpp"
#include "worker/keeper/snapshot_copier.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {
namespace {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

class CopyLink : public testing::Test {
 protected:
  explicit CopyLink(std::uint64_t bound = 1 << 20) : memory_(SnapshotMemory::within(bound)) {
    start_lender();
    copier_ = std::make_unique<SnapshotCopier>(path_, [this](const WorkerEvent& event) {
      const std::scoped_lock lock(mutex_);
      if (const auto* failed = std::get_if<worker_event::SnapshotCopyFailed>(&event)) failed_.push_back(failed->stamp);
      if (const auto* attached = std::get_if<worker_event::StateAttached>(&event)) attached_.push_back(*attached);
      if (const auto* failed = std::get_if<worker_event::AttachFailed>(&event)) not_attached_.push_back(failed->tiles);
      changed_.notify_all();
    });
    copier_->named(WorkerId(3), Incarnation(9));
  }
  ~CopyLink() override {
    copier_.reset();
    lender_.reset();
  }

  void start_lender() {
    auto lender = MemoryLender::start(path_, memory_,
                                      {.self = [] { return WorkerId(8); },
                                       .sealed =
                                           [this](SealedCopy copy) {
                                             const std::scoped_lock lock(mutex_);
                                             sealed_.push_back(std::move(copy));
                                             changed_.notify_all();
                                           },
                                       .find = [this](Step stamp, TileRange tiles) -> Result<std::vector<StoredTiles>> {
                                         if (stamp != Step(5)) return Error(ErrorCode::not_found, "not that step");
                                         const std::scoped_lock lock(mutex_);
                                         return stored_(tiles);
                                       }});
    ASSERT_TRUE(lender) << lender.error().message();
    lender_ = std::move(*lender);
  }

  // Two tiles of 100 bytes and one of 50, read from pieces that don't end where tiles do.
  [[nodiscard]] StateCopy copy_of(Step stamp) {
    auto values = std::make_shared<Bytes>(250);
    for (std::size_t i = 0; i < values->size(); ++i) (*values)[i] = static_cast<std::byte>(i * 7 + stamp.value());
    values_ = *values;
    const std::span<const std::byte> all(*values);
    return {WorkerId(8),    ViewNumber(4),
            stamp,          {{2, 4}, {7, 8}},
            {100, 100, 50}, {{all.first(33), values}, {all.subspan(33, 167), values}, {all.subspan(200), values}},
            nullptr};
  }
  // The same values in memory that the host can't touch.
  [[nodiscard]] StateCopy far_copy_of(Step stamp) {
    StateCopy copy = copy_of(stamp);
    copy.device = far_;
    const auto memory = std::make_shared<DeviceBuffer>(std::move(copy.device->reserve(values_.size())).value());
    auto* to = static_cast<std::byte*>(memory->data());
    for (ConstSlice& slice : copy.values) {
      copy.device->copy_in(to, slice.bytes.data(), slice.bytes.size());
      slice = {{to, slice.bytes.size()}, memory};
      to += slice.bytes.size();
    }
    return copy;
  }
  // What a thread of the copier does by itself.
  template <class Condition>
  static bool eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, condition);
  }
  // The next copy that the lender was told of.
  std::optional<SealedCopy> next() {
    if (!wait([this] { return !sealed_.empty(); })) return std::nullopt;
    const std::scoped_lock lock(mutex_);
    SealedCopy copy = std::move(sealed_.front());
    sealed_.erase(sealed_.begin());
    return copy;
  }

  const TemporaryDirectory directory_;
  const std::string path_ = directory_.path("keeper");
  const std::shared_ptr<SnapshotMemory> memory_;
  std::shared_ptr<FarDevice> far_ = std::make_shared<FarDevice>(std::move(make_cpu_device({})).value());
  Bytes values_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SealedCopy> sealed_;
  std::vector<Step> failed_;
  std::vector<worker_event::StateAttached> attached_;
  std::vector<TileRange> not_attached_;
  std::function<std::vector<StoredTiles>(TileRange)> stored_;
  std::unique_ptr<MemoryLender> lender_;
  std::unique_ptr<SnapshotCopier> copier_;
};

class CopyLinkOf : public CopyLink, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Device, CopyLinkOf, testing::Bool(),
                         [](const auto& info) { return info.param ? "FarMemory" : "HostMemory"; });

TEST_P(CopyLinkOf, StateArrivesWithItsHashesAsItWas) {
  copier_->copy(GetParam() ? far_copy_of(Step(5)) : copy_of(Step(5)));
  const auto copy = next();
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->from, WorkerId(3));
  EXPECT_EQ(copy->incarnation, Incarnation(9));
  EXPECT_EQ(copy->view, ViewNumber(4));
  EXPECT_EQ(copy->stamp, Step(5));
  EXPECT_EQ(copy->tiles, (std::vector<TileRange>{{2, 4}, {7, 8}}));
  const std::span<const std::byte> bytes = copy->memory->bytes();
  EXPECT_TRUE(std::ranges::equal(bytes, values_));
  EXPECT_EQ(copy->hashes, (std::vector{hash_bytes(bytes.first(100)), hash_bytes(bytes.subspan(100, 100)),
                                       hash_bytes(bytes.subspan(200))}));
  EXPECT_EQ(copier_->counters().failed, 0U);
}

TEST_F(CopyLink, MemoryIsLentAgainOnceNobodyHoldsWhatWasInIt) {
  copier_->copy(copy_of(Step(5)));
  auto first = next();
  copier_->copy(copy_of(Step(6)));
  auto second = next();
  ASSERT_TRUE(first && second);
  const void* const at = first->memory->bytes().data();
  EXPECT_NE(second->memory->bytes().data(), at);
  first.reset();
  copier_->copy(copy_of(Step(7)));
  const auto third = next();
  ASSERT_TRUE(third);
  EXPECT_EQ(third->memory->bytes().data(), at);
  EXPECT_TRUE(std::ranges::equal(third->memory->bytes(), values_));
  EXPECT_EQ(memory_->used_bytes(), 500U);
}

class CopyLinkOfLittleMemory : public CopyLink {
 protected:
  CopyLinkOfLittleMemory() : CopyLink(300) {}
};

TEST_F(CopyLinkOfLittleMemory, ARefusalIsToldAndPasses) {
  copier_->copy(copy_of(Step(5)));
  auto held = next();
  copier_->copy(copy_of(Step(6)));
  ASSERT_TRUE(wait([this] { return failed_ == std::vector{Step(6)}; }));
  held.reset();
  ASSERT_TRUE(eventually([this] { return memory_->used_bytes() == 0; }));  // the connection's memory is back
  copier_->copy(copy_of(Step(7)));
  EXPECT_TRUE(next());
}

TEST_F(CopyLink, MemoryOfAnotherKeeperThanTheViewNamesIsNotTaken) {
  StateCopy copy = copy_of(Step(5));
  copy.keeper = WorkerId(9);
  copier_->copy(std::move(copy));
  ASSERT_TRUE(wait([this] { return failed_ == std::vector{Step(5)}; }));
  EXPECT_TRUE(sealed_.empty());
  EXPECT_EQ(memory_->used_bytes(), 0U);
}

TEST_F(CopyLink, AKeeperThatIsGoneIsToldAndAnotherOneTakenUp) {
  copier_->copy(copy_of(Step(5)));
  ASSERT_TRUE(next());
  lender_.reset();
  copier_->copy(copy_of(Step(6)));
  ASSERT_TRUE(wait([this] { return !failed_.empty(); }));
  start_lender();
  copier_->copy(copy_of(Step(7)));
  EXPECT_TRUE(next());
}

// Memory that a keeper lends to the worker of a device that locks pages, or doesn't. The device ends the test where a
// lock is let go of twice, or after its memory.
class LockedLink : public CopyLink {
 protected:
  // Once that many bytes are.
  bool locked(std::uint64_t bytes) {
    return eventually([&] { return copier_->counters().locked_bytes == bytes && far_->locked_bytes() == bytes; });
  }
  bool arrives(Step stamp) {
    copier_->copy(far_copy_of(stamp));
    const auto copy = next();
    return copy && copy->stamp == stamp && std::ranges::equal(copy->memory->bytes(), values_) &&
           copy->hashes[2] == hash_bytes(std::span<const std::byte>(values_).subspan(200));
  }
};

TEST_F(LockedLink, EachMemoryIsLockedOnceAndThenReadInto) {
  ASSERT_TRUE(arrives(Step(5)));
  ASSERT_TRUE(locked(250));
  const std::size_t before = far_->read_directly();
  for (const std::uint64_t step : {6, 7, 8}) ASSERT_TRUE(arrives(Step(step)));
  EXPECT_EQ(far_->read_directly(), before + 750);
  EXPECT_EQ(far_->lock_attempts(), 1U);
  copier_->copy(far_copy_of(Step(9)));
  const auto held = next();
  ASSERT_TRUE(arrives(Step(10)));
  EXPECT_TRUE(locked(500));
  copier_.reset();
  EXPECT_EQ(far_->locked_bytes(), 0U);
}

TEST_F(LockedLink, WithoutLocksStateArrivesAllTheSame) {
  far_ = std::make_shared<FarDevice>(std::move(make_cpu_device({})).value(), false);
  for (const std::uint64_t step : {5, 6, 7}) ASSERT_TRUE(arrives(Step(step)));
  EXPECT_TRUE(eventually([this] { return far_->lock_attempts() == 1; }));
  EXPECT_EQ(far_->read_directly(), 0U);
  EXPECT_EQ(copier_->counters().locked_bytes, 0U);
  EXPECT_EQ(copier_->counters().failed, 0U);
}

TEST_F(LockedLink, LocksEndWithTheConnection) {
  ASSERT_TRUE(arrives(Step(5)));
  ASSERT_TRUE(locked(250));
  lender_.reset();
  copier_->copy(far_copy_of(Step(6)));
  ASSERT_TRUE(wait([this] { return !failed_.empty(); }));
  EXPECT_TRUE(locked(0));
  start_lender();
  ASSERT_TRUE(arrives(Step(7)));
  EXPECT_TRUE(locked(250));
}

TEST_F(LockedLink, LocksEndWithMemoryThatIsNotLentAgain) {
  ASSERT_TRUE(arrives(Step(5)));
  ASSERT_TRUE(locked(250));
  StateCopy smaller = far_copy_of(Step(6));
  smaller.tiles = {{2, 3}};
  smaller.tile_bytes = {33};
  smaller.values.resize(1);
  copier_->copy(std::move(smaller));
  ASSERT_TRUE(next());
  EXPECT_TRUE(locked(33));
}

TEST_F(LockedLink, AKeeperThatGoesWhileStateIsReadIsToldAndAnotherOneTakenUp) {
  ASSERT_TRUE(arrives(Step(5)));
  ASSERT_TRUE(locked(250));
  far_->before_each_part([this] { lender_.reset(); });
  copier_->copy(far_copy_of(Step(6)));
  ASSERT_TRUE(wait([this] { return failed_ == std::vector{Step(6)}; }));
  EXPECT_TRUE(locked(0));
  far_->before_each_part({});
  start_lender();
  ASSERT_TRUE(arrives(Step(7)));
  EXPECT_TRUE(locked(250));
}

// Tiles 3 and 4 of 24 bytes each and tile 5 of 12, in two memories.
class AttachedState : public CopyLink {
 protected:
  AttachedState() {
    first_ = *memory_->take(64);
    second_ = *memory_->take(16);
    fill(*first_, 1);
    fill(*second_, 100);
    stored_ = [this](TileRange tiles) {
      EXPECT_EQ(tiles, (TileRange{3, 6}));
      const std::span<const std::byte> first = first_->bytes(), second = second_->bytes();
      return std::vector<StoredTiles>{
          {{3, 5}, first_, 16, {hash_bytes(first.subspan(16, 24)), hash_bytes(first.subspan(40, 24))}},
          {{5, 6}, second_, 4, {hash_bytes(second.subspan(4, 12))}}};
    };
  }
  static void fill(const SharedMemory& memory, int from) {
    for (std::size_t i = 0; i < memory.bytes().size(); ++i) memory.bytes()[i] = static_cast<std::byte>(from + i);
  }
  [[nodiscard]] static StateAttach wanted(Step stamp, bool parameters_only) {
    return {{WorkerId(8), ViewNumber(4), stamp, {3, 6}, parameters_only}, {8, 8, 4}};
  }
  // Of one vector of the piece that was delivered as the n-th.
  [[nodiscard]] Bytes values(std::size_t n) const {
    const auto bytes = std::as_bytes(payload_values(attached_[n].payload));
    return {bytes.begin(), bytes.end()};
  }

  std::shared_ptr<SharedMemory> first_, second_;
};

TEST_F(AttachedState, LiesInTheOrderOfItsVectors) {
  copier_->attach(wanted(Step(5), false));
  ASSERT_TRUE(wait([this] { return attached_.size() == 2; }));
  EXPECT_EQ(attached_[0].tiles, (TileRange{3, 5}));
  EXPECT_EQ(attached_[1].tiles, (TileRange{5, 6}));
  Bytes expected;
  const std::span<const std::byte> from = first_->bytes();
  for (std::size_t vector = 0; vector < 3; ++vector) {
    for (const std::size_t tile : {16, 40}) {
      const auto part = from.subspan(tile + vector * 8, 8);
      expected.insert(expected.end(), part.begin(), part.end());
    }
  }
  EXPECT_EQ(values(0), expected);
  EXPECT_TRUE(std::ranges::equal(values(1), second_->bytes().subspan(4, 12)));
  EXPECT_EQ(copier_->counters().attached_bytes, 60U);
}

TEST_F(AttachedState, OfParametersIsTheFirstVector) {
  copier_->attach(wanted(Step(5), true));
  ASSERT_TRUE(wait([this] { return attached_.size() == 2; }));
  EXPECT_TRUE(std::ranges::equal(values(1), second_->bytes().subspan(4, 4)));
}

TEST_F(AttachedState, ThatIsDamagedOrMissingIsToldAndCopiesGoOn) {
  copier_->attach(wanted(Step(6), false));
  ASSERT_TRUE(wait([this] { return not_attached_ == std::vector<TileRange>{{3, 6}}; }));
  auto stored = stored_;
  {
    const std::scoped_lock lock(mutex_);
    stored_ = [stored](TileRange tiles) {
      auto told = stored(tiles);
      told[1].hashes[0].low ^= 1;
      return told;
    };
  }
  copier_->attach(wanted(Step(5), false));
  ASSERT_TRUE(wait([this] { return not_attached_.size() == 2; }));
  EXPECT_EQ(not_attached_[1], (TileRange{5, 6}));
  EXPECT_EQ(attached_.size(), 1U);
  copier_->copy(copy_of(Step(5)));
  EXPECT_TRUE(next());
}

TEST_F(CopyLink, WhoTalksNonsenseIsCutOffAndTheOthersGoOn) {
  const auto send = [&](LocalSocket& socket, const auto& message) {
    const ByteVector bytes = encode(CopyEnvelope{message});
    ASSERT_TRUE(socket.send(std::as_bytes(std::span(bytes))));
  };
  const Bytes garbage(64, std::byte{0xee});
  auto nonsense = LocalSocket::connect(path_);
  ASSERT_TRUE(nonsense);
  ASSERT_TRUE(nonsense->send(garbage));
  EXPECT_FALSE(nonsense->receive());
  auto nameless = LocalSocket::connect(path_);
  send(*nameless, WantMemory{100, WorkerId(8)});
  EXPECT_FALSE(nameless->receive());
  auto thief = LocalSocket::connect(path_);
  send(*thief, CopyHello{WorkerId(8), Incarnation(1)});
  send(*thief, SealedTiles{1, 0, ViewNumber(4), Step(5), {{0, 1}}, {Hash128{1, 1}}});
  EXPECT_FALSE(thief->receive());
  copier_->copy(copy_of(Step(5)));
  ASSERT_TRUE(next());
  EXPECT_TRUE(sealed_.empty());
}

}  // namespace
}  // namespace planaria

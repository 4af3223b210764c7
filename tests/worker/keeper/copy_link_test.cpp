// Both ends of the link over which workers hand their state to the keeper of their host.
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "common/codec.hpp"
#include "common/local_socket.hpp"
#include "tests/temporary_directory.hpp"
#include "worker/keeper/copy_link.hpp"
#include "worker/keeper/memory_lender.hpp"
#include "worker/keeper/snapshot_copier.hpp"

namespace planaria {
namespace {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

class CopyLink : public testing::Test {
 protected:
  explicit CopyLink(std::uint64_t bound = 1 << 20) : memory_(SnapshotMemory::within(bound)) {
    auto lender = MemoryLender::start(path_, memory_, [this](SealedCopy copy) {
      const std::scoped_lock lock(mutex_);
      sealed_.push_back(std::move(copy));
      changed_.notify_all();
    });
    EXPECT_TRUE(lender) << lender.error().message();
    lender_ = std::move(*lender);
    copier_ = std::make_unique<SnapshotCopier>(path_, [this](const StateCopy& copy) {
      const std::scoped_lock lock(mutex_);
      failed_.push_back(copy.stamp);
      changed_.notify_all();
    });
    copier_->named(WorkerId(3), Incarnation(9));
  }
  ~CopyLink() override {
    copier_.reset();
    lender_.reset();
  }

  // Two tiles of 100 bytes and one of 50, read from pieces that don't end where tiles do.
  [[nodiscard]] StateCopy copy_of(Step stamp) {
    auto values = std::make_shared<Bytes>(250);
    for (std::size_t i = 0; i < values->size(); ++i) (*values)[i] = static_cast<std::byte>(i * 7 + stamp.value());
    values_ = *values;
    const std::span<const std::byte> all(*values);
    return {ViewNumber(4),
            stamp,
            {{2, 4}, {7, 8}},
            {100, 100, 50},
            {{all.first(33), values}, {all.subspan(33, 167), values}, {all.subspan(200), values}}};
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
  Bytes values_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SealedCopy> sealed_;
  std::vector<Step> failed_;
  std::unique_ptr<MemoryLender> lender_;
  std::unique_ptr<SnapshotCopier> copier_;
};

TEST_F(CopyLink, StateArrivesWithItsHashesAsItWas) {
  copier_->copy(copy_of(Step(5)));
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
  copier_->copy(copy_of(Step(7)));
  EXPECT_TRUE(next());
}

TEST_F(CopyLink, AKeeperThatIsGoneIsToldAndAnotherOneTakenUp) {
  copier_->copy(copy_of(Step(5)));
  ASSERT_TRUE(next());
  lender_.reset();
  copier_->copy(copy_of(Step(6)));
  ASSERT_TRUE(wait([this] { return !failed_.empty(); }));
  lender_ = std::move(*MemoryLender::start(path_, memory_, [this](SealedCopy copy) {
    const std::scoped_lock lock(mutex_);
    sealed_.push_back(std::move(copy));
    changed_.notify_all();
  }));
  copier_->copy(copy_of(Step(7)));
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
  send(*nameless, WantMemory{100});
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

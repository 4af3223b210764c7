// What the host reads of a GPU's memory, into memory that is page-locked or isn't.
#include <functional>
#include <memory>
#include <thread>

#include "common/shared_memory.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "tests/kernels/cuda/device_fixture.hpp"

namespace planaria::cuda_test {
namespace {

// Parts that are small, large and in between, of more bytes than are on their way at a time.
constexpr std::size_t kPartBytes[] = {4, 1, 256 << 10, (48 << 20) + 3, 0, 64, 20 << 20};

class CudaReads : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    auto device = cuda::CudaDevice::create(0);
    ASSERT_TRUE(device) << device.error().message();
    device_ = std::move(*device);
    for (const std::size_t bytes : kPartBytes) all_ += bytes;
    for (std::size_t i = 0; i < all_; ++i) values_.push_back(static_cast<std::byte>(i * 2654435761U >> 13));
    memory_ = std::move(device_->reserve(all_)).value();
    device_->copy_in(memory_.data(), values_.data(), all_);
    ASSERT_TRUE(device_->synchronize());
  }
  void TearDown() override {
    memory_ = {};
    CudaTest::TearDown();
  }
  [[nodiscard]] std::vector<HostRead> reads_into(std::byte* target) const {
    std::vector<HostRead> reads;
    const auto* source = static_cast<const std::byte*>(memory_.data());
    for (const std::size_t bytes : kPartBytes) {
      reads.push_back({target, source, bytes});
      target += bytes;
      source += bytes;
    }
    return reads;
  }
  // All of it; what has arrived is there when it is told.
  void expect_read_into(std::span<std::byte> target) const {
    std::size_t there = 0;
    const Status done = device_->read(reads_into(target.data()), [&](std::size_t bytes) {
      EXPECT_GT(bytes, there);
      EXPECT_EQ(std::memcmp(target.data() + there, values_.data() + there, bytes - there), 0);
      there = bytes;
    });
    EXPECT_TRUE(done) << done.error().message();
    EXPECT_EQ(there, all_);
  }
  static cudaMemoryType type_of(const void* memory) {
    cudaPointerAttributes attributes{};
    EXPECT_EQ(cudaPointerGetAttributes(&attributes, memory), cudaSuccess);
    return attributes.type;
  }

  std::unique_ptr<cuda::CudaDevice> device_;
  std::size_t all_ = 0;
  std::vector<std::byte> values_;
  DeviceBuffer memory_;
};

TEST_F(CudaReads, ArriveInOrderInAnyMemory) {
  std::vector<std::byte> pageable(all_);
  expect_read_into(pageable);
  const auto locked = device_->allocate_host(all_);
  ASSERT_TRUE(locked);
  expect_read_into({locked->get(), all_});
}

TEST_F(CudaReads, ArriveInSharedMemoryThatIsLocked) {
  const auto shared = SharedMemory::create(all_);
  ASSERT_TRUE(shared);
  auto lock = device_->lock_host(shared->bytes());
  ASSERT_TRUE(lock) << lock.error().message();
  EXPECT_EQ(type_of(shared->bytes().data()), cudaMemoryTypeHost);
  expect_read_into(shared->bytes());
  std::thread([given = std::move(*lock)]() mutable { given.reset(); }).join();
  EXPECT_EQ(type_of(shared->bytes().data()), cudaMemoryTypeUnregistered);
}

TEST_F(CudaReads, GoOnAfterALockThatIsRefused) {
  const auto shared = SharedMemory::create(all_);
  ASSERT_TRUE(shared);
  const auto lock = device_->lock_host(shared->bytes());
  ASSERT_TRUE(lock);
  EXPECT_FALSE(device_->lock_host(shared->bytes()));  // it is already
  expect_read_into(shared->bytes());
  EXPECT_TRUE(device_->synchronize());
}

TEST_F(CudaReads, OfSeveralThreadsAreTheirOwn) {
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([this] {
      const auto locked = device_->allocate_host(all_);
      ASSERT_TRUE(locked);
      expect_read_into({locked->get(), all_});
    });
  }
  for (std::thread& reader : readers) reader.join();
}

TEST_F(CudaReads, ThatFailAreAnErrorAndLeaveTheDeviceUsable) {
  std::vector<std::byte> target(all_);
  auto reads = reads_into(target.data());
  reads[3].source = nullptr;
  EXPECT_FALSE(device_->read(reads));
  expect_read_into(target);
}

}  // namespace
}  // namespace planaria::cuda_test

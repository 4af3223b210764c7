#include "worker/trainer/buffer_pool.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

std::shared_ptr<BufferPool> make_pool(std::size_t count) {
  auto device = make_cpu_device({});
  EXPECT_TRUE(device.ok());
  auto pool = BufferPool::create(std::shared_ptr<Device>(std::move(device).value()), 100, count);
  EXPECT_TRUE(pool.ok());
  return std::move(pool).value();
}

TEST(BufferPool, ABufferThatWasGivenBackIsUsedAgain) {
  const auto pool = make_pool(1);
  const float* first = pool->take()->floats();
  EXPECT_EQ(pool->take()->floats(), first);
  EXPECT_EQ(pool->allocated(), 1U);
}

TEST(BufferPool, OnlyWhatIsFreeIsTakenWithoutNewMemory) {
  const auto pool = make_pool(1);
  const Buffer taken = pool->take_free();
  EXPECT_TRUE(taken);
  EXPECT_FALSE(pool->take_free());
  EXPECT_EQ(pool->allocated(), 1U);
}

TEST(BufferPool, ALeasedBufferIsQuarantinedUntilItsLastLeaseIsGone) {
  const auto pool = make_pool(1);
  auto taken = pool->take();
  Buffer buffer = std::move(taken).value();
  const float* first = buffer.floats();
  std::shared_ptr<const void> lease = buffer.lease();
  std::shared_ptr<const void> copy = lease;
  buffer = Buffer();
  EXPECT_NE(pool->take()->floats(), first);
  lease.reset();
  EXPECT_NE(pool->take()->floats(), first);
  copy.reset();
  EXPECT_EQ(pool->take()->floats(), first);
  EXPECT_EQ(pool->allocated(), 2U);
  EXPECT_EQ(pool->torn_leases(), 0U);
}

TEST(BufferPool, ALeaseOutlivesThePoolsOwner) {
  auto pool = make_pool(1);
  Buffer buffer = std::move(pool->take()).value();
  buffer.floats()[0] = 42.0F;
  const float* values = buffer.floats();
  const std::shared_ptr<const void> lease = buffer.lease();
  buffer = Buffer();
  pool.reset();
  EXPECT_EQ(values[0], 42.0F);
}

TEST(BufferPool, ALeaseTellsWhetherItsBufferIsBeingRead) {
  const auto pool = make_pool(2);
  Buffer buffer = std::move(pool->take()).value();
  EXPECT_FALSE(buffer.leased());
  {
    const auto lease = buffer.lease();
    EXPECT_TRUE(buffer.leased());
  }
  EXPECT_FALSE(buffer.leased());
}

}  // namespace
}  // namespace planaria

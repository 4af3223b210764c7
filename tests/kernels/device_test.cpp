#include "kernels/device.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/make_device.hpp"

namespace planaria {
namespace {

TEST(CpuDevice, MemoryIsAlignedZeroedAndOwned) {
  auto device = make_cpu_device({.threads = 1});
  ASSERT_TRUE(device.ok());
  auto buffer = (*device)->allocate_floats(77);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % 64, 0U);
  for (std::size_t i = 0; i < 77; ++i) EXPECT_EQ(buffer->floats()[i], 0.0F);
  DeviceBuffer moved = std::move(*buffer);
  EXPECT_EQ(buffer->data(), nullptr);
  EXPECT_EQ(moved.bytes(), 77 * sizeof(float));
}

TEST(CpuDevice, MoreMemoryThanThereIsMeansAnError) {
  auto device = make_cpu_device({.threads = 1});
  ASSERT_TRUE(device.ok());
  for (const std::size_t bytes :
       {std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::size_t>::max() / 2}) {
    auto buffer = (*device)->allocate(bytes);
    ASSERT_FALSE(buffer.ok());
    EXPECT_EQ(buffer.error().code(), ErrorCode::exhausted);
  }
}

TEST(CpuDevice, ChoosesNoKernelsAndAdoptsNone) {
  auto device = make_cpu_device({.threads = 1});
  ASSERT_TRUE(device.ok());
  const auto choices = (*device)->kernel_choices();
  ASSERT_TRUE(choices.ok());
  EXPECT_TRUE(choices->empty());
  EXPECT_TRUE((*device)->adopt_kernel_choices(*choices).ok());
  const std::vector<std::byte> others(1);
  const Status adopted = (*device)->adopt_kernel_choices(others);
  ASSERT_FALSE(adopted.ok());
  EXPECT_EQ(adopted.error().code(), ErrorCode::mismatch);
}

TEST(CpuDevice, ThreadCountsOutOfRangeAreRefused) {
  for (const std::size_t threads : {0, 5000}) {
    const auto device = make_cpu_device({.threads = threads});
    ASSERT_FALSE(device.ok());
    EXPECT_EQ(device.error().code(), ErrorCode::invalid_argument);
  }
}

// This test's executable has no library of devices beside it.
TEST(MakeDevice, WithoutGpusAutoIsTheCpuUnlessThatCannotTrainAsAsked) {
  for (const Precision precision : {Precision::automatic, Precision::fp32}) {
    const auto made = make_device({DeviceKind::automatic, {}, precision}, {.threads = 1});
    ASSERT_TRUE(made.ok()) << made.error().describe();
    EXPECT_EQ(made->device->name(), "cpu");
    EXPECT_FALSE(made->why_not_gpu.empty());
  }
  const auto refused = make_device({DeviceKind::automatic, {}, Precision::bf16}, {.threads = 1});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::unsupported);
  EXPECT_NE(refused.error().message().find("no GPU can be used"), std::string::npos);
}

}  // namespace
}  // namespace planaria

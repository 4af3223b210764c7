#include "worker/trainer/host_staging.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/far_device.hpp"

namespace planaria {
namespace {

class HostStagingTest : public testing::TestWithParam<bool> {
 protected:
  HostStagingTest() {
    auto cpu = std::move(make_cpu_device({})).value();
    if (GetParam()) {
      device_ = std::make_shared<FarDevice>(std::move(cpu));
    } else {
      device_ = std::move(cpu);
    }
    std::iota(values_.begin(), values_.end(), 1.0F);
    memory_ = std::make_shared<DeviceBuffer>(std::move(device_->reserve_floats(values_.size())).value());
    device_->copy_in(memory_->data(), values_.data(), sizeof values_);
  }
  [[nodiscard]] ConstSlice slice(std::size_t begin, std::size_t count) const {
    return {std::as_bytes(std::span(memory_->floats() + begin, count)), memory_};
  }
  static std::vector<float> values_of(std::span<const ConstSlice> slices) {
    std::vector<float> values;
    for (const ConstSlice& slice : slices) {
      const auto* const begin = reinterpret_cast<const float*>(slice.bytes.data());
      values.insert(values.end(), begin, begin + slice.bytes.size() / sizeof(float));
    }
    return values;
  }

  std::shared_ptr<Device> device_;
  std::array<float, 100> values_{};
  std::shared_ptr<DeviceBuffer> memory_;
};
INSTANTIATE_TEST_SUITE_P(Device, HostStagingTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "FarMemory" : "HostMemory"; });

TEST_P(HostStagingTest, SlicesKeepTheirOrder) {
  const HostStaging staging(device_);
  const auto read = staging.readable({slice(90, 10), slice(0, 3), slice(40, 1)});
  ASSERT_TRUE(read);
  EXPECT_EQ(values_of(*read), (std::vector<float>{91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 1, 2, 3, 41}));
  EXPECT_TRUE(staging.readable({})->empty());
}

TEST_P(HostStagingTest, CopiesAreUsedAgainWhenLetGoAndNotBefore) {
  const HostStaging staging(device_);
  auto first = staging.readable({slice(0, 50)});
  const std::size_t once = staging.bytes();
  EXPECT_EQ(once > 0, GetParam());
  const auto second = staging.readable({slice(50, 50)});
  EXPECT_EQ(values_of(*first).front(), 1.0F);
  EXPECT_EQ(values_of(*second).front(), 51.0F);
  EXPECT_EQ(staging.bytes(), 2 * once);
  first->clear();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(values_of(*staging.readable({slice(20, 50)})).front(), 21.0F);
  EXPECT_EQ(staging.bytes(), 2 * once);
  EXPECT_EQ(values_of(*second).front(), 51.0F);
}

TEST_P(HostStagingTest, SizesThatAreNotNeededAnyMoreGoBack) {
  const HostStaging staging(device_);
  constexpr std::size_t kLarge = 200'000;
  const auto large = std::make_shared<DeviceBuffer>(std::move(device_->reserve(kLarge)).value());
  const ConstSlice larger{{static_cast<const std::byte*>(large->data()), kLarge}, large};
  ASSERT_TRUE(staging.readable({larger}));
  const std::size_t before = staging.bytes();
  for (int i = 0; i < 5000; ++i) ASSERT_TRUE(staging.readable({slice(0, 1)}));
  const auto first = staging.readable({slice(0, 1)});
  EXPECT_GE(staging.bytes(), before);
  const auto second = staging.readable({slice(0, 1)});  // more than there is
  EXPECT_EQ(staging.bytes() < before, GetParam());
  EXPECT_EQ(values_of(*first).front(), 1.0F);
}

TEST_P(HostStagingTest, SourcesAreLetGoOnceCopied) {
  const HostStaging staging(device_);
  const auto before = memory_.use_count();
  const auto read = staging.readable({slice(0, 50)});
  EXPECT_EQ(memory_.use_count() == before, GetParam());
}

TEST_P(HostStagingTest, CopiesOutliveTheStaging) {
  std::vector<ConstSlice> read;
  {
    const HostStaging staging(device_);
    read = std::move(staging.readable({slice(7, 2)})).value();
  }
  EXPECT_EQ(values_of(read), (std::vector<float>{8, 9}));
}

TEST(HostStagingWithoutLockedPages, CopiesAreInOtherMemory) {
  const auto device = std::make_shared<FarDevice>(std::move(make_cpu_device({})).value(), false);
  const float value = 7.0F;
  const auto memory = std::make_shared<DeviceBuffer>(std::move(device->reserve(sizeof value)).value());
  device->copy_in(memory->data(), &value, sizeof value);
  const HostStaging staging(device);
  const auto read = staging.readable({{{static_cast<const std::byte*>(memory->data()), sizeof value}, memory}});
  ASSERT_TRUE(read);
  EXPECT_TRUE(std::ranges::equal(read->front().bytes, std::as_bytes(std::span(&value, 1))));
}

TEST_P(HostStagingTest, ALookShowsTheElements) {
  HostLook look(*device_);
  EXPECT_EQ((*look.at(memory_->floats(), {10, 12}))[1], 12.0F);
  EXPECT_EQ(look.at(memory_->floats(), {0, 100})->size(), 100U);
}

}  // namespace
}  // namespace planaria

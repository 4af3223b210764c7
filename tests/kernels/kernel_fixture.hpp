// What the kernel tests share: seeded data at any alignment, devices, and comparison with a derived tolerance.
//
// Thread contract: each test has its own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "common/philox.hpp"
#include "kernels/device.hpp"
#include "kernels/reference/reference.hpp"

namespace planaria::kernels_test {

using Floats = std::vector<float>;

inline std::unique_ptr<TensorDevice> make_device(std::size_t threads = 1, CpuIsa isa = CpuIsa::best) {
  auto device = make_cpu_device({threads, isa});
  EXPECT_TRUE(device.ok());
  return std::move(device).value();
}

// Values in [-1, 1) and tokens, from one stream a test.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(philox_key(seed, RandomPurpose::tests)) {}

  Floats floats(std::size_t count, float magnitude = 1.0F) {
    Floats values(count);
    for (float& value : values) value = magnitude * (2.0F * unit_float(random_.next_u32()) - 1.0F);
    return values;
  }
  reference::Values doubles(std::size_t count) { return reference::widen(floats(count)); }
  std::vector<std::int32_t> tokens(std::size_t count, std::size_t vocab) {
    std::vector<std::int32_t> values(count);
    for (auto& value : values) value = static_cast<std::int32_t>(random_.below(vocab));
    return values;
  }

 private:
  PhiloxStream random_;
};

// Rounding in a chain of `depth` operations is a random walk of half-ulp steps whose size is bounded by the largest
// value; a factor of four covers the maximum over all elements.
inline double tolerance(double depth, const reference::Values& expected) {
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  return 4.0 * 0x1.0p-24 * std::sqrt(depth) * largest;
}

inline void expect_near(const Floats& actual, const reference::Values& expected, double depth) {
  ASSERT_EQ(actual.size(), expected.size());
  const double allowed = tolerance(depth, expected);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(actual[i]), expected[i], allowed) << "element " << i;
  }
}

}  // namespace planaria::kernels_test

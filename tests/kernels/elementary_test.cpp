#include "kernels/elementary.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/philox.hpp"

namespace planaria {
namespace {

double ulp(double x) {
  return std::nextafter(std::abs(x), std::numeric_limits<double>::infinity()) - std::abs(x);
}

class Elementary : public testing::Test {
 protected:
  double between(double low, double high) { return low + (high - low) * random_.unit_double(); }
  PhiloxStream random_{philox_key(31, RandomPurpose::tests)};
};

TEST_F(Elementary, ExpIsWithinTwoUlp) {
  for (int i = 0; i < 20000; ++i) {
    const double x = between(-700, 700);
    ASSERT_NEAR(det_exp(x), std::exp(x), 2 * ulp(std::exp(x))) << x;
  }
}

TEST_F(Elementary, LogIsWithinTwoUlp) {
  for (int i = 0; i < 20000; ++i) {
    const double x = std::exp(between(-300, 300));
    ASSERT_NEAR(det_log(x), std::log(x), 2 * ulp(std::log(x))) << x;
    const double near_one = between(0.9, 1.1);
    ASSERT_NEAR(det_log(near_one), std::log(near_one), 2 * ulp(std::log(near_one))) << near_one;
  }
}

TEST_F(Elementary, SineAndCosineAreWithinTwoUlpOfOne) {
  for (int i = 0; i < 20000; ++i) {
    const double x = between(-1e6, 1e6);
    ASSERT_NEAR(det_sin(x), std::sin(x), 0x1.0p-51) << x;
    ASSERT_NEAR(det_cos(x), std::cos(x), 0x1.0p-51) << x;
  }
}

TEST_F(Elementary, PowKeepsItsStatedError) {
  for (int i = 0; i < 20000; ++i) {
    const double x = between(0.5, 2.0);
    const double y = between(-500, 500);
    const double expected = std::pow(x, y);
    ASSERT_NEAR(det_pow(x, y), expected, 1e-15 * (1 + std::abs(y * std::log(x))) * expected) << x << " " << y;
  }
}

TEST_F(Elementary, EdgesAreThoseOfTheLibrary) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(det_exp(0), 1.0);
  EXPECT_EQ(det_exp(-infinity), 0.0);
  EXPECT_EQ(det_exp(710), infinity);
  EXPECT_TRUE(std::isnan(det_exp(std::nan(""))));
  EXPECT_NEAR(det_exp(-744), std::exp(-744), 1e-323);
  EXPECT_EQ(det_log(1), 0.0);
  EXPECT_EQ(det_log(0), -infinity);
  EXPECT_EQ(det_log(infinity), infinity);
  EXPECT_TRUE(std::isnan(det_log(-1)));
  EXPECT_NEAR(det_log(5e-324), std::log(5e-324), 1e-12);
  EXPECT_EQ(det_sin(0), 0.0);
  EXPECT_EQ(det_cos(0), 1.0);
}

}  // namespace
}  // namespace planaria

#include "kernels/elementary.hpp"

#include <bit>
#include <cstdint>
#include <limits>

namespace planaria {
namespace {

constexpr double ln2_high = 6.93147180369123816490e-01;  // 32 bits: n * ln2_high is exact
constexpr double ln2_low = 1.90821492927058770002e-10;

// 2^n for n in [-1022, 1023].
double power_of_two(int n) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52);
}

double nearest(double x) {
  constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  return (x + magic) - magic;
}

// sin and cos on [-pi/4, pi/4] by their Taylor series; the first left-out term is below 2^-56 of the result.
double sin_core(double x) {
  const double z = x * x;
  double p = 1.0;
  for (int n = 18; n >= 2; n -= 2) p = 1.0 - z * p / static_cast<double>(n * (n + 1));
  return x * p;
}
double cos_core(double x) {
  const double z = x * x;
  double p = 1.0;
  for (int n = 19; n >= 1; n -= 2) p = 1.0 - z * p / static_cast<double>(n * (n + 1));
  return p;
}

// x = quadrant * pi/2 + rest; pi/2 in three parts of 33 bits, so the products are exact for the range served.
double reduce(double x, unsigned& quadrant) {
  const double n = nearest(x * 0.63661977236758134308);
  quadrant = static_cast<unsigned>(static_cast<std::int64_t>(n)) & 3U;
  return ((x - n * 1.57079632673412561417e+00) - n * 6.07710050630396597660e-11) - n * 2.02226624879595063154e-21;
}

}  // namespace

double det_exp(double x) {
  if (!(x > -745.2)) return x != x ? x : 0.0;
  if (x > 709.782712893384) return std::numeric_limits<double>::infinity();
  const double n = nearest(x * 1.44269504088896338700);
  const double r = (x - n * ln2_high) - n * ln2_low;
  double p = 1.0;
  for (int i = 15; i >= 1; --i) p = 1.0 + r * p / static_cast<double>(i);
  // In two factors, so that neither leaves the range of normal numbers.
  const int exponent = static_cast<int>(n);
  const int half = exponent / 2;
  return p * power_of_two(half) * power_of_two(exponent - half);
}

double det_log(double x) {
  if (x != x || x < 0) return std::numeric_limits<double>::quiet_NaN();
  if (x == 0) return -std::numeric_limits<double>::infinity();
  if (x == std::numeric_limits<double>::infinity()) return x;
  int exponent = 0;
  if (x < 0x1.0p-1022) {
    x *= 0x1.0p54;
    exponent = -54;
  }
  const auto bits = std::bit_cast<std::uint64_t>(x);
  exponent += static_cast<int>(bits >> 52) - 1023;
  double mantissa = std::bit_cast<double>((bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL);
  if (mantissa > 1.41421356237309504880) {
    mantissa *= 0.5;
    ++exponent;
  }
  // log(m) = 2 atanh(s) with s = (m - 1) / (m + 1), |s| < 0.1716.
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double z = s * s;
  double p = 0.0;
  for (int i = 23; i >= 3; i -= 2) p = z * (1.0 / static_cast<double>(i) + p);
  const double n = static_cast<double>(exponent);
  return n * ln2_high + (n * ln2_low + 2.0 * (s + s * p));
}

double det_pow(double x, double y) {
  return det_exp(y * det_log(x));
}

double det_sin(double x) {
  unsigned quadrant = 0;
  const double r = reduce(x, quadrant);
  const double value = (quadrant & 1U) != 0 ? cos_core(r) : sin_core(r);
  return (quadrant & 2U) != 0 ? -value : value;
}

double det_cos(double x) {
  unsigned quadrant = 0;
  const double r = reduce(x, quadrant);
  const double value = (quadrant & 1U) != 0 ? sin_core(r) : cos_core(r);
  return ((quadrant + 1) & 2U) != 0 ? -value : value;
}

}  // namespace planaria

// Eight-lane vectors for the kernels, which are compiled once for each instruction set (PLANARIA_ISA names the
// namespace). Written with compiler vectors so that one text serves all; fused multiply-add is explicit, so a kernel's
// bits differ between "has FMA" and "has not", and by nothing else.
//
// Everything here is forced inline and lives in the namespace of its instruction set: a function with external linkage
// could be merged by the linker with the other set's copy and then run on a machine that lacks it. For the same reason
// the kernels use no standard library templates.
//
// Thread contract: pure functions.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define PLANARIA_INLINE static inline __attribute__((always_inline))
#define PLANARIA_INLINE_MEMBER inline __attribute__((always_inline))

namespace planaria::PLANARIA_ISA {

using V8 = float __attribute__((vector_size(32)));
using I8 = std::int32_t __attribute__((vector_size(32)));
using D4 = double __attribute__((vector_size(32)));
using V8Unaligned = float __attribute__((vector_size(32), aligned(4), may_alias));
using V4 = float __attribute__((vector_size(16)));

inline constexpr std::size_t lanes = 8;

// A whole vector, or the first n < 8 lanes of one; the missing lanes read as zero.
struct Full {};
struct Tail {
  std::size_t n;
};

PLANARIA_INLINE V8 load(const float* p, Full = {}) {
  return *reinterpret_cast<const V8Unaligned*>(p);
}
PLANARIA_INLINE void store(float* p, V8 v, Full = {}) {
  *reinterpret_cast<V8Unaligned*>(p) = v;
}
PLANARIA_INLINE V8 load(const float* p, Tail tail) {
  V8 v{};
  for (std::size_t i = 0; i < tail.n; ++i) v[i] = p[i];
  return v;
}
PLANARIA_INLINE void store(float* p, V8 v, Tail tail) {
  for (std::size_t i = 0; i < tail.n; ++i) p[i] = v[i];
}
PLANARIA_INLINE V8 keep_lanes(V8 v, Full) {
  return v;
}
PLANARIA_INLINE V8 keep_lanes(V8 v, Tail tail) {
  for (std::size_t i = tail.n; i < lanes; ++i) v[i] = 0;
  return v;
}

PLANARIA_INLINE V8 splat(float x) {
  return V8{x, x, x, x, x, x, x, x};
}

PLANARIA_INLINE V8 fma(V8 a, V8 b, V8 c) {
#ifdef __FMA__
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

PLANARIA_INLINE V8 max(V8 a, V8 b) {
  return a > b ? a : b;
}

PLANARIA_INLINE float sqrt(float x) {
  return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

PLANARIA_INLINE V8 sqrt(V8 v) {
#ifdef __AVX__
  return _mm256_sqrt_ps(v);
#else
  V8 out;
  for (int i = 0; i < 8; ++i) out[i] = sqrt(v[i]);
  return out;
#endif
}

PLANARIA_INLINE float sum_lanes(V8 v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
PLANARIA_INLINE float max_lanes(V8 v) {
  float m = v[0];
  for (int i = 1; i < 8; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x within 2 ulp; x is clamped to [-87, 88], so the result is always a normal number (or NaN for NaN).
PLANARIA_INLINE V8 exp(V8 x) {
  x = x < splat(-87.0F) ? splat(-87.0F) : x;
  x = x > splat(88.0F) ? splat(88.0F) : x;
  const V8 magic = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer, held in the low mantissa bits
  const V8 shifted = fma(x, splat(1.44269504088896341F), magic);
  const V8 n = shifted - magic;
  V8 r = fma(n, splat(-0.693359375F), x);
  r = fma(n, splat(2.12194440e-4F), r);
  V8 p = splat(1.9875691500e-4F);
  p = fma(p, r, splat(1.3981999507e-3F));
  p = fma(p, r, splat(8.3334519073e-3F));
  p = fma(p, r, splat(4.1665795894e-2F));
  p = fma(p, r, splat(1.6666665459e-1F));
  p = fma(p, r, splat(5.0000001201e-1F));
  p = fma(p, r * r, r) + splat(1.0F);
  const I8 exponent = (reinterpret_cast<I8>(shifted) << 23) + 0x3f800000;
  return p * reinterpret_cast<V8>(exponent);
}

PLANARIA_INLINE V8 sigmoid(V8 x) {
  return splat(1.0F) / (splat(1.0F) + exp(-x));
}

// f(i, Full) for each whole vector of [begin, end), then f(i, Tail) for the rest.
template <class F>
PLANARIA_INLINE void for_vectors(std::size_t begin, std::size_t end, F&& f) {
  std::size_t i = begin;
  for (; i + lanes <= end; i += lanes) f(i, Full{});
  if (i < end) f(i, Tail{end - i});
}

// Two running vectors of a reduction over a row: sixteen virtual lanes, element i in lane i % 16.
struct RowSum {
  V8 even{};
  V8 odd{};

  PLANARIA_INLINE_MEMBER void add(std::size_t i, V8 v) {
    if ((i & lanes) == 0) {
      even += v;
    } else {
      odd += v;
    }
  }
  PLANARIA_INLINE_MEMBER float total() const { return sum_lanes(even + odd); }
};

}  // namespace planaria::PLANARIA_ISA

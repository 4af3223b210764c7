// Neighbouring elements of a row as a thread holds them: bf16 or fp32 in memory, 16 bytes at a time, fp32 in
// arithmetic.
//
// N is 8 where addresses and widths allow, 1 elsewhere (4 or 1 for fp32 vectors); it never changes a bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace planaria::cuda {

using Bf16 = __nv_bfloat16;

template <int N>
struct Floats {
  float at[N];
};

// N bf16 elements as they lie in memory.
template <int N>
struct Packed;
template <>
struct Packed<8> {
  uint4 bits;
};
template <>
struct Packed<1> {
  unsigned short bits;
};

template <int N>
__device__ inline Packed<N> load(const Bf16* p) {
  return *reinterpret_cast<const Packed<N>*>(p);
}
template <int N>
__device__ inline void store(Bf16* p, Packed<N> packed) {
  *reinterpret_cast<Packed<N>*>(p) = packed;
}

// A bf16 is the upper half of its fp32.
__device__ inline float lower_half(unsigned word) {
  return __uint_as_float(word << 16);
}
__device__ inline float upper_half(unsigned word) {
  return __uint_as_float(word & 0xffff0000U);
}

__device__ inline Floats<8> unpack(const Packed<8>& p) {
  return {{lower_half(p.bits.x), upper_half(p.bits.x), lower_half(p.bits.y), upper_half(p.bits.y), lower_half(p.bits.z),
           upper_half(p.bits.z), lower_half(p.bits.w), upper_half(p.bits.w)}};
}
__device__ inline Floats<1> unpack(const Packed<1>& p) {
  return {{lower_half(p.bits)}};
}

// Rounds to nearest, ties to even.
__device__ inline unsigned pack_two(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ inline Packed<8> pack(const Floats<8>& f) {
  return {
      {pack_two(f.at[0], f.at[1]), pack_two(f.at[2], f.at[3]), pack_two(f.at[4], f.at[5]), pack_two(f.at[6], f.at[7])}};
}
__device__ inline Packed<1> pack(const Floats<1>& f) {
  const Bf16 rounded = __float2bfloat16_rn(f.at[0]);
  return {*reinterpret_cast<const unsigned short*>(&rounded)};
}

template <int N>
__device__ inline Floats<N> load(const float* p) {
  Floats<N> f;
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
      const float4 four = reinterpret_cast<const float4*>(p)[i];
      f.at[4 * i] = four.x;
      f.at[4 * i + 1] = four.y;
      f.at[4 * i + 2] = four.z;
      f.at[4 * i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) f.at[i] = p[i];
  }
  return f;
}
template <int N>
__device__ inline void store(float* p, const Floats<N>& f) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
      reinterpret_cast<float4*>(p)[i] = make_float4(f.at[4 * i], f.at[4 * i + 1], f.at[4 * i + 2], f.at[4 * i + 3]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = f.at[i];
  }
}

// What load() makes of N elements of either format, and what store() takes.
template <int N, class T>
using Pack = std::conditional_t<std::is_same_v<T, float>, Floats<N>, Packed<N>>;
template <int N>
__device__ inline Floats<N> unpack(const Floats<N>& f) {
  return f;
}
template <class T, int N>
__device__ inline Pack<N, T> pack_as(const Floats<N>& f) {
  if constexpr (std::is_same_v<T, float>) {
    return f;
  } else {
    return pack(f);
  }
}

// Parameters lie in one flat vector: theirs are the only addresses of rows that needn't be multiples of 16 bytes.
__device__ inline Floats<8> load_parameters(const float* p, bool aligned) {
  if (aligned) return load<8>(p);
  Floats<8> f;
#pragma unroll
  for (int i = 0; i < 8; ++i) f.at[i] = p[i];
  return f;
}

template <class... Pointers>
[[nodiscard]] bool aligned_to_16(const Pointers*... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) | ... | std::uintptr_t{0}) & 15U) == 0;
}

}  // namespace planaria::cuda

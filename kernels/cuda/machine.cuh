// What C++ has no words for: copies to shared memory that go on beside the thread's work, and the special function
// unit's approximations.
//
// Each thread here reads back only what it copied itself, so that waiting for its own copies is all the
// synchronization there is: shared memory serves as more registers, filled ahead of use.
#pragma once

#include <cuda_runtime.h>

namespace planaria::cuda {

__device__ inline void copy_ahead(uint4* shared, const uint4* global) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
// Ends a group of copies; it may be empty.
__device__ inline void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kNewest>
__device__ inline void wait_for_all_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}
// Waits until all groups but the `newest` last ones are here; may wait for more.
__device__ inline void wait_for_all_but(unsigned newest) {
  switch (newest) {
    case 0:
      return wait_for_all_but<0>();
    case 1:
      return wait_for_all_but<1>();
    case 2:
      return wait_for_all_but<2>();
    default:
      return wait_for_all_but<3>();
  }
}

// Reads shared memory a second time where registers are too few to keep what was read first.
__device__ inline uint4 read_again(const uint4* shared) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  uint4 value;
  asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address));
  return value;
}

// 2^x with a relative error below 2^-22; results below 2^-126 are 0.
__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1/x within 1 ulp; 0 above 2^126.
__device__ inline float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

inline constexpr float kLog2E = 1.4426950408889634F;

// No cancellation on either side, so the error stays relative: about 2^-21 + |x| * 2^-24.
__device__ inline float sigmoid(float x) {
  return reciprocal_approximate(1.0F + exp2_approximate(-kLog2E * x));
}

}  // namespace planaria::cuda

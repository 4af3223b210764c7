// What the tests of CUDA kernels share: a device or a reason to skip, vectors in its memory, values of bf16, and
// comparison with tolerances that follow from the formats.
//
// Thread contract: each test has its own.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/cuda/chunk_sums.hpp"
#include "tests/kernels/kernel_fixture.hpp"

namespace planaria::cuda_test {

using kernels_test::Floats;
using reference::Values;
using Bf16 = __nv_bfloat16;
using Bf16s = std::vector<Bf16>;

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    static_cast<void>(cudaGetLastError());  // a missing driver is no failure
    if (error != cudaSuccess) GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
    if (count == 0) GTEST_SKIP() << "no CUDA device: none is there";
  }
  void TearDown() override {
    if (!IsSkipped()) {
      EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    }
  }

  kernels_test::Draw draw{17};
};

// Device memory of `count` elements; `offset` elements lie before the first, so that it needn't be aligned.
template <class T>
class OnDevice {
 public:
  // Every byte 0xff, a NaN: what an op forgets to write shows.
  explicit OnDevice(std::size_t count, std::size_t offset = 0) : count_(count), offset_(offset) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, (count + offset + 1) * sizeof(T)), cudaSuccess);
    memory_.reset(memory);
    EXPECT_EQ(cudaMemset(memory, 0xff, (count + offset + 1) * sizeof(T)), cudaSuccess);
  }
  explicit OnDevice(const std::vector<T>& values, std::size_t offset = 0) : OnDevice(values.size(), offset) {
    write(values);
  }

  [[nodiscard]] T* get() const { return static_cast<T*>(memory_.get()) + offset_; }
  operator T*() const { return get(); }
  void write(const std::vector<T>& values) {
    EXPECT_EQ(cudaMemcpy(get(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), get(), count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  struct Free {
    void operator()(void* memory) const { (void)cudaFree(memory); }
  };
  std::size_t count_;
  std::size_t offset_;
  std::unique_ptr<void, Free> memory_;
};

inline Bf16s rounded(const Floats& values) {
  Bf16s out;
  out.reserve(values.size());
  for (const float value : values) out.push_back(__float2bfloat16_rn(value));
  return out;
}
inline Floats widened(const Bf16s& values) {
  Floats out;
  out.reserve(values.size());
  for (const Bf16 value : values) out.push_back(__bfloat162float(value));
  return out;
}
inline Values doubles(const Bf16s& values) {
  return reference::widen(widened(values));
}

template <class T>
[[nodiscard]] bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// fp32 arithmetic of `depth` operations is off as kernels_test::tolerance() derives; a bf16 has 8 significant bits, so
// rounding to one adds at most 2^-8 of the value (half the spacing at a power of two).
inline void expect_near_bf16(const Bf16s& actual, const Values& expected, double depth) {
  ASSERT_EQ(actual.size(), expected.size());
  const double arithmetic = kernels_test::tolerance(depth, expected);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double value = static_cast<double>(__bfloat162float(actual[i]));
    const double allowed = arithmetic + 0x1.0p-8 * (std::abs(expected[i]) + arithmetic);
    ASSERT_NEAR(value, expected[i], allowed) << "element " << i;
  }
}

// The order that kernels/cuda/chunk_columns.cuh fixes.
inline Floats chunks_in_order(std::size_t rows, std::size_t width, const Bf16s& x) {
  Floats chunks(cuda::chunks_of(rows) * width);
  for (std::size_t at = 0; at < chunks.size(); ++at) {
    const std::size_t first = at / width * cuda::kChunkRows;
    float strips[8]{};
    for (std::size_t row = first; row < std::min(rows, first + cuda::kChunkRows); ++row) {
      strips[(row - first) % 8] += __bfloat162float(x[row * width + at % width]);
    }
    chunks[at] =
        ((strips[0] + strips[4]) + (strips[2] + strips[6])) + ((strips[1] + strips[5]) + (strips[3] + strips[7]));
  }
  return chunks;
}
}  // namespace planaria::cuda_test

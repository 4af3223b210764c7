// Tiles of bf16 rows in shared memory and the tensor cores' products of them: fragments as mma.sync.m16n8k16 has them
// (PTX ISA, "Matrix Fragments for mma.m16n8k16"), 16-byte chunks of a row swapped so that ldmatrix meets no bank twice.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace planaria::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kChunk = 8;  // elements of 16 bytes

// The place of a chunk in a tile of rows of kWidth elements.
template <int kWidth>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
  constexpr int kMask = (kWidth / kChunk < 8 ? kWidth / kChunk : 8) - 1;
  return row * kWidth + (chunk ^ (row & kMask)) * kChunk;
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, or zeros where there is no source.
__device__ __forceinline__ void copy_async(void* target, const void* source, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(target)), "l"(source),
               "r"(there ? 16 : 0));
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n");
}
// Until all but the newest kPending groups are there.
template <int kPending>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

// Rows [first, first + kRows) of a matrix of `rows` rows, the others 0, by all kThreads threads of the block.
template <int kRows, int kWidth, int kThreads>
__device__ __forceinline__ void load_tile(__nv_bfloat16* tile, const __nv_bfloat16* matrix, std::int64_t stride,
                                          int first, int rows) {
  constexpr int kChunks = kWidth / kChunk;
#pragma unroll
  for (int i = 0; i < kRows * kChunks; i += kThreads) {
    const int at = i + static_cast<int>(threadIdx.x);
    if (kRows * kChunks % kThreads != 0 && at >= kRows * kChunks) break;
    const int row = at / kChunks;
    const int chunk = at % kChunks;
    const bool there = first + row < rows;
    const __nv_bfloat16* source = matrix + (there ? first + row : 0) * stride + chunk * kChunk;
    copy_async(tile + chunk_at<kWidth>(row, chunk), source, there);
  }
}

struct FragmentA {  // 16 × 16
  std::uint32_t r[4];
};
struct FragmentB {  // 16 × 8
  std::uint32_t r[2];
};
struct Accumulator {  // 16 × 8: rows g and g + 8 of lane / 4 = g, columns 2 (lane % 4) and the next
  float c[4];
};

__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const __nv_bfloat16* address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(address)));
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], const __nv_bfloat16* address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(address)));
}

// Rows [row, row + 16), columns [16 k, 16 k + 16) of a tile.
template <int kWidth>
__device__ __forceinline__ FragmentA load_a(const __nv_bfloat16* tile, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  FragmentA a;
  load_matrices(a.r, tile + chunk_at<kWidth>(row + lane % 16, 2 * k + lane / 16));
  return a;
}

// Of the tile's transpose, 16 × 16 as two fragments: k runs along columns [16 k, 16 k + 16), n over rows [row, row +
// 16).
template <int kWidth>
__device__ __forceinline__ void load_b_transposed(FragmentB (&b)[2], const __nv_bfloat16* tile, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  std::uint32_t r[4];
  load_matrices(r, tile + chunk_at<kWidth>(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  b[0] = {{r[0], r[1]}};
  b[1] = {{r[2], r[3]}};
}

// Of the tile itself: k runs over rows [row, row + 16), n along columns [16 n, 16 n + 16).
template <int kWidth>
__device__ __forceinline__ void load_b(FragmentB (&b)[2], const __nv_bfloat16* tile, int row, int n) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  std::uint32_t r[4];
  load_matrices_transposed(r, tile + chunk_at<kWidth>(row + lane % 16, 2 * n + lane / 16));
  b[0] = {{r[0], r[1]}};
  b[1] = {{r[2], r[3]}};
}

__device__ __forceinline__ void multiply_add(Accumulator& d, const FragmentA& a, const FragmentB& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d.c[0]), "+f"(d.c[1]), "+f"(d.c[2]), "+f"(d.c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}

// Two neighbouring results, rounded, as the left side of the next product.
__device__ __forceinline__ FragmentA as_a(const Accumulator& left, const Accumulator& right) {
  return {{pack(left.c[0], left.c[1]), pack(left.c[2], left.c[3]), pack(right.c[0], right.c[1]),
           pack(right.c[2], right.c[3])}};
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Writes a warp's kTiles · 16 rows of kWidth results, times `factor`, to rows [first, rows) of a matrix. `tile`: shared
// memory of the warp's rows, which nobody else uses any more. With `sums`, the columns' sums over what was written are
// left there, kWidth floats: rows 32 / (kWidth / 8) apart in ascending order, these sums by a butterfly.
template <int kTiles, int kWidth>
__device__ __forceinline__ void store_rows(const Accumulator (&values)[kTiles][kWidth / 8], float factor,
                                           __nv_bfloat16* tile, __nv_bfloat16* matrix, std::int64_t stride, int first,
                                           int rows, bool sums = false) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const Accumulator& d = values[m][n];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = 16 * m + 8 * half + lane / 4;
        *reinterpret_cast<std::uint32_t*>(tile + chunk_at<kWidth>(row, n) + lane % 4 * 2) =
            pack(d.c[2 * half] * factor, d.c[2 * half + 1] * factor);
      }
    }
  }
  __syncwarp();
  constexpr int kChunks = kWidth / kChunk;
  static_assert(kWarp % kChunks == 0);  // a lane has one chunk's columns in all of its rows
  float sum[kChunk] = {};
#pragma unroll
  for (int i = 0; i < kTiles * 16 * kChunks; i += kWarp) {
    const int row = (i + lane) / kChunks;
    const int chunk = lane % kChunks;
    if (first + row >= rows) continue;
    const uint4 packed = *reinterpret_cast<const uint4*>(tile + chunk_at<kWidth>(row, chunk));
    *reinterpret_cast<uint4*>(matrix + (first + row) * stride + chunk * kChunk) = packed;
    if (!sums) continue;
    const auto* const pairs = reinterpret_cast<const __nv_bfloat162*>(&packed);
#pragma unroll
    for (int c = 0; c < kChunk / 2; ++c) {
      const float2 pair = __bfloat1622float2(pairs[c]);
      sum[2 * c] += pair.x;
      sum[2 * c + 1] += pair.y;
    }
  }
  if (!sums) return;
#pragma unroll
  for (int lanes = kChunks; lanes < kWarp; lanes *= 2) {
#pragma unroll
    for (int c = 0; c < kChunk; ++c) sum[c] += __shfl_xor_sync(~0U, sum[c], lanes);
  }
  __syncwarp();  // the tile has been read
  if (lane >= kChunks) return;
  auto* const to = reinterpret_cast<float4*>(tile) + 2 * lane;
  to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
  to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
}

}  // namespace planaria::cuda

// Hopper's own instructions (sm_90a), thinly: products of a warpgroup (wgmma), tile copies by the copy engine (TMA) and
// the barriers in shared memory (mbarrier) that say when a copy has come and when its place is free again.
//
// Everything is made of panels: 64 rows of 64 bf16, 128 bytes a row, the 16-byte chunk c of row r at c ^ (r % 8). That
// is what the copy engine writes with 128-byte swizzle, what wgmma reads in either orientation, and chunk_at<64> of
// tile_mma.cuh. Panels start at multiples of 1024 bytes: the swizzle is a function of address bits.
//
// A product's results lie as in eight accumulators of mma.m16n8k16 beside each other: warp w of the group has rows 16 w
// to 16 w + 15. A left side in registers lies as that instruction's fragment A.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/tile_mma.cuh"

namespace planaria::cuda::hopper {

inline constexpr int kGroupWarps = 4;
inline constexpr int kGroupThreads = kGroupWarps * kWarp;
inline constexpr int kPanelRows = 64;
inline constexpr int kPanelWidth = 64;
inline constexpr int kPanelElements = kPanelRows * kPanelWidth;
inline constexpr int kPanelBytes = kPanelElements * int{sizeof(__nv_bfloat16)};
inline constexpr int kPanelAlignment = 1024;

// ---- Barriers in shared memory

// Precondition: one thread; then publish_barriers and a barrier of the block, before anybody uses one.
__device__ __forceinline__ void init_barrier(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// For the copy engine to see them.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

__device__ __forceinline__ void arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and makes the phase last until that many bytes have been copied.
__device__ __forceinline__ void arrive_expecting(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Arrives once the thread's cp.async so far are there. The barrier's count includes it.
__device__ __forceinline__ void arrive_after_copies(std::uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
// Until the phase of this parity is over: the first phase has parity 0.
__device__ __forceinline__ void await(std::uint64_t* barrier, std::uint32_t parity) {
  const std::uint32_t address = shared_address(barrier);
  std::uint32_t done = 0;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  } while (done == 0);
}

// A barrier of one warpgroup's threads; 0 is __syncthreads'.
__device__ __forceinline__ void sync_group(int group) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(group + 1), "n"(kGroupThreads) : "memory");
}

// A place in a ring of kStages stages, and the parity of the ring's current round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1U;
    }
  }
};

// ---- Copies

// Copies a panel from (column, row, sequence) of a map; elements outside the matrix come as zeros and count as copied.
// One thread calls it.
__device__ __forceinline__ void fetch_panel(__nv_bfloat16* panel, const CUtensorMap& map, int column, int row,
                                            int sequence, std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];\n" ::"r"(shared_address(panel)),
      "l"(&map), "r"(column), "r"(row), "r"(sequence), "r"(shared_address(barrier))
      : "memory");
}
// A head's 64 rows: kHead / 64 panels one after the other.
template <int kHead>
__device__ __forceinline__ void fetch_tile(__nv_bfloat16* tile, const CUtensorMap& map, int column, int row,
                                           int sequence, std::uint64_t* barrier) {
#pragma unroll
  for (int panel = 0; panel < kHead / kPanelWidth; ++panel) {
    fetch_panel(tile + panel * kPanelElements, map, column + panel * kPanelWidth, row, sequence, barrier);
  }
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}
// Copies a float to shared memory, or zero where there is no source.
__device__ __forceinline__ void copy_float_async(float* target, const float* source, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared_address(target)), "l"(source),
               "r"(there ? 4 : 0)
               : "memory");
}

// ---- Products

// A panel as an operand. Low word: address / 16 (bits 0–13) and the leading offset (16–29), which neither orientation
// of a single panel uses. High word: stride offset / 16 between groups of 8 rows (0–13), of the matrix or of its
// transpose as the instruction says; swizzle of 128 bytes (30–31). Only the low word differs, so it stands for the
// whole.
struct Operand {
  std::uint32_t low;

  [[nodiscard]] __device__ __forceinline__ Operand operator+(int offset) const {
    return {low + static_cast<std::uint32_t>(offset)};
  }
};
inline constexpr std::uint32_t kOperandHigh = (1U << 30) | 64U;
__device__ __forceinline__ Operand operand(const __nv_bfloat16* panel) {
  return {(1U << 16) | (shared_address(panel) >> 4)};
}
inline constexpr int kNextColumns = 2;  // what 16 columns on, 32 bytes, adds to an operand
inline constexpr int kNextRows = 128;   // 16 rows on, 2048 bytes
inline constexpr int kNextPanel = kPanelBytes / 16;

// Before the first product, and whenever registers that products read or write have changed since.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Until all but the newest kPending groups are done.
template <int kPending>
__device__ __forceinline__ void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}
// The compiler takes results for there, and a left side in registers for used up, once a product is issued. After
// await_products this keeps readers and new values behind it, before begin_products what was computed in front.
template <int kCount>
__device__ __forceinline__ void pin(Accumulator (&d)[kCount]) {
#pragma unroll
  for (Accumulator& part : d) {
    asm volatile("" : "+f"(part.c[0]), "+f"(part.c[1]), "+f"(part.c[2]), "+f"(part.c[3])::"memory");
  }
}
template <int kCount>
__device__ __forceinline__ void pin(FragmentA (&a)[kCount]) {
#pragma unroll
  for (FragmentA& part : a)
    asm volatile("" : "+r"(part.r[0]), "+r"(part.r[1]), "+r"(part.r[2]), "+r"(part.r[3])::"memory");
}

#define PLANARIA_RESULTS(d)                                                                                 \
  "+f"(d[0].c[0]), "+f"(d[0].c[1]), "+f"(d[0].c[2]), "+f"(d[0].c[3]), "+f"(d[1].c[0]), "+f"(d[1].c[1]),     \
      "+f"(d[1].c[2]), "+f"(d[1].c[3]), "+f"(d[2].c[0]), "+f"(d[2].c[1]), "+f"(d[2].c[2]), "+f"(d[2].c[3]), \
      "+f"(d[3].c[0]), "+f"(d[3].c[1]), "+f"(d[3].c[2]), "+f"(d[3].c[3]), "+f"(d[4].c[0]), "+f"(d[4].c[1]), \
      "+f"(d[4].c[2]), "+f"(d[4].c[3]), "+f"(d[5].c[0]), "+f"(d[5].c[1]), "+f"(d[5].c[2]), "+f"(d[5].c[3]), \
      "+f"(d[6].c[0]), "+f"(d[6].c[1]), "+f"(d[6].c[2]), "+f"(d[6].c[3]), "+f"(d[7].c[0]), "+f"(d[7].c[1]), \
      "+f"(d[7].c[2]), "+f"(d[7].c[3])
#define PLANARIA_RESULT_NAMES                                                                                  \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31}"

// d[64 × 64] (+)= a · bᵀ over 16 columns: rows of a and of b along k. d: eight accumulators.
__device__ __forceinline__ void multiply_rows(Accumulator* d, Operand a, Operand b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b64 a, b;\n"
      "mov.b64 a, {%32, %35};\n"
      "mov.b64 b, {%33, %35};\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " PLANARIA_RESULT_NAMES
      ", a, b, p, 1, 1, 0, 0;\n"
      "}\n"
      : PLANARIA_RESULTS(d)
      : "r"(a.low), "r"(b.low), "r"(static_cast<int>(add)), "n"(kOperandHigh));
}
// The same with a in registers.
__device__ __forceinline__ void multiply_rows(Accumulator* d, const FragmentA& a, Operand b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b64 b;\n"
      "mov.b64 b, {%36, %38};\n"
      "setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " PLANARIA_RESULT_NAMES
      ", {%32, %33, %34, %35}, b, p, 1, 1, 0;\n"
      "}\n"
      : PLANARIA_RESULTS(d)
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.low), "r"(static_cast<int>(add)), "n"(kOperandHigh));
}
// d[64 × 64] += a · b over 16 rows of b.
__device__ __forceinline__ void multiply_columns(Accumulator* d, const FragmentA& a, Operand b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b64 b;\n"
      "mov.b64 b, {%36, %37};\n"
      "setp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " PLANARIA_RESULT_NAMES
      ", {%32, %33, %34, %35}, b, p, 1, 1, 1;\n"
      "}\n"
      : PLANARIA_RESULTS(d)
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.low), "n"(kOperandHigh));
}

#undef PLANARIA_RESULTS
#undef PLANARIA_RESULT_NAMES

// d = a · bᵀ of two tiles.
template <int kHead>
__device__ __forceinline__ void multiply_tiles(Accumulator* d, Operand a, Operand b) {
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    const int on = k / 4 * kNextPanel + k % 4 * kNextColumns;
    multiply_rows(d, a + on, b + on, k > 0);
  }
}
template <int kHead>
__device__ __forceinline__ void multiply_tiles(Accumulator* d, const FragmentA (&a)[kHead / 16], Operand b) {
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    multiply_rows(d, a[k], b + k / 4 * kNextPanel + k % 4 * kNextColumns, k > 0);
  }
}
// d[64 × kHead] += a[64 × 64] · tile b.
template <int kHead>
__device__ __forceinline__ void multiply_add_tile(Accumulator (&d)[kHead / 8], const FragmentA (&a)[4], Operand b) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int panel = 0; panel < kHead / kPanelWidth; ++panel) {
      multiply_columns(d + 8 * panel, a[k], b + k * kNextRows + panel * kNextPanel);
    }
  }
}

}  // namespace planaria::cuda::hopper

// What the Hopper attention kernels share: tensor maps, the order in which blocks run, masks, how a group's results
// leave.
#pragma once

#include <algorithm>

#include "kernels/cuda/attention_variants.hpp"
#include "kernels/cuda/attention_view.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace planaria::cuda::hopper {

// Of a bf16 matrix [sequences, context, width] in panels. A sequence is a dimension of its own, so that rows behind its
// end are zeros and not the next one's.
[[nodiscard]] CUtensorMap map_of(const __nv_bfloat16* matrix, std::size_t sequences, std::size_t context,
                                 std::size_t width);

// Calls `run` with the head size as a constant. Precondition: supports.
template <class Run>
void with_hopper_head_size(std::size_t size, Run run) {
  if (size == 64) return run(std::integral_constant<int, 64>());
  return run(std::integral_constant<int, 128>());
}

template <int kHead>
inline constexpr int kTileElements = kPanelRows* kHead;
template <int kHead>
inline constexpr int kTileBytes = kTileElements<kHead>* int{sizeof(__nv_bfloat16)};

// Blocks of one unit (a head of a sequence) differ in length by causality. Units run in sections whose rows fit the
// second-level cache, and in a section the longest blocks of all units come first, so that short ones fill the gaps.
struct Schedule {
  int units = 0;
  int blocks = 0;   // of a unit
  int section = 0;  // units

  struct Place {
    int unit = 0;
    int block = 0;  // 0 is the longest
  };
  [[nodiscard]] __device__ __forceinline__ Place place(int index) const {
    const int first = index / (section * blocks) * section;
    const int count = min(section, units - first);
    const int within = index - first * blocks;
    return {first + within % count, within / count};
  }
  [[nodiscard]] unsigned grid() const { return static_cast<unsigned>(units) * static_cast<unsigned>(blocks); }
};

[[nodiscard]] inline Schedule schedule_of(const AttentionShape& shape, std::size_t heads, std::size_t block_rows) {
  constexpr std::size_t kSectionBytes = std::size_t{20} << 20;
  const std::size_t units = shape.sequences * heads;
  const std::size_t unit_bytes = 2 * sizeof(__nv_bfloat16) * shape.context * shape.head_size;
  const std::size_t section = std::clamp<std::size_t>(kSectionBytes / unit_bytes, 1, units);
  return {static_cast<int>(units), static_cast<int>((shape.context + block_rows - 1) / block_rows),
          static_cast<int>(section)};
}

// From which step on one step's place is filled anew each step. Groups leave a place in the step after its own, so with
// 3 the one that fetches waits for nobody who is less than a step behind. A short ring cannot afford that.
template <int kStages>
inline constexpr int kSlack = kStages >= 4 ? 3 : 2;

// Lets blocks have so much dynamic shared memory, several of them at once.
template <class Kernel>
void allow_shared(Kernel kernel, int bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}
// A multiprocessor has 228 KiB; the system takes one for each block.
template <class Plan>
inline constexpr bool kPlanFits = Plan::kBlocks*(Plan::kBytes + 1024) <= 228 * 1024 && Plan::kBytes % 8 == 0;

// Writes a group's 64 rows of results, times `factor`, to rows [first, context) of a matrix. `tile`: shared memory of
// the group's own, which its products use no more. With `sums`, columns' sums are left there for store_tile_sums.
template <int kHead>
__device__ __forceinline__ void store_tile(const Accumulator (&d)[kHead / 8], float factor, __nv_bfloat16* tile,
                                           __nv_bfloat16* matrix, std::int64_t stride, int first, int rows,
                                           bool sums = false) {
  const int warp = static_cast<int>(threadIdx.x) % kGroupThreads / kWarp;
  store_rows<1, kHead>(reinterpret_cast<const Accumulator(&)[1][kHead / 8]>(d), factor, tile + warp * 16 * kHead,
                       matrix, stride, first + 16 * warp, rows, sums);
}
// After a barrier of the group.
template <int kHead>
__device__ __forceinline__ void store_tile_sums(const __nv_bfloat16* tile, float* to) {
  static_assert(kPanelRows == kSumRows);
  store_sums<kHead, kPanelRows / kGroupWarps>(tile, to, static_cast<int>(threadIdx.x) % kGroupThreads, kGroupThreads);
}

}  // namespace planaria::cuda::hopper

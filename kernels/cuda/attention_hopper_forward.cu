#include <cassert>
#include <cmath>

#include "kernels/cuda/attention_hopper_view.cuh"

namespace planaria::cuda::hopper {
namespace {

// A block is kGroups warpgroups with 64 queries each; kBlocks of them share a multiprocessor's registers. All groups
// walk over one ring of stages, a stage being 64 keys and their values.
template <int kHead>
struct Plan {
  static constexpr int kGroups = kHead == 64 ? 2 : 3;
  static constexpr int kBlocks = kHead == 64 ? 2 : 1;
  static constexpr int kStages = 5;
  // Whether queries fit registers beside results, scores and weights; from shared memory they cost bandwidth.
  static constexpr bool kQueriesInRegisters = kHead == 64;
  static constexpr int kThreads = kGroups * kGroupThreads;
  static constexpr int kBytes =
      (kGroups + 2 * kStages) * kTileBytes<kHead> + (2 * kStages + 1) * int{sizeof(std::uint64_t)};
};

// The largest score of a row so far and the sum of 2^(score - largest), the latter over the thread's columns.
struct RowSums {
  float largest[2];
  float sum[2];
};

// Scores → weights, with the sums brought up to date; shrink: by how much earlier weights were too large.
template <bool kFirst>
__device__ __forceinline__ void weigh(Accumulator (&score)[8], RowSums& rows, float (&shrink)[2], float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = fmaxf(score[0].c[2 * half], score[0].c[2 * half + 1]);
#pragma unroll
    for (int n = 1; n < 8; ++n) most = fmaxf(most, fmaxf(score[n].c[2 * half], score[n].c[2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
    if (!kFirst) {
      most = fmaxf(most, rows.largest[half]);
      shrink[half] = exp2_fast((rows.largest[half] - most) * scale_log2);
    }
    rows.largest[half] = most;
    const float top = most * scale_log2;
    float added[2] = {0, 0};  // over even and odd columns: shorter chains
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        score[n].c[i] = exp2_fast(fmaf(score[n].c[i], scale_log2, -top));
        added[i % 2] += score[n].c[i];
      }
    }
    const float all = added[0] + added[1];
    rows.sum[half] = kFirst ? all : fmaf(rows.sum[half], shrink[half], all);
  }
}

template <int kHead>
__global__ void __launch_bounds__(Plan<kHead>::kThreads, Plan<kHead>::kBlocks)
    forward_kernel(const __grid_constant__ CUtensorMap qkv_map, AttentionView view, Schedule schedule,
                   __nv_bfloat16* out, float* log_sums) {
  constexpr int kGroups = Plan<kHead>::kGroups;
  constexpr int kStages = Plan<kHead>::kStages;
  constexpr int kTile = kTileElements<kHead>;
  constexpr bool kQueriesInRegisters = Plan<kHead>::kQueriesInRegisters;
  extern __shared__ __align__(kPanelAlignment) __nv_bfloat16 shared[];
  __nv_bfloat16* const queries = shared;
  __nv_bfloat16* const stages = queries + kGroups * kTile;
  std::uint64_t* const full = reinterpret_cast<std::uint64_t*>(stages + 2 * kStages * kTile);
  std::uint64_t* const empty = full + kStages;
  std::uint64_t* const queries_there = empty + kStages;

  const Schedule::Place place = schedule.place(static_cast<int>(blockIdx.x));
  const int sequence = place.unit / view.heads;
  const int head = place.unit % view.heads;
  const int kv_head = head / (view.heads / view.kv_heads);
  const int group = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) % kGroupThreads / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  // Blocks start at the context's end: whatever tiles are missing, the shortest block misses them.
  const int tiles = (view.context + kPanelRows - 1) / kPanelRows;
  const int first_tile = tiles - kGroups * (place.block + 1);
  const int tile = first_tile + group;
  const int steps = first_tile + kGroups;  // of the block; of the group: tile + 1

  const auto fetch_step = [&](int step, int stage) {
    __nv_bfloat16* const to = stages + 2 * stage * kTile;
    arrive_expecting(full + stage, 2 * kTileBytes<kHead>);
    fetch_tile<kHead>(to, qkv_map, view.key(kv_head, kHead), step * kPanelRows, sequence, full + stage);
    fetch_tile<kHead>(to + kTile, qkv_map, view.value(kv_head, kHead), step * kPanelRows, sequence, full + stage);
  };
  if (threadIdx.x == 0) {
    prefetch_map(qkv_map);
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(full + stage, 1);
      init_barrier(empty + stage, kGroups * kGroupWarps);
    }
    init_barrier(queries_there, 1);
    publish_barriers();
    const int there = min(kGroups, steps);  // tiles, the last ones
    arrive_expecting(queries_there, there * kTileBytes<kHead>);
    for (int i = kGroups - there; i < kGroups; ++i) {
      fetch_tile<kHead>(queries + i * kTile, qkv_map, view.query(head, kHead), (first_tile + i) * kPanelRows, sequence,
                        queries_there);
    }
    for (int step = 0; step < min(steps, kStages); ++step) fetch_step(step, step);
  }
  __syncthreads();
  if (tile < 0) return;  // of a block that has no steps left to fetch

  // The last group has the most steps, so one of its warps fetches for all.
  const bool fetches = group == kGroups - 1 && warp == 0;
  int next = kStages;  // the next step to fetch
  RingPlace<kStages> free;
  RingPlace<kStages> at;  // where this step's keys lie

  Accumulator result[kHead / 8] = {};
  Accumulator score[8];
  FragmentA query[kQueriesInRegisters ? kHead / 16 : 1];
  FragmentA weight[4];
  RowSums rows;
  float shrink[2] = {1, 1};
  const auto mask = [&] {
    const int row = 16 * warp + lane / 4;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (8 * n + lane % 4 * 2 + i % 2 > row + i / 2 * 8) score[n].c[i] = -INFINITY;
      }
    }
  };
  const auto round_weights = [&] {
#pragma unroll
    for (int k = 0; k < 4; ++k) weight[k] = as_a(score[2 * k], score[2 * k + 1]);
  };
  const Operand first_stage = operand(stages);
  const auto keys = [&](int stage) { return first_stage + 2 * stage * (kTileBytes<kHead> / 16); };
  const auto values = [&](int stage) { return keys(stage) + kTileBytes<kHead> / 16; };

  const Operand own_queries = operand(queries + group * kTile);
  const auto multiply_keys = [&](int stage) {
    if constexpr (kQueriesInRegisters) {
      multiply_tiles<kHead>(score, query, keys(stage));
    } else {
      multiply_tiles<kHead>(score, own_queries, keys(stage));
    }
  };

  await(queries_there, 0);
  if constexpr (kQueriesInRegisters) {
#pragma unroll
    for (int k = 0; k < kHead / 16; ++k) {
      query[k] = load_a<kPanelWidth>(queries + group * kTile + k / 4 * kPanelElements, 16 * warp, k % 4);
    }
    pin(query);
  }
  await(full, 0);
  begin_products();
  multiply_keys(0);
  commit_products();
  await_products<0>();
  pin(score);
  if (tile == 0) mask();
  weigh<true>(score, rows, shrink, view.scale_log2);
  round_weights();

  // The scores of a step are computed before the values of the one before are added up, so that the tensor cores have
  // that to do while this step's weights are computed.
  int previous = 0;
  for (int step = 1; step <= tile; ++step) {
    at.advance();
    if (fetches && step >= kSlack<kStages> && next < steps) {
      if (lane == 0) {
        await(empty + free.stage, free.parity);
        fetch_step(next, free.stage);
      }
      __syncwarp();
      ++next;
      free.advance();
    }
    await(full + at.stage, at.parity);
    pin(result);
    pin(weight);
    begin_products();
    multiply_keys(at.stage);
    commit_products();
    multiply_add_tile<kHead>(result, weight, values(previous));
    commit_products();
    await_products<1>();
    pin(score);
    if (step == tile) mask();
    weigh<false>(score, rows, shrink, view.scale_log2);
    await_products<0>();
    pin(result);
    pin(weight);
    if (lane == 0) arrive(empty + previous);
    previous = at.stage;
    // Times 1 changes no bit.
    if (__any_sync(~0U, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (int n = 0; n < kHead / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) result[n].c[i] *= shrink[i / 2];
      }
    }
    round_weights();
  }
  pin(result);
  pin(weight);
  begin_products();
  multiply_add_tile<kHead>(result, weight, values(previous));
  commit_products();
  await_products<0>();
  pin(result);

  const int first = tile * kPanelRows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float all = rows.sum[half];
    all += __shfl_xor_sync(~0U, all, 1);
    all += __shfl_xor_sync(~0U, all, 2);
    const int row = first + 16 * warp + 8 * half + lane / 4;
    if (lane % 4 == 0 && row < view.context) {
      log_sums[view.sums(sequence, head) + row] = rows.largest[half] * view.scale_log2 + log2f(all);
    }
    const float inverse = 1 / all;
#pragma unroll
    for (int n = 0; n < kHead / 8; ++n) {
      result[n].c[2 * half] *= inverse;
      result[n].c[2 * half + 1] *= inverse;
    }
  }
  sync_group(group);  // no warp reads the group's queries any more
  store_tile<kHead>(result, 1, queries + group * kTile, out + view.first_row(sequence) * view.out_width + head * kHead,
                    view.out_width, first, view.context);
}

// The driver's function, asked for at run time: nothing links the driver's library.
using EncodeMap = decltype(&cuTensorMapEncodeTiled);
EncodeMap encode_map() {
  static const EncodeMap encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeMap>(function)
                                                                        : nullptr;
  }();
  return encode;
}

}  // namespace

CUtensorMap map_of(const __nv_bfloat16* matrix, std::size_t sequences, std::size_t context, std::size_t width) {
  CUtensorMap map = {};
  const cuuint64_t sizes[] = {width, context, sequences};
  const cuuint64_t strides[] = {width * sizeof(__nv_bfloat16), context * width * sizeof(__nv_bfloat16)};
  const cuuint32_t box[] = {kPanelWidth, kPanelRows, 1};
  const cuuint32_t steps[] = {1, 1, 1};
  [[maybe_unused]] const CUresult made =
      encode_map()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<__nv_bfloat16*>(matrix), sizes, strides, box,
                   steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  assert(made == CUDA_SUCCESS);  // aligned pointers and widths are a precondition
  return map;
}

bool supports(const AttentionShape& shape) {
  if (shape.head_size != 64 && shape.head_size != 128) return false;
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return false;
  return major == 9 && encode_map() != nullptr;
}

void attention_forward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv, __nv_bfloat16* out,
                       float* log_sums) {
  with_hopper_head_size(shape.head_size, [&](auto size) {
    constexpr int kHead = size;
    using P = Plan<kHead>;
    static_assert(kPlanFits<P>);
    allow_shared(forward_kernel<kHead>, P::kBytes);
    const Schedule schedule = schedule_of(shape, shape.heads, P::kGroups * kPanelRows);
    forward_kernel<kHead><<<schedule.grid(), P::kThreads, P::kBytes, stream>>>(
        map_of(qkv, shape.sequences, shape.context, shape.qkv_width()), view_of(shape), schedule, out, log_sums);
  });
}

}  // namespace planaria::cuda::hopper

#include <cmath>

#include "kernels/cuda/attention_hopper_view.cuh"

namespace planaria::cuda::hopper {
namespace {

// A block of the first pass: kGroups warpgroups with 64 queries each, over a ring of stages of 64 keys and values.
template <int kHead>
struct QueryPlan {
  static constexpr int kGroups = kHead == 64 ? 2 : 3;
  static constexpr int kBlocks = kHead == 64 ? 2 : 1;
  static constexpr int kStages = kHead == 64 ? 5 : 4;
  static constexpr int kThreads = kGroups * kGroupThreads;
  static constexpr int kBytes = (2 * kGroups + 2 * kStages) * kTileBytes<kHead> +
                                (2 * kStages + 1) * int{sizeof(std::uint64_t)} +
                                kGroups * kPanelRows * int{sizeof(float)};
};

template <int kHead>
__global__ void __launch_bounds__(QueryPlan<kHead>::kThreads, QueryPlan<kHead>::kBlocks)
    query_gradient_kernel(const __grid_constant__ CUtensorMap qkv_map, const __grid_constant__ CUtensorMap d_out_map,
                          AttentionView view, Schedule schedule, const __nv_bfloat16* out, const __nv_bfloat16* d_out,
                          const float* log_sums, float* dots, __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  constexpr int kGroups = QueryPlan<kHead>::kGroups;
  constexpr int kStages = QueryPlan<kHead>::kStages;
  constexpr int kTile = kTileElements<kHead>;
  extern __shared__ __align__(kPanelAlignment) __nv_bfloat16 shared[];
  __nv_bfloat16* const queries = shared;
  __nv_bfloat16* const d_outs = queries + kGroups * kTile;
  __nv_bfloat16* const stages = d_outs + kGroups * kTile;
  std::uint64_t* const full = reinterpret_cast<std::uint64_t*>(stages + 2 * kStages * kTile);
  std::uint64_t* const empty = full + kStages;
  std::uint64_t* const rows_there = empty + kStages;
  float* const block_dots = reinterpret_cast<float*>(rows_there + 1);

  const Schedule::Place place = schedule.place(static_cast<int>(blockIdx.x));
  const int sequence = place.unit / view.heads;
  const int head = place.unit % view.heads;
  const int kv_head = head / (view.heads / view.kv_heads);
  const int group = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) % kGroupThreads / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
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
    prefetch_map(d_out_map);
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(full + stage, 1);
      init_barrier(empty + stage, kGroups * kGroupWarps);
    }
    init_barrier(rows_there, 1);
    publish_barriers();
    const int there = min(kGroups, steps);  // tiles, the last ones
    arrive_expecting(rows_there, 2 * there * kTileBytes<kHead>);
    for (int i = kGroups - there; i < kGroups; ++i) {
      const int row = (first_tile + i) * kPanelRows;
      fetch_tile<kHead>(queries + i * kTile, qkv_map, view.query(head, kHead), row, sequence, rows_there);
      fetch_tile<kHead>(d_outs + i * kTile, d_out_map, head * kHead, row, sequence, rows_there);
    }
    for (int step = 0; step < min(steps, kStages); ++step) fetch_step(step, step);
  }
  __syncthreads();
  if (tile < 0) return;  // of a block that has no steps left to fetch

  const int first = tile * kPanelRows;
  const std::int64_t out_base = view.first_row(sequence) * view.out_width + head * kHead;
  const std::int64_t sums_base = view.sums(sequence, head);
  float* const tile_dots = block_dots + group * kPanelRows;
  row_products<kHead, kPanelRows, kGroupThreads>(view, out + out_base, d_out + out_base, first, tile_dots,
                                                 dots + sums_base);
  sync_group(group);
  float log_sum[2], dot[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = 16 * warp + 8 * half + lane / 4;
    log_sum[half] = first + row < view.context ? log_sums[sums_base + first + row] : INFINITY;
    dot[half] = tile_dots[row];
  }

  // The last group has the most steps, so one of its warps fetches for all.
  const bool fetches = group == kGroups - 1 && warp == 0;
  int next = kStages;  // the next step to fetch
  RingPlace<kStages> free;
  RingPlace<kStages> at;  // where this step's keys lie

  Accumulator gradient[kHead / 8] = {};
  Accumulator score[8], d_weight[8];
  FragmentA d_score[4];
  const Operand own_queries = operand(queries + group * kTile);
  const Operand own_d_outs = operand(d_outs + group * kTile);
  const Operand first_stage = operand(stages);
  await(rows_there, 0);
  int previous = 0;
  for (int step = 0; step <= tile; ++step) {
    if (fetches && step >= kSlack<kStages> && next < steps) {
      if (lane == 0) {
        await(empty + free.stage, free.parity);
        fetch_step(next, free.stage);
      }
      __syncwarp();
      ++next;
      free.advance();
    }
    const Operand key = first_stage + 2 * at.stage * (kTileBytes<kHead> / 16);
    await(full + at.stage, at.parity);
    pin(gradient);
    begin_products();
    multiply_tiles<kHead>(score, own_queries, key);
    commit_products();
    await_products<0>();  // the scores, and what the step before added
    pin(score);
    pin(gradient);
    pin(d_score);
    begin_products();
    multiply_tiles<kHead>(d_weight, own_d_outs, key + kTileBytes<kHead> / 16);
    commit_products();
    if (step > 0 && lane == 0) arrive(empty + previous);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[n].c[i] = exp2_fast(fmaf(score[n].c[i], view.scale_log2, -log_sum[i / 2]));
      }
    }
    if (step == tile) {
      const int row = 16 * warp + lane / 4;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (8 * n + lane % 4 * 2 + i % 2 > row + i / 2 * 8) score[n].c[i] = 0;
        }
      }
    }
    await_products<0>();
    pin(d_weight);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d_weight[n].c[i] = score[n].c[i] * (d_weight[n].c[i] - dot[i / 2]);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) d_score[k] = as_a(d_weight[2 * k], d_weight[2 * k + 1]);
    pin(d_score);
    pin(gradient);
    begin_products();
    multiply_add_tile<kHead>(gradient, d_score, key);
    commit_products();
    previous = at.stage;
    at.advance();
  }
  await_products<0>();
  pin(gradient);
  pin(d_score);
  sync_group(group);  // no warp's products read the group's queries any more
  store_tile<kHead>(gradient, view.scale, queries + group * kTile,
                    d_qkv + view.first_row(sequence) * view.qkv_width + view.query(head, kHead), view.qkv_width, first,
                    view.context, d_qkv_chunks != nullptr);
  if (d_qkv_chunks == nullptr) return;
  sync_group(group);
  store_tile_sums<kHead>(queries + group * kTile,
                         d_qkv_chunks + view.row_sums(sequence, first) + view.query(head, kHead));
}

// 3 or 1.
constexpr int kNarrowKeyGroups = 3;

// A block of the second pass: kGroups warpgroups with 64 keys and their values each, over a ring of stages of 64
// queries, the gradients of their outputs, their log sums and dots. Two gradients a row leave registers for three
// groups a multiprocessor at head size 64, for two at 128. Blocks of one group wait for nobody else's steps but read
// every query three times as often.
template <int kHead>
struct KeyPlan {
  static constexpr int kGroups = kHead == 64 ? kNarrowKeyGroups : 2;
  static constexpr int kBlocks = kHead == 64 ? 3 / kNarrowKeyGroups : 1;
  static constexpr int kStages = kHead == 128 ? 4 : kGroups == 1 ? 3 : 8;
  static constexpr int kThreads = kGroups * kGroupThreads;
  static constexpr int kBytes = (2 * kGroups + 2 * kStages) * kTileBytes<kHead> +
                                (2 * kStages + 1) * int{sizeof(std::uint64_t)} +
                                2 * kStages * kPanelRows * int{sizeof(float)};
};

template <int kHead>
__global__ void __launch_bounds__(KeyPlan<kHead>::kThreads, KeyPlan<kHead>::kBlocks)
    key_gradient_kernel(const __grid_constant__ CUtensorMap qkv_map, const __grid_constant__ CUtensorMap d_out_map,
                        AttentionView view, Schedule schedule, const float* log_sums, const float* dots,
                        __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  constexpr int kGroups = KeyPlan<kHead>::kGroups;
  constexpr int kStages = KeyPlan<kHead>::kStages;
  constexpr int kTile = kTileElements<kHead>;
  extern __shared__ __align__(kPanelAlignment) __nv_bfloat16 shared[];
  __nv_bfloat16* const keys = shared;
  __nv_bfloat16* const values = keys + kGroups * kTile;
  __nv_bfloat16* const stages = values + kGroups * kTile;
  float* const stage_sums = reinterpret_cast<float*>(stages + 2 * kStages * kTile);
  float* const stage_dots = stage_sums + kStages * kPanelRows;
  std::uint64_t* const full = reinterpret_cast<std::uint64_t*>(stage_dots + kStages * kPanelRows);
  std::uint64_t* const empty = full + kStages;
  std::uint64_t* const rows_there = empty + kStages;

  const Schedule::Place place = schedule.place(static_cast<int>(blockIdx.x));
  const int sequence = place.unit / view.kv_heads;
  const int kv_head = place.unit % view.kv_heads;
  const int heads = view.heads / view.kv_heads;  // that read these keys
  const int group = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) % kGroupThreads / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int tiles = (view.context + kPanelRows - 1) / kPanelRows;
  const int first_tile = place.block * kGroups;  // the first block has the most queries behind it
  const int tile = first_tile + group;
  const unsigned steps = tiles - first_tile;  // of a head; the group has nothing to do in the first `group` of them
  const unsigned count = steps * heads;

  // All lanes of one warp fetch, the first group's: it works in every step. Places follow from the step's index, since
  // results, weights and scores leave few registers to remember them in.
  const bool fetches = group == 0 && warp == 0;
  const auto fetch_step = [&](unsigned index) {
    const unsigned stage = index % kStages;
    const int head = kv_head * heads + static_cast<int>(index / steps);
    const int row = (first_tile + static_cast<int>(index % steps)) * kPanelRows;
    std::uint64_t* const barrier = full + stage;
    if (lane == 0) {
      __nv_bfloat16* const to = stages + 2 * stage * kTile;
      arrive_expecting(barrier, 2 * kTileBytes<kHead>);
      fetch_tile<kHead>(to, qkv_map, view.query(head, kHead), row, sequence, barrier);
      fetch_tile<kHead>(to + kTile, d_out_map, head * kHead, row, sequence, barrier);
    }
    __syncwarp();
    // Missing rows: queries, gradients and these are zeros, which add zeros.
    const std::int64_t from = view.sums(sequence, head) + row;
#pragma unroll
    for (int i = 0; i < kPanelRows; i += kWarp) {
      const bool there = row + i + lane < view.context;
      const std::int64_t source = there ? from + i + lane : 0;
      copy_float_async(stage_sums + stage * kPanelRows + i + lane, log_sums + source, there);
      copy_float_async(stage_dots + stage * kPanelRows + i + lane, dots + source, there);
    }
    arrive_after_copies(barrier);
  };
  if (threadIdx.x == 0) {
    prefetch_map(qkv_map);
    prefetch_map(d_out_map);
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(full + stage, 1 + kWarp);
      init_barrier(empty + stage, kGroups * kGroupWarps);
    }
    init_barrier(rows_there, 1);
    publish_barriers();
    const int there = min(kGroups, tiles - first_tile);
    arrive_expecting(rows_there, 2 * there * kTileBytes<kHead>);
    for (int i = 0; i < there; ++i) {
      const int row = (first_tile + i) * kPanelRows;
      fetch_tile<kHead>(keys + i * kTile, qkv_map, view.key(kv_head, kHead), row, sequence, rows_there);
      fetch_tile<kHead>(values + i * kTile, qkv_map, view.value(kv_head, kHead), row, sequence, rows_there);
    }
  }
  __syncthreads();
  if (fetches) {
    for (unsigned index = 0; index < min(count, unsigned{kStages}); ++index) fetch_step(index);
  }
  __syncwarp();

  Accumulator d_key[kHead / 8] = {};
  Accumulator d_value[kHead / 8] = {};
  Accumulator score[8];  // then the weights' gradients
  FragmentA weight[4] = {};
  FragmentA d_score[4] = {};
  const Operand own_keys = operand(keys + group * kTile);
  const Operand own_values = operand(values + group * kTile);
  const Operand first_stage = operand(stages);
  await(rows_there, 0);
  unsigned index = 0;  // of the step, over all heads
  for (int head = 0; head < heads; ++head) {
    const unsigned skipped = min(static_cast<unsigned>(group), steps);
    for (unsigned step = 0; step < skipped; ++step) {  // all before the group's keys
      await(full + index % kStages, index / kStages % 2);
      if (lane == 0) arrive(empty + index % kStages);
      ++index;
    }
    for (unsigned step = skipped; step < steps; ++step) {
      if (fetches && index >= kSlack<kStages> && index + kStages - kSlack<kStages> < count) {
        const unsigned left = index - kSlack<kStages>;
        if (lane == 0) await(empty + left % kStages, left / kStages % 2);
        __syncwarp();
        fetch_step(left + kStages);
      }
      const unsigned stage = index % kStages;
      const Operand query = first_stage + 2 * stage * (kTileBytes<kHead> / 16);
      const Operand d_row = query + kTileBytes<kHead> / 16;
      const float* const sums = stage_sums + stage * kPanelRows + lane % 4 * 2;
      const float* const products = stage_dots + stage * kPanelRows + lane % 4 * 2;
      await(full + stage, index / kStages % 2);
      begin_products();
      multiply_tiles<kHead>(score, own_keys, query);
      commit_products();
      await_products<0>();  // the scores, and what the step before added
      pin(score);
      pin(d_key);
      pin(d_value);
      pin(weight);
      pin(d_score);
      if (step > skipped && lane == 0) arrive(empty + (index + kStages - 1) % kStages);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 log_sum = *reinterpret_cast<const float2*>(sums + 8 * n);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          score[n].c[i] = exp2_fast(fmaf(score[n].c[i], view.scale_log2, -(i % 2 == 0 ? log_sum.x : log_sum.y)));
        }
      }
      if (step == static_cast<unsigned>(group)) {
        const int row = 16 * warp + lane / 4;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (8 * n + lane % 4 * 2 + i % 2 < row + i / 2 * 8) score[n].c[i] = 0;
          }
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) weight[k] = as_a(score[2 * k], score[2 * k + 1]);
      pin(weight);
      pin(d_value);
      begin_products();
      multiply_tiles<kHead>(score, own_values, d_row);
      commit_products();
      multiply_add_tile<kHead>(d_value, weight, d_row);
      commit_products();
      await_products<1>();
      pin(score);
      // From here on weights are those rounded ones that the values' gradients take: exact ones have no registers.
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int n = 2 * k; n < 2 * k + 2; ++n) {
          const float2 dot = *reinterpret_cast<const float2*>(products + 8 * n);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const std::uint32_t both = weight[k].r[n % 2 * 2 + half];
            d_score[k].r[n % 2 * 2 + half] =
                pack(__uint_as_float(both << 16) * (score[n].c[2 * half] - dot.x),
                     __uint_as_float(both & 0xFFFF0000U) * (score[n].c[2 * half + 1] - dot.y));
          }
        }
      }
      pin(d_score);
      pin(d_key);
      begin_products();
      multiply_add_tile<kHead>(d_key, d_score, query);
      commit_products();
      ++index;
    }
    await_products<0>();
    pin(d_key);
    pin(d_value);
    pin(weight);
    pin(d_score);
    if (skipped < steps && lane == 0) arrive(empty + (index + kStages - 1) % kStages);
  }
  if (tile >= tiles) return;
  sync_group(group);  // no warp's products read the group's keys and values any more
  __nv_bfloat16* const target = d_qkv + view.first_row(sequence) * view.qkv_width;
  const int first = tile * kPanelRows;
  const bool sums = d_qkv_chunks != nullptr;
  store_tile<kHead>(d_key, view.scale, keys + group * kTile, target + view.key(kv_head, kHead), view.qkv_width, first,
                    view.context, sums);
  store_tile<kHead>(d_value, 1, values + group * kTile, target + view.value(kv_head, kHead), view.qkv_width, first,
                    view.context, sums);
  if (!sums) return;
  sync_group(group);
  float* const chunk = d_qkv_chunks + view.row_sums(sequence, first);
  store_tile_sums<kHead>(keys + group * kTile, chunk + view.key(kv_head, kHead));
  store_tile_sums<kHead>(values + group * kTile, chunk + view.value(kv_head, kHead));
}

}  // namespace

void attention_backward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                        const __nv_bfloat16* out, const float* log_sums, const __nv_bfloat16* d_out, float* scratch,
                        __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  const AttentionView view = view_of(shape);
  const CUtensorMap qkv_map = map_of(qkv, shape.sequences, shape.context, shape.qkv_width());
  const CUtensorMap d_out_map = map_of(d_out, shape.sequences, shape.context, shape.out_width());
  with_hopper_head_size(shape.head_size, [&](auto size) {
    constexpr int kHead = size;
    using Queries = QueryPlan<kHead>;
    using Keys = KeyPlan<kHead>;
    static_assert(kPlanFits<Queries> && kPlanFits<Keys>);
    allow_shared(query_gradient_kernel<kHead>, Queries::kBytes);
    allow_shared(key_gradient_kernel<kHead>, Keys::kBytes);
    const Schedule queries = schedule_of(shape, shape.heads, Queries::kGroups * kPanelRows);
    query_gradient_kernel<kHead><<<queries.grid(), Queries::kThreads, Queries::kBytes, stream>>>(
        qkv_map, d_out_map, view, queries, out, d_out, log_sums, scratch, d_qkv, d_qkv_chunks);
    const Schedule keys = schedule_of(shape, shape.kv_heads, Keys::kGroups * kPanelRows);
    key_gradient_kernel<kHead><<<keys.grid(), Keys::kThreads, Keys::kBytes, stream>>>(
        qkv_map, d_out_map, view, keys, log_sums, scratch, d_qkv, d_qkv_chunks);
  });
}

}  // namespace planaria::cuda::hopper

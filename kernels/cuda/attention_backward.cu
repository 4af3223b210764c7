
#include "kernels/cuda/attention_variants.hpp"
#include "kernels/cuda/attention_view.cuh"

namespace planaria::cuda {
namespace {

// Columns of scores at a time, besides which the gradients stay in registers.
constexpr int kColumns = 32;
constexpr int kColumnTiles = kColumns / 8;

template <int kHead>
inline constexpr int kQueryBytes =
    (2 * kBlockRows<kHead> + 4 * kStepRows) * kHead* int{sizeof(__nv_bfloat16)} + kBlockRows<kHead>* int{sizeof(float)};

// Columns' sums over a block's rows from `first` on, from what its warps left, to rows of a matrix of sums.
template <int kHead>
__device__ __forceinline__ void store_block_sums(const AttentionView& view, const __nv_bfloat16* tile, int sequence,
                                                 int first, float* sums) {
#pragma unroll
  for (int row = 0; row < kBlockRows<kHead>; row += kSumRows) {
    if (first + row >= view.context) continue;
    store_sums<kHead, 16 * kWarpTiles<kHead>>(tile + row * kHead, sums + view.row_sums(sequence, first + row),
                                              static_cast<int>(threadIdx.x), kAttentionThreads);
  }
}

// One block: the gradients of kBlockRows queries of a head, over keys and values step by step.
template <int kHead>
__global__ void __launch_bounds__(kAttentionThreads)
    query_gradient_kernel(AttentionView view, const __nv_bfloat16* qkv, const __nv_bfloat16* out, const float* log_sums,
                          const __nv_bfloat16* d_out, float* dots, __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  constexpr int kTiles = kWarpTiles<kHead>;
  constexpr int kRows = kBlockRows<kHead>;
  extern __shared__ __align__(128) __nv_bfloat16 shared[];
  __nv_bfloat16* const queries = shared;
  __nv_bfloat16* const d_outs = queries + kRows * kHead;
  __nv_bfloat16* const keys = d_outs + kRows * kHead;  // twice
  __nv_bfloat16* const values = keys + 2 * kStepRows * kHead;
  float* const block_dots = reinterpret_cast<float*>(values + 2 * kStepRows * kHead);

  const int head = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z);
  const int kv_head = head / (view.heads / view.kv_heads);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const __nv_bfloat16* const base = qkv + view.first_row(sequence) * view.qkv_width;
  const std::int64_t out_base = view.first_row(sequence) * view.out_width + head * kHead;
  const std::int64_t sums_base = view.sums(sequence, head);
  const int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16 * kTiles;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;

  const auto load_step = [&](int step) {
    const int to = step % 2 * kStepRows * kHead;
    load_tile<kStepRows, kHead, kAttentionThreads>(keys + to, base + view.key(kv_head, kHead), view.qkv_width,
                                                   step * kStepRows, view.context);
    load_tile<kStepRows, kHead, kAttentionThreads>(values + to, base + view.value(kv_head, kHead), view.qkv_width,
                                                   step * kStepRows, view.context);
    commit_copies();
  };
  load_tile<kRows, kHead, kAttentionThreads>(queries, base + view.query(head, kHead), view.qkv_width, first,
                                             view.context);
  load_tile<kRows, kHead, kAttentionThreads>(d_outs, d_out + out_base, view.out_width, first, view.context);
  load_step(0);
  row_products<kHead, kRows, kAttentionThreads>(view, out + out_base, d_out + out_base, first, block_dots,
                                                dots + sums_base);

  Accumulator gradient[kTiles][kHead / 8] = {};
  FragmentA query[kTiles][kHead / 16], d_row[kTiles][kHead / 16];
  float log_sum[kTiles][2], dot[kTiles][2];
  const int steps = (min(view.context, first + kRows) + kStepRows - 1) / kStepRows;
  for (int step = 0; step < steps; ++step) {
    await_copies<0>();
    __syncthreads();
    if (step + 1 < steps) load_step(step + 1);
    if (step == 0) {
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int k = 0; k < kHead / 16; ++k) {
          query[m][k] = load_a<kHead>(queries, warp_first + 16 * m, k);
          d_row[m][k] = load_a<kHead>(d_outs, warp_first + 16 * m, k);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warp_first + 16 * m + 8 * half + lane / 4;
          log_sum[m][half] = first + row < view.context ? log_sums[sums_base + first + row] : INFINITY;
          dot[m][half] = block_dots[row];
        }
      }
    }
    const __nv_bfloat16* const key = keys + step % 2 * kStepRows * kHead;
    const __nv_bfloat16* const value = values + step % 2 * kStepRows * kHead;
#pragma unroll
    for (int column = 0; column < kStepRows; column += kColumns) {
      const int first_key = step * kStepRows + column;
      if (first_key > first + warp_first + 16 * kTiles - 1) continue;
      Accumulator score[kTiles][kColumnTiles] = {};
      Accumulator d_weight[kTiles][kColumnTiles] = {};
#pragma unroll
      for (int k = 0; k < kHead / 16; ++k) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n += 2) {
          FragmentB b[2], c[2];
          load_b_transposed<kHead>(b, key, column + 8 * n, k);
          load_b_transposed<kHead>(c, value, column + 8 * n, k);
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            multiply_add(score[m][n], query[m][k], b[0]);
            multiply_add(score[m][n + 1], query[m][k], b[1]);
            multiply_add(d_weight[m][n], d_row[m][k], c[0]);
            multiply_add(d_weight[m][n + 1], d_row[m][k], c[1]);
          }
        }
      }
      const bool masked = first_key + kColumns - 1 > first + warp_first;
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float weight = exp2_fast(fmaf(score[m][n].c[i], view.scale_log2, -log_sum[m][i / 2]));
            const int row = first + warp_first + 16 * m + lane / 4 + i / 2 * 8;
            if (masked && first_key + 8 * n + lane % 4 * 2 + i % 2 > row) weight = 0;
            score[m][n].c[i] = weight * (d_weight[m][n].c[i] - dot[m][i / 2]);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        FragmentA a[kTiles];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) a[m] = as_a(score[m][2 * k], score[m][2 * k + 1]);
#pragma unroll
        for (int n = 0; n < kHead / 16; ++n) {
          FragmentB b[2];
          load_b<kHead>(b, key, column + 16 * k, n);
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            multiply_add(gradient[m][2 * n], a[m], b[0]);
            multiply_add(gradient[m][2 * n + 1], a[m], b[1]);
          }
        }
      }
    }
  }
  store_rows<kTiles, kHead>(gradient, view.scale, queries + warp_first * kHead,
                            d_qkv + view.first_row(sequence) * view.qkv_width + view.query(head, kHead), view.qkv_width,
                            first + warp_first, view.context, d_qkv_chunks != nullptr);
  if (d_qkv_chunks == nullptr) return;
  __syncthreads();
  store_block_sums<kHead>(view, queries, sequence, first, d_qkv_chunks + view.query(head, kHead));
}

template <int kHead>
inline constexpr int kKeyBytes = (2 * kBlockRows<kHead> + 4 * kStepRows) * kHead* int{sizeof(__nv_bfloat16)} +
                                 4 * kStepRows* int{sizeof(float)};

// One block: the gradients of kBlockRows keys and values, over the queries of all heads that read them, head by head.
template <int kHead>
__global__ void __launch_bounds__(kAttentionThreads)
    key_gradient_kernel(AttentionView view, const __nv_bfloat16* qkv, const float* log_sums, const __nv_bfloat16* d_out,
                        const float* dots, __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  constexpr int kTiles = kWarpTiles<kHead>;
  constexpr int kRows = kBlockRows<kHead>;
  extern __shared__ __align__(128) __nv_bfloat16 shared[];
  __nv_bfloat16* const keys = shared;
  __nv_bfloat16* const values = keys + kRows * kHead;
  __nv_bfloat16* const queries = values + kRows * kHead;  // twice, and so below
  __nv_bfloat16* const d_outs = queries + 2 * kStepRows * kHead;
  float* const step_sums = reinterpret_cast<float*>(d_outs + 2 * kStepRows * kHead);
  float* const step_dots = step_sums + 2 * kStepRows;

  const int kv_head = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z);
  const int group = view.heads / view.kv_heads;
  const int first = static_cast<int>(blockIdx.x) * kRows;  // the first block has the most queries behind it
  const __nv_bfloat16* const base = qkv + view.first_row(sequence) * view.qkv_width;
  const int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16 * kTiles;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;

  const int first_step = first / kStepRows;
  const int steps = (view.context + kStepRows - 1) / kStepRows - first_step;  // of each head
  const auto load_step = [&](int index) {
    const int head = kv_head * group + index / steps;
    const int row = (first_step + index % steps) * kStepRows;
    const int to = index % 2 * kStepRows;
    load_tile<kStepRows, kHead, kAttentionThreads>(queries + to * kHead, base + view.query(head, kHead), view.qkv_width,
                                                   row, view.context);
    load_tile<kStepRows, kHead, kAttentionThreads>(d_outs + to * kHead,
                                                   d_out + view.first_row(sequence) * view.out_width + head * kHead,
                                                   view.out_width, row, view.context);
    commit_copies();
    if (threadIdx.x < kStepRows) {
      const int at = row + static_cast<int>(threadIdx.x);
      const bool there = at < view.context;  // a row that isn't has weight 0
      step_sums[to + threadIdx.x] = there ? log_sums[view.sums(sequence, head) + at] : INFINITY;
      step_dots[to + threadIdx.x] = there ? dots[view.sums(sequence, head) + at] : 0;
    }
  };
  load_tile<kRows, kHead, kAttentionThreads>(keys, base + view.key(kv_head, kHead), view.qkv_width, first,
                                             view.context);
  load_tile<kRows, kHead, kAttentionThreads>(values, base + view.value(kv_head, kHead), view.qkv_width, first,
                                             view.context);
  load_step(0);

  Accumulator d_key[kTiles][kHead / 8] = {};
  Accumulator d_value[kTiles][kHead / 8] = {};
  const int count = steps * group;
  for (int index = 0; index < count; ++index) {
    await_copies<0>();
    __syncthreads();
    if (index + 1 < count) load_step(index + 1);
    const int buffer = index % 2 * kStepRows;
    const __nv_bfloat16* const query = queries + buffer * kHead;
    const __nv_bfloat16* const d_row = d_outs + buffer * kHead;
#pragma unroll 1
    for (int column = 0; column < kStepRows; column += kColumns) {
      const int first_query = (first_step + index % steps) * kStepRows + column;
      if (first_query + kColumns - 1 < first + warp_first) continue;  // all before the warp's keys
      Accumulator weight[kTiles][kColumnTiles] = {};
      Accumulator d_weight[kTiles][kColumnTiles] = {};
#pragma unroll
      for (int k = 0; k < kHead / 16; ++k) {
        FragmentA key[kTiles], value[kTiles];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          key[m] = load_a<kHead>(keys, warp_first + 16 * m, k);
          value[m] = load_a<kHead>(values, warp_first + 16 * m, k);
        }
#pragma unroll
        for (int n = 0; n < kColumnTiles; n += 2) {
          FragmentB b[2], c[2];
          load_b_transposed<kHead>(b, query, column + 8 * n, k);
          load_b_transposed<kHead>(c, d_row, column + 8 * n, k);
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            multiply_add(weight[m][n], key[m], b[0]);
            multiply_add(weight[m][n + 1], key[m], b[1]);
            multiply_add(d_weight[m][n], value[m], c[0]);
            multiply_add(d_weight[m][n + 1], value[m], c[1]);
          }
        }
      }
      const bool masked = first_query < first + warp_first + 16 * kTiles - 1;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const int at = buffer + column + 8 * n + lane % 4 * 2;
        const float2 log_sum = *reinterpret_cast<const float2*>(step_sums + at);
        const float2 dot = *reinterpret_cast<const float2*>(step_dots + at);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& w = weight[m][n].c[i];
            w = exp2_fast(fmaf(w, view.scale_log2, -(i % 2 == 0 ? log_sum.x : log_sum.y)));
            const int row = first + warp_first + 16 * m + lane / 4 + i / 2 * 8;
            if (masked && first_query + 8 * n + lane % 4 * 2 + i % 2 < row) w = 0;
            float& d = d_weight[m][n].c[i];
            d = w * (d - (i % 2 == 0 ? dot.x : dot.y));
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        FragmentA w[kTiles], d[kTiles];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          w[m] = as_a(weight[m][2 * k], weight[m][2 * k + 1]);
          d[m] = as_a(d_weight[m][2 * k], d_weight[m][2 * k + 1]);
        }
#pragma unroll
        for (int n = 0; n < kHead / 16; ++n) {
          FragmentB b[2], c[2];
          load_b<kHead>(b, d_row, column + 16 * k, n);
          load_b<kHead>(c, query, column + 16 * k, n);
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            multiply_add(d_value[m][2 * n], w[m], b[0]);
            multiply_add(d_value[m][2 * n + 1], w[m], b[1]);
            multiply_add(d_key[m][2 * n], d[m], c[0]);
            multiply_add(d_key[m][2 * n + 1], d[m], c[1]);
          }
        }
      }
    }
  }
  __nv_bfloat16* const target = d_qkv + view.first_row(sequence) * view.qkv_width;
  store_rows<kTiles, kHead>(d_key, view.scale, keys + warp_first * kHead, target + view.key(kv_head, kHead),
                            view.qkv_width, first + warp_first, view.context, d_qkv_chunks != nullptr);
  store_rows<kTiles, kHead>(d_value, 1, values + warp_first * kHead, target + view.value(kv_head, kHead),
                            view.qkv_width, first + warp_first, view.context, d_qkv_chunks != nullptr);
  if (d_qkv_chunks == nullptr) return;
  __syncthreads();
  store_block_sums<kHead>(view, keys, sequence, first, d_qkv_chunks + view.key(kv_head, kHead));
  store_block_sums<kHead>(view, values, sequence, first, d_qkv_chunks + view.value(kv_head, kHead));
}

}  // namespace

void portable::attention_backward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                                  const __nv_bfloat16* out, const float* log_sums, const __nv_bfloat16* d_out,
                                  float* scratch, __nv_bfloat16* d_qkv, float* d_qkv_chunks) {
  with_head_size(shape.head_size, [&](auto size) {
    constexpr int kHead = size;
    constexpr int kRows = kBlockRows<kHead>;
    cudaFuncSetAttribute(query_gradient_kernel<kHead>, cudaFuncAttributeMaxDynamicSharedMemorySize, kQueryBytes<kHead>);
    cudaFuncSetAttribute(key_gradient_kernel<kHead>, cudaFuncAttributeMaxDynamicSharedMemorySize, kKeyBytes<kHead>);
    const auto blocks = static_cast<unsigned>((shape.context + kRows - 1) / kRows);
    const auto sequences = static_cast<unsigned>(shape.sequences);
    const AttentionView view = view_of(shape);
    query_gradient_kernel<kHead>
        <<<dim3(blocks, static_cast<unsigned>(shape.heads), sequences), kAttentionThreads, kQueryBytes<kHead>,
           stream>>>(view, qkv, out, log_sums, d_out, scratch, d_qkv, d_qkv_chunks);
    key_gradient_kernel<kHead><<<dim3(blocks, static_cast<unsigned>(shape.kv_heads), sequences), kAttentionThreads,
                                 kKeyBytes<kHead>, stream>>>(view, qkv, log_sums, d_out, scratch, d_qkv, d_qkv_chunks);
  });
}

}  // namespace planaria::cuda

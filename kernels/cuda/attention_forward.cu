#include <cmath>

#include "kernels/cuda/attention_variants.hpp"
#include "kernels/cuda/attention_view.cuh"

namespace planaria::cuda {
namespace {

template <int kHead>
inline constexpr int kForwardBytes = (kBlockRows<kHead> + 4 * kStepRows) * kHead* int{sizeof(__nv_bfloat16)};

// One block: kBlockRows queries of a head, over keys and values step by step. The longest blocks come first.
template <int kHead>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_forward_kernel(AttentionView view, const __nv_bfloat16* qkv, __nv_bfloat16* out, float* log_sums) {
  constexpr int kTiles = kWarpTiles<kHead>;
  constexpr int kRows = kBlockRows<kHead>;
  constexpr int kKeys = kStepRows / 8;  // in accumulators
  extern __shared__ __align__(128) __nv_bfloat16 shared[];
  __nv_bfloat16* const queries = shared;
  __nv_bfloat16* const keys = queries + kRows * kHead;  // twice
  __nv_bfloat16* const values = keys + 2 * kStepRows * kHead;

  const int head = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z);
  const int kv_head = head / (view.heads / view.kv_heads);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const __nv_bfloat16* const base = qkv + view.first_row(sequence) * view.qkv_width;
  const int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16 * kTiles;  // in the block
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
  load_step(0);

  Accumulator result[kTiles][kHead / 8] = {};
  float largest[kTiles][2], sum[kTiles][2];
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    largest[m][0] = largest[m][1] = -INFINITY;
    sum[m][0] = sum[m][1] = 0;
  }
  FragmentA query[kTiles][kHead / 16];
  const int steps = (min(view.context, first + kRows) + kStepRows - 1) / kStepRows;
  for (int step = 0; step < steps; ++step) {
    await_copies<0>();
    __syncthreads();  // this step is there, and nobody reads the one before any more
    if (step + 1 < steps) load_step(step + 1);
    if (step == 0) {
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int k = 0; k < kHead / 16; ++k) query[m][k] = load_a<kHead>(queries, warp_first + 16 * m, k);
      }
    }
    const int first_key = step * kStepRows;
    if (first_key > first + warp_first + 16 * kTiles - 1) continue;  // all behind the warp's queries
    const __nv_bfloat16* const key = keys + step % 2 * kStepRows * kHead;
    const __nv_bfloat16* const value = values + step % 2 * kStepRows * kHead;

    Accumulator score[kTiles][kKeys] = {};
#pragma unroll
    for (int k = 0; k < kHead / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys; n += 2) {
        FragmentB b[2];
        load_b_transposed<kHead>(b, key, 8 * n, k);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          multiply_add(score[m][n], query[m][k], b[0]);
          multiply_add(score[m][n + 1], query[m][k], b[1]);
        }
      }
    }
    if (first_key + kStepRows - 1 > first + warp_first) {
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kKeys; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = first + warp_first + 16 * m + lane / 4 + i / 2 * 8;
            if (first_key + 8 * n + lane % 4 * 2 + i % 2 > row) score[m][n].c[i] = -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = largest[m][half];
#pragma unroll
        for (int n = 0; n < kKeys; ++n) most = fmaxf(most, fmaxf(score[m][n].c[2 * half], score[m][n].c[2 * half + 1]));
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
        const float shrink = exp2_fast((largest[m][half] - most) * view.scale_log2);
        largest[m][half] = most;
        const float top = most * view.scale_log2;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kKeys; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            score[m][n].c[i] = exp2_fast(fmaf(score[m][n].c[i], view.scale_log2, -top));
            added += score[m][n].c[i];
          }
        }
        sum[m][half] = fmaf(sum[m][half], shrink, added);
#pragma unroll
        for (int n = 0; n < kHead / 8; ++n) {
          result[m][n].c[2 * half] *= shrink;
          result[m][n].c[2 * half + 1] *= shrink;
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kStepRows / 16; ++k) {
      FragmentA a[kTiles];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) a[m] = as_a(score[m][2 * k], score[m][2 * k + 1]);
#pragma unroll
      for (int n = 0; n < kHead / 16; ++n) {
        FragmentB b[2];
        load_b<kHead>(b, value, 16 * k, n);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          multiply_add(result[m][2 * n], a[m], b[0]);
          multiply_add(result[m][2 * n + 1], a[m], b[1]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& all = sum[m][half];
      all += __shfl_xor_sync(~0U, all, 1);
      all += __shfl_xor_sync(~0U, all, 2);
      const int row = first + warp_first + 16 * m + 8 * half + lane / 4;
      if (lane % 4 == 0 && row < view.context) {
        log_sums[view.sums(sequence, head) + row] = largest[m][half] * view.scale_log2 + log2f(all);
      }
      const float inverse = 1 / all;
#pragma unroll
      for (int n = 0; n < kHead / 8; ++n) {
        result[m][n].c[2 * half] *= inverse;
        result[m][n].c[2 * half + 1] *= inverse;
      }
    }
  }
  store_rows<kTiles, kHead>(result, 1, queries + warp_first * kHead,
                            out + view.first_row(sequence) * view.out_width + head * kHead, view.out_width,
                            first + warp_first, view.context);
}

}  // namespace

bool portable::supports(const AttentionShape& shape) {
  const std::size_t size = shape.head_size;
  return (size == 16 || size == 32 || size == 64 || size == 128) && shape.sequences <= 65535;
}

AttentionView view_of(const AttentionShape& shape) {
  const double scale = 1 / std::sqrt(static_cast<double>(shape.head_size));
  constexpr double kLog2E = 1.4426950408889634;
  return {static_cast<int>(shape.context),     static_cast<int>(shape.heads),       static_cast<int>(shape.kv_heads),
          static_cast<int>(shape.qkv_width()), static_cast<int>(shape.out_width()), static_cast<float>(scale),
          static_cast<float>(scale * kLog2E)};
}

void portable::attention_forward(cudaStream_t stream, const AttentionShape& shape, const __nv_bfloat16* qkv,
                                 __nv_bfloat16* out, float* log_sums) {
  with_head_size(shape.head_size, [&](auto size) {
    constexpr int kHead = size;
    constexpr int kRows = kBlockRows<kHead>;
    cudaFuncSetAttribute(attention_forward_kernel<kHead>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         kForwardBytes<kHead>);
    const dim3 grid(static_cast<unsigned>((shape.context + kRows - 1) / kRows), static_cast<unsigned>(shape.heads),
                    static_cast<unsigned>(shape.sequences));
    attention_forward_kernel<kHead>
        <<<grid, kAttentionThreads, kForwardBytes<kHead>, stream>>>(view_of(shape), qkv, out, log_sums);
  });
}

}  // namespace planaria::cuda

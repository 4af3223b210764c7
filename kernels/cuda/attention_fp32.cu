// Causal attention in fp32. A block owns 16 rows of one head, four a warp, and goes through the other side's rows in
// ascending order, 32 at a time in shared memory, one a lane: a lane makes the products of its row with the warp's
// four, then the warp's lanes own channels and add up the 32 rows, weighted. So each sum has one owner and one order,
// and what a query gets depends on the tokens up to it alone.
#include <cmath>

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda {
namespace {

constexpr unsigned kWarps = 4;
constexpr unsigned kThreads = kWarps * kWarp;
constexpr unsigned kOwn = 4;                  // rows of a warp
constexpr unsigned kOwnRows = kWarps * kOwn;  // of a block
constexpr unsigned kOthers = kWarp;           // rows of the other side at a time

// The shape with what device code can't ask it for.
struct Shape : AttentionShape {
  std::size_t qkv_row, out_row;  // elements
  float scale;

  explicit Shape(const AttentionShape& shape)
      : AttentionShape(shape),
        qkv_row(shape.qkv_width()),
        out_row(shape.out_width()),
        scale(1.0F / std::sqrt(static_cast<float>(shape.head_size))) {}
};

// Where row r of a head's vectors lies: base + r * row_width.
struct Head {
  const float* base;
  std::size_t row_width;
};

// A block's share of the work.
struct Place {
  std::size_t first_row;
  std::size_t head;
  std::size_t sequence;

  __device__ Place(std::size_t context, std::size_t heads) {
    const std::size_t tiles = (context + kOwnRows - 1) / kOwnRows;
    first_row = blockIdx.x % tiles * kOwnRows;
    head = blockIdx.x / tiles % heads;
    sequence = blockIdx.x / tiles / heads;
  }
};

// The heads of one sequence.
struct Heads {
  const Shape& shape;
  const float* qkv;  // of the sequence

  __device__ Heads(const Shape& s, const float* all, std::size_t sequence)
      : shape(s), qkv(all + sequence * s.context * s.qkv_row) {}
  __device__ Head at(std::size_t index) const { return {qkv + index * shape.head_size, shape.qkv_row}; }
  __device__ Head query(std::size_t head) const { return at(head); }
  __device__ Head key(std::size_t kv_head) const { return at(shape.heads + kv_head); }
  __device__ Head value(std::size_t kv_head) const { return at(shape.heads + shape.kv_heads + kv_head); }
};

// Odd, so that lanes which read a column of their rows meet in no bank.
__host__ __device__ unsigned stride_of(unsigned size) {
  return size | 1U;
}

// rows[j][c], of stride_of(size): row first + j; zeros from `end` on.
__device__ void load_others(const Head& head, std::size_t first, std::size_t end, unsigned size, float* rows) {
  for (unsigned i = threadIdx.x; i < kOthers * size; i += kThreads) {
    const unsigned j = i / size;
    const unsigned c = i % size;
    rows[j * stride_of(size) + c] = first + j < end ? head.base[(first + j) * head.row_width + c] : 0.0F;
  }
}

// own[warp][c][r]: a warp reads a column of its four rows at once.
__device__ void load_own(const Head& head, std::size_t first, std::size_t end, unsigned size, float* own) {
  for (unsigned i = threadIdx.x; i < kOwnRows * size; i += kThreads) {
    const unsigned r = i / size;
    const unsigned c = i % size;
    own[(r / kOwn * size + c) * kOwn + r % kOwn] = first + r < end ? head.base[(first + r) * head.row_width + c] : 0.0F;
  }
}

// products[r] = own row r · other.
__device__ void multiply(const float4* own, const float* other, unsigned size, float (&products)[kOwn]) {
#pragma unroll
  for (unsigned r = 0; r < kOwn; ++r) products[r] = 0;
#pragma unroll 4
  for (unsigned c = 0; c < size; ++c) {
    const float4 a = own[c];
    const float b = other[c];
    products[0] = fmaf(a.x, b, products[0]);
    products[1] = fmaf(a.y, b, products[1]);
    products[2] = fmaf(a.z, b, products[2]);
    products[3] = fmaf(a.w, b, products[3]);
  }
}

// sums[r][k] += Σ weights[r] of lane j · rows[j][lane + 32k], over the lanes j that are live for r, in ascending order.
template <int kColumns>
__device__ void add_weighted(const float (&weights)[kOwn], const unsigned (&live)[kOwn], const float* rows,
                             unsigned size, float (&sums)[kOwn][kColumns]) {
  static_assert(kOwn == 4);
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned any = live[0] | live[1] | live[2] | live[3];
  for (unsigned j = 0; j < kOthers; ++j) {
    if ((any >> j & 1U) == 0) continue;
    float values[kColumns];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      const unsigned c = lane + static_cast<unsigned>(k) * kWarp;
      values[k] = c < size ? rows[j * stride_of(size) + c] : 0.0F;
    }
#pragma unroll
    for (unsigned r = 0; r < kOwn; ++r) {
      const float weight = __shfl_sync(kAllLanes, weights[r], static_cast<int>(j));
      if ((live[r] >> j & 1U) == 0) continue;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) sums[r][k] = fmaf(weight, values[k], sums[r][k]);
    }
  }
}

// target[c] = factor · the sum of channel c, by the lanes that own them.
template <int kColumns>
__device__ void store_row(const float (&sums)[kColumns], float factor, unsigned size, float* target) {
#pragma unroll
  for (int k = 0; k < kColumns; ++k) {
    const unsigned c = threadIdx.x % kWarp + static_cast<unsigned>(k) * kWarp;
    if (c < size) target[c] = sums[k] * factor;
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads)
    attend(const Shape shape, const float* __restrict__ qkv, float* __restrict__ out, float* __restrict__ log_sums) {
  extern __shared__ float4 memory[];
  const auto size = static_cast<unsigned>(shape.head_size);
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned warp = threadIdx.x / kWarp;
  float4* const own = memory;
  auto* const keys = reinterpret_cast<float*>(memory + kWarps * size);
  float* const values = keys + kOthers * stride_of(size);
  const Place at(shape.context, shape.heads);
  const Heads heads(shape, qkv, at.sequence);
  const std::size_t kv_head = at.head / (shape.heads / shape.kv_heads);
  const std::size_t first_query = at.first_row + warp * kOwn;

  float top[kOwn];
  float total[kOwn]{};
  float sums[kOwn][kColumns]{};
#pragma unroll
  for (unsigned r = 0; r < kOwn; ++r) top[r] = -INFINITY;
  load_own(heads.query(at.head), at.first_row, shape.context, size, reinterpret_cast<float*>(own));
  const std::size_t end = at.first_row + kOwnRows < shape.context ? at.first_row + kOwnRows : shape.context;
  for (std::size_t first = 0; first < end; first += kOthers) {
    __syncthreads();  // the keys and values before are used
    load_others(heads.key(kv_head), first, shape.context, size, keys);
    load_others(heads.value(kv_head), first, shape.context, size, values);
    __syncthreads();
    float scores[kOwn];
    multiply(own + warp * size, keys + lane * stride_of(size), size, scores);
    // The sum is kept relative to the largest score so far (Milakov and Gimelshein, arXiv:1805.02867).
    unsigned live[kOwn];
#pragma unroll
    for (unsigned r = 0; r < kOwn; ++r) {
      const bool sees = first + lane <= first_query + r;
      live[r] = __ballot_sync(kAllLanes, sees);
      if (live[r] == 0) continue;
      const float score = sees ? scores[r] * shape.scale : -INFINITY;
      const float highest = fmaxf(top[r], warp_max(score));
      const float correction = expf(top[r] - highest);
      scores[r] = sees ? expf(score - highest) : 0.0F;
      total[r] = fmaf(total[r], correction, warp_sum(scores[r]));
#pragma unroll
      for (int k = 0; k < kColumns; ++k) sums[r][k] *= correction;
      top[r] = highest;
    }
    add_weighted(scores, live, values, size, sums);
  }
#pragma unroll
  for (unsigned r = 0; r < kOwn; ++r) {
    const std::size_t query = first_query + r;
    if (query >= shape.context) continue;
    store_row(sums[r], 1.0F / total[r], size,
              out + (at.sequence * shape.context + query) * shape.out_row + at.head * size);
    if (lane == 0) log_sums[(at.sequence * shape.heads + at.head) * shape.context + query] = top[r] + logf(total[r]);
  }
}

// dots[s, h, t] = the product of the gradient of an output with that output, a warp each: what softmax subtracts.
__global__ void __launch_bounds__(kThreads)
    multiply_outputs(const Shape shape, const float* __restrict__ out, const float* __restrict__ d_out,
                     float* __restrict__ dots) {
  const std::size_t index = std::size_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (index >= shape.sequences * shape.heads * shape.context) return;
  const std::size_t query = index % shape.context;
  const std::size_t head = index / shape.context % shape.heads;
  const std::size_t sequence = index / shape.context / shape.heads;
  const std::size_t begin = (sequence * shape.context + query) * shape.out_row + head * shape.head_size;
  float sum = 0;
  for (std::size_t c = threadIdx.x % kWarp; c < shape.head_size; c += kWarp) {
    sum = fmaf(out[begin + c], d_out[begin + c], sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) dots[index] = sum;
}

struct Backward {
  Shape shape;
  const float* qkv;
  const float* d_out;
  const float* log_sums;
  const float* dots;
  float* d_qkv;

  [[nodiscard]] __device__ Head d_output(std::size_t sequence, std::size_t head) const {
    return {d_out + sequence * shape.context * shape.out_row + head * shape.head_size, shape.out_row};
  }
  [[nodiscard]] __device__ float* gradient(std::size_t sequence, std::size_t row, std::size_t head) const {
    return d_qkv + (sequence * shape.context + row) * shape.qkv_row + head * shape.head_size;
  }
};

// Shared memory of both: two sets of own rows, then two of the other side's.
struct Tiles {
  float4* own[2];
  float* others[2];

  __device__ Tiles(float4* memory, unsigned size)
      : own{memory, memory + kWarps * size},
        others{reinterpret_cast<float*>(memory + 2 * kWarps * size),
               reinterpret_cast<float*>(memory + 2 * kWarps * size) + kOthers * stride_of(size)} {}
};

template <int kColumns>
__global__ void __launch_bounds__(kThreads) differentiate_queries(const Backward call) {
  extern __shared__ float4 memory[];
  const Shape& shape = call.shape;
  const auto size = static_cast<unsigned>(shape.head_size);
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned warp = threadIdx.x / kWarp;
  const Tiles tiles(memory, size);
  const Place at(shape.context, shape.heads);
  const Heads heads(shape, call.qkv, at.sequence);
  const std::size_t kv_head = at.head / (shape.heads / shape.kv_heads);
  const std::size_t first_query = at.first_row + warp * kOwn;

  float log_sum[kOwn];
  float dot[kOwn];
#pragma unroll
  for (unsigned r = 0; r < kOwn; ++r) {
    const std::size_t query = first_query + r;
    const std::size_t index = (at.sequence * shape.heads + at.head) * shape.context + query;
    log_sum[r] = query < shape.context ? call.log_sums[index] : 0.0F;
    dot[r] = query < shape.context ? call.dots[index] : 0.0F;
  }
  load_own(heads.query(at.head), at.first_row, shape.context, size, reinterpret_cast<float*>(tiles.own[0]));
  load_own(call.d_output(at.sequence, at.head), at.first_row, shape.context, size,
           reinterpret_cast<float*>(tiles.own[1]));
  float sums[kOwn][kColumns]{};
  const std::size_t end = at.first_row + kOwnRows < shape.context ? at.first_row + kOwnRows : shape.context;
  for (std::size_t first = 0; first < end; first += kOthers) {
    __syncthreads();  // the keys and values before are used
    load_others(heads.key(kv_head), first, shape.context, size, tiles.others[0]);
    load_others(heads.value(kv_head), first, shape.context, size, tiles.others[1]);
    __syncthreads();
    float scores[kOwn];
    float d_weights[kOwn];
    multiply(tiles.own[0] + warp * size, tiles.others[0] + lane * stride_of(size), size, scores);
    multiply(tiles.own[1] + warp * size, tiles.others[1] + lane * stride_of(size), size, d_weights);
    unsigned live[kOwn];
#pragma unroll
    for (unsigned r = 0; r < kOwn; ++r) {
      const bool sees = first + lane <= first_query + r;
      live[r] = __ballot_sync(kAllLanes, sees);
      const float weight = sees ? expf(scores[r] * shape.scale - log_sum[r]) : 0.0F;
      scores[r] = sees ? weight * (d_weights[r] - dot[r]) : 0.0F;
    }
    add_weighted(scores, live, tiles.others[0], size, sums);
  }
#pragma unroll
  for (unsigned r = 0; r < kOwn; ++r) {
    const std::size_t query = first_query + r;
    if (query < shape.context) {
      store_row(sums[r], shape.scale, size, call.gradient(at.sequence, query, at.head));
    }
  }
}

// A key's gradient is summed over the query heads that share it, then over the queries that see it.
template <int kColumns>
__global__ void __launch_bounds__(kThreads) differentiate_keys(const Backward call) {
  extern __shared__ float4 memory[];
  const Shape& shape = call.shape;
  const auto size = static_cast<unsigned>(shape.head_size);
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned warp = threadIdx.x / kWarp;
  const Tiles tiles(memory, size);
  const Place at(shape.context, shape.kv_heads);
  const Heads heads(shape, call.qkv, at.sequence);
  const std::size_t group = shape.heads / shape.kv_heads;
  const std::size_t first_key = at.first_row + warp * kOwn;

  load_own(heads.key(at.head), at.first_row, shape.context, size, reinterpret_cast<float*>(tiles.own[0]));
  load_own(heads.value(at.head), at.first_row, shape.context, size, reinterpret_cast<float*>(tiles.own[1]));
  float key_sums[kOwn][kColumns]{};
  float value_sums[kOwn][kColumns]{};
  for (std::size_t head = at.head * group; head < (at.head + 1) * group; ++head) {
    for (std::size_t first = at.first_row / kOthers * kOthers; first < shape.context; first += kOthers) {
      __syncthreads();  // the queries and gradients before are used
      load_others(heads.query(head), first, shape.context, size, tiles.others[0]);
      load_others(call.d_output(at.sequence, head), first, shape.context, size, tiles.others[1]);
      __syncthreads();
      const std::size_t query = first + lane;
      const bool is_query = query < shape.context;
      const std::size_t index = (at.sequence * shape.heads + head) * shape.context + query;
      const float log_sum = is_query ? call.log_sums[index] : 0.0F;
      const float dot = is_query ? call.dots[index] : 0.0F;
      float scores[kOwn];
      float weights[kOwn];
      multiply(tiles.own[0] + warp * size, tiles.others[0] + lane * stride_of(size), size, scores);
      multiply(tiles.own[1] + warp * size, tiles.others[1] + lane * stride_of(size), size, weights);
      unsigned live[kOwn];
#pragma unroll
      for (unsigned r = 0; r < kOwn; ++r) {
        const bool sees = is_query && first_key + r <= query;
        live[r] = __ballot_sync(kAllLanes, sees);
        const float d_weight = weights[r];
        weights[r] = sees ? expf(scores[r] * shape.scale - log_sum) : 0.0F;
        scores[r] = sees ? weights[r] * (d_weight - dot) : 0.0F;
      }
      add_weighted(weights, live, tiles.others[1], size, value_sums);
      add_weighted(scores, live, tiles.others[0], size, key_sums);
    }
  }
#pragma unroll
  for (unsigned r = 0; r < kOwn; ++r) {
    const std::size_t key = first_key + r;
    if (key >= shape.context) continue;
    store_row(key_sums[r], shape.scale, size, call.gradient(at.sequence, key, shape.heads + at.head));
    store_row(value_sums[r], 1.0F, size, call.gradient(at.sequence, key, shape.heads + shape.kv_heads + at.head));
  }
}

std::size_t memory_of(std::size_t head_size, std::size_t sets_of_own) {
  return sets_of_own * kOwnRows * head_size * sizeof(float) +
         2 * kOthers * stride_of(static_cast<unsigned>(head_size)) * sizeof(float);
}

template <class Kernel, class... Arguments>
void launch(cudaStream_t stream, Kernel* kernel, const AttentionShape& shape, std::size_t heads, std::size_t bytes,
            const Arguments&... arguments) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  const std::size_t blocks = blocks_for(shape.context, kOwnRows) * heads * shape.sequences;
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(arguments...);
}

template <int kColumns>
void forward(cudaStream_t stream, const AttentionShape& shape, const float* qkv, float* out, float* log_sums) {
  launch(stream, attend<kColumns>, shape, shape.heads, memory_of(shape.head_size, 1), Shape(shape), qkv, out, log_sums);
}

template <int kColumns>
void backward(cudaStream_t stream, const Backward& call) {
  const AttentionShape& shape = call.shape;
  const std::size_t bytes = memory_of(shape.head_size, 2);
  launch(stream, differentiate_queries<kColumns>, shape, shape.heads, bytes, call);
  launch(stream, differentiate_keys<kColumns>, shape, shape.kv_heads, bytes, call);
}

}  // namespace

void attention_forward(cudaStream_t stream, const AttentionShape& shape, const float* qkv, float* out,
                       float* log_sums) {
  if (shape.log_sum_count() == 0) return;
  if (shape.head_size <= 32) return forward<1>(stream, shape, qkv, out, log_sums);
  if (shape.head_size <= 64) return forward<2>(stream, shape, qkv, out, log_sums);
  if (shape.head_size <= 128) return forward<4>(stream, shape, qkv, out, log_sums);
  forward<8>(stream, shape, qkv, out, log_sums);
}

void attention_backward(cudaStream_t stream, const AttentionShape& shape, const float* qkv, const float* out,
                        const float* log_sums, const float* d_out, float* scratch, float* d_qkv) {
  if (shape.log_sum_count() == 0) return;
  multiply_outputs<<<blocks_for(shape.log_sum_count(), kWarps), kThreads, 0, stream>>>(Shape(shape), out, d_out,
                                                                                       scratch);
  const Backward call{Shape(shape), qkv, d_out, log_sums, scratch, d_qkv};
  if (shape.head_size <= 32) return backward<1>(stream, call);
  if (shape.head_size <= 64) return backward<2>(stream, call);
  if (shape.head_size <= 128) return backward<4>(stream, call);
  backward<8>(stream, call);
}

}  // namespace planaria::cuda

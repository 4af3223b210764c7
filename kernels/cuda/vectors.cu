// Streams of fp32, each read and written once. Every rounding is written out: no compiler setting fuses, approximates
// or flushes anything here.
#include "kernels/cuda/vectors.hpp"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda {
namespace {

template <int N>
__device__ Floats<N> add(const Floats<N>& a, const Floats<N>& b) {
  Floats<N> sum;
#pragma unroll
  for (int i = 0; i < N; ++i) sum.at[i] = __fadd_rn(a.at[i], b.at[i]);
  return sum;
}

struct AddVectors {
  static constexpr int kDepth = 4;
  const float* a;
  const float* b;
  float* out;

  template <int N>
  struct Loaded {
    Floats<N> a, b;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t, std::size_t i) const {
    return {cuda::load<N>(a + i), cuda::load<N>(b + i)};
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Loaded<N>& loaded) const {
    store<N>(out + i, add(loaded.a, loaded.b));
  }
};

struct FoldVectors {
  static constexpr int kDepth = 1;
  const float* parts[kMaxFoldParts];
  unsigned count;
  float* out;

  template <int N>
  __device__ Floats<N> load(std::size_t, std::size_t i) const {
    Floats<N> sum = cuda::load<N>(parts[count - 1] + i);
#pragma unroll 8
    for (unsigned p = count - 1; p-- > 0;) sum = add(cuda::load<N>(parts[p] + i), sum);
    return sum;
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Floats<N>& sum) const {
    store<N>(out + i, sum);
  }
};

struct ScaleVector {
  static constexpr int kDepth = 4;
  float factor;
  const float* x;
  float* out;

  template <int N>
  __device__ Floats<N> load(std::size_t, std::size_t i) const {
    return cuda::load<N>(x + i);
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, Floats<N> loaded) const {
#pragma unroll
    for (int j = 0; j < N; ++j) loaded.at[j] = __fmul_rn(loaded.at[j], factor);
    store<N>(out + i, loaded);
  }
};

__device__ float multiply_add(float a, float b, float c) {
  return __fadd_rn(__fmul_rn(a, b), c);
}

struct UpdateVectors {
  AdamwStep step;
  float rest1, rest2;  // 1 - beta
  float inverse_correction1, inverse_correction2;
  AdamwSource source;
  const float* gradient;
  AdamwTarget target;

  template <int N>
  __device__ void update(std::size_t i, float weight_decay) const {
    Floats<N> parameter = load<N>(source.parameter + i);
    Floats<N> moment1 = load<N>(source.moment1 + i);
    Floats<N> moment2 = load<N>(source.moment2 + i);
    const Floats<N> sums = load<N>(gradient + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float g = __fmul_rn(sums.at[j], step.gradient_scale);
      const float m = multiply_add(step.beta1, moment1.at[j], __fmul_rn(rest1, g));
      const float v = multiply_add(step.beta2, moment2.at[j], __fmul_rn(rest2, __fmul_rn(g, g)));
      const float p = parameter.at[j];
      const float deviation = __fadd_rn(__fsqrt_rn(__fmul_rn(v, inverse_correction2)), step.epsilon);
      const float direction = __fdiv_rn(__fmul_rn(m, inverse_correction1), deviation);
      moment1.at[j] = m;
      moment2.at[j] = v;
      parameter.at[j] = multiply_add(-step.learning_rate, multiply_add(weight_decay, p, direction), p);
    }
    store<N>(target.moment1 + i, moment1);
    store<N>(target.moment2 + i, moment2);
    store<N>(target.parameter + i, parameter);
  }
};

// The ranges of a launch: a model has hundreds, most of them too small to fill the device.
constexpr std::size_t kRangesAtOnce = 128;
constexpr unsigned kUpdateThreads = 256;
constexpr std::size_t kElementsOfBlock = 16 * kUpdateThreads;

struct RangeTable {
  unsigned count = 0;
  unsigned first_block[kRangesAtOnce + 1] = {};  // of each range's blocks, and where the last one's end
  UpdateRange ranges[kRangesAtOnce];
};

template <int N>
__global__ void __launch_bounds__(kUpdateThreads, 3)
    update_ranges(const UpdateVectors op, const __grid_constant__ RangeTable table) {
  unsigned low = 0;
  for (unsigned high = table.count; high - low > 1;) {
    const unsigned middle = (low + high) / 2;
    (table.first_block[middle] <= blockIdx.x ? low : high) = middle;
  }
  const UpdateRange& range = table.ranges[low];
  const float weight_decay = range.decays ? op.step.weight_decay : 0.0F;
  const std::size_t begin = range.begin + (blockIdx.x - table.first_block[low]) * kElementsOfBlock;
  const std::size_t end = range.end - begin < kElementsOfBlock ? range.end : begin + kElementsOfBlock;
  std::size_t i = begin + std::size_t{N} * threadIdx.x;
  for (; i + N <= end; i += std::size_t{N} * kUpdateThreads) op.update<N>(i, weight_decay);
  if constexpr (N > 1) {
    for (; i < end; ++i) op.update<1>(i, weight_decay);
  }
}

constexpr unsigned kTileThreads = 256;

// Elements 4q … 4q+3 of a tile belong to thread q % 256, each to its own running sum; a product of two floats is exact
// in double. Precondition: a tile has fewer than 2^32 elements.
template <bool kVectors>
__global__ void __launch_bounds__(kTileThreads, 4)
    sum_tiles(std::size_t tile_elements, std::size_t count, const float* __restrict__ x, double* __restrict__ sums) {
  constexpr unsigned kAtOnce = 8;
  __shared__ double of_warps[kTileThreads / kWarp];
  const std::size_t begin = blockIdx.x * tile_elements;
  const std::size_t length = count - begin < tile_elements ? count - begin : tile_elements;
  const float* tile = x + begin;
  const auto vectors = static_cast<unsigned>(length / 4);
  const auto vector = [&](unsigned q) {
    const float* at = tile + std::size_t{4} * q;
    return kVectors ? load<4>(at) : Floats<4>{{at[0], at[1], at[2], at[3]}};
  };
  double running[4]{};
  const auto add_squares = [&](const Floats<4>& values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) running[i] = fma(double{values.at[i]}, double{values.at[i]}, running[i]);
  };
  unsigned q = threadIdx.x;
  for (; q + (kAtOnce - 1) * kTileThreads < vectors; q += kAtOnce * kTileThreads) {
    Floats<4> values[kAtOnce];
#pragma unroll
    for (unsigned k = 0; k < kAtOnce; ++k) values[k] = vector(q + k * kTileThreads);
#pragma unroll
    for (unsigned k = 0; k < kAtOnce; ++k) add_squares(values[k]);
  }
  for (; q < vectors; q += kTileThreads) add_squares(vector(q));
  if (vectors % kTileThreads == threadIdx.x) {
#pragma unroll
    for (unsigned i = 0; i < 3; ++i) {
      const double value = i < length % 4 ? tile[std::size_t{4} * vectors + i] : 0.0F;
      running[i] = fma(value, value, running[i]);
    }
  }
  const double sum = block_sum<kTileThreads>((running[0] + running[2]) + (running[1] + running[3]), of_warps);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void add(cudaStream_t stream, std::size_t count, const float* a, const float* b, float* out) {
  map<4>(stream, 1, count, aligned_to_16(a, b, out), AddVectors{a, b, out});
}

void fold(cudaStream_t stream, std::size_t count, std::span<const float* const> parts, float* out) {
  FoldVectors op{.parts = {}, .count = static_cast<unsigned>(parts.size()), .out = out};
  bool aligned = aligned_to_16(out);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    op.parts[p] = parts[p];
    aligned = aligned && aligned_to_16(parts[p]);
  }
  map<4>(stream, 1, count, aligned, op);
}

void scale(cudaStream_t stream, std::size_t count, float factor, const float* x, float* out) {
  map<4>(stream, 1, count, aligned_to_16(x, out), ScaleVector{factor, x, out});
}

void adamw(cudaStream_t stream, const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
           const float* gradient, const AdamwTarget& target) {
  const UpdateVectors op{.step = step,
                         .rest1 = 1.0F - step.beta1,
                         .rest2 = 1.0F - step.beta2,
                         .inverse_correction1 = 1.0F / step.bias_correction1,
                         .inverse_correction2 = 1.0F / step.bias_correction2,
                         .source = source,
                         .gradient = gradient,
                         .target = target};
  bool aligned = aligned_to_16(source.parameter, source.moment1, source.moment2, gradient, target.parameter,
                               target.moment1, target.moment2);
  for (const UpdateRange& range : ranges) aligned = aligned && range.begin % 4 == 0;
  while (!ranges.empty()) {
    RangeTable table;
    unsigned blocks = 0;
    for (; !ranges.empty() && table.count < kRangesAtOnce; ranges = ranges.subspan(1)) {
      if (ranges.front().size() == 0) continue;
      table.ranges[table.count] = ranges.front();
      blocks += blocks_for(ranges.front().size(), kElementsOfBlock);
      table.first_block[++table.count] = blocks;
    }
    if (table.count == 0) return;
    if (aligned) {
      update_ranges<4><<<blocks, kUpdateThreads, 0, stream>>>(op, table);
    } else {
      update_ranges<1><<<blocks, kUpdateThreads, 0, stream>>>(op, table);
    }
  }
}

void tile_sums_of_squares(cudaStream_t stream, std::size_t tile_elements, std::size_t count, const float* x,
                          double* sums) {
  if (count == 0) return;
  const unsigned tiles = blocks_for(count, tile_elements);
  if (tile_elements % 4 == 0 && aligned_to_16(x)) {
    sum_tiles<true><<<tiles, kTileThreads, 0, stream>>>(tile_elements, count, x, sums);
  } else {
    sum_tiles<false><<<tiles, kTileThreads, 0, stream>>>(tile_elements, count, x, sums);
  }
}

}  // namespace planaria::cuda

// Norms over rows of bf16. Forward, a warp keeps a row in registers between its passes. Backward, a block takes a chunk
// of rows, a warp a row at a time: rows to come flow into shared memory meanwhile, and the sums over rows stay in
// registers until the chunk ends, so that everything is read once and written once.
//
// Widths that are no multiple of 8, or too wide for registers, take the plain kernels of wide_norms.cuh; fp32 always.
#include "kernels/cuda/norms.hpp"

#include <type_traits>

#include "kernels/cuda/chunk_columns.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/sums.cuh"
#include "kernels/cuda/wide_norms.cuh"

namespace planaria::cuda {
namespace {

constexpr unsigned kForwardThreads = 128;
constexpr unsigned kForwardPacks = 8;   // of 8 columns a lane: rows of up to 2048
constexpr unsigned kBackwardPacks = 7;  // with 24 sums each: up to 1792

// A lane's packs of a row are lane, lane + 32, …; all but the last exist in every lane.
template <int kPacks>
__device__ bool owns(int k, unsigned pack, unsigned packs) {
  return k < kPacks - 1 || pack < packs;
}

template <int kPacks>
__global__ void __launch_bounds__(kForwardThreads) forward_rows(const NormForward call, const bool aligned) {
  const std::size_t row = std::size_t{blockIdx.x} * (kForwardThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= call.shape.rows) return;
  const std::size_t width = call.shape.width;
  const unsigned lane = threadIdx.x % kWarp;
  const auto packs = static_cast<unsigned>(width / 8);
  const float scale = 1.0F / static_cast<float>(width);

  Packed<8> values[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const unsigned pack = lane + k * kWarp;
    values[k] = owns<kPacks>(k, pack, packs) ? load<8>(call.x + row * width + pack * 8) : Packed<8>{};
  }
  if (call.delta != nullptr) {
    Packed<8> deltas[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const unsigned p = lane + k * kWarp;
      deltas[k] = owns<kPacks>(k, p, packs) ? load<8>(call.delta + row * width + p * 8) : Packed<8>{};
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const unsigned p = lane + k * kWarp;
      Floats<8> sum = unpack(values[k]);
      const Floats<8> delta = unpack(deltas[k]);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.at[i] += delta.at[i];
      values[k] = pack(sum);
      if (owns<kPacks>(k, p, packs)) store<8>(call.sum + row * width + p * 8, values[k]);
    }
  }

  float mean = 0;
  if (call.bias != nullptr) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const Floats<8> v = unpack(values[k]);
#pragma unroll
      for (int i = 0; i < 8; ++i) mean += v.at[i];
    }
    mean = __fmul_rn(warp_sum(mean), scale);
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    if (!owns<kPacks>(k, lane + k * kWarp, packs)) continue;
    const Floats<8> v = unpack(values[k]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float centered = v.at[i] - mean;
      squares = fmaf(centered, centered, squares);
    }
  }
  const float inverse = 1.0F / sqrtf(fmaf(warp_sum(squares), scale, call.shape.epsilon));

#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const unsigned p = lane + k * kWarp;
    if (!owns<kPacks>(k, p, packs)) continue;
    const Floats<8> gain = load_parameters(call.gain + p * 8, aligned);
    const Floats<8> bias = call.bias != nullptr ? load_parameters(call.bias + p * 8, aligned) : Floats<8>{};
    Floats<8> v = unpack(values[k]);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.at[i] = fmaf((v.at[i] - mean) * inverse, gain.at[i], bias.at[i]);
    store<8>(call.y + row * width + p * 8, pack(v));
  }
  if (lane == 0) {
    if (call.bias != nullptr) call.mean[row] = mean;
    call.inverse_deviation[row] = inverse;
  }
}

// Shared memory of a backward block: the gain, two sets of strips' sums, then each warp's ring of `stages` rows, which
// are dy, x and residual.
struct BackwardMemory {
  std::size_t fixed;
  std::size_t stage;
};
BackwardMemory backward_memory(const NormBackward& call) {
  const std::size_t streams = call.residual != nullptr ? 3 : 2;
  return {call.shape.width * sizeof(float) + 2 * sizeof(StripSums<8>),
          kStrips * streams * call.shape.width * sizeof(Bf16)};
}

template <int kPacks>
__global__ void __launch_bounds__(kStripThreads, kPacks <= 3 ? 2 : 1)
    backward_chunks(const NormBackward call, const unsigned stages) {
  extern __shared__ uint4 shared[];
  const std::size_t rows = call.shape.rows;
  const std::size_t width = call.shape.width;
  const auto packs = static_cast<unsigned>(width / 8);
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned strip = threadIdx.x / kWarp;
  const float scale = 1.0F / static_cast<float>(width);

  // The gain's packs in halves, so that a warp's reads of 16 bytes are adjacent.
  auto* const gain = reinterpret_cast<float4*>(shared);
  auto* const strips = reinterpret_cast<StripSums<8>*>(gain + 2 * packs);
  const unsigned stage_packs = (call.residual != nullptr ? 3 : 2) * packs;
  uint4* const ring = reinterpret_cast<uint4*>(strips + 2) + strip * stages * stage_packs;

  // Row n of this warp, over all chunks that the block takes.
  const auto fetch = [&](unsigned n, unsigned stage) {
    const std::size_t chunk = blockIdx.x + std::size_t{n / kStripRows} * gridDim.x;
    const std::size_t row = chunk * kChunkRows + n % kStripRows * kStrips + strip;
    if (row < rows) {
      uint4* const slot = ring + stage * stage_packs;
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        const unsigned p = lane + k * kWarp;
        if (!owns<kPacks>(k, p, packs)) continue;
        const std::size_t at = row * packs + p;
        copy_ahead(slot + p, reinterpret_cast<const uint4*>(call.dy) + at);
        copy_ahead(slot + packs + p, reinterpret_cast<const uint4*>(call.x) + at);
        if (call.residual == nullptr) continue;
        copy_ahead(slot + 2 * packs + p, reinterpret_cast<const uint4*>(call.residual) + at);
      }
    }
    end_copies();
  };
  for (unsigned n = 0; n < stages; ++n) fetch(n, n);
  for (unsigned p = threadIdx.x; p < packs; p += kStripThreads) {
    const float* from = call.gain + p * 8;
    gain[p] = make_float4(from[0], from[1], from[2], from[3]);
    gain[packs + p] = make_float4(from[4], from[5], from[6], from[7]);
  }
  __syncthreads();

  unsigned n = 0;
  unsigned stage = 0;
  unsigned turn = 0;
  for (std::size_t chunk = blockIdx.x; chunk * kChunkRows < rows; chunk += gridDim.x) {
    Floats<8> d_gain[kPacks]{};
    Floats<8> d_bias[kPacks]{};
    Floats<8> dx_sum[kPacks]{};
    const std::size_t lane_row = chunk * kChunkRows + lane * kStrips + strip;
    const bool lane_has_row = lane < kStripRows && lane_row < rows;
    const float lane_mean = lane_has_row && call.mean != nullptr ? call.mean[lane_row] : 0.0F;
    const float lane_inverse = lane_has_row ? call.inverse_deviation[lane_row] : 0.0F;

    for (unsigned r = 0; r < kStripRows; ++r, ++n) {
      const std::size_t row = chunk * kChunkRows + r * kStrips + strip;
      const float mean = __shfl_sync(kAllLanes, lane_mean, r);
      const float inverse = __shfl_sync(kAllLanes, lane_inverse, r);
      const auto* const slot = reinterpret_cast<const Packed<8>*>(ring + stage * stage_packs);
      wait_for_all_but(stages - 1);
      if (row < rows) {
        float sum = 0;
        float product = 0;
#pragma unroll
        for (int k = 0; k < kPacks; ++k) {
          const unsigned p = lane + k * kWarp;
          if (!owns<kPacks>(k, p, packs)) continue;
          const Floats<8> dy = unpack(slot[p]);
          const Floats<8> x = unpack(slot[packs + p]);
          const float4 low = gain[p];
          const float4 high = gain[packs + p];
          const float gains[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float g = dy.at[i] * gains[i];
            sum += g;
            product = fmaf(g, (x.at[i] - mean) * inverse, product);
          }
        }
        // RMS norm subtracts no mean, so the gradient of one doesn't exist either.
        const float g_mean = call.mean != nullptr ? warp_sum(sum) * scale : 0.0F;
        const float g_product = warp_sum(product) * scale;
#pragma unroll
        for (int k = 0; k < kPacks; ++k) {
          const unsigned p = lane + k * kWarp;
          if (!owns<kPacks>(k, p, packs)) continue;
          const Floats<8> dy = unpack(Packed<8>{read_again(&slot[p].bits)});
          const Floats<8> x = unpack(Packed<8>{read_again(&slot[packs + p].bits)});
          const Floats<8> beside = unpack(call.residual != nullptr ? slot[2 * packs + p] : Packed<8>{});
          const float4 low = gain[p];
          const float4 high = gain[packs + p];
          const float gains[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
          Floats<8> dx;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float normal = (x.at[i] - mean) * inverse;
            dx.at[i] = fmaf(fmaf(-normal, g_product, fmaf(dy.at[i], gains[i], -g_mean)), inverse, beside.at[i]);
            d_gain[k].at[i] = fmaf(dy.at[i], normal, d_gain[k].at[i]);
            d_bias[k].at[i] += dy.at[i];
          }
          const Packed<8> rounded = pack(dx);
          store<8>(call.dx + row * width + p * 8, rounded);
          dx = unpack(rounded);
#pragma unroll
          for (int i = 0; i < 8; ++i) dx_sum[k].at[i] += dx.at[i];
        }
      }
      fetch(n + stages, stage);
      stage = stage + 1 == stages ? 0 : stage + 1;
    }

#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const std::size_t column = static_cast<std::size_t>(k) * kWarp * 8;
      const auto write = [&](const Floats<8>& sums, float* chunks) {
        if (chunks == nullptr) return;
        add_strips<8>(strips[turn], sums, width - column, chunks + chunk * width + column);
        turn ^= 1U;  // the other set: its readers have passed a barrier since
      };
      write(d_gain[k], call.d_gain_chunks);
      write(d_bias[k], call.mean != nullptr ? call.d_bias_chunks : nullptr);
      write(dx_sum[k], call.dx_chunks);
    }
  }
}

// stages: rows in each warp's ring; 0: not even one fits into this device's shared memory.
unsigned backward_stages(const BackwardMemory& memory, std::size_t blocks_a_multiprocessor) {
  constexpr std::size_t kReserved = 1024;  // the system's share of a block's
  constexpr std::size_t kMostStages = 4;   // wait_for_all_but() tells no more apart
  const std::size_t of_block = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const std::size_t of_all = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / blocks_a_multiprocessor;
  const std::size_t room = std::min(of_block, std::max(of_all, kReserved) - kReserved);
  return static_cast<unsigned>(room < memory.fixed ? 0 : std::min(kMostStages, (room - memory.fixed) / memory.stage));
}

// f(std::integral_constant<int, n>), for n in [1, kMost].
template <int kMost, class F>
void with_constant(std::size_t n, const F& f) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_constant<kMost - 1>(n, f);
  }
  f(std::integral_constant<int, kMost>{});
}

}  // namespace

void norm_forward(cudaStream_t stream, const NormForward& call) {
  const NormShape& shape = call.shape;
  if (shape.rows == 0) return;
  if (shape.width % 8 != 0 || shape.width > kForwardPacks * kWarp * 8) return wide::norm_forward(stream, call);
  const bool aligned = aligned_to_16(call.gain, call.bias);
  with_constant<kForwardPacks>(blocks_for(shape.width, kWarp * 8), [&](auto packs) {
    const unsigned blocks = blocks_for(shape.rows, kForwardThreads / kWarp);
    forward_rows<decltype(packs)::value><<<blocks, kForwardThreads, 0, stream>>>(call, aligned);
  });
}

void norm_backward(cudaStream_t stream, const NormBackward& call) {
  const NormShape& shape = call.shape;
  if (shape.rows == 0) return;
  const std::size_t packs = blocks_for(shape.width, kWarp * 8);
  const BackwardMemory memory = backward_memory(call);
  const std::size_t chunks = chunks_of(shape.rows);
  // Two blocks overlap their ends where there are enough of them; else one has the memory for a longer ring.
  const bool two = packs <= 3 && chunks > device_attribute(cudaDevAttrMultiProcessorCount);
  const unsigned stages = backward_stages(memory, two ? 2 : 1);
  if (shape.width % 8 != 0 || packs > kBackwardPacks || stages == 0) return wide::norm_backward(stream, call);
  with_constant<kBackwardPacks>(packs, [&](auto count) {
    const auto kernel = backward_chunks<decltype(count)::value>;
    const std::size_t bytes = memory.fixed + stages * memory.stage;
    const unsigned blocks = resident_blocks(kernel, kStripThreads, bytes, chunks);
    kernel<<<blocks, kStripThreads, bytes, stream>>>(call, stages);
  });
}

void norm_forward(cudaStream_t stream, const BasicNormForward<float>& call) {
  if (call.shape.rows > 0) wide::norm_forward(stream, call);
}

void norm_backward(cudaStream_t stream, const BasicNormBackward<float>& call) {
  if (call.shape.rows > 0) wide::norm_backward(stream, call);
}

}  // namespace planaria::cuda

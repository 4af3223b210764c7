// Softmax and cross-entropy of a row of logits by one block. A thread's packs of the row wait in shared memory between
// the pass that finds maximum and sum and the pass that writes the gradient, which fetches the block's next row into
// the place of each pack it is done with: device memory reads and writes all the time.
//
// A row that shared memory can't hold is read twice.
#include "kernels/cuda/classifier.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kGroup = 4;                 // packs that a thread handles, and waits for, together
constexpr float kLowest = -1e38F;              // below all logits, and finite times log2(e)
constexpr unsigned kMaskedPair = 0xff80ff80U;  // -infinity twice

// What lies behind the last class is as if it weren't there.
__device__ uint4 masked(uint4 bits, unsigned classes) {
  unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (unsigned w = 0; w < 4; ++w) {
    if (classes <= 2 * w) {
      words[w] = kMaskedPair;
    } else if (classes == 2 * w + 1) {
      words[w] = (words[w] & 0xffffU) | (kMaskedPair & 0xffff0000U);
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ float sum_of(const Floats<8>& f) {
  return ((f.at[0] + f.at[1]) + (f.at[2] + f.at[3])) + ((f.at[4] + f.at[5]) + (f.at[6] + f.at[7]));
}
__device__ float maximum_of(const Floats<8>& f) {
  return fmaxf(fmaxf(fmaxf(f.at[0], f.at[1]), fmaxf(f.at[2], f.at[3])),
               fmaxf(fmaxf(f.at[4], f.at[5]), fmaxf(f.at[6], f.at[7])));
}

template <bool kStaged>
__global__ void __launch_bounds__(kThreads, 2) classify_rows(const Classifier call) {
  extern __shared__ uint4 staged[];
  __shared__ float of_warps[2][kThreads / kWarp];
  const auto packs = static_cast<unsigned>(call.stride / 8);
  const auto live_packs = static_cast<unsigned>((call.vocab + 7) / 8);
  const unsigned groups = (packs + kThreads * kGroup - 1) / (kThreads * kGroup);
  const auto pack_of = [](unsigned group, unsigned g) { return (group * kGroup + g) * kThreads + threadIdx.x; };
  const auto row_at = [&](std::size_t row) { return reinterpret_cast<uint4*>(call.logits + row * call.stride); };
  const auto fetch = [&](std::size_t row, unsigned group) {
    if constexpr (kStaged) {
#pragma unroll
      for (unsigned g = 0; g < kGroup; ++g) {
        const unsigned p = pack_of(group, g);
        if (row < call.rows && p < live_packs) copy_ahead(staged + p, row_at(row) + p);
      }
      end_copies();
    }
  };
  for (unsigned group = 0; group < groups; ++group) fetch(blockIdx.x, group);
  std::int32_t next_target = blockIdx.x < call.rows ? call.targets[blockIdx.x] : -1;

  for (std::size_t row = blockIdx.x; row < call.rows; row += gridDim.x) {
    const std::int32_t target = next_target;
    const std::size_t next = row + gridDim.x;
    next_target = next < call.rows ? call.targets[next] : -1;
    uint4* const logits = row_at(row);
    const uint4* const source = kStaged ? staged : logits;

    // The sum is kept relative to the largest logit so far (Milakov and Gimelshein, arXiv:1805.02867).
    float top = kLowest;
    float sum = 0;
    for (unsigned group = 0; group < groups; ++group) {
      if constexpr (kStaged) wait_for_all_but(groups - 1 - group);
      Packed<8> values[kGroup];
      float highest = top;
#pragma unroll
      for (unsigned g = 0; g < kGroup; ++g) {
        const unsigned p = pack_of(group, g);
        values[g].bits = make_uint4(kMaskedPair, kMaskedPair, kMaskedPair, kMaskedPair);
        if (p < live_packs) values[g].bits = source[p];
        if (p == live_packs - 1) values[g].bits = masked(values[g].bits, static_cast<unsigned>(call.vocab - p * 8));
      }
#pragma unroll
      for (unsigned g = 0; g < kGroup; ++g) highest = fmaxf(highest, maximum_of(unpack(values[g])));
      sum = __fmul_rn(sum, exp2_approximate((top - highest) * kLog2E));
      top = highest;
#pragma unroll
      for (unsigned g = 0; g < kGroup; ++g) {
        Floats<8> f = unpack(values[g]);
#pragma unroll
        for (int i = 0; i < 8; ++i) f.at[i] = exp2_approximate(fmaf(f.at[i], kLog2E, -top * kLog2E));
        sum += sum_of(f);
      }
    }
    const float row_top = block_max<kThreads>(top, of_warps[0]);
    // All packs are here after the first barrier, and nobody fetches the next row before the second. The same two let
    // of_warps be written a row later without one more.
    float target_logit = 0;
    if (threadIdx.x == 0 && target >= 0) {
      target_logit = unpack(load<1>(reinterpret_cast<const Bf16*>(source) + target)).at[0];
    }
    const float row_sum = block_sum<kThreads>(sum * exp2_approximate((top - row_top) * kLog2E), of_warps[1]);
    const float log_sum = logf(row_sum);
    if (threadIdx.x == 0) call.losses[row] = target < 0 ? 0.0F : log_sum + (row_top - target_logit);

    const float shift = -fmaf(row_top, kLog2E, log_sum * kLog2E);
    const unsigned target_pack = static_cast<unsigned>(target) / 8;
    for (unsigned group = 0; group < groups; ++group) {
#pragma unroll
      for (unsigned g = 0; g < kGroup && call.gradient; ++g) {
        const unsigned p = pack_of(group, g);
        if (p >= packs) continue;
        Packed<8> gradient{};
        if (p < live_packs && target >= 0) {
          Packed<8> bits{source[p]};
          if (p == live_packs - 1) bits.bits = masked(bits.bits, static_cast<unsigned>(call.vocab - p * 8));
          Floats<8> f = unpack(bits);
#pragma unroll
          for (int i = 0; i < 8; ++i) f.at[i] = exp2_approximate(fmaf(f.at[i], kLog2E, shift));
          if (p == target_pack) {
#pragma unroll
            for (unsigned i = 0; i < 8; ++i) f.at[i] -= i == static_cast<unsigned>(target) % 8 ? 1.0F : 0.0F;
          }
          gradient = pack(f);
        }
        __stcs(logits + p, gradient.bits);
      }
      fetch(next, group);
    }
  }
}

__global__ void __launch_bounds__(256)
    sum_of_sequences(std::size_t context, const float* __restrict__ losses, double* __restrict__ sums) {
  constexpr unsigned kBatch = 1024;
  __shared__ float batch[kBatch];
  const float* sequence = losses + blockIdx.x * context;
  double sum = 0;
  for (std::size_t first = 0; first < context; first += kBatch) {
    const auto count = static_cast<unsigned>(context - first < kBatch ? context - first : kBatch);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += 256) batch[i] = sequence[first + i];
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 16
      for (unsigned i = 0; i < count; ++i) sum += batch[i];
    }
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void classify(cudaStream_t stream, const Classifier& call) {
  if (call.rows == 0) return;
  const std::size_t bytes = (call.vocab + 7) / 8 * sizeof(uint4);
  constexpr std::size_t kStatic = 1024;  // more than the kernel's own
  if (bytes + kStatic <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
    const unsigned blocks = resident_blocks(classify_rows<true>, kThreads, bytes, call.rows);
    classify_rows<true><<<blocks, kThreads, bytes, stream>>>(call);
  } else {
    const unsigned blocks = resident_blocks(classify_rows<false>, kThreads, 0, call.rows);
    classify_rows<false><<<blocks, kThreads, 0, stream>>>(call);
  }
}

void sum_losses(cudaStream_t stream, std::size_t sequences, std::size_t context, const float* losses, double* sums) {
  if (sequences == 0) return;
  sum_of_sequences<<<static_cast<unsigned>(sequences), 256, 0, stream>>>(context, losses, sums);
}

}  // namespace planaria::cuda

// Times the CUDA kernels that memory bounds, at the shapes of GPT-2's sizes, beside a copy on the same device.
//   nvcc -std=c++20 -O3 -fmad=false -arch=sm_90 -I. -o kernels_gpu_bench tests/bench/gpu/kernels_gpu_bench.cu
//       kernels/cuda/{norms,chunk_sums,classifier,embeddings,pointwise,vectors}.cu
// Bytes are what an op needs: every input read once, every output written once. Calls go round over buffers that the
// second-level cache can't hold together; a sample is as many calls as move half a gigabyte, the median of 50 counts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/classifier.hpp"
#include "kernels/cuda/embeddings.hpp"
#include "kernels/cuda/norms.hpp"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/cuda/vectors.hpp"

namespace {

using namespace planaria;
using Bf16 = __nv_bfloat16;

constexpr std::size_t kArenaBytes = std::size_t{9} << 30;
constexpr std::size_t kSampleBytes = std::size_t{512} << 20;
constexpr std::size_t kContext = 1024;
constexpr std::size_t kVocab = 50257;
constexpr std::size_t kVocabStride = 50304;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "kernels_gpu_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Pairs of bf16 between 0.25 and 2, which are such numbers as fp32 too.
__global__ void fill(std::size_t count, unsigned* words) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    unsigned v = static_cast<unsigned>(i) * 2654435761U;
    v ^= v >> 15;
    v *= 2246822519U;
    v ^= v >> 13;
    words[i] = 0x3e803e80U + (v & 0x017f017fU);
  }
}

template <class T>
T* uploaded(const std::vector<T>& values) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, values.size() * sizeof(T)), "allocating");
  check(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copying");
  return static_cast<T*>(memory);
}

// The buffers of one call.
class Buffers {
 public:
  Buffers(char* base, const std::vector<std::size_t>& bytes) {
    for (const std::size_t size : bytes) {
      at_.push_back(base);
      base += round_up(size);
    }
  }
  [[nodiscard]] Bf16* bf16(std::size_t i) const { return reinterpret_cast<Bf16*>(at_[i]); }
  [[nodiscard]] float* fp32(std::size_t i) const { return reinterpret_cast<float*>(at_[i]); }
  [[nodiscard]] double* fp64(std::size_t i) const { return reinterpret_cast<double*>(at_[i]); }

  static std::size_t round_up(std::size_t bytes) { return (bytes + 511) / 512 * 512; }

 private:
  std::vector<char*> at_;
};

class Bench {
 public:
  Bench() {
    void* memory = nullptr;
    check(cudaMalloc(&memory, kArenaBytes), "allocating");
    arena_ = static_cast<char*>(memory);
    check(cudaEventCreate(&begin_), "event");
    check(cudaEventCreate(&end_), "event");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "properties");
    std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
    std::printf("%-26s %8s %6s %10s %8s %7s\n", "op", "rows", "width", "ms", "GB/s", "% copy");
  }

  // Precondition: the buffers fit into the arena.
  void measure(const std::string& name, std::size_t rows, std::size_t width, double bytes,
               const std::vector<std::size_t>& buffers, const std::function<void(const Buffers&)>& call) {
    fill<<<2048, 256>>>(kArenaBytes / 4, reinterpret_cast<unsigned*>(arena_));
    std::size_t footprint = 0;
    for (const std::size_t size : buffers) footprint += Buffers::round_up(size);
    const std::size_t sets = std::clamp<std::size_t>(2 * kSampleBytes / footprint, 1, kArenaBytes / footprint);
    const std::size_t calls = std::clamp<std::size_t>(kSampleBytes / footprint, 1, 64);
    std::vector<Buffers> rotation;
    for (std::size_t s = 0; s < sets; ++s) rotation.emplace_back(arena_ + s * footprint, buffers);
    std::size_t next = 0;
    const auto sample = [&] {
      for (std::size_t c = 0; c < calls; ++c) call(rotation[next++ % sets]);
    };
    for (int i = 0; i < 20; ++i) sample();
    std::vector<float> times;
    for (int i = 0; i < 50; ++i) {
      check(cudaEventRecord(begin_), "recording");
      sample();
      check(cudaEventRecord(end_), "recording");
      check(cudaEventSynchronize(end_), name.c_str());
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_), "timing");
      times.push_back(ms / static_cast<float>(calls));
    }
    check(cudaGetLastError(), name.c_str());
    std::nth_element(times.begin(), times.begin() + 25, times.end());
    const double rate = bytes / (static_cast<double>(times[25]) * 1e6);
    if (copy_rate_ == 0) copy_rate_ = rate;
    std::printf("%-26s %8zu %6zu %10.4f %8.0f %6.1f%%\n", name.c_str(), rows, width, times[25], rate,
                100.0 * rate / copy_rate_);
  }

 private:
  char* arena_ = nullptr;
  cudaEvent_t begin_{};
  cudaEvent_t end_{};
  double copy_rate_ = 0;  // of the first op measured
};

void measure_norms(Bench& bench, std::size_t rows, std::size_t width) {
  const std::size_t tensor = rows * width * sizeof(Bf16);
  const std::size_t row = width * sizeof(float);
  const std::size_t column = rows * sizeof(float);
  const std::size_t chunks = cuda::chunks_of(rows) * row;
  const double unit = static_cast<double>(tensor);
  const NormShape shape{rows, width};
  for (const bool delta : {true, false}) {
    bench.measure(delta ? "norm_forward + delta" : "norm_forward", rows, width, unit * (delta ? 4 : 2),
                  {tensor, delta ? tensor : 1, delta ? tensor : 1, tensor, row, row, column, column},
                  [=](const Buffers& b) {
                    cuda::norm_forward(nullptr, {shape, b.bf16(0), delta ? b.bf16(1) : nullptr, b.bf16(2), b.fp32(4),
                                                 b.fp32(5), b.bf16(3), b.fp32(6), b.fp32(7)});
                  });
  }
  for (const bool residual : {true, false}) {
    bench.measure(residual ? "norm_backward + residual" : "norm_backward", rows, width,
                  unit * (residual ? 4 : 3) + 3 * static_cast<double>(chunks),
                  {tensor, tensor, tensor, residual ? tensor : 1, row, column, column, chunks, chunks, chunks},
                  [=](const Buffers& b) {
                    cuda::norm_backward(nullptr,
                                        {shape, b.bf16(0), b.bf16(1), b.fp32(4), b.fp32(5), b.fp32(6),
                                         residual ? b.bf16(3) : nullptr, b.bf16(2), b.fp32(7), b.fp32(8), b.fp32(9)});
                  });
  }
  bench.measure("column_chunks", rows, width, unit + static_cast<double>(chunks), {tensor, chunks},
                [=](const Buffers& b) { cuda::column_chunks(nullptr, rows, width, b.bf16(0), b.fp32(1)); });
  const std::size_t count = cuda::chunks_of(rows);
  bench.measure("add_chunks", rows, width, static_cast<double>(chunks), {chunks, row}, [=](const Buffers& b) {
    const cuda::ChunkSum one{b.fp32(0), count, width, b.fp32(1)};
    cuda::add_chunks(nullptr, {&one, 1});
  });
  // A layer's: of two norms' gains and biases and of the biases of four linear maps, attention's in halves.
  const std::size_t widths[] = {width, width, width, width, width, width, 4 * width, 6 * width};
  std::vector<std::size_t> buffers;
  std::size_t total = 0;
  for (const std::size_t w : widths) {
    buffers.push_back(chunks / width * w);
    total += buffers.back();
  }
  buffers.push_back(row * 6);
  bench.measure("add_chunks of a layer", rows, width, static_cast<double>(total), buffers, [=](const Buffers& b) {
    std::vector<cuda::ChunkSum> sums;
    for (std::size_t i = 0; i < std::size(widths); ++i) sums.push_back({b.fp32(i), count, widths[i], b.fp32(8)});
    sums.back().count *= 2, sums.back().width /= 2;
    cuda::add_chunks(nullptr, sums);
  });
}

void measure_activations(Bench& bench, std::size_t rows, std::size_t width) {
  const std::size_t count = rows * width;
  const std::size_t tensor = count * sizeof(Bf16);
  const std::size_t chunks = cuda::chunks_of(rows) * width * sizeof(float);
  const double unit = static_cast<double>(tensor);
  bench.measure("gelu_forward", rows, width, 2 * unit, {tensor, tensor},
                [=](const Buffers& b) { cuda::gelu_forward(nullptr, count, b.bf16(0), b.bf16(1)); });
  bench.measure(
      "gelu_backward + sums", rows, width, 3 * unit + static_cast<double>(chunks), {tensor, tensor, tensor, chunks},
      [=](const Buffers& b) { cuda::gelu_backward(nullptr, rows, width, b.bf16(0), b.bf16(1), b.bf16(2), b.fp32(3)); });
  bench.measure("swiglu_forward", rows, width, 3 * unit, {2 * tensor, tensor}, [=](const Buffers& b) {
    cuda::swiglu_forward(nullptr, {rows, width}, b.bf16(0), b.bf16(1));
  });
  bench.measure("swiglu_backward", rows, width, 5 * unit, {2 * tensor, tensor, 2 * tensor}, [=](const Buffers& b) {
    cuda::swiglu_backward(nullptr, {rows, width}, b.bf16(0), b.bf16(1), b.bf16(2));
  });
}

void measure_elements(Bench& bench, std::size_t rows, std::size_t width, const std::uint64_t* samples) {
  const std::size_t count = rows * width;
  const std::size_t tensor = count * sizeof(Bf16);
  const double unit = static_cast<double>(tensor);
  const DropoutShape dropout{rows / kContext, kContext * width, 0.1F};
  for (const bool residual : {true, false}) {
    bench.measure(residual ? "dropout + residual" : "dropout", rows, width, unit * (residual ? 3 : 2),
                  {tensor, tensor, residual ? tensor : 1}, [=](const Buffers& b) {
                    cuda::dropout(nullptr, {.seed = 1}, dropout, samples, b.bf16(0), residual ? b.bf16(2) : nullptr,
                                  b.bf16(1));
                  });
  }
  const AttentionShape attention{rows / kContext, kContext, width / 64, width / 64, 64};
  bench.measure("rope", rows, width, 4 * unit, {3 * tensor, kContext * 64 * sizeof(float)},
                [=](const Buffers& b) { cuda::rope(nullptr, attention, 1, b.fp32(1), b.bf16(0)); });
  bench.measure("add (bf16)", rows, width, 3 * unit, {tensor, tensor, tensor},
                [=](const Buffers& b) { cuda::add(nullptr, count, b.bf16(0), b.bf16(1), b.bf16(2)); });
  bench.measure("narrow", rows, width, 3 * unit, {2 * tensor, tensor},
                [=](const Buffers& b) { cuda::narrow(nullptr, count, b.fp32(0), b.bf16(1)); });
  bench.measure("widen", rows, width, 3 * unit, {tensor, 2 * tensor},
                [=](const Buffers& b) { cuda::widen(nullptr, count, b.bf16(0), b.fp32(1)); });
}

// Tokens as skewed as text: the cube of a uniform number. Table rows count once a token that occurs.
void measure_embeddings(Bench& bench, std::size_t rows, std::size_t width) {
  std::vector<std::int32_t> tokens(rows);
  unsigned state = 12345;
  for (std::int32_t& token : tokens) {
    state = state * 1664525U + 1013904223U;
    const double u = static_cast<double>(state >> 8) * 0x1.0p-24;
    token = static_cast<std::int32_t>(u * u * u * static_cast<double>(kVocab));
  }
  cuda::TokenOccurrences found;
  cuda::find_occurrences(tokens, kVocab, found);
  const std::int32_t* on_device[] = {uploaded(tokens), uploaded(found.rows), uploaded(found.begin),
                                     uploaded(found.tokens), uploaded(found.first)};
  const cuda::DeviceOccurrences at{on_device[1], on_device[2],           on_device[3],
                                   on_device[4], found.begin.size() - 1, found.tokens.size()};
  const EmbeddingShape shape{rows / kContext, kContext, width, kVocab};
  const std::size_t row = width * sizeof(float);
  const std::size_t table = kVocab * row;
  const std::size_t positions = kContext * row;
  const std::size_t tensor = rows * width * sizeof(Bf16);
  const double used = static_cast<double>(at.distinct * row + positions);
  bench.measure("embedding_forward", rows, width, used + static_cast<double>(tensor), {table, positions, tensor},
                [=](const Buffers& b) {
                  cuda::embedding_forward(nullptr, shape, on_device[0], b.fp32(0), b.fp32(1), b.bf16(2));
                });
  bench.measure("embedding_backward", rows, width, 2 * used + static_cast<double>(tensor),
                {table, positions, tensor, at.groups * row}, [=](const Buffers& b) {
                  cuda::embedding_backward(nullptr, shape, at, b.bf16(2), b.fp32(3), b.fp32(0), b.fp32(1));
                });
  for (const std::int32_t* memory : on_device) check(cudaFree(const_cast<std::int32_t*>(memory)), "freeing");
}

void measure_classifier(Bench& bench, std::size_t rows) {
  const std::size_t tensor = rows * kVocabStride * sizeof(Bf16);
  std::vector<std::int32_t> host(rows);
  for (std::size_t i = 0; i < rows; ++i) host[i] = static_cast<std::int32_t>(i * 7919 % kVocab);
  std::int32_t* targets = uploaded(host);
  for (const bool gradient : {true, false}) {
    bench.measure(gradient ? "classify" : "classify, loss only", rows, kVocab,
                  static_cast<double>(tensor) * (gradient ? 2 : 1), {tensor, rows * sizeof(float)},
                  [=](const Buffers& b) {
                    cuda::classify(nullptr, {rows, kVocab, kVocabStride, b.bf16(0), targets, b.fp32(1), gradient});
                  });
  }
  bench.measure("sum_losses", rows, 1, static_cast<double>(rows) * 4, {rows * sizeof(float), rows * sizeof(double)},
                [=](const Buffers& b) { cuda::sum_losses(nullptr, rows / kContext, kContext, b.fp32(0), b.fp64(1)); });
  check(cudaFree(targets), "freeing");
}

void measure_vectors(Bench& bench) {
  constexpr std::size_t count = std::size_t{1} << 27;
  constexpr std::size_t bytes = count * sizeof(float);
  constexpr std::size_t tile = 65536;
  const double unit = static_cast<double>(bytes);
  bench.measure("adamw", 1, count, 7 * unit, {bytes, bytes, bytes, bytes, bytes, bytes, bytes}, [](const Buffers& b) {
    const AdamwStep step{
        .learning_rate = 1e-3F, .weight_decay = 0.1F, .bias_correction1 = 0.5F, .bias_correction2 = 0.5F};
    const UpdateRange all[] = {{0, count, true}};
    cuda::adamw(nullptr, step, all, {b.fp32(0), b.fp32(1), b.fp32(2)}, b.fp32(3), {b.fp32(4), b.fp32(5), b.fp32(6)});
  });
  bench.measure("adamw in place", 1, count, 7 * unit, {bytes, bytes, bytes, bytes}, [](const Buffers& b) {
    const AdamwStep step{
        .learning_rate = 1e-3F, .weight_decay = 0.1F, .bias_correction1 = 0.5F, .bias_correction2 = 0.5F};
    const UpdateRange all[] = {{0, count, true}};
    cuda::adamw(nullptr, step, all, {b.fp32(0), b.fp32(1), b.fp32(2)}, b.fp32(3), {b.fp32(0), b.fp32(1), b.fp32(2)});
  });
  bench.measure("add (fp32)", 1, count, 3 * unit, {bytes, bytes, bytes},
                [](const Buffers& b) { cuda::add(nullptr, count, b.fp32(0), b.fp32(1), b.fp32(2)); });
  bench.measure("fold of 4", 1, count, 5 * unit, {bytes, bytes, bytes, bytes, bytes}, [](const Buffers& b) {
    const float* parts[] = {b.fp32(0), b.fp32(1), b.fp32(2), b.fp32(3)};
    cuda::fold(nullptr, count, parts, b.fp32(4));
  });
  bench.measure("scale", 1, count, 2 * unit, {bytes, bytes},
                [](const Buffers& b) { cuda::scale(nullptr, count, 0.5F, b.fp32(0), b.fp32(1)); });
  bench.measure("tile_sums_of_squares", 1, count, unit, {bytes, count / tile * sizeof(double)},
                [](const Buffers& b) { cuda::tile_sums_of_squares(nullptr, tile, count, b.fp32(0), b.fp64(1)); });
}

}  // namespace

int main() {
  Bench bench;
  constexpr std::size_t copied = std::size_t{1} << 30;
  bench.measure("copy, device to device", 1, copied, 2.0 * copied, {copied, copied}, [](const Buffers& b) {
    check(cudaMemcpyAsync(b.fp32(1), b.fp32(0), copied, cudaMemcpyDeviceToDevice), "copying");
  });
  constexpr std::size_t most_rows = 65536;
  std::uint64_t* samples = uploaded(std::vector<std::uint64_t>(most_rows / kContext, 7));
  for (const std::size_t rows : {std::size_t{8192}, std::size_t{16384}, most_rows}) {
    for (const std::size_t width : {768, 1024, 1600}) {
      measure_norms(bench, rows, width);
      measure_activations(bench, rows, 4 * width);
      measure_elements(bench, rows, width, samples);
      measure_embeddings(bench, rows, width);
    }
    measure_classifier(bench, rows);
  }
  measure_vectors(bench);
}

// Times causal attention forward and backward at the shapes of GPT-2's three sizes and of a Llama layer.
//   nvcc -std=c++20 -O3 -arch=native -I. tests/bench/gpu/attention_bench.cu kernels/cuda/attention_*.cu
// TFLOP/s count the products that causality leaves (half of all), four by head size forward and ten backward, whatever
// the kernels compute again.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/attention.hpp"

namespace {

using planaria::AttentionShape;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "attention_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

__global__ void fill(std::size_t count, __nv_bfloat16* x) {
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += std::size_t{gridDim.x} * blockDim.x) {
    unsigned v = static_cast<unsigned>(i) * 2654435761U;
    v ^= v >> 15;
    v *= 2246822519U;
    v ^= v >> 13;
    x[i] = __float2bfloat16((static_cast<float>(v) / 4294967296.0F - 0.5F) * 3.4F);  // variance about 1
  }
}

template <class T>
T* allocate(std::size_t count) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, count * sizeof(T)), "allocating");
  return static_cast<T*>(memory);
}

template <class Run>
double median_ms(Run run) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  for (int i = 0; i < 5; ++i) run();
  std::vector<float> times;
  for (int i = 0; i < 20; ++i) {
    check(cudaEventRecord(begin), "recording");
    run();
    check(cudaEventRecord(end), "recording");
    check(cudaEventSynchronize(end), "running");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "timing");
    times.push_back(ms);
  }
  check(cudaGetLastError(), "launching");
  std::ranges::nth_element(times, times.begin() + 10);
  return times[10];
}

void measure(const char* name, const AttentionShape& shape) {
  const std::size_t rows = shape.sequences * shape.context;
  auto* const qkv = allocate<__nv_bfloat16>(rows * shape.qkv_width());
  auto* const d_qkv = allocate<__nv_bfloat16>(rows * shape.qkv_width());
  auto* const out = allocate<__nv_bfloat16>(rows * shape.out_width());
  auto* const d_out = allocate<__nv_bfloat16>(rows * shape.out_width());
  auto* const log_sums = allocate<float>(shape.log_sum_count());
  auto* const scratch = allocate<float>(shape.log_sum_count());
  auto* const chunks = allocate<float>(planaria::cuda::attention_chunks(shape) * shape.qkv_width());
  fill<<<1024, 256>>>(rows * shape.qkv_width(), qkv);
  fill<<<1024, 256>>>(rows * shape.out_width(), d_out);
  const double forward = median_ms([&] { planaria::cuda::attention_forward(nullptr, shape, qkv, out, log_sums); });
  const auto run_backward = [&](float* sums) {
    return median_ms(
        [&] { planaria::cuda::attention_backward(nullptr, shape, qkv, out, log_sums, d_out, scratch, d_qkv, sums); });
  };
  const double backward = run_backward(nullptr);
  const double with_sums = run_backward(chunks);
  const double product = 1e-9 * static_cast<double>(shape.sequences * shape.heads) *
                         static_cast<double>(shape.context * shape.context) * static_cast<double>(shape.head_size);
  std::printf(
      "%-22s %4zu x %4zu, %2zu heads of %3zu: forward %7.3f ms %6.1f TFLOP/s, backward %7.3f ms %6.1f TFLOP/s, with "
      "column sums %7.3f ms\n",
      name, shape.sequences, shape.context, shape.heads, shape.head_size, forward, 2 * product / forward, backward,
      5 * product / backward, with_sums);
  for (void* memory :
       {static_cast<void*>(qkv), static_cast<void*>(d_qkv), static_cast<void*>(out), static_cast<void*>(d_out),
        static_cast<void*>(log_sums), static_cast<void*>(scratch), static_cast<void*>(chunks)}) {
    check(cudaFree(memory), "freeing");
  }
}

}  // namespace

int main() {
  measure("GPT-2 124M", {.sequences = 16, .context = 1024, .heads = 12, .kv_heads = 12, .head_size = 64});
  measure("GPT-2 124M", {.sequences = 64, .context = 1024, .heads = 12, .kv_heads = 12, .head_size = 64});
  measure("GPT-2 355M", {.sequences = 32, .context = 1024, .heads = 16, .kv_heads = 16, .head_size = 64});
  measure("GPT-2 1.56B", {.sequences = 16, .context = 1024, .heads = 25, .kv_heads = 25, .head_size = 64});
  measure("Llama, grouped", {.sequences = 8, .context = 2048, .heads = 32, .kv_heads = 8, .head_size = 128});
  return 0;
}

// Every matrix product of a GPT-2's training step by the kernel table: which algorithm was chosen, how fast it is, what
// its epilogue costs, and what a step's products take together, once as the sum of their medians and once replayed in
// order (without attention and the pointwise kernels between, so the chip is hotter and L2 warmer than in training).
//
//   matmul_bench --model 124M|355M|1558M --rows N     rows of a micro-batch; N divides the rows of a step
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/philox.hpp"
#include "kernels/cuda/matmul.hpp"

namespace planaria::cuda {
namespace {

constexpr std::uint32_t context = 1024;
constexpr std::uint32_t vocab = 50257;
constexpr std::uint32_t padded_vocab = 50304;

struct Model {
  std::string_view name;
  std::uint32_t width;
  std::uint32_t layers;
  std::uint32_t sequences;  // of a step

  [[nodiscard]] std::uint32_t step_rows() const { return sequences * context; }
};
constexpr Model models[] = {{"124M", 768, 12, 64}, {"355M", 1024, 24, 32}, {"1558M", 1600, 48, 16}};

struct Product {
  std::string_view name;
  MatmulShape shape;
  std::optional<MatmulShape> other;  // the same product in a form that may be faster
  std::string_view other_name;
  bool head = false;
};

MatmulShape of_kind(MatmulShape shape, MatmulKind kind) {
  shape.kind = kind;
  shape.bias = shape.bias && (kind == MatmulKind::forward || kind == MatmulKind::forward_gelu);
  return shape;
}

// In the order of a step: forward, then backward.
std::vector<Product> products_of(const Model& model, std::uint32_t rows) {
  const std::uint32_t w = model.width;
  const MatmulShape qkv{MatmulKind::forward, rows, w, 3 * w, 3 * w, true}, out{qkv.kind, rows, w, w, w, true},
      up{qkv.kind, rows, w, 4 * w, 4 * w, true}, down{qkv.kind, rows, 4 * w, w, w, true},
      head{qkv.kind, rows, w, vocab, padded_vocab, false}, whole{qkv.kind, rows, w, padded_vocab, padded_vocab, false};
  const MatmulKind forward = MatmulKind::forward, input = MatmulKind::input_gradient,
                   weight = MatmulKind::weight_gradient;
  std::vector<Product> list{
      {"qkv", qkv, {}, {}},
      {"attention out", out, {}, {}},
      {"up", of_kind(up, MatmulKind::forward_gelu), up, "no gelu"},
      {"down", down, {}, {}},
  };
  for (const auto kind : {forward, input, weight}) {
    list.push_back({"head", of_kind(head, kind), of_kind(whole, kind), "50304", true});
  }
  list.push_back({"down", of_kind(down, MatmulKind::input_dgelu), of_kind(down, input), "no dgelu"});
  list.push_back({"down", of_kind(down, weight), {}, {}});
  for (const auto& [name, shape] : {std::pair("up", up), std::pair("attention out", out), std::pair("qkv", qkv)}) {
    list.push_back({name, of_kind(shape, input), {}, {}});
    list.push_back({name, of_kind(shape, weight), {}, {}});
  }
  return list;
}

std::string_view kind_name(MatmulKind kind) {
  constexpr std::string_view names[] = {"forward", "forward_gelu", "dx", "dx dgelu", "dW"};
  return names[static_cast<std::size_t>(kind)];
}

struct Free {
  void operator()(void* memory) const { (void)cudaFree(memory); }
};
using Memory = std::unique_ptr<void, Free>;

// Random values in [-1, 1), the same for bf16 and fp32 (an fp32's upper half is a bf16); null: no memory.
Memory random_memory(std::size_t bytes) {
  static const std::vector<std::uint16_t> pattern = [] {
    PhiloxStream random(1);
    std::vector<std::uint16_t> values(std::size_t{8} * 131071);
    for (auto& value : values) {
      value = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(2 * unit_float(random.next_u32()) - 1) >> 16);
    }
    return values;
  }();
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) return nullptr;
  Memory owner(memory);
  const std::size_t whole = pattern.size() * sizeof(pattern[0]);
  for (std::size_t at = 0; at < bytes; at += whole) {
    // Later pieces come from the first, on the device.
    const void* from = at == 0 ? static_cast<const void*>(pattern.data()) : memory;
    if (cudaMemcpy(static_cast<std::byte*>(memory) + at, from, std::min(whole, bytes - at), cudaMemcpyDefault) !=
        cudaSuccess) {
      return nullptr;
    }
  }
  return cudaDeviceSynchronize() == cudaSuccess ? std::move(owner) : nullptr;
}

// Milliseconds of a step's products one after another, the median of three; nothing if memory or a product fails.
std::optional<float> replay(MatmulTable& table, cudaStream_t stream, const Model& model, std::uint32_t rows,
                            const std::vector<Product>& products) {
  std::size_t in = 0, out = 0, weight = 0;
  for (const Product& p : products) {
    in = std::max<std::size_t>(in, p.shape.in);
    out = std::max<std::size_t>(out, p.shape.out_stride);
    weight = std::max(weight, std::size_t{p.shape.in} * p.shape.out);
  }
  const Memory x = random_memory(rows * in * 2), w = random_memory(weight * 2), bias = random_memory(out * 2),
               dy = random_memory(rows * out * 2), y = random_memory(rows * out * 2), u = random_memory(rows * in * 2),
               dx = random_memory(rows * in * 2), dw = random_memory(weight * 4);
  for (const Memory* memory : {&x, &w, &bias, &dy, &y, &u, &dx, &dw}) {
    if (*memory == nullptr) return {};
  }
  using Bf16 = __nv_bfloat16;
  const MatmulOperands all{static_cast<Bf16*>(x.get()),  static_cast<Bf16*>(w.get()),  static_cast<Bf16*>(bias.get()),
                           static_cast<Bf16*>(dy.get()), static_cast<Bf16*>(y.get()),  static_cast<Bf16*>(u.get()),
                           static_cast<Bf16*>(dx.get()), static_cast<float*>(dw.get())};
  const auto run = [&](bool head, bool forward, std::uint32_t times) {
    bool good = true;
    for (std::uint32_t i = 0; i < times; ++i) {
      for (const Product& p : products) {
        const bool is_forward = p.shape.kind == MatmulKind::forward || p.shape.kind == MatmulKind::forward_gelu;
        if (p.head == head && is_forward == forward) good = table.multiply(p.shape, all).ok() && good;
      }
    }
    return good;
  };
  cudaEvent_t start = nullptr, stop = nullptr;
  if (cudaEventCreate(&start) != cudaSuccess || cudaEventCreate(&stop) != cudaSuccess) return {};
  std::vector<float> times;
  bool good = true;
  for (int repeat = 0; repeat < 4; ++repeat) {
    good = good && cudaEventRecord(start, stream) == cudaSuccess;
    for (std::uint32_t at = 0; good && at < model.step_rows(); at += rows) {
      good = run(false, true, model.layers) && run(true, true, 1) && run(true, false, 1) &&
             run(false, false, model.layers);
    }
    good = good && cudaEventRecord(stop, stream) == cudaSuccess && cudaEventSynchronize(stop) == cudaSuccess;
    float milliseconds = 0;
    good = good && cudaEventElapsedTime(&milliseconds, start, stop) == cudaSuccess;
    if (repeat > 0) times.push_back(milliseconds);  // the first warms up
  }
  (void)cudaEventDestroy(start);
  (void)cudaEventDestroy(stop);
  if (!good) return {};
  std::sort(times.begin(), times.end());
  return times[1];
}

// Microseconds of the shape's algorithm; nothing, and a line that says why, if there is none.
std::optional<float> choose(MatmulTable& table, const MatmulShape& shape) {
  if (const Status status = table.choose(shape); !status) {
    fmt::print("{}\n", status.error().describe());
    return {};
  }
  return table.entries().at(shape).microseconds;
}

int measure(const Model& model, std::uint32_t rows) {
  cudaDeviceProp device{};
  cudaStream_t stream = nullptr;
  if (cudaGetDeviceProperties(&device, 0) != cudaSuccess ||
      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) {
    fmt::print(stderr, "no CUDA device: {}\n", cudaGetErrorString(cudaGetLastError()));
    return 1;
  }
  auto table = MatmulTable::create(stream);
  if (!table) {
    fmt::print(stderr, "{}\n", table.error().describe());
    return 1;
  }
  fmt::print("{}, {} multiprocessors, cuBLASLt {}; GPT-2 {}: width {}, {} layers, micro-batches of {} rows\n\n",
             device.name, device.multiProcessorCount, cublasLtGetVersion(), model.name, model.width, model.layers,
             rows);
  fmt::print("{:<14}{:<13}{:>9}{:>9}  {:<18}{:>8}  {}\n", "product", "kind", "µs", "TFLOP/s", "other form", "chosen s",
             "algorithm");
  const auto begun = std::chrono::steady_clock::now();
  const auto products = products_of(model, rows);
  double sum = 0, flops = 0;
  bool complete = true;
  for (const Product& p : products) {
    const auto before = std::chrono::steady_clock::now();
    const auto time = choose(*table, p.shape);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - before;
    std::string other;
    if (p.other) {
      const auto other_time = choose(*table, *p.other);
      other = other_time ? fmt::format("{} {:.1f}", p.other_name, *other_time) : "none";
    }
    if (!time) {
      complete = false;
      continue;
    }
    const double count = p.head ? 1.0 : model.layers;
    const double operations = 2.0 * rows * p.shape.in * p.shape.out;
    sum += count * *time;
    flops += count * operations;
    const MatmulEntry& entry = table->entries().at(p.shape);
    fmt::print("{:<14}{:<13}{:>9.1f}{:>9.1f}  {:<18}{:>8.2f}  {}, {} KiB of workspace\n", p.name,
               kind_name(p.shape.kind), *time, operations / *time * 1e-6, other, spent.count(), describe(entry),
               entry.workspace_bytes / 1024);
    (void)std::fflush(stdout);
  }
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begun;
  fmt::print("\nchosen in {:.1f} s, the other forms included\n", spent.count());
  if (complete) {
    const double steps = static_cast<double>(model.step_rows()) / rows;
    fmt::print("a step of {} sequences: {:.1f} TFLOP; sum of medians {:.2f} ms, {:.1f} TFLOP/s\n", model.sequences,
               steps * flops * 1e-12, steps * sum * 1e-3, flops / sum * 1e-6);
    if (const auto replayed = replay(*table, stream, model, rows, products)) {
      fmt::print("replayed in order: {:.2f} ms, {:.1f} TFLOP/s\n", *replayed, steps * flops / *replayed * 1e-9);
    } else {
      fmt::print("replayed in order: failed ({})\n", cudaGetErrorString(cudaGetLastError()));
    }
  }
  return complete ? 0 : 1;
}

}  // namespace
}  // namespace planaria::cuda

int main(int argc, char** argv) {
  using planaria::cuda::models;
  const auto* model = &models[0];
  std::uint32_t rows = 16384;
  const auto usage = [] {
    fmt::print(stderr, "matmul_bench [--model 124M|355M|1558M] [--rows N], where N divides the rows of a step\n");
    return 2;
  };
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--model") {
      model = std::ranges::find(models, value, &planaria::cuda::Model::name);
      if (model == std::end(models)) return usage();
    } else if (option == "--rows") {
      if (std::from_chars(value.data(), value.data() + value.size(), rows).ptr != value.data() + value.size()) {
        return usage();
      }
    } else {
      return usage();
    }
  }
  if (rows == 0 || model->step_rows() % rows != 0) return usage();
  return planaria::cuda::measure(*model, rows);
}

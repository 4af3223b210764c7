// Speed of every op on the shapes of a GPT of width 384 (one sequence of 256 tokens), by threads. Reports FLOP/s where
// arithmetic bounds an op and bytes/s where memory does; both count what the op needs, not what it does.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <vector>

#include "common/philox.hpp"
#include "kernels/device.hpp"

namespace planaria {
namespace {

constexpr std::size_t tokens = 256;
constexpr std::size_t width = 384;
constexpr std::size_t hidden = 4 * width;
constexpr AttentionShape attention{1, tokens, 6, 6, 64};

// A device with buffers of random values, made anew for each benchmark.
class Bench {
 public:
  explicit Bench(const benchmark::State& state)
      : device_(make_cpu_device({.threads = static_cast<std::size_t>(state.range(0))})) {}

  TensorDevice& device() { return **device_; }
  float* floats(std::size_t count) {
    auto buffer = device().allocate_floats(count);
    if (!buffer) std::abort();
    for (std::size_t i = 0; i < count; ++i) buffer->floats()[i] = 2.0F * unit_float(random_.next_u32()) - 1.0F;
    buffers_.push_back(std::move(buffer).value());
    return buffers_.back().floats();
  }

 private:
  Result<std::unique_ptr<TensorDevice>> device_;
  PhiloxStream random_{philox_key(1, RandomPurpose::tests)};
  std::vector<DeviceBuffer> buffers_;
};

enum class Pass { forward, input, weight };

void report_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}
void report_floats(benchmark::State& state, std::size_t floats) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * floats * sizeof(float)));
}

void linear(benchmark::State& state, LinearShape shape, Pass pass) {
  Bench bench(state);
  float* x = bench.floats(shape.rows * shape.in);
  float* w = bench.floats(shape.in * shape.out);
  float* y = bench.floats(shape.rows * shape.out);
  float* b = bench.floats(shape.out);
  for (auto _ : state) {
    if (pass == Pass::forward) bench.device().linear_forward(shape, x, w, b, y);
    if (pass == Pass::input) bench.device().linear_backward_input(shape, y, w, x);
    if (pass == Pass::weight) bench.device().linear_backward_weight(shape, x, y, w, b);
  }
  report_flops(state, 2.0 * static_cast<double>(shape.rows * shape.in * shape.out));
}

void attend(benchmark::State& state, AttentionShape shape, bool backward) {
  Bench bench(state);
  const std::size_t rows = shape.sequences * shape.context;
  float* qkv = bench.floats(rows * shape.qkv_width());
  float* d_qkv = bench.floats(rows * shape.qkv_width());
  float* out = bench.floats(rows * shape.out_width());
  float* d_out = bench.floats(rows * shape.out_width());
  float* log_sums = bench.floats(shape.log_sum_count());
  bench.device().attention_forward(shape, qkv, out, log_sums);
  for (auto _ : state) {
    if (backward) {
      bench.device().attention_backward(shape, qkv, out, log_sums, d_out, d_qkv);
    } else {
      bench.device().attention_forward(shape, qkv, out, log_sums);
    }
  }
  // Causal: half of the products of all pairs; backward has five such products, forward two.
  report_flops(state, (backward ? 5.0 : 2.0) * static_cast<double>(rows * shape.context * shape.out_width()));
}

void layernorm(benchmark::State& state, bool backward) {
  Bench bench(state);
  const NormShape shape{tokens, width, 1e-5F};
  float *x = bench.floats(tokens * width), *y = bench.floats(tokens * width), *dx = bench.floats(tokens * width);
  float *gain = bench.floats(width), *bias = bench.floats(width), *mean = bench.floats(tokens),
        *inverse = bench.floats(tokens);
  for (auto _ : state) {
    if (backward) {
      bench.device().layernorm_backward(shape, y, x, gain, mean, inverse, dx, dx, gain, bias);
    } else {
      bench.device().layernorm_forward(shape, x, gain, bias, y, mean, inverse);
    }
  }
  report_floats(state, (backward ? 4 : 2) * tokens * width);
}

void gelu(benchmark::State& state, bool backward) {
  Bench bench(state);
  float *x = bench.floats(tokens * hidden), *y = bench.floats(tokens * hidden);
  for (auto _ : state) {
    if (backward) {
      bench.device().gelu_backward(tokens * hidden, x, y, y);
    } else {
      bench.device().gelu_forward(tokens * hidden, x, y);
    }
  }
  report_floats(state, (backward ? 3 : 2) * tokens * hidden);
}

void swiglu(benchmark::State& state, bool backward) {
  Bench bench(state);
  const SwigluShape shape{tokens, 1024};
  float *x = bench.floats(tokens * 2048), *d = bench.floats(tokens * 2048), *y = bench.floats(tokens * 1024);
  for (auto _ : state) {
    if (backward) {
      bench.device().swiglu_backward(shape, x, y, d);
    } else {
      bench.device().swiglu_forward(shape, x, y);
    }
  }
  report_floats(state, (backward ? 5 : 3) * tokens * 1024);
}

void dropout(benchmark::State& state) {
  Bench bench(state);
  float *x = bench.floats(tokens * width), *y = bench.floats(tokens * width);
  const std::uint64_t sample = 7;
  for (auto _ : state) bench.device().dropout({}, {1, tokens * width, 0.1F}, &sample, x, nullptr, y);
  report_floats(state, 2 * tokens * width);
}

void cross_entropy(benchmark::State& state) {
  Bench bench(state);
  const CrossEntropyShape shape{1, tokens, static_cast<std::size_t>(state.range(1))};
  float *logits = bench.floats(tokens * shape.vocab), *d = bench.floats(tokens * shape.vocab);
  const std::vector<std::int32_t> targets(tokens, 3);
  double loss = 0;
  for (auto _ : state) bench.device().cross_entropy(shape, logits, targets.data(), &loss, d);
  report_floats(state, 2 * tokens * shape.vocab);
}

constexpr std::size_t state_floats = std::size_t{1} << 22;

void adamw(benchmark::State& state) {
  Bench bench(state);
  float* f[7];
  for (float*& part : f) part = bench.floats(state_floats);
  const UpdateRange all[] = {{0, state_floats, true}};
  for (auto _ : state) {
    bench.device().adamw({.learning_rate = 1e-3F}, all, {f[0], f[1], f[2]}, f[3], {f[4], f[5], f[6]});
  }
  report_floats(state, 7 * state_floats);
}

void fold(benchmark::State& state) {
  Bench bench(state);
  std::vector<const float*> parts;
  for (std::int64_t i = 0; i < state.range(1); ++i) parts.push_back(bench.floats(state_floats));
  float* out = bench.floats(state_floats);
  for (auto _ : state) bench.device().fold(state_floats, parts, out);
  report_floats(state, (parts.size() + 1) * state_floats);
}

void tile_sums(benchmark::State& state) {
  Bench bench(state);
  float* x = bench.floats(state_floats);
  std::vector<double> sums(state_floats / 65536);
  for (auto _ : state) bench.device().tile_sums_of_squares(65536, state_floats, x, sums.data());
  report_floats(state, state_floats);
}

void by_threads(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->Unit(benchmark::kMicrosecond)->Arg(1)->Arg(2);
}
void by_threads_and(benchmark::internal::Benchmark* bench, std::int64_t low, std::int64_t high) {
  bench->UseRealTime()->Unit(benchmark::kMicrosecond);
  for (const std::int64_t threads : {1, 2}) bench->Args({threads, low})->Args({threads, high});
}

#define LINEAR(name, in, out)                                                                                \
  BENCHMARK_CAPTURE(linear, name##_forward, LinearShape{tokens, in, out}, Pass::forward)->Apply(by_threads); \
  BENCHMARK_CAPTURE(linear, name##_input, LinearShape{tokens, in, out}, Pass::input)->Apply(by_threads);     \
  BENCHMARK_CAPTURE(linear, name##_weight, LinearShape{tokens, in, out}, Pass::weight)->Apply(by_threads)

LINEAR(qkv, width, 3 * width);
LINEAR(projection, width, width);
LINEAR(up, width, hidden);
LINEAR(down, hidden, width);
LINEAR(head, width, 256);
BENCHMARK_CAPTURE(attend, forward, attention, false)->Apply(by_threads);
BENCHMARK_CAPTURE(attend, backward, attention, true)->Apply(by_threads);
BENCHMARK_CAPTURE(attend, long_forward, AttentionShape{1, 1024, 12, 4, 64}, false)->Apply(by_threads);
BENCHMARK_CAPTURE(attend, long_backward, AttentionShape{1, 1024, 12, 4, 64}, true)->Apply(by_threads);
BENCHMARK_CAPTURE(layernorm, forward, false)->Apply(by_threads);
BENCHMARK_CAPTURE(layernorm, backward, true)->Apply(by_threads);
BENCHMARK_CAPTURE(gelu, forward, false)->Apply(by_threads);
BENCHMARK_CAPTURE(gelu, backward, true)->Apply(by_threads);
BENCHMARK_CAPTURE(swiglu, forward, false)->Apply(by_threads);
BENCHMARK_CAPTURE(swiglu, backward, true)->Apply(by_threads);
BENCHMARK(dropout)->Apply(by_threads);
BENCHMARK(cross_entropy)->Apply([](auto* bench) { by_threads_and(bench, 256, 50257); });
BENCHMARK(adamw)->Apply(by_threads);
BENCHMARK(fold)->Apply([](auto* bench) { by_threads_and(bench, 2, 5); });
BENCHMARK(tile_sums)->Apply(by_threads);

}  // namespace
}  // namespace planaria

BENCHMARK_MAIN();

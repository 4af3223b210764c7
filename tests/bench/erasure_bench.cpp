// Speed of the erasure code on one core: bytes of data a second that get parity, and bytes a second that are rebuilt,
// in chunks of 1 MiB out of far more than the caches hold. `copy` is what memcpy makes of the same memory.
#include <benchmark/benchmark.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "storage/erasure_code.hpp"

namespace planaria {
namespace {

constexpr std::size_t kFragment = 64U << 20;
constexpr std::size_t kChunk = 1U << 20;

struct Fragments {
  explicit Fragments(std::size_t count) : memory(count, std::vector<std::byte>(kFragment, std::byte{1})) {}

  template <class Span>
  [[nodiscard]] std::vector<Span> at(std::size_t offset, const std::vector<unsigned>& which) {
    std::vector<Span> spans;
    for (const unsigned i : which) spans.emplace_back(memory[i].data() + offset, kChunk);
    return spans;
  }

  std::vector<std::vector<std::byte>> memory;
};

std::vector<unsigned> numbers(unsigned begin, unsigned end) {
  std::vector<unsigned> all(end - begin);
  std::iota(all.begin(), all.end(), begin);
  return all;
}

void count_bytes(benchmark::State& state, std::size_t fragments) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * fragments * kFragment));
}

void encode(benchmark::State& state, unsigned data, unsigned parity) {
  Fragments fragments(data + parity);
  const FragmentSums sums = ErasureCode::make(data, parity)->encode();
  for (auto _ : state) {
    for (std::size_t at = 0; at < kFragment; at += kChunk) {
      sums.write(fragments.at<FragmentBytes>(at, numbers(0, data)),
                 fragments.at<FragmentBuffer>(at, numbers(data, data + parity)));
    }
  }
  count_bytes(state, data);
}

// The first ones, from the others.
void rebuild(benchmark::State& state, unsigned data, unsigned parity, unsigned lost) {
  Fragments fragments(data + parity);
  const auto from = numbers(lost, lost + data), to = numbers(0, lost);
  const auto sums = ErasureCode::make(data, parity)->rebuild(from, to);
  for (auto _ : state) {
    for (std::size_t at = 0; at < kFragment; at += kChunk) {
      sums->write(fragments.at<FragmentBytes>(at, from), fragments.at<FragmentBuffer>(at, to));
    }
  }
  count_bytes(state, lost);
}

void copy(benchmark::State& state) {
  Fragments fragments(2);
  for (auto _ : state) std::memcpy(fragments.memory[1].data(), fragments.memory[0].data(), kFragment);
  count_bytes(state, 1);
}

BENCHMARK(copy);
BENCHMARK_CAPTURE(encode, 3 + 1, 3, 1);
BENCHMARK_CAPTURE(encode, 4 + 2, 4, 2);
BENCHMARK_CAPTURE(encode, 8 + 3, 8, 3);
BENCHMARK_CAPTURE(rebuild, one of 3 + 1, 3, 1, 1);
BENCHMARK_CAPTURE(rebuild, two of 4 + 2, 4, 2, 2);

}  // namespace
}  // namespace planaria

BENCHMARK_MAIN();

// Speed of the link between a worker and its host's keeper, for 1 GiB of state: copied into the keeper's memory, with a
// hash of each tile, and taken back out of it, each tile held against its hash. `copy` is what memcpy makes of as much
// memory that is shared already. State of a GPU: gpu/keeper_gpu_bench.cpp.
#include <benchmark/benchmark.h>

#include <cstring>
#include <numeric>

#include "tests/bench/keeper_link.hpp"

namespace planaria {
namespace {

const BenchState kState(1U << 30);

class HostLink {
 public:
  HostLink() { std::iota(values_->begin(), values_->end(), 0.0F); }
  KeeperLink* operator->() { return &link_; }

 private:
  std::shared_ptr<std::vector<float>> values_ = std::make_shared<std::vector<float>>(kState.bytes() / sizeof(float));
  KeeperLink link_{kState, std::as_bytes(std::span(*values_)).data(), values_, nullptr};
};

void count_bytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * kState.bytes()));
}

void copy(benchmark::State& state) {
  const std::vector<std::byte> from(kState.bytes(), std::byte{1});
  const auto to = SharedMemory::create(kState.bytes());
  std::memset(to->bytes().data(), 0, kState.bytes());
  for (auto _ : state) std::memcpy(to->bytes().data(), from.data(), kState.bytes());
  count_bytes(state);
}

void to_keeper(benchmark::State& state) {
  HostLink link;
  for (int i = 0; i < 3; ++i) link->copy();  // all the memory that it alternates between was touched
  for (auto _ : state) link->copy();
  count_bytes(state);
}

void from_keeper(benchmark::State& state) {
  HostLink link;
  link->copy();
  for (auto _ : state) link->attach();
  count_bytes(state);
}

BENCHMARK(copy)->UseRealTime();
BENCHMARK(to_keeper)->UseRealTime();
BENCHMARK(from_keeper)->UseRealTime();

}  // namespace
}  // namespace planaria

BENCHMARK_MAIN();

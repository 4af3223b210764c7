// Speed of the link between a worker and its host's keeper, for 1 GiB of state: copied into the keeper's memory, with a
// hash of each tile, and taken back out of it, each tile held against its hash. `copy` is what memcpy makes of as much
// memory that is shared already.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <string>

#include "worker/keeper/memory_lender.hpp"
#include "worker/keeper/snapshot_copier.hpp"

namespace planaria {
namespace {

constexpr std::uint64_t kVectorBytes = 65536 * sizeof(float);  // of a tile
constexpr std::uint32_t kTiles = (1U << 30) / (kTensorsOfState * kVectorBytes);
constexpr std::uint64_t kBytes = kTiles * kTensorsOfState * kVectorBytes;
constexpr WorkerId kKeeper{9};

class Link {
 public:
  Link() : path_((std::filesystem::temp_directory_path() / ("keeper-bench-" + std::to_string(::getpid()))).string()) {
    auto lender = MemoryLender::start(path_, SnapshotMemory::within(4 * kBytes),
                                      {.self = [] { return kKeeper; },
                                       .sealed = [this](SealedCopy copy) { seal(std::move(copy)); },
                                       .find = [this](Step, TileRange) { return find(); }});
    lender_ = std::move(*lender);
    copier_ = std::make_unique<SnapshotCopier>(path_, [this](const WorkerEvent& event) { hear(event); });
    copier_->named(WorkerId(1), Incarnation(1));
    values_ = std::make_shared<std::vector<float>>(kBytes / sizeof(float));
    std::iota(values_->begin(), values_->end(), 0.0F);
  }
  ~Link() {
    copier_.reset();
    lender_.reset();
  }

  void copy() {
    const std::span<const std::byte> all = std::as_bytes(std::span(*values_));
    StateCopy copy{kKeeper, ViewNumber(1), Step(++step_), {{0, kTiles}}, {}, {}};
    copy.tile_bytes.assign(kTiles, kTensorsOfState * kVectorBytes);
    const std::uint64_t of_vector = kBytes / kTensorsOfState;  // as a trainer has them: three vectors
    for (std::uint32_t tile = 0; tile < kTiles; ++tile) {
      for (std::uint64_t vector = 0; vector < kTensorsOfState; ++vector) {
        copy.values.push_back({all.subspan(vector * of_vector + tile * kVectorBytes, kVectorBytes), values_});
      }
    }
    copier_->copy(std::move(copy));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return sealed_ && sealed_->stamp == Step(step_); });
  }

  void attach() {
    StateAttach wanted{{kKeeper, ViewNumber(1), Step(step_), {0, kTiles}, false}, {}};
    wanted.vector_bytes.assign(kTiles, kVectorBytes);
    taken_ = 0;
    copier_->attach(std::move(wanted));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return taken_ == kTiles; });
  }

 private:
  void seal(SealedCopy copy) {
    const std::scoped_lock lock(mutex_);
    sealed_ = std::move(copy);
    changed_.notify_all();
  }
  Result<std::vector<StoredTiles>> find() {
    const std::scoped_lock lock(mutex_);
    return std::vector<StoredTiles>{{sealed_->tiles.front(), sealed_->memory, sealed_->offset, sealed_->hashes}};
  }
  void hear(const WorkerEvent& event) {
    const auto* attached = std::get_if<worker_event::StateAttached>(&event);
    if (attached == nullptr) std::abort();  // the link is of no use then
    const std::scoped_lock lock(mutex_);
    taken_ += attached->tiles.end - attached->tiles.begin;
    changed_.notify_all();
  }

  const std::string path_;
  std::shared_ptr<std::vector<float>> values_;
  std::uint64_t step_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<SealedCopy> sealed_;
  std::uint32_t taken_ = 0;
  std::unique_ptr<MemoryLender> lender_;
  std::unique_ptr<SnapshotCopier> copier_;
};

void count_bytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * kBytes));
}

void copy(benchmark::State& state) {
  const std::vector<std::byte> from(kBytes, std::byte{1});
  const auto to = SharedMemory::create(kBytes);
  std::memset(to->bytes().data(), 0, kBytes);
  for (auto _ : state) std::memcpy(to->bytes().data(), from.data(), kBytes);
  count_bytes(state);
}

void to_keeper(benchmark::State& state) {
  Link link;
  for (int i = 0; i < 3; ++i) link.copy();  // all the memory that it alternates between was touched
  for (auto _ : state) link.copy();
  count_bytes(state);
}

void from_keeper(benchmark::State& state) {
  Link link;
  link.copy();
  for (auto _ : state) link.attach();
  count_bytes(state);
}

BENCHMARK(copy)->UseRealTime();
BENCHMARK(to_keeper)->UseRealTime();
BENCHMARK(from_keeper)->UseRealTime();

}  // namespace
}  // namespace planaria

BENCHMARK_MAIN();

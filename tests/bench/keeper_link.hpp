// A worker's copier and a keeper's lender in one process, and state that goes between them: what benchmarks time.
//
// Thread contract: one thread. What the link can't do ends the process: nothing is measured then.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device.hpp"
#include "worker/keeper/memory_lender.hpp"
#include "worker/keeper/snapshot_copier.hpp"

namespace planaria {

// State as a trainer has it: three vectors, tile by tile.
struct BenchState {
  static constexpr std::uint64_t kVectorBytes = 65536 * sizeof(float);  // of a tile
  static constexpr std::uint64_t kTileBytes = kTensorsOfState * kVectorBytes;

  // Rounded down to whole tiles.
  explicit BenchState(std::uint64_t all) : tiles(static_cast<std::uint32_t>(all / kTileBytes)) {}

  [[nodiscard]] std::uint64_t bytes() const { return tiles * kTileBytes; }
  [[nodiscard]] std::vector<std::uint64_t> tile_bytes() const { return std::vector<std::uint64_t>(tiles, kTileBytes); }
  // In the order of snapshots. `values`: the three vectors, one behind the other.
  [[nodiscard]] std::vector<ConstSlice> slices(const std::byte* values,
                                               const std::shared_ptr<const void>& owner) const {
    std::vector<ConstSlice> slices;
    for (std::uint32_t tile = 0; tile < tiles; ++tile) {
      for (std::uint64_t vector = 0; vector < kTensorsOfState; ++vector) {
        slices.push_back({{values + (vector * tiles + tile) * kVectorBytes, kVectorBytes}, owner});
      }
    }
    return slices;
  }

  std::uint32_t tiles = 0;
};

class KeeperLink {
 public:
  // `values`: in memory of the device; null: of the host.
  KeeperLink(const BenchState& state, const std::byte* values, std::shared_ptr<const void> owner,
             std::shared_ptr<Device> device)
      : state_(state), values_(values), owner_(std::move(owner)), device_(std::move(device)) {
    auto lender = MemoryLender::start(path_, SnapshotMemory::within(4 * state_.bytes()),
                                      {.self = [] { return kKeeper; },
                                       .sealed = [this](SealedCopy copy) { seal(std::move(copy)); },
                                       .find = [this](Step, TileRange) { return find(); }});
    if (!lender) std::abort();
    lender_ = std::move(*lender);
    copier_ = std::make_unique<SnapshotCopier>(path_, [this](const WorkerEvent& event) { hear(event); });
    copier_->named(WorkerId(1), Incarnation(1));
  }
  ~KeeperLink() {
    copier_.reset();
    lender_.reset();
  }
  KeeperLink(const KeeperLink&) = delete;
  KeeperLink& operator=(const KeeperLink&) = delete;

  // A snapshot, until the keeper has it.
  void copy() {
    StateCopy copy{kKeeper, ViewNumber(1), Step(++step_), {{0, state_.tiles}}, {}, {}, device_};
    copy.tile_bytes = state_.tile_bytes();
    copy.values = state_.slices(values_, owner_);
    copier_->copy(std::move(copy));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return sealed_ && sealed_->stamp == Step(step_); });
  }

  // Precondition: copy() was called.
  void attach() {
    StateAttach wanted{{kKeeper, ViewNumber(1), Step(step_), {0, state_.tiles}, false}, {}};
    wanted.vector_bytes.assign(state_.tiles, BenchState::kVectorBytes);
    taken_ = 0;
    copier_->attach(std::move(wanted));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return taken_ == state_.tiles; });
  }

  [[nodiscard]] CopyCounters counters() const { return copier_->counters(); }

 private:
  static constexpr WorkerId kKeeper{9};

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
    if (attached == nullptr) std::abort();
    const std::scoped_lock lock(mutex_);
    taken_ += attached->tiles.end - attached->tiles.begin;
    changed_.notify_all();
  }

  const BenchState state_;
  const std::byte* const values_;
  const std::shared_ptr<const void> owner_;
  const std::shared_ptr<Device> device_;
  const std::string path_ =
      (std::filesystem::temp_directory_path() / ("keeper-bench-" + std::to_string(::getpid()))).string();
  std::uint64_t step_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<SealedCopy> sealed_;
  std::uint32_t taken_ = 0;
  std::unique_ptr<MemoryLender> lender_;
  std::unique_ptr<SnapshotCopier> copier_;
};

}  // namespace planaria

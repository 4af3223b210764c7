#include "worker/keeper/snapshot_saver.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/clock.hpp"
#include "common/log.hpp"
#include "common/unix_time.hpp"
#include "storage/durable_catalog.hpp"
#include "storage/durable_store.hpp"

namespace planaria {

class SnapshotSaver::Impl {
 public:
  Impl(const StateMap& map, SaverOptions options, std::function<void(WorkerEvent)> tell)
      : map_(map), options_(std::move(options)), tell_(std::move(tell)) {
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void save(SnapshotToSave snapshot) {
    std::optional<SnapshotToSave> left_out;
    {
      const std::scoped_lock lock(mutex_);
      left_out = std::exchange(waiting_, std::move(snapshot));
    }
    wake_.notify_one();
    if (left_out) tell(left_out->snapshot, Error(ErrorCode::unavailable, "the disk is slower than the schedule"), 0);
  }

 private:
  void run() {
    while (true) {
      SnapshotToSave snapshot;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || waiting_; });
        if (stopping_) return;
        snapshot = std::move(*std::exchange(waiting_, std::nullopt));
      }
      std::uint64_t bytes = 0;
      const Status written = write(snapshot, bytes);
      if (is_stopping()) return;
      tell(snapshot.snapshot, written, bytes);
      if (!written) continue;
      if (const Status pruned = retain(); !pruned) {
        log_.warning("older durable snapshots stay", {{"why", pruned.error().message()}});
      }
    }
  }

  Status write(const SnapshotToSave& snapshot, std::uint64_t& bytes) {
    if (!store_) {
      DurableOptions options{.root = options_.root, .keeper = options_.keeper, .bytes_per_s = options_.bytes_per_s};
      PLANARIA_ASSIGN(store_, DurableStore::open(*options_.files, clock_, map_, {options_.job, snapshot.numeric_class},
                                                 std::move(options)));
    }
    PLANARIA_TRY(store_->begin(snapshot.snapshot, unix_ms_now()));
    for (const StoredTiles& run : snapshot.tiles) {
      std::span<const std::byte> from = std::as_bytes(run.memory->bytes()).subspan(run.offset);
      for (std::uint32_t tile = run.tiles.begin; tile < run.tiles.end; ++tile) {
        const std::uint64_t size = kTensorsOfState * map_.bytes({tile, tile + 1});
        PLANARIA_ASSIGN(const Duration pause,
                        store_->append(TileIndex(tile), from.first(size), run.hashes[tile - run.tiles.begin]));
        from = from.subspan(size);
        bytes += size;
        if (!wait(pause)) return Error(ErrorCode::cancelled, "the keeper ends");
      }
    }
    return store_->finish();
  }

  Status retain() {
    PLANARIA_ASSIGN(const DurableCatalog catalog, read_catalog(*options_.files, options_.root, map_, options_.job));
    return store_->retain(newest_promised(catalog, map_, options_.keep));
  }

  // False: it ends.
  bool wait(Duration pause) {
    std::unique_lock lock(mutex_);
    return !wake_.wait_for(lock, pause, [this] { return stopping_; });
  }
  bool is_stopping() {
    const std::scoped_lock lock(mutex_);
    return stopping_;
  }

  void tell(const SnapshotName& snapshot, const Status& done, std::uint64_t bytes) {
    tell_(worker_event::SnapshotWritten{snapshot, done.ok(), bytes, done ? "" : done.error().message()});
  }

  const StateMap& map_;
  const SaverOptions options_;
  const std::function<void(WorkerEvent)> tell_;
  const Log log_{"keeper"};
  const SteadyClock clock_;
  std::unique_ptr<DurableStore> store_;  // the writing thread's

  std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<SnapshotToSave> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

SnapshotSaver::SnapshotSaver(const StateMap& map, SaverOptions options, std::function<void(WorkerEvent)> tell)
    : impl_(std::make_unique<Impl>(map, std::move(options), std::move(tell))) {}
SnapshotSaver::~SnapshotSaver() = default;

void SnapshotSaver::save(SnapshotToSave snapshot) {
  impl_->save(std::move(snapshot));
}

}  // namespace planaria

#include "worker/keeper/snapshot_copier.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/codec.hpp"
#include "common/hash.hpp"
#include "common/local_socket.hpp"
#include "common/log.hpp"
#include "common/shared_memory.hpp"
#include "worker/keeper/copy_link.hpp"

namespace planaria {

class SnapshotCopier::Impl {
 public:
  Impl(std::string path, std::function<void(const StateCopy&)> failed)
      : path_(std::move(path)), failed_(std::move(failed)) {
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
      if (socket_) socket_->close();
    }
    wake_.notify_one();
    thread_.join();
  }

  void named(WorkerId worker, Incarnation incarnation) {
    const std::scoped_lock lock(mutex_);
    queue_.clear();
    hello_ = CopyHello{worker, incarnation};
    renamed_ = true;
    if (socket_) socket_->close();  // a keeper that stands still must not hold up what comes now
  }

  void copy(StateCopy copy) {
    {
      const std::scoped_lock lock(mutex_);
      std::erase_if(queue_, [&](const StateCopy& older) { return older.view < copy.view; });
      if (copying_ && *copying_ < copy.view && socket_) socket_->close();
      queue_.push_back(std::move(copy));
    }
    wake_.notify_one();
  }

  CopyCounters counters() const {
    const std::scoped_lock lock(mutex_);
    return counters_;
  }

 private:
  void run() {
    while (true) {
      StateCopy copy;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (stopping_) return;
        copy = std::move(queue_.front());
        queue_.pop_front();
        if (std::exchange(renamed_, false)) forget_connection();
        copying_ = copy.view;
      }
      const Instant began = clock_.now();
      const Status done = carry_out(copy);
      if (!done) failed_(copy);
      const std::scoped_lock lock(mutex_);
      copying_.reset();
      count(copy, done, clock_.now() - began);
      if (!done) forget_connection();
    }
  }

  // Precondition: the mutex is held.
  void count(const StateCopy& copy, const Status& done, Duration took) {
    if (done) {
      ++counters_.copies;
      for (const std::uint64_t bytes : copy.tile_bytes) counters_.bytes += bytes;
      counters_.copying += took;
    } else {
      ++counters_.failed;
      if (!stopping_ && !failing_) {
        log_.warning("state isn't copied to the keeper", {{"why", done.error().message()}, {"keeper", path_}});
      }
    }
    failing_ = !done;
  }

  // Precondition: the mutex is held.
  void forget_connection() {
    socket_.reset();
    mapped_.clear();
  }

  Status connect() {
    auto made = LocalSocket::connect(path_);
    if (!made) return made.error();
    CopyHello hello;
    {
      const std::scoped_lock lock(mutex_);
      if (stopping_) return Error(ErrorCode::cancelled, "the worker ends");
      socket_ = std::move(*made);
      hello = hello_;
    }
    return send(hello);
  }

  Status send(CopyMessage message) {
    const ByteVector bytes = encode(CopyEnvelope{std::move(message)});
    return socket_->send(std::as_bytes(std::span(bytes)));
  }

  Result<std::uint32_t> borrow(std::uint64_t bytes) {
    PLANARIA_TRY(send(WantMemory{bytes}));
    PLANARIA_ASSIGN(LocalMessage answer, socket_->receive());
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(answer.bytes.data());
    PLANARIA_ASSIGN(const LentMemory lent, decode<LentMemory>(ByteVector(begin, begin + answer.bytes.size())));
    if (!lent.ok) return Error(ErrorCode::exhausted, lent.why);
    if (answer.handed) {
      PLANARIA_ASSIGN(SharedMemory memory, SharedMemory::adopt(std::move(*answer.handed)));
      mapped_.insert_or_assign(lent.memory, std::move(memory));
    }
    const auto known = mapped_.find(lent.memory);
    if (known == mapped_.end() || known->second.bytes().size() < bytes) {
      return Error(ErrorCode::corrupt, "the keeper lends memory that it didn't hand over, or too little");
    }
    return lent.memory;
  }

  Status carry_out(const StateCopy& copy) {
    if (!socket_) PLANARIA_TRY(connect());
    std::uint64_t all = 0;
    for (const std::uint64_t bytes : copy.tile_bytes) all += bytes;
    PLANARIA_ASSIGN(const std::uint32_t memory, borrow(all));
    const std::vector<Hash128> hashes = copy_and_hash(copy, mapped_.at(memory).bytes());
    return seal(copy, memory, hashes);
  }

  // Each tile is hashed while it is in the cache, as it was written.
  static std::vector<Hash128> copy_and_hash(const StateCopy& copy, std::span<std::byte> to) {
    std::vector<Hash128> hashes;
    auto slice = copy.values.begin();
    std::size_t taken = 0;  // of the slice
    for (const std::uint64_t bytes : copy.tile_bytes) {
      const std::span<std::byte> tile = to.first(bytes);
      for (std::uint64_t done = 0; done < bytes;) {
        const std::size_t part = std::min<std::uint64_t>(bytes - done, slice->bytes.size() - taken);
        std::memcpy(tile.data() + done, slice->bytes.data() + taken, part);
        done += part;
        taken += part;
        if (taken == slice->bytes.size()) {
          ++slice;
          taken = 0;
        }
      }
      hashes.push_back(hash_bytes(tile));
      to = to.subspan(bytes);
    }
    return hashes;
  }

  Status seal(const StateCopy& copy, std::uint32_t memory, std::span<const Hash128> hashes) {
    SealedTiles message{memory, 0, copy.view, copy.stamp, {}, {}};
    std::uint64_t offset = 0;
    std::size_t index = 0;
    const auto tell = [&] {
      const std::uint64_t next = offset;
      const Status told = send(std::exchange(message, SealedTiles{memory, next, copy.view, copy.stamp, {}, {}}));
      return told;
    };
    for (const TileRange run : copy.tiles) {
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        if (!message.tiles.empty() && message.tiles.back().end == tile) {
          ++message.tiles.back().end;
        } else {
          message.tiles.push_back({tile, tile + 1});
        }
        message.hashes.push_back(hashes[index]);
        offset += copy.tile_bytes[index++];
        if (message.hashes.size() == SealedTiles::kMostTiles) PLANARIA_TRY(tell());
      }
    }
    return message.hashes.empty() ? ok_status() : tell();
  }

  const std::string path_;
  const std::function<void(const StateCopy&)> failed_;
  const Log log_{"worker"};
  const SteadyClock clock_;

  // The copying thread's.
  std::map<std::uint32_t, SharedMemory> mapped_;
  bool failing_ = false;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<StateCopy> queue_;
  std::optional<ViewNumber> copying_;  // the view of the copy under way
  CopyHello hello_;
  bool renamed_ = false;
  std::optional<LocalSocket> socket_;  // replaced under the mutex, so that it can be closed from outside
  CopyCounters counters_;
  bool stopping_ = false;
  std::thread thread_;
};

SnapshotCopier::SnapshotCopier(std::string path, std::function<void(const StateCopy&)> failed)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(failed))) {}
SnapshotCopier::~SnapshotCopier() = default;

void SnapshotCopier::named(WorkerId worker, Incarnation incarnation) {
  impl_->named(worker, incarnation);
}
void SnapshotCopier::copy(StateCopy copy) {
  impl_->copy(std::move(copy));
}
CopyCounters SnapshotCopier::counters() const {
  return impl_->counters();
}

}  // namespace planaria

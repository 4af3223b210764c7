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
#include "common/streaming_copy.hpp"
#include "common/transport/inbox.hpp"
#include "worker/keeper/copy_link.hpp"
#include "worker/keeper/memory_locker.hpp"
#include "worker/keeper/tile_hashes.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

class SnapshotCopier::Impl {
 public:
  Impl(std::string path, std::function<void(WorkerEvent)> tell) : path_(std::move(path)), tell_(std::move(tell)) {
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
    wanted_.clear();
    hello_ = CopyHello{worker, incarnation};
    renamed_ = true;
    if (socket_) socket_->close();  // a keeper that stands still must not hold up what comes now
  }

  void copy(StateCopy copy) {
    {
      const std::scoped_lock lock(mutex_);
      view_is(copy.view);
      queue_.push_back(std::move(copy));
    }
    wake_.notify_one();
  }

  void attach(StateAttach wanted) {
    {
      const std::scoped_lock lock(mutex_);
      view_is(wanted.action.view);
      wanted_.push_back(std::move(wanted));
    }
    wake_.notify_one();
  }

  CopyCounters counters() const {
    const std::scoped_lock lock(mutex_);
    CopyCounters counters = counters_;
    counters.locked_bytes = locker_.locked_bytes();
    return counters;
  }

 private:
  // What is of an earlier view is wanted no more. Precondition: the mutex is held.
  void view_is(ViewNumber view) {
    std::erase_if(queue_, [&](const StateCopy& older) { return older.view < view; });
    std::erase_if(wanted_, [&](const StateAttach& older) { return older.action.view < view; });
    if (busy_for_ && *busy_for_ < view && socket_) socket_->close();
  }

  void run() {
    while (true) {
      std::optional<StateCopy> copy;
      std::optional<StateAttach> wanted;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !queue_.empty() || !wanted_.empty(); });
        if (stopping_) return;
        if (!wanted_.empty()) {
          wanted = std::move(wanted_.front());
          wanted_.pop_front();
        } else {
          copy = std::move(queue_.front());
          queue_.pop_front();
        }
        if (std::exchange(renamed_, false)) forget_connection();
        busy_for_ = wanted ? wanted->action.view : copy->view;
      }
      const Status done = wanted ? take_up(*wanted) : carry_out(*copy);
      if (!done && copy) tell_(worker_event::SnapshotCopyFailed{copy->view, copy->stamp, copy->tiles});
      const std::scoped_lock lock(mutex_);
      busy_for_.reset();
      ended(done);
      if (!done) forget_connection();
    }
  }

  // Precondition: the mutex is held.
  void ended(const Status& done) {
    if (!done) {
      ++counters_.failed;
      if (!stopping_ && !failing_) {
        log_.warning("state goes between this worker and the keeper over the network",
                     {{"why", done.error().message()}, {"keeper", path_}});
      }
    }
    failing_ = !done;
  }

  // Precondition: the mutex is held.
  void forget_connection() {
    socket_.reset();
    while (!mapped_.empty()) unmap(mapped_.begin()->first);
  }

  void unmap(std::uint32_t memory) {
    if (auto gone = mapped_.extract(memory)) locker_.let_go(std::move(gone.mapped()));
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

  Result<std::uint32_t> borrow(std::uint64_t bytes, WorkerId keeper) {
    PLANARIA_TRY(send(WantMemory{bytes, keeper}));
    PLANARIA_ASSIGN(LocalMessage answer, socket_->receive());
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(answer.bytes.data());
    PLANARIA_ASSIGN(const LentMemory lent, decode<LentMemory>(ByteVector(begin, begin + answer.bytes.size())));
    for (const std::uint32_t memory : lent.gone) unmap(memory);
    if (!lent.ok) return Error(ErrorCode::exhausted, lent.why);
    if (answer.handed) {
      PLANARIA_ASSIGN(SharedMemory memory, SharedMemory::adopt(std::move(*answer.handed)));
      unmap(lent.memory);
      mapped_.emplace(lent.memory, std::make_shared<MappedMemory>(std::move(memory)));
    }
    const auto known = mapped_.find(lent.memory);
    if (known == mapped_.end() || known->second->shared.bytes().size() < bytes) {
      return Error(ErrorCode::corrupt, "the keeper lends memory that it didn't hand over, or too little");
    }
    return lent.memory;
  }

  Status carry_out(const StateCopy& copy) {
    if (!socket_) PLANARIA_TRY(connect());
    std::uint64_t all = 0;
    for (const std::uint64_t bytes : copy.tile_bytes) all += bytes;
    const Instant began = clock_.now();
    PLANARIA_ASSIGN(const std::uint32_t memory, borrow(all, copy.keeper));
    const std::shared_ptr<MappedMemory>& mapped = mapped_.at(memory);
    const std::span<std::byte> lent = mapped->shared.bytes();
    std::vector<Hash128> hashes;
    if (copy.device == nullptr || copy.device->host_accessible()) {
      hashes = copy_and_hash(copy, lent);
    } else {
      if (mapped->device == nullptr) {
        mapped->device = copy.device;
        locker_.lock(mapped);
      }
      PLANARIA_ASSIGN(hashes, read_and_hash(copy, lent));
    }
    PLANARIA_TRY(seal(copy, memory, hashes));
    const std::scoped_lock lock(mutex_);
    ++counters_.copies;
    counters_.bytes += all;
    counters_.copying += clock_.now() - began;
    return ok_status();
  }

  // ---- state that the worker lacks ----

  Status take_up(const StateAttach& wanted) {
    const worker_action::AttachState& a = wanted.action;
    std::uint32_t next = a.tiles.begin;
    const Status done = take_from_keeper(wanted, next);
    const bool all = next == a.tiles.end;  // then only the farewell failed
    if (!done && !all)
      tell_(worker_event::AttachFailed{a.keeper, a.view, a.stamp, {next, a.tiles.end}, a.parameters_only});
    return done;
  }

  // `next`: the first tile that wasn't delivered.
  Status take_from_keeper(const StateAttach& wanted, std::uint32_t& next) {
    const worker_action::AttachState& a = wanted.action;
    if (!socket_) PLANARIA_TRY(connect());
    PLANARIA_TRY(send(WantState{a.stamp, a.tiles}));
    std::map<std::uint32_t, SharedMemory> handed;
    std::vector<StatePart> parts;
    do {
      PLANARIA_ASSIGN(parts.emplace_back(), receive_part(handed));
    } while (!parts.back().last);
    for (const StatePart& part : parts) {
      if (part.tiles.begin != next || part.tiles.empty() || part.tiles.end > a.tiles.end ||
          part.hashes.size() != part.tiles.end - part.tiles.begin || !handed.contains(part.memory)) {
        return Error(ErrorCode::corrupt, "the keeper tells of other state than it was asked for");
      }
      PLANARIA_TRY(deliver(wanted, part, handed.at(part.memory).bytes(), next));
    }
    if (next != a.tiles.end) return Error(ErrorCode::corrupt, "the keeper tells of less state than it was asked for");
    return send(StateTaken{});
  }

  Result<StatePart> receive_part(std::map<std::uint32_t, SharedMemory>& handed) {
    PLANARIA_ASSIGN(LocalMessage answer, socket_->receive());
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(answer.bytes.data());
    PLANARIA_ASSIGN(StatePart part, decode<StatePart>(ByteVector(begin, begin + answer.bytes.size())));
    if (!part.ok) return Error(ErrorCode::not_found, part.why);
    if (answer.handed) {
      PLANARIA_ASSIGN(SharedMemory memory, SharedMemory::adopt(std::move(*answer.handed)));
      handed.insert_or_assign(part.memory, std::move(memory));
    }
    return part;
  }

  // In pieces, so that the trainer takes the first while the next are copied.
  Status deliver(const StateAttach& wanted, const StatePart& part, std::span<const std::byte> memory,
                 std::uint32_t& next) {
    constexpr std::uint32_t kTilesOfAPiece = 64;
    const worker_action::AttachState& a = wanted.action;
    std::uint64_t offset = part.offset;
    while (next < part.tiles.end) {
      const Instant began = clock_.now();
      const TileRange piece{next, std::min(part.tiles.end, next + kTilesOfAPiece)};
      const std::span<const std::uint64_t> bytes =
          std::span(wanted.vector_bytes).subspan(piece.begin - a.tiles.begin, piece.end - piece.begin);
      std::uint64_t of_vector = 0;
      for (const std::uint64_t tile : bytes) of_vector += tile;
      if (offset > memory.size() || kTensorsOfState * of_vector > memory.size() - offset) {
        return Error(ErrorCode::corrupt, "the keeper tells of state beyond its memory");
      }
      const std::uint64_t vectors = a.parameters_only ? 1 : kTensorsOfState;
      const MutableSlice values = allocate_payload(vectors * of_vector);
      std::byte* to = values.bytes.data();
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        const std::span<const std::byte> tile = memory.subspan(offset, kTensorsOfState * bytes[i]);
        if (hash_bytes(tile) != part.hashes[piece.begin - part.tiles.begin + i]) {
          return Error(ErrorCode::corrupt, "state in the keeper's memory doesn't match its hash");
        }
        for (std::uint64_t v = 0; v < vectors; ++v) {
          std::memcpy(to + v * of_vector, tile.data() + v * bytes[i], bytes[i]);
        }
        to += bytes[i];
        offset += tile.size();
      }
      auto payload = std::make_shared<FramePayload>();
      payload->values = {reinterpret_cast<const float*>(values.bytes.data()), values.bytes.size() / sizeof(float)};
      payload->frame = values;
      next = piece.end;
      {
        const std::scoped_lock lock(mutex_);
        counters_.attached_bytes += vectors * of_vector;
      }
      tell_(worker_event::StateAttached{a.keeper, a.view, a.stamp, piece, a.parameters_only, std::move(payload),
                                        clock_.now() - began});
    }
    return ok_status();
  }

  // ---- copies ----

  // Hashed where the trainer left it, block by block, and copied from the cache: what changes in between, or is written
  // wrong, doesn't match its hash.
  static std::vector<Hash128> copy_and_hash(const StateCopy& copy, std::span<std::byte> to) {
    constexpr std::uint64_t kBlock = 64U << 10;
    std::vector<Hash128> hashes;
    auto slice = copy.values.begin();
    std::uint64_t taken = 0;  // of the slice
    for (const std::uint64_t bytes : copy.tile_bytes) {
      const std::span<std::byte> tile = to.first(bytes);
      Hasher hasher;
      for (std::uint64_t done = 0; done < bytes;) {
        const std::uint64_t part = std::min({bytes - done, kBlock, slice->bytes.size() - taken});
        const std::span<const std::byte> block = slice->bytes.subspan(taken, part);
        hasher.update(block);
        copy_past_caches(tile.subspan(done, part), block);
        done += part;
        taken += part;
        if (taken == slice->bytes.size()) {
          ++slice;
          taken = 0;
        }
      }
      hashes.push_back(hasher.digest());
      to = to.subspan(bytes);
    }
    return hashes;
  }

  // Hashed where it was read to, as the device's memory is far, while what follows is read.
  Result<std::vector<Hash128>> read_and_hash(const StateCopy& copy, std::span<std::byte> to) const {
    std::vector<HostRead> reads;
    reads.reserve(copy.values.size());
    std::byte* target = to.data();
    for (const ConstSlice& slice : copy.values) {
      reads.push_back({target, slice.bytes.data(), slice.bytes.size()});
      target += slice.bytes.size();
    }
    TileHashes hashes(to, copy.tile_bytes, hashing_threads_);
    PLANARIA_TRY(copy.device->read(reads, [&](std::size_t bytes) { hashes.arrived(bytes); }));
    return hashes.take();
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
  const std::function<void(WorkerEvent)> tell_;
  const Log log_{"worker"};
  const SteadyClock clock_;
  const std::size_t hashing_threads_ = hashing_threads();

  // The copying thread's.
  std::map<std::uint32_t, std::shared_ptr<MappedMemory>> mapped_;
  MemoryLocker locker_;
  bool failing_ = false;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<StateCopy> queue_;
  std::deque<StateAttach> wanted_;
  std::optional<ViewNumber> busy_for_;  // what is under way
  CopyHello hello_;
  bool renamed_ = false;
  std::optional<LocalSocket> socket_;  // replaced under the mutex, so that it can be closed from outside
  CopyCounters counters_;
  bool stopping_ = false;
  std::thread thread_;
};

SnapshotCopier::SnapshotCopier(std::string path, std::function<void(WorkerEvent)> tell)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(tell))) {}
SnapshotCopier::~SnapshotCopier() = default;

void SnapshotCopier::named(WorkerId worker, Incarnation incarnation) {
  impl_->named(worker, incarnation);
}
void SnapshotCopier::copy(StateCopy copy) {
  impl_->copy(std::move(copy));
}
void SnapshotCopier::attach(StateAttach wanted) {
  impl_->attach(std::move(wanted));
}
CopyCounters SnapshotCopier::counters() const {
  return impl_->counters();
}

}  // namespace planaria

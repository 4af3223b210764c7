#include "worker/keeper/memory_lender.hpp"

#include <algorithm>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/codec.hpp"
#include "common/local_socket.hpp"
#include "common/log.hpp"
#include "common/overloaded.hpp"
#include "worker/keeper/copy_link.hpp"

namespace planaria {
namespace {

ByteVector to_bytes(std::span<const std::byte> bytes) {
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  return {begin, begin + bytes.size()};
}

// One worker's connection, and the memory that it was lent.
class Borrower {
 public:
  Borrower(LocalSocket socket, SnapshotMemory& memory, const LenderHooks& hooks)
      : socket_(std::move(socket)), memory_(memory), hooks_(hooks) {}

  void close() { socket_.close(); }

  // Until the connection ends, or the worker says what makes no sense. What nobody else holds is free then.
  void serve() {
    listen();
    socket_.close();
    lent_.clear();
    reading_.clear();
  }

 private:
  void listen() {
    while (true) {
      auto received = socket_.receive();
      if (!received) return;
      const auto decoded = decode<CopyEnvelope>(to_bytes(received->bytes));
      const Status done = !decoded
                              ? Status(decoded.error())
                              : std::visit([this](const auto& message) { return take(message); }, decoded->message);
      if (done) continue;
      if (done.error().code() != ErrorCode::unavailable) {
        Log("keeper").warning("a worker's connection is closed", {{"why", done.error().message()}});
      }
      return;
    }
  }

  Status take(const CopyHello& hello) {
    if (hello_) return Error(ErrorCode::corrupt, "it says who it is a second time");
    hello_ = hello;
    return ok_status();
  }

  // What was lent before and nobody holds any more comes first: its pages are in both processes already.
  Status take(const WantMemory& want) {
    if (!hello_ || want.bytes == 0)
      return Error(ErrorCode::corrupt, "it asks for memory and doesn't say who, or for none");
    // What is sealed here would be refused, and the one that is meant would wait for it.
    if (hooks_.self() != want.keeper)
      return answer(LentMemory{false, 0, "another keeper of the host is meant", {}}, nullptr);
    for (auto& [id, lent] : lent_) {
      if (lent.use_count() > 1 || lent->bytes().size() != want.bytes) continue;
      writing_ = id;
      return answer(LentMemory{true, id, {}, {}}, nullptr);
    }
    // Of another size: a view is over that had other tiles here.
    std::vector<std::uint32_t> gone;
    std::erase_if(lent_, [&](const auto& entry) {
      const bool free = entry.second.use_count() == 1;
      if (free) gone.push_back(entry.first);
      return free;
    });
    auto taken = memory_.take(want.bytes);
    if (!taken) return answer(LentMemory{false, 0, taken.error().message(), std::move(gone)}, nullptr);
    const std::uint32_t id = next_++;
    const auto& memory = lent_[id] = std::move(*taken);
    writing_ = id;
    return answer(LentMemory{true, id, {}, std::move(gone)}, &memory->descriptor());
  }

  Status take(const SealedTiles& sealed) {
    const auto lent = lent_.find(sealed.memory);
    if (!hello_ || lent == lent_.end() || writing_ != sealed.memory) {
      return Error(ErrorCode::corrupt, "it seals memory that it wasn't lent");
    }
    if (sealed.offset > lent->second->bytes().size()) return Error(ErrorCode::corrupt, "it seals beyond its memory");
    hooks_.sealed({hello_->worker, hello_->incarnation, sealed.view, sealed.stamp, sealed.tiles, sealed.hashes,
                   lent->second, sealed.offset});
    return ok_status();
  }

  Status take(const WantState& want) {
    reading_.clear();
    if (!hello_ || want.tiles.empty()) {
      return Error(ErrorCode::corrupt, "it asks for state and doesn't say who, or for none");
    }
    auto found = hooks_.find(want.stamp, want.tiles);
    if (!found) {
      return answer(StatePart{.ok = false, .tiles = {}, .hashes = {}, .why = found.error().message()}, nullptr);
    }
    reading_ = std::move(*found);
    std::vector<const SharedMemory*> handed;
    for (const StoredTiles& run : reading_) {
      const auto known = std::ranges::find(handed, run.memory.get());
      const Descriptor* descriptor = known == handed.end() ? &run.memory->descriptor() : nullptr;
      const StatePart part{.last = &run == &reading_.back(),
                           .memory = static_cast<std::uint32_t>(known - handed.begin()),
                           .offset = run.offset,
                           .tiles = run.tiles,
                           .hashes = run.hashes,
                           .why = {}};
      if (known == handed.end()) handed.push_back(run.memory.get());
      PLANARIA_TRY(answer(part, descriptor));
    }
    return ok_status();
  }

  Status take(const StateTaken&) {
    reading_.clear();
    return ok_status();
  }

  template <class Answer>
  Status answer(const Answer& message, const Descriptor* handed) {
    const ByteVector bytes = encode(message);
    return socket_.send(std::as_bytes(std::span(bytes)), handed);
  }

  LocalSocket socket_;
  SnapshotMemory& memory_;
  const LenderHooks& hooks_;
  std::optional<CopyHello> hello_;
  std::map<std::uint32_t, std::shared_ptr<SharedMemory>> lent_;
  std::uint32_t next_ = 1;
  std::optional<std::uint32_t> writing_;  // lent last
  std::vector<StoredTiles> reading_;      // by the worker
};

}  // namespace

class MemoryLender::Impl {
 public:
  Impl(LocalListener listener, std::shared_ptr<SnapshotMemory> memory, LenderHooks hooks)
      : listener_(std::move(listener)), memory_(std::move(memory)), hooks_(std::move(hooks)) {
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    listener_.close();
    thread_.join();
    {
      const std::scoped_lock lock(mutex_);
      for (Served& served : served_) served.borrower.close();
    }
    for (Served& served : served_) served.thread.join();
  }

 private:
  struct Served {
    explicit Served(Borrower of) : borrower(std::move(of)) {}
    Borrower borrower;
    std::thread thread;
    bool over = false;
  };

  void run() {
    while (true) {
      auto socket = listener_.accept();
      if (!socket) return;
      const std::scoped_lock lock(mutex_);
      served_.remove_if([](Served& served) {
        if (served.over) served.thread.join();
        return served.over;
      });
      Served& served = served_.emplace_back(Borrower(std::move(*socket), *memory_, hooks_));
      served.thread = std::thread([this, &served] {
        served.borrower.serve();
        const std::scoped_lock ended(mutex_);
        served.over = true;
      });
    }
  }

  LocalListener listener_;
  const std::shared_ptr<SnapshotMemory> memory_;
  const LenderHooks hooks_;
  std::mutex mutex_;
  std::list<Served> served_;
  std::thread thread_;
};

Result<std::unique_ptr<MemoryLender>> MemoryLender::start(const std::string& path,
                                                          std::shared_ptr<SnapshotMemory> memory, LenderHooks hooks) {
  PLANARIA_ASSIGN(LocalListener listener, LocalListener::listen(path));
  return std::unique_ptr<MemoryLender>(
      new MemoryLender(std::make_unique<Impl>(std::move(listener), std::move(memory), std::move(hooks))));
}

MemoryLender::MemoryLender(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MemoryLender::~MemoryLender() = default;

}  // namespace planaria

#include "worker/keeper/tile_hashes.hpp"

#include <algorithm>
#include <utility>

#include "common/cpu_quota.hpp"

namespace planaria {
namespace {

// PCIe 5.0 brings about 55 GB/s, of which a thread hashes about 10 out of memory.
constexpr double kMostThreads = 6;
constexpr double kPartOfProcessors = 0.25;
// Starting a thread takes as long as hashing a part of this.
constexpr std::size_t kBytesOfThread = std::size_t{16} << 20;

}  // namespace

std::size_t hashing_threads() {
  const double processors = std::min(cpu_quota(), static_cast<double>(std::thread::hardware_concurrency()));
  return static_cast<std::size_t>(std::clamp(kPartOfProcessors * processors, 1.0, kMostThreads));
}

TileHashes::TileHashes(std::span<const std::byte> memory, std::span<const std::uint64_t> tile_bytes,
                       std::size_t threads)
    : memory_(memory), hashes_(tile_bytes.size()) {
  std::size_t end = 0;
  ends_.reserve(tile_bytes.size());
  for (const std::uint64_t bytes : tile_bytes) ends_.push_back(end += bytes);
  threads = std::min(threads, end / kBytesOfThread + 1);
  for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

TileHashes::~TileHashes() {
  {
    const std::scoped_lock lock(mutex_);
    next_ = ends_.size();
  }
  join();
}

void TileHashes::arrived(std::size_t bytes) {
  {
    const std::scoped_lock lock(mutex_);
    there_ = bytes;
  }
  more_.notify_all();
}

std::vector<Hash128> TileHashes::take() {
  join();
  return std::move(hashes_);
}

void TileHashes::join() {
  more_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void TileHashes::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    more_.wait(lock, [this] { return next_ == ends_.size() || ends_[next_] <= there_; });
    if (next_ == ends_.size()) return;
    const std::size_t tile = next_++;
    lock.unlock();
    const std::size_t begin = tile == 0 ? 0 : ends_[tile - 1];
    hashes_[tile] = hash_bytes(memory_.subspan(begin, ends_[tile] - begin));
    lock.lock();
  }
}

}  // namespace planaria

#include "storage/snapshot_memory.hpp"

#include <fmt/format.h>

#include <utility>

namespace planaria {

Result<std::shared_ptr<SharedMemory>> SnapshotMemory::take(std::uint64_t bytes) {
  std::unique_ptr<SharedMemory> memory;
  {
    const std::scoped_lock lock(mutex_);
    if (bytes > bound_ || used_ > bound_ - bytes) {
      return Error(ErrorCode::exhausted,
                   fmt::format("snapshots need {} bytes more and hold {} of the {} that they may: give the keeper more "
                               "memory (--memory-mb), or snapshot.parity or snapshot.every_steps another value",
                               bytes, used_, bound_));
    }
    if (const auto same = idle_.find(bytes); same != idle_.end()) {
      memory = std::move(same->second);
      idle_.erase(same);
      idle_bytes_ -= bytes;
    }
    while (!memory && !idle_.empty() && used_ + idle_bytes_ > bound_ - bytes) {
      idle_bytes_ -= idle_.begin()->first;
      idle_.erase(idle_.begin());
    }
    used_ += bytes;
  }
  if (!memory) {
    auto made = SharedMemory::create(bytes);
    if (!made) {
      const std::scoped_lock lock(mutex_);
      used_ -= bytes;
      return made.error();
    }
    memory = std::make_unique<SharedMemory>(std::move(*made));
  }
  return std::shared_ptr<SharedMemory>(memory.release(), [pool = shared_from_this()](SharedMemory* given) {
    pool->give_back(std::unique_ptr<SharedMemory>(given));
  });
}

void SnapshotMemory::give_back(std::unique_ptr<SharedMemory> memory) {
  const std::uint64_t bytes = memory->bytes().size();
  const std::scoped_lock lock(mutex_);
  used_ -= bytes;
  idle_bytes_ += bytes;
  idle_.emplace(bytes, std::move(memory));
}

std::uint64_t SnapshotMemory::used_bytes() const {
  const std::scoped_lock lock(mutex_);
  return used_;
}

}  // namespace planaria

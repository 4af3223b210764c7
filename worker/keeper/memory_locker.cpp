#include "worker/keeper/memory_locker.hpp"

#include <utility>

namespace planaria {

MemoryLocker::MemoryLocker() {
  thread_ = std::thread([this] { run(); });
}

MemoryLocker::~MemoryLocker() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void MemoryLocker::lock(std::shared_ptr<MappedMemory> memory) {
  {
    const std::scoped_lock lock(mutex_);
    to_lock_.push_back(std::move(memory));
  }
  wake_.notify_one();
}

void MemoryLocker::let_go(std::shared_ptr<MappedMemory> memory) {
  {
    const std::scoped_lock lock(mutex_);
    std::erase(to_lock_, memory);
    to_let_go_.push_back(std::move(memory));
  }
  wake_.notify_one();
}

std::uint64_t MemoryLocker::locked_bytes() const {
  const std::scoped_lock lock(mutex_);
  return locked_bytes_;
}

// What is let go of comes first: the system has more to lock then.
void MemoryLocker::run() {
  while (true) {
    std::shared_ptr<MappedMemory> memory;
    bool wanted = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !to_let_go_.empty() || !to_lock_.empty(); });
      if (stopping_) return;
      wanted = to_let_go_.empty();
      std::deque<std::shared_ptr<MappedMemory>>& queue = wanted ? to_lock_ : to_let_go_;
      memory = std::move(queue.front());
      queue.pop_front();
      if (!wanted && memory->lock != nullptr) locked_bytes_ -= memory->shared.bytes().size();
    }
    if (wanted) carry_out_lock(*memory);
  }
}

void MemoryLocker::carry_out_lock(MappedMemory& memory) {
  auto locked = memory.device->lock_host(memory.shared.bytes());
  if (!locked) {
    if (!std::exchange(refused_, true)) {
      log_.warning("the keeper's memory isn't page-locked: state is copied into it more slowly",
                   {{"why", locked.error().message()}});
    }
    return;
  }
  memory.lock = std::move(*locked);
  if (memory.lock == nullptr) return;
  const std::scoped_lock lock(mutex_);
  locked_bytes_ += memory.shared.bytes().size();
}

}  // namespace planaria

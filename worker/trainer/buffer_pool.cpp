#include "worker/trainer/buffer_pool.hpp"

#include <utility>

namespace planaria {

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    release();
    pool_ = std::move(other.pool_);
    entry_ = std::exchange(other.entry_, nullptr);
  }
  return *this;
}

void Buffer::release() {
  if (pool_ == nullptr) return;
  {
    const std::scoped_lock lock(pool_->mutex_);
    entry_->taken = false;
  }
  pool_.reset();
  entry_ = nullptr;
}

float* Buffer::floats() const {
  return entry_->memory.floats();
}

bool Buffer::leased() const {
  return entry_->leases.load(std::memory_order_acquire) != 0;
}

std::shared_ptr<const void> Buffer::lease() const {
  entry_->leases.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t use = entry_->uses.load(std::memory_order_relaxed);
  return {floats(), [pool = pool_, entry = entry_, use](const void*) {
            if (entry->uses.load(std::memory_order_relaxed) != use) {
              pool->torn_.fetch_add(1, std::memory_order_relaxed);
            }
            entry->leases.fetch_sub(1, std::memory_order_release);
          }};
}

Result<std::shared_ptr<BufferPool>> BufferPool::create(std::shared_ptr<Device> device, std::size_t elements,
                                                       std::size_t count) {
  std::shared_ptr<BufferPool> pool(new BufferPool(std::move(device), elements));
  for (std::size_t i = 0; i < count; ++i) {
    PLANARIA_TRY(pool->allocate());
  }
  return pool;
}

Result<Buffer::Entry*> BufferPool::allocate() {
  PLANARIA_ASSIGN(DeviceBuffer memory, device_->reserve(elements_ * sizeof(float)));
  const std::scoped_lock lock(mutex_);
  Buffer::Entry& entry = entries_.emplace_back();
  entry.memory = std::move(memory);
  return &entry;
}

Result<Buffer> BufferPool::take() {
  Buffer free = take_free();
  if (free) return free;
  PLANARIA_ASSIGN(Buffer::Entry * fresh, allocate());
  const std::scoped_lock lock(mutex_);
  return use(*fresh);
}

Buffer BufferPool::take_free() {
  const std::scoped_lock lock(mutex_);
  for (Buffer::Entry& entry : entries_) {
    if (!entry.taken && entry.leases.load(std::memory_order_acquire) == 0) return use(entry);
  }
  return {};
}

Buffer BufferPool::use(Buffer::Entry& entry) {
  entry.taken = true;
  entry.uses.fetch_add(1, std::memory_order_relaxed);
  return {shared_from_this(), &entry};
}

std::size_t BufferPool::allocated() const {
  const std::scoped_lock lock(mutex_);
  return entries_.size();
}

}  // namespace planaria

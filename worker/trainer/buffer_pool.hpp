// Flat vectors of the state's geometry, allocated once and used again: accumulators, the reduced gradient, state.
//
// A buffer may be leased: the network or the checkpoint writer reads it while a lease lives. A buffer that was given
// back with a lease on it is quarantined: take() passes it over until the last lease is gone, and allocates another
// one when none is free. So bytes under an unfinished transfer never change. Leases keep the pool and its device
// alive.
//
// Thread contract: take() belongs to the device's thread. Leases are made and dropped by any thread; so are buffers
// given back.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>

#include "common/result.hpp"
#include "kernels/device.hpp"

namespace planaria {

class BufferPool;

// A buffer in use; given back when destroyed. Empty when default-made or moved from.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer() { release(); }

  [[nodiscard]] explicit operator bool() const { return pool_ != nullptr; }
  // Preconditions from here on: not empty.
  [[nodiscard]] float* floats() const;
  [[nodiscard]] bool leased() const;
  // Keeps the contents as they are while it lives.
  [[nodiscard]] std::shared_ptr<const void> lease() const;

 private:
  friend class BufferPool;
  struct Entry {
    DeviceBuffer memory;
    std::atomic<std::uint32_t> leases{0};
    std::atomic<std::uint64_t> uses{0};  // raised by each take(): a lease sees that its buffer was not used again
    bool taken = false;                  // guarded by the pool's mutex
  };
  Buffer(std::shared_ptr<BufferPool> pool, Entry* entry) : pool_(std::move(pool)), entry_(entry) {}
  void release();

  std::shared_ptr<BufferPool> pool_;
  Entry* entry_ = nullptr;
};

class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  // `count` buffers of `elements` floats are made now. They take up memory where something is written to them: a worker
  // of few blocks needs little of a geometry that is the whole model's.
  [[nodiscard]] static Result<std::shared_ptr<BufferPool>> create(std::shared_ptr<Device> device, std::size_t elements,
                                                                  std::size_t count);

  // Contents are undefined. exhausted when the device has no memory left.
  [[nodiscard]] Result<Buffer> take();
  // Empty when all are in use.
  [[nodiscard]] Buffer take_free();

  [[nodiscard]] std::size_t elements() const { return elements_; }
  [[nodiscard]] std::size_t allocated() const;
  [[nodiscard]] std::size_t bytes() const { return allocated() * elements_ * sizeof(float); }
  // Leases whose buffer was used again while they lived; 0 unless there is a bug.
  [[nodiscard]] std::uint64_t torn_leases() const { return torn_.load(std::memory_order_relaxed); }

 private:
  friend class Buffer;
  BufferPool(std::shared_ptr<Device> device, std::size_t elements) : device_(std::move(device)), elements_(elements) {}
  [[nodiscard]] Result<Buffer::Entry*> allocate();
  // Under the mutex.
  [[nodiscard]] Buffer use(Buffer::Entry& entry);

  const std::shared_ptr<Device> device_;  // outlives the entries
  const std::size_t elements_;
  std::atomic<std::uint64_t> torn_{0};

  mutable std::mutex mutex_;
  std::deque<Buffer::Entry> entries_;
};

}  // namespace planaria

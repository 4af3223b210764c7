// Page-locks memory that a keeper has lent for the device that is copied from, and lets go of it, both beside the
// copies: either takes a third of a second a GiB. Until memory is locked, and where the system doesn't lock it, copies
// into it go through other memory.
//
// Thread contract: any thread; calls return at once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "common/log.hpp"
#include "common/shared_memory.hpp"
#include "kernels/device.hpp"

namespace planaria {

struct MappedMemory {
  SharedMemory shared;
  std::shared_ptr<Device> device;  // that it is locked for
  std::shared_ptr<void> lock;      // the locker's; goes before the device and the memory
};

class MemoryLocker {
 public:
  MemoryLocker();
  // Ends what is under way, and begins nothing more.
  ~MemoryLocker();
  MemoryLocker(const MemoryLocker&) = delete;
  MemoryLocker& operator=(const MemoryLocker&) = delete;

  // Once for each memory. Precondition: it has a device. What is refused is told to the log once.
  void lock(std::shared_ptr<MappedMemory> memory);
  // Precondition: whoever else owned the memory has let go of it.
  void let_go(std::shared_ptr<MappedMemory> memory);

  [[nodiscard]] std::uint64_t locked_bytes() const;

 private:
  void run();
  void carry_out_lock(MappedMemory& memory);

  const Log log_{"worker"};
  bool refused_ = false;  // the thread's

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<MappedMemory>> to_lock_;
  std::deque<std::shared_ptr<MappedMemory>> to_let_go_;
  std::uint64_t locked_bytes_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace planaria

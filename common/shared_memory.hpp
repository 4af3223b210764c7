// Memory that processes of one machine share and that lives as long as one of them holds it: Linux' memfd_create(2).
// It has no name, so that nobody gets at it but who is handed it (common/local_socket.hpp), and its size is sealed:
// no holder can take pages from under another.
//
// Thread contract: the handle belongs to one thread; the memory is the callers' to share.
#pragma once

#include <cstddef>
#include <span>

#include "common/descriptor.hpp"
#include "common/result.hpp"

namespace planaria {

class SharedMemory {
 public:
  // Zeros; all of it is reserved. exhausted: the system has not so much to spare. Precondition: bytes > 0.
  [[nodiscard]] static Result<SharedMemory> create(std::size_t bytes);
  // What another process made and handed over. corrupt: it isn't such memory, or empty.
  [[nodiscard]] static Result<SharedMemory> adopt(Descriptor handed);

  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  // To hand it over.
  [[nodiscard]] const Descriptor& descriptor() const { return descriptor_; }

 private:
  SharedMemory() = default;
  [[nodiscard]] static Result<SharedMemory> map(Descriptor descriptor, std::size_t bytes);

  Descriptor descriptor_;
  std::span<std::byte> bytes_;
};

}  // namespace planaria

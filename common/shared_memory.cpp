#include "common/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/host.hpp"

namespace planaria {
namespace {

constexpr int kFixedSize = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

Error no_memory(std::size_t bytes, int reason) {
  return {ErrorCode::exhausted,
          fmt::format("the system gives no {} bytes of shared memory: {}", bytes, std::strerror(reason))};
}

}  // namespace

Result<SharedMemory> SharedMemory::create(std::size_t bytes) {
  // The system would rather kill processes than refuse.
  if (const std::uint64_t available = available_memory_bytes(); available != 0 && bytes > available) {
    return Error(ErrorCode::exhausted,
                 fmt::format("{} bytes of shared memory are more than the {} that are available", bytes, available));
  }
  Descriptor descriptor(::memfd_create("planaria", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!descriptor.open()) return no_memory(bytes, errno);
  // A page that isn't reserved kills who touches it first, when there is none left.
  if (const int failed = ::posix_fallocate(descriptor.get(), 0, static_cast<off_t>(bytes)); failed != 0) {
    return no_memory(bytes, failed);
  }
  if (::fcntl(descriptor.get(), F_ADD_SEALS, kFixedSize) != 0) return no_memory(bytes, errno);
  return map(std::move(descriptor), bytes);
}

Result<SharedMemory> SharedMemory::adopt(Descriptor handed) {
  const int seals = ::fcntl(handed.get(), F_GET_SEALS);
  struct stat info {};
  if (seals < 0 || (seals & kFixedSize) != kFixedSize || ::fstat(handed.get(), &info) != 0 || info.st_size <= 0) {
    return Error(ErrorCode::corrupt, "what was handed over isn't shared memory of a fixed size");
  }
  return map(std::move(handed), static_cast<std::size_t>(info.st_size));
}

Result<SharedMemory> SharedMemory::map(Descriptor descriptor, std::size_t bytes) {
  void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.get(), 0);
  if (at == MAP_FAILED) return no_memory(bytes, errno);
  SharedMemory memory;
  memory.descriptor_ = std::move(descriptor);
  memory.bytes_ = {static_cast<std::byte*>(at), bytes};
  return memory;
}

SharedMemory::~SharedMemory() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : descriptor_(std::move(other.descriptor_)), bytes_(std::exchange(other.bytes_, {})) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace planaria

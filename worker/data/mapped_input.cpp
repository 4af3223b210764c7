#include "worker/data/mapped_input.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/descriptor.hpp"
#include "common/file.hpp"

namespace planaria {

Result<MappedInput> MappedInput::open(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return file_error(errno, "open", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return file_error(errno, "inspect", path);
  if (!S_ISREG(info.st_mode)) return Error(ErrorCode::invalid_argument, "'" + path + "' is not a regular file");
  MappedInput result;
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size >= kMapFromBytes) {
    void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (mapping == MAP_FAILED) return file_error(errno, "map", path);
    result.mapping_ = mapping;
    result.size_ = size;
    return result;
  }
  result.copy_.resize(size);
  for (std::size_t at = 0; at < size;) {
    const ssize_t got = ::read(file.get(), result.copy_.data() + at, size - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return file_error(errno, "read", path);
    if (got == 0) return Error(ErrorCode::io, "'" + path + "' became shorter while it was read");
    at += static_cast<std::size_t>(got);
  }
  return result;
}

MappedInput::~MappedInput() {
  if (mapping_ != nullptr) ::munmap(mapping_, size_);
}

MappedInput::MappedInput(MappedInput&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      copy_(std::move(other.copy_)) {}

MappedInput& MappedInput::operator=(MappedInput&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(size_, other.size_);
  std::swap(copy_, other.copy_);
  return *this;
}

}  // namespace planaria

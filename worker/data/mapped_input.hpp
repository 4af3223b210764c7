// A file's bytes, memory-mapped for reading, or read whole when small.
//
// The file must not shrink while it is mapped: reading past a new end would raise SIGBUS.
//
// Thread contract: immutable after open; bytes() may be read from any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "common/result.hpp"

namespace planaria {

class MappedInput {
 public:
  // Below this size a file is copied instead: a process may hold only some 65,000 mappings.
  static constexpr std::size_t kMapFromBytes = 1U << 20;

  [[nodiscard]] static Result<MappedInput> open(const std::string& path);
  ~MappedInput();
  MappedInput(MappedInput&& other) noexcept;
  MappedInput& operator=(MappedInput&& other) noexcept;

  [[nodiscard]] std::span<const std::byte> bytes() const {
    return mapping_ != nullptr ? std::span(static_cast<const std::byte*>(mapping_), size_) : std::span(copy_);
  }

 private:
  MappedInput() = default;

  void* mapping_ = nullptr;
  std::size_t size_ = 0;
  std::vector<std::byte> copy_;
};

}  // namespace planaria

// The seam to the file system: everything durable goes through it, so that tests can fill the disk, break it, or cut
// the power between any two operations (common/file_faults.hpp, common/file_memory.hpp).
//
// What "durable" means here: bytes of a file after its sync(); an entry of a directory (created, renamed, removed)
// after sync_directory() of that directory. Errors name the operation, the path and what to do; a full disk is
// `exhausted`, a missing file `not_found`, a path that can't be used as it is (access, kind) `invalid_argument`, anything
// else the system refuses `io`.
//
// Thread contract: a FileSystem may be used from any thread; a file handle belongs to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.hpp"

namespace planaria {

// A file that grows at its end. The destructor closes it without telling of errors.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Writes all bytes, or fails; after a failure some of them may have been written.
  [[nodiscard]] virtual Status append(std::span<const std::byte> bytes) = 0;
  // Makes all appended bytes durable. After a failure nothing is known of them: don't retry, write the file again.
  [[nodiscard]] virtual Status sync() = 0;
  [[nodiscard]] virtual Status close() = 0;

  [[nodiscard]] Status append(std::string_view text) {
    return append(std::as_bytes(std::span(text.data(), text.size())));
  }
};

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  // Bytes read: fewer than asked for only at the end of the file.
  [[nodiscard]] virtual Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) const = 0;
};

// A whole file as read-only memory; copies share it. The bytes stay those of the file as it is: another process that
// shortens the file in place makes reading beyond its new end fatal, so map only files that are replaced by rename.
class FileView {
 public:
  FileView() = default;
  FileView(std::shared_ptr<const void> owner, std::span<const std::byte> bytes)
      : owner_(std::move(owner)), bytes_(bytes) {}
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
};

enum class FileKind : std::uint8_t { file, directory, other };

struct DirectoryEntry {
  std::string name;
  FileKind kind = FileKind::file;
};

struct FileInfo {
  FileKind kind = FileKind::file;
  std::uint64_t bytes = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // An empty file to write; one of that name is emptied.
  [[nodiscard]] virtual Result<std::unique_ptr<WritableFile>> create(const std::string& path) = 0;
  // A file to write on at its end; made when it isn't there.
  [[nodiscard]] virtual Result<std::unique_ptr<WritableFile>> open_append(const std::string& path) = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<ReadableFile>> open(const std::string& path) = 0;
  [[nodiscard]] virtual Result<FileView> map(const std::string& path) = 0;

  // not_found when there is nothing of that name.
  [[nodiscard]] virtual Result<FileInfo> info(const std::string& path) = 0;
  // Sorted by name; without "." and "..".
  [[nodiscard]] virtual Result<std::vector<DirectoryEntry>> list(const std::string& path) = 0;
  // Makes the missing levels, each durable before the next. Success when the directory is there already.
  [[nodiscard]] virtual Status make_directories(const std::string& path) = 0;
  // Replaces a file, or an empty directory by a directory; fails when `to` is a directory with entries.
  [[nodiscard]] virtual Status rename(const std::string& from, const std::string& to) = 0;
  // A file or an empty directory.
  [[nodiscard]] virtual Status remove(const std::string& path) = 0;
  [[nodiscard]] virtual Status sync_directory(const std::string& path) = 0;
  // What an unprivileged process may still write where `path` lies.
  [[nodiscard]] virtual Result<std::uint64_t> free_bytes(const std::string& path) = 0;
};

// The operating system's. One instance serves the whole process.
[[nodiscard]] FileSystem& posix_file_system();

// "a/b"; either may be empty.
[[nodiscard]] std::string join_path(std::string_view directory, std::string_view name);
// The directory part; "." for a bare name.
[[nodiscard]] std::string parent_path(std::string_view path);

// The error for a failed system call. `errno_value` decides the code and the advice.
[[nodiscard]] Error file_error(int errno_value, std::string_view verb, std::string_view path);

// The whole file; `exhausted` when it is larger than max_bytes.
[[nodiscard]] Result<std::string> read_file(FileSystem& fs, const std::string& path, std::uint64_t max_bytes);

// The file holds `bytes`, durably, or what it held before; never a mixture, also across a power cut. Writes
// "<path>.tmp" first and removes it on failure; one writer a path at a time.
[[nodiscard]] Status write_file_atomically(FileSystem& fs, const std::string& path, std::span<const std::byte> bytes);
[[nodiscard]] Status write_file_atomically(FileSystem& fs, const std::string& path, std::string_view text);

// Removes a file or a directory with all it holds. Success when it isn't there. Not atomic.
[[nodiscard]] Status remove_tree(FileSystem& fs, const std::string& path);

}  // namespace planaria

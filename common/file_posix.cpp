// The operating system's file system, through plain POSIX calls.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "common/descriptor.hpp"
#include "common/file.hpp"

namespace planaria {
namespace {

Result<Descriptor> open_descriptor(const std::string& path, int flags, std::string_view verb) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) return file_error(errno, verb, path);
  return Descriptor(fd);
}

FileKind kind_of(mode_t mode) {
  if (S_ISREG(mode)) return FileKind::file;
  return S_ISDIR(mode) ? FileKind::directory : FileKind::other;
}

// Opens a regular file for reading; never waits on a pipe or a device that was put in its place.
Result<std::pair<Descriptor, std::uint64_t>> open_regular(const std::string& path) {
  PLANARIA_ASSIGN(Descriptor fd, open_descriptor(path, O_RDONLY | O_NONBLOCK, "read"));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return file_error(errno, "read", path);
  if (!S_ISREG(info.st_mode)) {
    return Error(ErrorCode::invalid_argument, "can't read '" + path + "': it is not a regular file");
  }
  return std::pair(std::move(fd), static_cast<std::uint64_t>(info.st_size));
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(Descriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  Status append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return file_error(errno, "write", path_);
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return ok_status();
  }
  Status sync() override {
    // fsync, not fdatasync: the length is part of what must survive, and the kernels' promises on it differ.
    if (::fsync(fd_.get()) != 0) return file_error(errno, "sync", path_);
    return ok_status();
  }
  Status close() override {
    // After an interrupted close the descriptor is gone on Linux: never close twice.
    if (::close(fd_.release()) != 0 && errno != EINTR) return file_error(errno, "close", path_);
    return ok_status();
  }

 private:
  Descriptor fd_;
  std::string path_;
};

class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(Descriptor fd, std::uint64_t size, std::string path)
      : fd_(std::move(fd)), size_(size), path_(std::move(path)) {}

  std::uint64_t size() const override { return size_; }
  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    std::size_t done = 0;
    while (done < out.size()) {
      const ssize_t count = ::pread(fd_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return file_error(errno, "read", path_);
      if (count == 0) break;
      done += static_cast<std::size_t>(count);
    }
    return done;
  }

 private:
  Descriptor fd_;
  std::uint64_t size_;
  std::string path_;
};

class PosixFileSystem final : public FileSystem {
 public:
  Result<std::unique_ptr<WritableFile>> create(const std::string& path) override {
    return writable(path, O_WRONLY | O_CREAT | O_TRUNC);
  }
  Result<std::unique_ptr<WritableFile>> open_append(const std::string& path) override {
    return writable(path, O_WRONLY | O_CREAT | O_APPEND);
  }
  Result<std::unique_ptr<ReadableFile>> open(const std::string& path) override {
    PLANARIA_ASSIGN(auto file, open_regular(path));
    return std::unique_ptr<ReadableFile>(new PosixReadableFile(std::move(file.first), file.second, path));
  }
  Result<FileView> map(const std::string& path) override {
    PLANARIA_ASSIGN(const auto file, open_regular(path));
    const std::uint64_t size = file.second;
    if (size == 0) return FileView();
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.first.get(), 0);
    if (memory == MAP_FAILED) return file_error(errno, "map", path);  // NOLINT
    std::shared_ptr<const void> owner(memory, [size](void* at) { ::munmap(at, size); });
    return FileView(std::move(owner), {static_cast<const std::byte*>(memory), size});
  }

  Result<FileInfo> info(const std::string& path) override {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return file_error(errno, "look at", path);
    return FileInfo{kind_of(info.st_mode), static_cast<std::uint64_t>(info.st_size)};
  }
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override;
  Status make_directories(const std::string& path) override;

  Status rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return file_error(errno, "rename to '" + to + "'", from);
    return ok_status();
  }
  Status remove(const std::string& path) override {
    if (::remove(path.c_str()) != 0) return file_error(errno, "remove", path);
    return ok_status();
  }
  Status sync_directory(const std::string& path) override {
    PLANARIA_ASSIGN(const Descriptor fd, open_descriptor(path, O_RDONLY | O_DIRECTORY, "sync directory"));
    if (::fsync(fd.get()) != 0) return file_error(errno, "sync directory", path);
    return ok_status();
  }
  Result<std::uint64_t> free_bytes(const std::string& path) override {
    struct statvfs info {};
    if (::statvfs(path.c_str(), &info) != 0) return file_error(errno, "measure free space at", path);
    return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  }

 private:
  static Result<std::unique_ptr<WritableFile>> writable(const std::string& path, int flags) {
    PLANARIA_ASSIGN(Descriptor fd, open_descriptor(path, flags, "write"));
    return std::unique_ptr<WritableFile>(new PosixWritableFile(std::move(fd), path));
  }
};

Result<std::vector<DirectoryEntry>> PosixFileSystem::list(const std::string& path) {
  const std::unique_ptr<DIR, CloseDirectory> directory(::opendir(path.c_str()));
  if (!directory) return file_error(errno, "list", path);
  std::vector<DirectoryEntry> entries;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());  // NOLINT(concurrency-mt-unsafe): this stream is ours alone
    if (entry == nullptr) {
      if (errno != 0) return file_error(errno, "list", path);
      break;
    }
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    // Symbolic links are told apart from what they point to: remove_tree must not follow them.
    struct stat info {};
    if (::lstat(join_path(path, name).c_str(), &info) != 0) continue;  // removed meanwhile
    entries.push_back({name, kind_of(info.st_mode)});
  }
  std::ranges::sort(entries, {}, &DirectoryEntry::name);
  return entries;
}

Status PosixFileSystem::make_directories(const std::string& path) {
  if (path.empty()) return ok_status();
  struct stat existing {};
  if (::stat(path.c_str(), &existing) == 0) {
    return S_ISDIR(existing.st_mode) ? ok_status() : Status(file_error(ENOTDIR, "make directory", path));
  }
  if (errno != ENOENT) return file_error(errno, "make directory", path);
  const std::string parent = parent_path(path);
  PLANARIA_TRY(make_directories(parent));
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) return file_error(errno, "make directory", path);
  return sync_directory(parent);
}

}  // namespace

FileSystem& posix_file_system() {
  static PosixFileSystem instance;
  return instance;
}

}  // namespace planaria

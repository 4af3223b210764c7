#include "tests/storage/rocksdb_disk.hpp"

#include <rocksdb/file_system.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace planaria {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

IOStatus status_of(const Error& error) {
  switch (error.code()) {
    case ErrorCode::not_found:
      return IOStatus::PathNotFound(error.message());
    case ErrorCode::exhausted:
      return IOStatus::NoSpace(error.message());
    default:
      return IOStatus::IOError(error.message());
  }
}

template <class T>
IOStatus status_of(const Result<T>& result) {
  return result ? IOStatus::OK() : status_of(result.error());
}

IOStatus read(const planaria::ReadableFile& file, std::uint64_t offset, std::size_t n, Slice* result, char* scratch) {
  const auto count = file.read_at(offset, std::as_writable_bytes(std::span(scratch, n)));
  *result = Slice(scratch, count ? *count : 0);
  return status_of(count);
}

class SequentialFile final : public rocksdb::FSSequentialFile {
 public:
  explicit SequentialFile(std::unique_ptr<planaria::ReadableFile> file) : file_(std::move(file)) {}
  IOStatus Read(std::size_t n, const IOOptions&, Slice* result, char* scratch, IODebugContext*) override {
    const IOStatus status = read(*file_, at_, n, result, scratch);
    at_ += result->size();
    return status;
  }
  IOStatus Skip(std::uint64_t n) override {
    at_ = std::min(at_ + n, file_->size());
    return IOStatus::OK();
  }

 private:
  std::unique_ptr<planaria::ReadableFile> file_;
  std::uint64_t at_ = 0;
};

class RandomAccessFile final : public rocksdb::FSRandomAccessFile {
 public:
  explicit RandomAccessFile(std::unique_ptr<planaria::ReadableFile> file) : file_(std::move(file)) {}
  IOStatus Read(std::uint64_t offset, std::size_t n, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) const override {
    return read(*file_, offset, n, result, scratch);
  }

 private:
  std::unique_ptr<planaria::ReadableFile> file_;
};

class WritableFile final : public rocksdb::FSWritableFile {
 public:
  WritableFile(std::unique_ptr<planaria::WritableFile> file, std::uint64_t size)
      : file_(std::move(file)), size_(size) {}
  using rocksdb::FSWritableFile::Append;
  IOStatus Append(const Slice& data, const IOOptions&, IODebugContext*) override {
    size_ += data.size();
    return status_of(file_->append(data.ToStringView()));
  }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return status_of(file_->close()); }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return status_of(file_->sync()); }
  std::uint64_t GetFileSize(const IOOptions&, IODebugContext*) override { return size_; }

 private:
  std::unique_ptr<planaria::WritableFile> file_;
  std::uint64_t size_ = 0;
};

class Directory final : public rocksdb::FSDirectory {
 public:
  Directory(FileSystem& base, std::string path) : base_(base), path_(std::move(path)) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return status_of(base_.sync_directory(path_)); }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

 private:
  FileSystem& base_;
  const std::string path_;
};

class SilentLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

struct Lock final : rocksdb::FileLock {
  explicit Lock(std::string locked) : path(std::move(locked)) {}
  const std::string path;
};

class Disk final : public rocksdb::FileSystem {
 public:
  explicit Disk(planaria::FileSystem& base) : base_(base) {}
  const char* Name() const override { return "planaria::FileSystem"; }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions&,
                             std::unique_ptr<rocksdb::FSSequentialFile>* file, IODebugContext*) override {
    auto opened = base_.open(path);
    if (opened) *file = std::make_unique<SequentialFile>(std::move(opened).value());
    return status_of(opened);
  }
  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions&,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* file, IODebugContext*) override {
    auto opened = base_.open(path);
    if (opened) *file = std::make_unique<RandomAccessFile>(std::move(opened).value());
    return status_of(opened);
  }
  IOStatus NewWritableFile(const std::string& path, const FileOptions&, std::unique_ptr<rocksdb::FSWritableFile>* file,
                           IODebugContext*) override {
    auto created = base_.create(path);
    if (created) *file = std::make_unique<WritableFile>(std::move(created).value(), 0);
    return status_of(created);
  }
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions&,
                              std::unique_ptr<rocksdb::FSWritableFile>* file, IODebugContext*) override {
    auto opened = base_.open_append(path);
    if (!opened) return status_of(opened);
    const auto info = base_.info(path);
    if (info) *file = std::make_unique<WritableFile>(std::move(opened).value(), info->bytes);
    return status_of(info);
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions&, std::unique_ptr<rocksdb::FSDirectory>* directory,
                        IODebugContext*) override {
    const auto info = base_.info(path);
    if (info) *directory = std::make_unique<Directory>(base_, path);
    return status_of(info);
  }

  IOStatus FileExists(const std::string& path, const IOOptions&, IODebugContext*) override {
    const auto info = base_.info(path);
    if (!info && info.error().code() == ErrorCode::not_found) return IOStatus::NotFound(info.error().message());
    return status_of(info);
  }
  IOStatus GetChildren(const std::string& path, const IOOptions&, std::vector<std::string>* names,
                       IODebugContext*) override {
    const auto entries = base_.list(path);
    names->clear();
    if (entries) {
      for (const DirectoryEntry& entry : *entries) names->push_back(entry.name);
    }
    return status_of(entries);
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions&, IODebugContext*) override {
    return status_of(base_.remove(path));
  }
  IOStatus CreateDir(const std::string& path, const IOOptions&, IODebugContext*) override {
    return status_of(base_.make_directories(path));
  }
  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions&, IODebugContext*) override {
    return status_of(base_.make_directories(path));
  }
  IOStatus DeleteDir(const std::string& path, const IOOptions&, IODebugContext*) override {
    return status_of(base_.remove(path));
  }
  IOStatus GetFileSize(const std::string& path, const IOOptions&, std::uint64_t* bytes, IODebugContext*) override {
    const auto info = base_.info(path);
    if (info) *bytes = info->bytes;
    return status_of(info);
  }
  IOStatus GetFileModificationTime(const std::string&, const IOOptions&, std::uint64_t* time,
                                   IODebugContext*) override {
    *time = 0;
    return IOStatus::OK();
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions&, IODebugContext*) override {
    return status_of(base_.rename(from, to));
  }
  IOStatus LockFile(const std::string& path, const IOOptions&, rocksdb::FileLock** lock, IODebugContext*) override {
    const std::scoped_lock guard(mutex_);
    if (!locked_.insert(path).second) return IOStatus::IOError("While lock file: " + path, "held already");
    *lock = new Lock(path);
    return IOStatus::OK();
  }
  IOStatus UnlockFile(rocksdb::FileLock* lock, const IOOptions&, IODebugContext*) override {
    const std::unique_ptr<Lock> held(static_cast<Lock*>(lock));
    const std::scoped_lock guard(mutex_);
    locked_.erase(held->path);
    return IOStatus::OK();
  }
  IOStatus GetTestDirectory(const IOOptions&, std::string*, IODebugContext*) override {
    return IOStatus::NotSupported("a directory for RocksDB's own tests");
  }
  IOStatus NewLogger(const std::string&, const IOOptions&, std::shared_ptr<rocksdb::Logger>* logger,
                     IODebugContext*) override {
    *logger = std::make_shared<SilentLogger>();
    return IOStatus::OK();
  }
  IOStatus GetAbsolutePath(const std::string& path, const IOOptions&, std::string* absolute, IODebugContext*) override {
    *absolute = path;
    return IOStatus::OK();
  }
  IOStatus IsDirectory(const std::string& path, const IOOptions&, bool* is_directory, IODebugContext*) override {
    const auto info = base_.info(path);
    if (info) *is_directory = info->kind == FileKind::directory;
    return status_of(info);
  }

 private:
  planaria::FileSystem& base_;
  std::mutex mutex_;
  std::set<std::string> locked_;
};

}  // namespace

std::unique_ptr<rocksdb::Env> rocksdb_on(FileSystem& base) {
  return rocksdb::NewCompositeEnv(std::make_shared<Disk>(base));
}

}  // namespace planaria

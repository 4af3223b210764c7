#include "common/file_faults.hpp"

#include <algorithm>
#include <cerrno>

namespace planaria {

class FaultyWritableFile final : public WritableFile {
 public:
  FaultyWritableFile(FaultyFileSystem& fs, std::unique_ptr<WritableFile> base, std::string path)
      : fs_(fs), base_(std::move(base)), path_(std::move(path)) {}

  Status append(std::span<const std::byte> bytes) override {
    const auto allowance = fs_.admit_write(bytes.size(), path_);
    if (allowance.bytes != 0) PLANARIA_TRY(base_->append(bytes.first(allowance.bytes)));
    return allowance.status;
  }
  Status sync() override {
    PLANARIA_TRY(fs_.admit("sync", path_));
    return base_->sync();
  }
  Status close() override {
    const Status admitted = fs_.admit("close", path_);
    const Status closed = base_->close();  // a descriptor is gone, whatever close() told
    return admitted ? closed : admitted;
  }

 private:
  FaultyFileSystem& fs_;
  std::unique_ptr<WritableFile> base_;
  std::string path_;
};

void FaultyFileSystem::fill_after(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  space_left_ = bytes;
}

void FaultyFileSystem::fill_now() {
  const std::lock_guard lock(mutex_);
  space_left_ = 0;
  report_full_ = true;
}

void FaultyFileSystem::fail_operation(std::uint64_t nth, bool stay_broken) {
  const std::lock_guard lock(mutex_);
  fail_at_ = operations_ + nth;
  stay_broken_ = stay_broken;
}

void FaultyFileSystem::heal() {
  const std::lock_guard lock(mutex_);
  space_left_.reset();
  report_full_ = false;
  fail_at_.reset();
  fired_ = false;
}

std::uint64_t FaultyFileSystem::operations() const {
  const std::lock_guard lock(mutex_);
  return operations_;
}

bool FaultyFileSystem::fired() const {
  const std::lock_guard lock(mutex_);
  return fired_;
}

Status FaultyFileSystem::admit(std::string_view verb, const std::string& path) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t index = operations_++;
  const bool fails = fail_at_ && (index == *fail_at_ || (stay_broken_ && index > *fail_at_));
  if (!fails) return ok_status();
  fired_ = true;
  return file_error(EIO, verb, path);
}

FaultyFileSystem::Allowance FaultyFileSystem::admit_write(std::uint64_t bytes, const std::string& path) {
  if (Status admitted = admit("write", path); !admitted) {
    const std::lock_guard lock(mutex_);
    const bool torn = operations_ == *fail_at_ + 1;  // once the machine is gone nothing more arrives
    return {torn ? bytes / 2 : 0, admitted};
  }
  const std::lock_guard lock(mutex_);
  if (!space_left_) return {bytes, ok_status()};
  const std::uint64_t allowed = std::min(bytes, *space_left_);
  *space_left_ -= allowed;
  if (allowed == bytes) return {bytes, ok_status()};
  fired_ = true;
  return {allowed, file_error(ENOSPC, "write", path)};
}

Result<std::unique_ptr<WritableFile>> FaultyFileSystem::create(const std::string& path) {
  PLANARIA_TRY(admit("write", path));
  PLANARIA_ASSIGN(auto file, base_.create(path));
  return std::unique_ptr<WritableFile>(new FaultyWritableFile(*this, std::move(file), path));
}

Result<std::unique_ptr<WritableFile>> FaultyFileSystem::open_append(const std::string& path) {
  PLANARIA_TRY(admit("write", path));
  PLANARIA_ASSIGN(auto file, base_.open_append(path));
  return std::unique_ptr<WritableFile>(new FaultyWritableFile(*this, std::move(file), path));
}

Result<std::unique_ptr<ReadableFile>> FaultyFileSystem::open(const std::string& path) {
  PLANARIA_TRY(admit("read", path));
  return base_.open(path);
}

Result<FileView> FaultyFileSystem::map(const std::string& path) {
  PLANARIA_TRY(admit("map", path));
  return base_.map(path);
}

Result<FileInfo> FaultyFileSystem::info(const std::string& path) {
  PLANARIA_TRY(admit("look at", path));
  return base_.info(path);
}

Result<std::vector<DirectoryEntry>> FaultyFileSystem::list(const std::string& path) {
  PLANARIA_TRY(admit("list", path));
  return base_.list(path);
}

Status FaultyFileSystem::make_directories(const std::string& path) {
  PLANARIA_TRY(admit("make directory", path));
  return base_.make_directories(path);
}

Status FaultyFileSystem::rename(const std::string& from, const std::string& to) {
  PLANARIA_TRY(admit("rename", from));
  return base_.rename(from, to);
}

Status FaultyFileSystem::remove(const std::string& path) {
  PLANARIA_TRY(admit("remove", path));
  return base_.remove(path);
}

Status FaultyFileSystem::sync_directory(const std::string& path) {
  PLANARIA_TRY(admit("sync directory", path));
  return base_.sync_directory(path);
}

Result<std::uint64_t> FaultyFileSystem::free_bytes(const std::string& path) {
  PLANARIA_TRY(admit("measure free space at", path));
  const std::lock_guard lock(mutex_);
  if (report_full_) return std::uint64_t{0};
  return base_.free_bytes(path);
}

}  // namespace planaria

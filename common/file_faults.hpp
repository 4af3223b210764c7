// A file system that fails when told to: full disks, broken devices, and a machine that stops between two operations.
// A decorator over any other one; the chaos tool's `disk_full` uses it in real processes, the tests everywhere.
//
// Thread contract: self-synchronized; faults may be switched from any thread while others write.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "common/file.hpp"

namespace planaria {

class FaultyFileSystem final : public FileSystem {
 public:
  // `base` outlives this and every file opened through it.
  explicit FaultyFileSystem(FileSystem& base) : base_(base) {}

  // From now on `bytes` more bytes can be written; then every write fails with `exhausted` until heal(). The write
  // that crosses the limit is torn: its first part arrives. free_bytes() goes on telling the base's figure, as a quota
  // does; fill_now() is the disk that also reports itself full.
  void fill_after(std::uint64_t bytes);
  void fill_now();

  // The operation that is `nth` from now (0 = the next) fails with `io`, without effect; a write is torn in the
  // middle instead. Only that one, or with `stay_broken` every later one too, as when the machine is gone.
  void fail_operation(std::uint64_t nth, bool stay_broken);

  // Ends every fault above.
  void heal();

  // Calls so far, of this and of its files, reads included; whether a fault has fired since the last heal().
  [[nodiscard]] std::uint64_t operations() const;
  [[nodiscard]] bool fired() const;

  Result<std::unique_ptr<WritableFile>> create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> open_append(const std::string& path) override;
  Result<std::unique_ptr<ReadableFile>> open(const std::string& path) override;
  Result<FileView> map(const std::string& path) override;
  Result<FileInfo> info(const std::string& path) override;
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override;
  Status make_directories(const std::string& path) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;
  Status sync_directory(const std::string& path) override;
  Result<std::uint64_t> free_bytes(const std::string& path) override;

 private:
  friend class FaultyWritableFile;

  // Counts an operation; an error when it is one that shall fail.
  Status admit(std::string_view verb, const std::string& path);
  // How many of `bytes` a write may pass on, and the error that follows when not all of them.
  struct Allowance {
    std::uint64_t bytes = 0;
    Status status = ok_status();
  };
  Allowance admit_write(std::uint64_t bytes, const std::string& path);

  FileSystem& base_;
  mutable std::mutex mutex_;
  std::uint64_t operations_ = 0;
  std::optional<std::uint64_t> space_left_;
  bool report_full_ = false;
  std::optional<std::uint64_t> fail_at_;
  bool stay_broken_ = false;
  bool fired_ = false;
};

}  // namespace planaria

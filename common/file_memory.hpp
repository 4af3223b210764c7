// A file system in memory that can lose power. It keeps, beside what processes see, what has reached the disk: bytes
// by a file's sync(), directory entries by sync_directory(). power_cut() throws the rest away, or lets a part of it
// have arrived, as disks do.
//
// Model: appended bytes that were not synced survive as a prefix; entry changes that were not synced survive as a
// prefix in the order in which they were made (a journal). An entry can therefore survive whose file is empty.
//
// Thread contract: self-synchronized.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/file.hpp"
#include "common/philox.hpp"

namespace planaria {

class MemoryFileSystem final : public FileSystem {
 public:
  // An empty root; paths with and without a leading "/" are the same.
  MemoryFileSystem();
  ~MemoryFileSystem() override;

  // Only the durable part is left, and of the rest what `seed` decides; 0 = nothing of it. Files that were open
  // fail from now on.
  void power_cut(std::uint64_t seed);
  // Writes beyond `bytes` in all fail with `exhausted`, after a torn first part. No bound without this call.
  void set_capacity(std::uint64_t bytes);
  // Replaces a file's content behind everyone's back, durably: the bit flips and truncations of tests.
  void overwrite(const std::string& path, std::string content);

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
  friend class MemoryWritableFile;
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  // A change of entries that has not been synced: `node` leaves one place, comes to another, or both.
  struct Place {
    NodePtr directory;
    std::string name;
  };
  struct Change {
    std::optional<Place> from;
    std::optional<Place> to;
    NodePtr node;
  };

  [[nodiscard]] NodePtr find(const std::string& path) const;
  [[nodiscard]] Result<Place> place_of(const std::string& path, std::string_view verb) const;
  Result<std::unique_ptr<WritableFile>> writable(const std::string& path, bool truncate);
  Status append(Node& node, std::uint64_t boot, std::span<const std::byte> bytes, const std::string& path);
  Status sync(Node& node, std::uint64_t boot, const std::string& path);
  static void apply(const Change& change);
  void forget_volatile(const NodePtr& node, PhiloxStream* random);

  mutable std::mutex mutex_;
  NodePtr root_;
  std::vector<Change> unsynced_;
  std::uint64_t boot_ = 0;  // power cuts so far
  std::uint64_t used_ = 0;
  std::uint64_t capacity_ = UINT64_MAX;
};

}  // namespace planaria

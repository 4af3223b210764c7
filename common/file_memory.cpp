#include "common/file_memory.hpp"

#include <algorithm>
#include <cerrno>

namespace planaria {

struct MemoryFileSystem::Node {
  bool directory = false;
  std::string bytes, durable_bytes;                         // files
  std::map<std::string, NodePtr> entries, durable_entries;  // directories
};

class MemoryWritableFile final : public WritableFile {
 public:
  MemoryWritableFile(MemoryFileSystem& fs, MemoryFileSystem::NodePtr node, std::string path)
      : fs_(fs), node_(std::move(node)), boot_(fs.boot_), path_(std::move(path)) {}

  Status append(std::span<const std::byte> bytes) override { return fs_.append(*node_, boot_, bytes, path_); }
  Status sync() override { return fs_.sync(*node_, boot_, path_); }
  Status close() override { return ok_status(); }

 private:
  MemoryFileSystem& fs_;
  MemoryFileSystem::NodePtr node_;
  std::uint64_t boot_;
  std::string path_;
};

namespace {

class MemoryReadableFile final : public ReadableFile {
 public:
  explicit MemoryReadableFile(std::string bytes) : bytes_(std::move(bytes)) {}
  std::uint64_t size() const override { return bytes_.size(); }
  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset >= bytes_.size()) return std::size_t{0};
    const std::size_t count = std::min(out.size(), bytes_.size() - offset);
    std::ranges::copy(std::as_bytes(std::span(bytes_)).subspan(offset, count), out.begin());
    return count;
  }

 private:
  std::string bytes_;
};

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  std::string part;
  for (const char c : path + "/") {
    if (c != '/') {
      part += c;
    } else if (!part.empty()) {
      if (part != ".") parts.push_back(part);
      part.clear();
    }
  }
  return parts;
}

}  // namespace

MemoryFileSystem::MemoryFileSystem() : root_(std::make_shared<Node>()) {
  root_->directory = true;
}
MemoryFileSystem::~MemoryFileSystem() = default;

MemoryFileSystem::NodePtr MemoryFileSystem::find(const std::string& path) const {
  NodePtr node = root_;
  for (const std::string& part : split(path)) {
    const auto found = node->entries.find(part);
    if (found == node->entries.end()) return nullptr;
    node = found->second;
  }
  return node;
}

Result<MemoryFileSystem::Place> MemoryFileSystem::place_of(const std::string& path, std::string_view verb) const {
  std::vector<std::string> parts = split(path);
  if (parts.empty()) return file_error(EBUSY, verb, path);
  NodePtr directory = root_;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    const auto found = directory->entries.find(parts[i]);
    if (found == directory->entries.end()) return file_error(ENOENT, verb, path);
    directory = found->second;
  }
  if (!directory->directory) return file_error(ENOTDIR, verb, path);
  return Place{directory, parts.back()};
}

Status MemoryFileSystem::sync(Node& node, std::uint64_t boot, const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (boot != boot_) return file_error(EIO, "sync", path);
  node.durable_bytes = node.bytes;
  return ok_status();
}

Status MemoryFileSystem::append(Node& node, std::uint64_t boot, std::span<const std::byte> bytes,
                                const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (boot != boot_) return file_error(EIO, "write", path);
  const std::uint64_t room = capacity_ - std::min(capacity_, used_);
  const std::uint64_t count = std::min<std::uint64_t>(room, bytes.size());
  node.bytes.append(reinterpret_cast<const char*>(bytes.data()), count);  // NOLINT: bytes as chars
  used_ += count;
  if (count != bytes.size()) return file_error(ENOSPC, "write", path);
  return ok_status();
}

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::writable(const std::string& path, bool truncate) {
  const std::lock_guard lock(mutex_);
  PLANARIA_ASSIGN(const Place place, place_of(path, "write"));
  NodePtr& node = place.directory->entries[place.name];
  if (node && node->directory) return file_error(EISDIR, "write", path);
  if (!node) {
    node = std::make_shared<Node>();
    unsynced_.push_back({std::nullopt, place, node});
  } else if (truncate) {
    used_ -= node->bytes.size();
    node->bytes.clear();
  }
  return std::unique_ptr<WritableFile>(new MemoryWritableFile(*this, node, path));
}

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::create(const std::string& path) {
  return writable(path, true);
}

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::open_append(const std::string& path) {
  return writable(path, false);
}

Result<std::unique_ptr<ReadableFile>> MemoryFileSystem::open(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const NodePtr node = find(path);
  if (!node) return file_error(ENOENT, "read", path);
  if (node->directory) return file_error(EISDIR, "read", path);
  return std::unique_ptr<ReadableFile>(new MemoryReadableFile(node->bytes));
}

Result<FileView> MemoryFileSystem::map(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const NodePtr node = find(path);
  if (!node) return file_error(ENOENT, "map", path);
  if (node->directory) return file_error(EISDIR, "map", path);
  auto copy = std::make_shared<const std::string>(node->bytes);
  const auto bytes = std::as_bytes(std::span(*copy));
  return FileView(std::move(copy), bytes);
}

Result<FileInfo> MemoryFileSystem::info(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const NodePtr node = find(path);
  if (!node) return file_error(ENOENT, "look at", path);
  return FileInfo{node->directory ? FileKind::directory : FileKind::file, node->bytes.size()};
}

Result<std::vector<DirectoryEntry>> MemoryFileSystem::list(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const NodePtr node = find(path);
  if (!node) return file_error(ENOENT, "list", path);
  if (!node->directory) return file_error(ENOTDIR, "list", path);
  std::vector<DirectoryEntry> entries;
  for (const auto& [name, child] : node->entries) {
    entries.push_back({name, child->directory ? FileKind::directory : FileKind::file});
  }
  return entries;
}

Status MemoryFileSystem::make_directories(const std::string& path) {
  const std::lock_guard lock(mutex_);
  NodePtr node = root_;
  for (const std::string& part : split(path)) {
    NodePtr& child = node->entries[part];
    if (!child) {
      child = std::make_shared<Node>();
      child->directory = true;
      node->durable_entries[part] = child;
    }
    if (!child->directory) return file_error(ENOTDIR, "make directory", path);
    node = child;
  }
  return ok_status();
}

Status MemoryFileSystem::rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  PLANARIA_ASSIGN(const Place source, place_of(from, "rename"));
  PLANARIA_ASSIGN(const Place target, place_of(to, "rename to"));
  const auto found = source.directory->entries.find(source.name);
  if (found == source.directory->entries.end()) return file_error(ENOENT, "rename", from);
  const NodePtr node = found->second;
  if (const auto existing = target.directory->entries.find(target.name); existing != target.directory->entries.end()) {
    if (existing->second == node) return ok_status();
    if (existing->second->directory != node->directory) return file_error(EEXIST, "rename to", to);
    if (!existing->second->entries.empty()) return file_error(ENOTEMPTY, "rename to", to);
    used_ -= existing->second->bytes.size();
  }
  source.directory->entries.erase(found);
  target.directory->entries[target.name] = node;
  unsynced_.push_back({source, target, node});
  return ok_status();
}

Status MemoryFileSystem::remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  PLANARIA_ASSIGN(const Place place, place_of(path, "remove"));
  const auto found = place.directory->entries.find(place.name);
  if (found == place.directory->entries.end()) return file_error(ENOENT, "remove", path);
  if (!found->second->entries.empty()) return file_error(ENOTEMPTY, "remove", path);
  used_ -= found->second->bytes.size();
  unsynced_.push_back({place, std::nullopt, found->second});
  place.directory->entries.erase(found);
  return ok_status();
}

void MemoryFileSystem::apply(const Change& change) {
  if (change.from) {
    auto& entries = change.from->directory->durable_entries;
    if (const auto found = entries.find(change.from->name); found != entries.end() && found->second == change.node) {
      entries.erase(found);
    }
  }
  if (change.to) change.to->directory->durable_entries[change.to->name] = change.node;
}

Status MemoryFileSystem::sync_directory(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const NodePtr directory = find(path);
  if (!directory) return file_error(ENOENT, "sync directory", path);
  if (!directory->directory) return file_error(ENOTDIR, "sync directory", path);
  std::vector<Change> rest;
  for (const Change& change : unsynced_) {
    const bool here =
        (change.from && change.from->directory == directory) || (change.to && change.to->directory == directory);
    if (here) {
      apply(change);
    } else {
      rest.push_back(change);
    }
  }
  unsynced_ = std::move(rest);
  return ok_status();
}

Result<std::uint64_t> MemoryFileSystem::free_bytes(const std::string&) {
  const std::lock_guard lock(mutex_);
  return capacity_ - std::min(capacity_, used_);
}

void MemoryFileSystem::set_capacity(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  capacity_ = bytes;
}

void MemoryFileSystem::overwrite(const std::string& path, std::string content) {
  const std::lock_guard lock(mutex_);
  const NodePtr node = find(path);
  if (!node) return;
  used_ += content.size() - node->bytes.size();
  node->bytes = std::move(content);
  node->durable_bytes = node->bytes;
}

void MemoryFileSystem::forget_volatile(const NodePtr& node, PhiloxStream* random) {
  if (node->directory) {
    node->entries = node->durable_entries;
    for (const auto& [name, child] : node->entries) forget_volatile(child, random);
    return;
  }
  if (random == nullptr) {
    node->bytes = node->durable_bytes;
  } else if (node->bytes != node->durable_bytes) {
    // Appended: what was durable stays. Rewritten: old content, or a part of the new.
    const bool appended = node->bytes.starts_with(node->durable_bytes);
    const std::size_t kept = appended ? node->durable_bytes.size() : 0;
    if (!appended && random->chance(0.5)) {
      node->bytes = node->durable_bytes;
    } else {
      node->bytes.resize(kept + random->below(node->bytes.size() - kept + 1));
    }
    node->durable_bytes = node->bytes;
  }
  used_ += node->bytes.size();
}

void MemoryFileSystem::power_cut(std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  PhiloxStream random(philox_key(seed, RandomPurpose::tests));
  const std::size_t survivors = seed == 0 ? 0 : random.below(unsynced_.size() + 1);
  for (std::size_t i = 0; i < survivors; ++i) apply(unsynced_[i]);
  unsynced_.clear();
  used_ = 0;
  ++boot_;
  forget_volatile(root_, seed == 0 ? nullptr : &random);
}

}  // namespace planaria

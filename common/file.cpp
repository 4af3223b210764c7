#include "common/file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace planaria {
namespace {

struct Advice {
  ErrorCode code;
  std::string_view what_to_do;
};

Advice advice_for(int errno_value) {
  switch (errno_value) {
    case ENOENT:
      return {ErrorCode::not_found, "check the path"};
    case ENOSPC:
    case EDQUOT:
      return {ErrorCode::exhausted, "free space there or choose another file system"};
    case EMFILE:
    case ENFILE:
      return {ErrorCode::exhausted, "raise the limit of open files (ulimit -n)"};
    case ENOMEM:
      return {ErrorCode::exhausted, "free memory"};
    case EACCES:
    case EPERM:
      return {ErrorCode::invalid_argument, "grant access to it or choose another path"};
    case EROFS:
      return {ErrorCode::invalid_argument, "choose a file system that can be written"};
    case EIO:
      return {ErrorCode::io, "the device failed; look at the kernel's log"};
    case ENOTDIR:
      return {ErrorCode::invalid_argument, "a part of the path is not a directory; choose another path"};
    case EISDIR:
    case ENOTEMPTY:
    case ELOOP:
    case ENAMETOOLONG:
      return {ErrorCode::invalid_argument, "choose another path"};
    default:
      return {ErrorCode::io, "check the path and its file system"};
  }
}

Status write_and_publish(FileSystem& fs, const std::string& temporary, const std::string& path,
                         std::span<const std::byte> bytes) {
  PLANARIA_ASSIGN(auto file, fs.create(temporary));
  PLANARIA_TRY(file->append(bytes));
  PLANARIA_TRY(file->sync());
  PLANARIA_TRY(file->close());
  PLANARIA_TRY(fs.rename(temporary, path));
  return fs.sync_directory(parent_path(path));
}

// `kind` comes from the listing, so that a symbolic link is removed and not followed.
Status remove_entry(FileSystem& fs, const std::string& path, FileKind kind) {
  if (kind == FileKind::directory) {
    PLANARIA_ASSIGN(const auto entries, fs.list(path));
    for (const DirectoryEntry& entry : entries) PLANARIA_TRY(remove_entry(fs, join_path(path, entry.name), entry.kind));
  }
  return fs.remove(path);
}

}  // namespace

std::string join_path(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  if (name.empty()) return std::string(directory);
  return directory.ends_with('/') ? fmt::format("{}{}", directory, name) : fmt::format("{}/{}", directory, name);
}

std::string parent_path(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return std::string(slash == 0 ? "/" : path.substr(0, slash));
}

Error file_error(int errno_value, std::string_view verb, std::string_view path) {
  const Advice advice = advice_for(errno_value);
  return {advice.code, fmt::format("can't {} '{}': {}; {}", verb, path, std::strerror(errno_value),  // NOLINT
                                   advice.what_to_do)};
}

Result<std::string> read_file(FileSystem& fs, const std::string& path, std::uint64_t max_bytes) {
  PLANARIA_ASSIGN(auto file, fs.open(path));
  if (file->size() > max_bytes) {
    return Error(ErrorCode::exhausted, fmt::format("'{}' has {} bytes, more than the {} allowed for such a file", path,
                                                   file->size(), max_bytes));
  }
  std::string text(file->size(), '\0');
  PLANARIA_ASSIGN(const std::size_t count, file->read_at(0, std::as_writable_bytes(std::span(text))));
  text.resize(count);
  return text;
}

Status write_file_atomically(FileSystem& fs, const std::string& path, std::span<const std::byte> bytes) {
  const std::string temporary = path + ".tmp";
  Status written = write_and_publish(fs, temporary, path, bytes);
  if (!written) static_cast<void>(fs.remove(temporary));  // the first error is the one to tell
  return written;
}

Status write_file_atomically(FileSystem& fs, const std::string& path, std::string_view text) {
  return write_file_atomically(fs, path, std::as_bytes(std::span(text.data(), text.size())));
}

Status remove_tree(FileSystem& fs, const std::string& path) {
  const auto info = fs.info(path);
  if (!info) return info.error().code() == ErrorCode::not_found ? ok_status() : Status(info.error());
  return remove_entry(fs, path, info->kind);
}

}  // namespace planaria

#include "storage/durable_index.hpp"

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <map>

#include "common/codec.hpp"

namespace planaria {
namespace {

// Looks at an index that is written meanwhile, until one is undisturbed.
constexpr int kMaxLooks = 10;
constexpr std::size_t kFilesBeforeMerge = 4;

Error index_error(const rocksdb::Status& status, std::string_view what, const std::string& directory) {
  const bool locked = status.IsIOError() && status.ToString().find("/LOCK") != std::string::npos;
  if (locked) {
    return {ErrorCode::unavailable,
            fmt::format("another keeper already writes to {}; give each keeper of a job its own name", directory)};
  }
  const auto code = status.IsCorruption() ? ErrorCode::corrupt
                    : status.IsNoSpace()  ? ErrorCode::exhausted
                    : status.IsNotFound() ? ErrorCode::not_found
                    : status.IsIOError()  ? ErrorCode::io
                                          : ErrorCode::internal;
  const char* advice = "";
  if (code == ErrorCode::exhausted) advice = "; free disk space there";
  if (code == ErrorCode::corrupt) advice = "; move the keeper's directory away, its other keepers' snapshots are whole";
  return {code,
          fmt::format("index of durable snapshots in {}: {} failed: {}{}", directory, what, status.ToString(), advice)};
}

rocksdb::Options index_options(rocksdb::Env* env) {
  rocksdb::Options options;
  options.env = env != nullptr ? env : rocksdb::Env::Default();
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // The default mode would drop, silently, every synced record that follows a damaged one.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_bgerror_resume_count = 0;  // who owns the index opens it again
  options.disable_auto_compactions = true;
  options.write_buffer_size = 16U << 20;
  options.max_open_files = 64;
  options.keep_log_file_num = 2;
  options.info_log_level = rocksdb::InfoLogLevel::ERROR_LEVEL;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.max_background_jobs = 2;
  options.compression = rocksdb::kNoCompression;
  return options;
}

rocksdb::WriteOptions synced() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return options;
}

rocksdb::Slice slice_of(std::string_view text) {
  return {text.data(), text.size()};
}
rocksdb::Slice slice_of(const ByteVector& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};  // NOLINT: bytes as chars
}
std::span<const std::uint8_t> octets(const rocksdb::Slice& slice) {
  return {reinterpret_cast<const std::uint8_t*>(slice.data()), slice.size()};  // NOLINT: chars as bytes
}

// Nothing: there is no such key.
template <class T>
Result<std::optional<T>> read_value(rocksdb::DB& db, std::string_view key, const std::string& directory) {
  std::string value;
  const auto status = db.Get(rocksdb::ReadOptions(), slice_of(key), &value);
  if (status.IsNotFound()) return std::optional<T>();
  if (!status.ok()) return index_error(status, "reading", directory);
  auto decoded = decode<T>(octets(value));
  if (!decoded) return decoded.error().within(fmt::format("index of durable snapshots in {}", directory));
  return std::optional<T>(std::move(*decoded));
}

// Nothing: the index is new.
Result<std::optional<DurableOwner>> read_owner(rocksdb::DB& db, const std::string& directory) {
  PLANARIA_ASSIGN(const auto format, read_value<std::uint32_t>(db, kFormatKey, directory));
  if (!format) return std::optional<DurableOwner>();
  if (*format != kDurableFormat) {
    return Error(ErrorCode::mismatch, fmt::format("the durable snapshots in {} have format {}, this program reads "
                                                  "format {}; use the release that wrote them",
                                                  directory, *format, kDurableFormat));
  }
  PLANARIA_ASSIGN(auto owner, read_value<DurableOwner>(db, kOwnerKey, directory));
  if (!owner) {
    return Error(ErrorCode::corrupt, fmt::format("the index in {} doesn't tell whose it is", directory));
  }
  return owner;
}

template <class T>
void read_into(T& to, const rocksdb::Slice& value, IndexedPart& part) {
  auto decoded = decode<T>(octets(value));
  if (decoded) {
    to = std::move(*decoded);
  } else if (!part.damage) {
    part.damage = decoded.error();
  }
}

Result<std::vector<IndexedPart>> read_parts(rocksdb::DB& db, const std::string& directory) {
  std::map<SnapshotName, IndexedPart> parts;
  std::map<SnapshotName, bool> named;
  const std::unique_ptr<rocksdb::Iterator> at(db.NewIterator(rocksdb::ReadOptions()));
  for (at->SeekToFirst(); at->Valid(); at->Next()) {
    const auto key = parse_durable_key(at->key().ToStringView());
    if (!key) continue;
    IndexedPart& part = parts[key->snapshot];
    part.snapshot = key->snapshot;
    switch (key->kind) {
      case DurableKeyKind::promised:
        part.promised = true;
        break;
      case DurableKeyKind::part:
        named[key->snapshot] = true;
        read_into(part.part, at->value(), part);
        break;
      case DurableKeyKind::segment:
        if (key->segment != part.segments.size() && !part.damage) {
          part.damage = Error(ErrorCode::corrupt, "a segment's record is missing");
        }
        read_into(part.segments.emplace_back(), at->value(), part);
        break;
    }
  }
  if (!at->status().ok()) return index_error(at->status(), "reading", directory);
  std::vector<IndexedPart> all;
  for (auto& [snapshot, part] : parts) {
    if (!named.contains(snapshot)) {
      if (part.segments.empty()) continue;  // a mark that outlived its part
      part.damage = Error(ErrorCode::corrupt, "its record is missing");
    }
    all.push_back(std::move(part));
  }
  return all;
}

// The names of RocksDB's files: of two looks that differ, the second may have missed a file that was merged meanwhile.
std::vector<std::string> files_of(rocksdb::Env& env, const std::string& directory) {
  std::vector<std::string> names;
  static_cast<void>(env.GetChildren(directory, &names));  // opening the index tells of a directory that can't be read
  std::erase_if(names, [](const std::string& name) { return name.starts_with("LOG"); });
  std::ranges::sort(names);
  return names;
}

Result<IndexContents> look(const std::string& directory, rocksdb::Env* env) {
  auto options = index_options(env);
  options.create_if_missing = false;
  rocksdb::DB* raw = nullptr;
  const auto status = rocksdb::DB::OpenForReadOnly(options, directory, &raw);
  if (!status.ok()) return index_error(status, "opening", directory);
  const std::unique_ptr<rocksdb::DB> db(raw);
  PLANARIA_ASSIGN(auto owner, read_owner(*db, directory));
  if (!owner) return Error(ErrorCode::not_found, fmt::format("the index in {} is empty", directory));
  IndexContents contents{std::move(*owner), {}};
  PLANARIA_ASSIGN(contents.parts, read_parts(*db, directory));
  return contents;
}

}  // namespace

Result<IndexContents> read_index(const std::string& directory, rocksdb::Env* env) {
  rocksdb::Env& system = env != nullptr ? *env : *rocksdb::Env::Default();
  if (!system.FileExists(directory + "/CURRENT").ok()) {
    return Error(ErrorCode::not_found, fmt::format("there is no index in {}", directory));
  }
  for (int looks = 0; looks < kMaxLooks; ++looks) {
    const auto before = files_of(system, directory);
    auto contents = look(directory, env);
    if (files_of(system, directory) == before) return contents;
  }
  return Error(ErrorCode::unavailable, fmt::format("the index in {} changes all the while; try again", directory));
}

DurableIndex::DurableIndex(std::string directory, std::unique_ptr<rocksdb::DB> db)
    : directory_(std::move(directory)), db_(std::move(db)) {}

DurableIndex::~DurableIndex() = default;

Result<std::unique_ptr<DurableIndex>> DurableIndex::open(const std::string& directory, const DurableOwner& owner,
                                                         rocksdb::Env* env) {
  rocksdb::DB* raw = nullptr;
  const auto status = rocksdb::DB::Open(index_options(env), directory, &raw);
  if (!status.ok()) return index_error(status, "opening", directory);
  std::unique_ptr<DurableIndex> index(new DurableIndex(directory, std::unique_ptr<rocksdb::DB>(raw)));
  PLANARIA_ASSIGN(const auto known, read_owner(*raw, directory));
  if (!known) {
    rocksdb::WriteBatch batch;
    batch.Put(slice_of(kFormatKey), slice_of(encode(kDurableFormat)));
    batch.Put(slice_of(kOwnerKey), slice_of(encode(owner)));
    const auto put = raw->Write(synced(), &batch);
    if (!put.ok()) return index_error(put, "writing", directory);
  } else if (*known != owner) {
    return Error(ErrorCode::mismatch,
                 fmt::format("{} holds durable snapshots of job {}, numeric class {}, keeper {}, this is job {}, "
                             "numeric class {}, keeper {}; choose another directory or move it away",
                             directory, known->job_hash.hex(), known->numeric_class, known->keeper,
                             owner.job_hash.hex(), owner.numeric_class, owner.keeper));
  }
  PLANARIA_TRY(index->tidy());
  PLANARIA_ASSIGN(index->found_, read_parts(*raw, directory));
  // To open it was to make all of it durable: RocksDB writes what it finds in its log to a table and syncs that.
  for (IndexedPart& part : index->found_) {
    if (!part.promised) PLANARIA_TRY(index->mark_promised(part.snapshot));
    part.promised = true;
  }
  return index;
}

Status DurableIndex::name(const SnapshotName& snapshot, const DurablePart& part,
                          std::span<const DurableSegment> segments) {
  rocksdb::WriteBatch batch;
  batch.Put(render(DurableKey{DurableKeyKind::part, snapshot}), slice_of(encode(part)));
  for (std::uint32_t i = 0; i < segments.size(); ++i) {
    batch.Put(render(DurableKey{DurableKeyKind::segment, snapshot, i}), slice_of(encode(segments[i])));
  }
  const auto status = db_->Write(synced(), &batch);
  if (!status.ok()) return index_error(status, "writing", directory_);
  return mark_promised(snapshot);
}

// Not synced: a mark that is lost is made again when the index is opened.
Status DurableIndex::mark_promised(const SnapshotName& snapshot) {
  const auto status = db_->Put(rocksdb::WriteOptions(), render(DurableKey{DurableKeyKind::promised, snapshot}), "");
  return status.ok() ? ok_status() : Status(index_error(status, "writing", directory_));
}

Status DurableIndex::forget(std::span<const NamedPart> parts) {
  rocksdb::WriteBatch batch;
  for (const NamedPart& part : parts) {
    batch.Delete(render(DurableKey{DurableKeyKind::promised, part.snapshot}));
    batch.Delete(render(DurableKey{DurableKeyKind::part, part.snapshot}));
    for (std::uint32_t i = 0; i < part.segments; ++i) {
      batch.Delete(render(DurableKey{DurableKeyKind::segment, part.snapshot, i}));
    }
  }
  const auto status = db_->Write(synced(), &batch);
  return status.ok() ? ok_status() : Status(index_error(status, "writing", directory_));
}

Status DurableIndex::tidy() {
  std::vector<rocksdb::LiveFileMetaData> files;
  db_->GetLiveFilesMetaData(&files);
  if (files.size() < kFilesBeforeMerge) return ok_status();
  const auto status = db_->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr);
  return status.ok() ? ok_status() : Status(index_error(status, "merging its files", directory_));
}

}  // namespace planaria

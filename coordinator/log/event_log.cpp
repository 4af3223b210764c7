#include "coordinator/log/event_log.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "common/unix_time.hpp"

namespace planaria {

namespace {

constexpr std::uint32_t kLogFormat = 8;
constexpr auto kRetryAfter = std::chrono::milliseconds(250);

// Keys: "e" + sequence (8 bytes, big-endian, so that RocksDB's order is theirs), "j" the job, "f" the format.
constexpr char kEventPrefix = 'e';
constexpr char kJobKey[] = "j";
constexpr char kFormatKey[] = "f";

struct StoredEvent {
  std::int64_t unix_ms = 0;
  LogRecord record;

  template <class V>
  void fields(V& v) {
    v(unix_ms, record);
  }
};

std::string event_key(std::uint64_t sequence) {
  std::string key(9, kEventPrefix);
  for (int i = 0; i < 8; ++i) key[1 + i] = static_cast<char>(sequence >> (56 - 8 * i));
  return key;
}

std::optional<std::uint64_t> sequence_of(const rocksdb::Slice& key) {
  if (key.size() != 9 || key[0] != kEventPrefix) return std::nullopt;
  std::uint64_t sequence = 0;
  for (int i = 0; i < 8; ++i) sequence = sequence << 8 | static_cast<std::uint8_t>(key[1 + i]);
  return sequence;
}

std::span<const std::uint8_t> bytes_of(const rocksdb::Slice& slice) {
  return {reinterpret_cast<const std::uint8_t*>(slice.data()), slice.size()};
}

rocksdb::Slice slice_of(const ByteVector& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Error store_error(const rocksdb::Status& status, const std::string& what, const std::string& directory) {
  const auto code = status.IsCorruption() ? ErrorCode::corrupt
                    : status.IsNoSpace()  ? ErrorCode::exhausted
                    : status.IsBusy()     ? ErrorCode::unavailable
                    : status.IsNotFound() ? ErrorCode::not_found
                    : status.IsIOError()  ? ErrorCode::io
                                          : ErrorCode::internal;
  const char* advice = "";
  if (code == ErrorCode::exhausted) advice = "; free disk space there";
  if (code == ErrorCode::corrupt) {
    advice =
        "; a coordinator must not decide from a damaged log: restore the directory from a copy, or start anew in "
        "another output directory and resume from a checkpoint";
  }
  return {code, fmt::format("coordinator log in {}: {} failed: {}{}", directory, what, status.ToString(), advice)};
}

Error damaged(const std::string& directory, std::uint64_t sequence, const std::string& how) {
  return {ErrorCode::corrupt,
          fmt::format("coordinator log in {}: record {} {}; a coordinator must not decide from a damaged log: restore "
                      "the directory from a copy, or start anew in another output directory and resume from a "
                      "checkpoint",
                      directory, sequence, how)};
}

rocksdb::Options store_options() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // The default mode would drop, silently, every synced record that follows a damaged one.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.write_buffer_size = 4U << 20;
  options.max_open_files = 64;
  options.keep_log_file_num = 2;
  options.info_log_level = rocksdb::InfoLogLevel::ERROR_LEVEL;
  options.max_background_jobs = 2;
  options.compression = rocksdb::kNoCompression;
  return options;
}

bool is_step(const LogRecord& record) {
  return std::holds_alternative<log_record::StepLogged>(record);
}

Result<LogEntry> decode_entry(const std::string& directory, std::uint64_t sequence, const rocksdb::Slice& value) {
  auto stored = decode<StoredEvent>(bytes_of(value));
  if (!stored) return damaged(directory, sequence, "can't be read: " + stored.error().message());
  return LogEntry{sequence, stored->unix_ms, std::move(stored->record)};
}

Result<std::vector<LogEntry>> read_events(rocksdb::DB& db, const std::string& directory) {
  std::vector<LogEntry> entries;
  const std::unique_ptr<rocksdb::Iterator> at(db.NewIterator(rocksdb::ReadOptions()));
  for (at->Seek(std::string(1, kEventPrefix)); at->Valid(); at->Next()) {
    const auto sequence = sequence_of(at->key());
    if (!sequence) break;
    if (*sequence != entries.size() + 1) return damaged(directory, entries.size() + 1, "is missing");
    PLANARIA_ASSIGN(auto entry, decode_entry(directory, *sequence, at->value()));
    entries.push_back(std::move(entry));
  }
  if (!at->status().ok()) {
    return store_error(at->status(), fmt::format("reading record {}", entries.size() + 1), directory);
  }
  return entries;
}

Result<std::optional<LoggedJob>> read_job(rocksdb::DB& db, const std::string& directory) {
  std::string value;
  const auto status = db.Get(rocksdb::ReadOptions(), kJobKey, &value);
  if (status.IsNotFound()) return std::optional<LoggedJob>();
  if (!status.ok()) return store_error(status, "reading the job", directory);
  auto job = decode<LoggedJob>(bytes_of(value));
  if (!job) return job.error().within("coordinator log in " + directory + ": its job record");
  return std::optional<LoggedJob>(std::move(*job));
}

// A log of a newer release is refused, an empty one is marked (when `db` can be written).
Status check_format(rocksdb::DB& db, const std::string& directory, bool writable) {
  std::string value;
  const auto status = db.Get(rocksdb::ReadOptions(), kFormatKey, &value);
  if (status.IsNotFound()) {
    if (!writable) return ok_status();
    const auto put = db.Put(rocksdb::WriteOptions(), kFormatKey, slice_of(encode(kLogFormat)));
    if (!put.ok()) return store_error(put, "writing the format number", directory);
    return ok_status();
  }
  if (!status.ok()) return store_error(status, "reading the format number", directory);
  auto format = decode<std::uint32_t>(bytes_of(value));
  if (!format) return format.error().within("coordinator log in " + directory + ": its format number");
  if (*format != kLogFormat) {
    return Error(ErrorCode::mismatch, fmt::format("coordinator log in {} has format {}, this program reads format {}; "
                                                  "use the release that wrote it",
                                                  directory, *format, kLogFormat));
  }
  return ok_status();
}

// Holds the directory until the file is closed; the kernel closes it with the process.
Result<int> lock_directory(const std::string& directory) {
  const auto path = directory + "/coordinator.lock";
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) {
    return Error(ErrorCode::io,
                 fmt::format("can't open {}: {}; make its directory writable", path, std::strerror(errno)));
  }
  if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    std::array<char, 32> holder{};
    const auto length = ::pread(file, holder.data(), holder.size() - 1, 0);
    ::close(file);
    return Error(ErrorCode::unavailable,
                 fmt::format("another coordinator{} already uses {}; stop it, or choose another output directory",
                             length > 0 ? fmt::format(" (process {})", holder.data()) : "", directory));
  }
  const auto pid = std::to_string(::getpid());
  if (::ftruncate(file, 0) != 0 || ::pwrite(file, pid.data(), pid.size(), 0) < 0) {
    // Only the text of another coordinator's refusal depends on it.
  }
  return file;
}

}  // namespace

struct EventLog::Store {
  std::unique_ptr<rocksdb::DB> db;

  static Result<std::shared_ptr<Store>> open(const std::string& directory) {
    rocksdb::DB* raw = nullptr;
    const auto status = rocksdb::DB::Open(store_options(), directory, &raw);
    if (!status.ok()) return store_error(status, "opening", directory);
    auto store = std::make_shared<Store>();
    store->db.reset(raw);
    PLANARIA_TRY(check_format(*store->db, directory, true));
    return store;
  }
};

Result<LogContents> read_log(const std::string& directory) {
  auto options = store_options();
  options.create_if_missing = false;
  rocksdb::DB* raw = nullptr;
  const auto status = rocksdb::DB::OpenForReadOnly(options, directory, &raw);
  if (!status.ok()) return store_error(status, "opening", directory);
  const std::unique_ptr<rocksdb::DB> db(raw);
  PLANARIA_TRY(check_format(*db, directory, false));
  LogContents contents;
  PLANARIA_ASSIGN(contents.job, read_job(*db, directory));
  PLANARIA_ASSIGN(contents.entries, read_events(*db, directory));
  return contents;
}

EventLog::EventLog(std::string directory) : directory_(std::move(directory)) {}

Result<std::unique_ptr<EventLog>> EventLog::open(const std::string& directory) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) {
    return Error(ErrorCode::io, fmt::format("can't make the directory {}: {}; choose another output directory",
                                            directory, failure.message()));
  }
  ::chmod(directory.c_str(), 0700);  // it holds the job's keys
  std::unique_ptr<EventLog> log(new EventLog(directory));
  PLANARIA_ASSIGN(log->lock_file_, lock_directory(directory));
  PLANARIA_ASSIGN(log->store_, Store::open(directory));

  const std::unique_ptr<rocksdb::Iterator> at(log->store_->db->NewIterator(rocksdb::ReadOptions()));
  at->SeekForPrev(event_key(UINT64_MAX));
  if (at->Valid()) log->last_sequence_ = sequence_of(at->key()).value_or(0);
  if (!at->status().ok()) return store_error(at->status(), "reading the last record", directory);
  return log;
}

EventLog::~EventLog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  store_.reset();
  if (lock_file_ >= 0) ::close(lock_file_);
}

Result<std::optional<LoggedJob>> EventLog::job() const {
  const std::lock_guard lock(store_mutex_);
  return read_job(*store_->db, directory_);
}

Status EventLog::record_job(const LoggedJob& job) {
  rocksdb::WriteOptions options;
  options.sync = true;
  const std::lock_guard lock(store_mutex_);
  const auto status = store_->db->Put(options, kJobKey, slice_of(encode(job)));
  if (!status.ok()) return store_error(status, "writing the job", directory_);
  return ok_status();
}

Result<std::vector<LogEntry>> EventLog::read_all() const {
  std::shared_ptr<Store> store;
  {
    const std::lock_guard lock(store_mutex_);
    store = store_;
  }
  if (store == nullptr) return Error(ErrorCode::unavailable, "the coordinator log is being opened again");
  return read_events(*store->db, directory_);
}

Result<LogPage> EventLog::read(std::uint64_t after, std::size_t limit, bool with_steps) const {
  std::shared_ptr<Store> store;
  {
    const std::lock_guard lock(store_mutex_);
    store = store_;
  }
  if (store == nullptr) return Error(ErrorCode::unavailable, "the coordinator log is being opened again");
  LogPage page{{}, after};
  limit = std::min(limit, kMaxPage);
  const std::unique_ptr<rocksdb::Iterator> at(store->db->NewIterator(rocksdb::ReadOptions()));
  std::size_t scanned = 0;
  if (after == UINT64_MAX) return page;
  for (at->Seek(event_key(after + 1)); at->Valid(); at->Next()) {
    const auto sequence = sequence_of(at->key());
    if (!sequence || page.entries.size() >= limit || ++scanned > kMaxScanned) break;
    PLANARIA_ASSIGN(auto entry, decode_entry(directory_, *sequence, at->value()));
    page.next = *sequence;
    if (with_steps || !is_step(entry.record)) page.entries.push_back(std::move(entry));
  }
  if (!at->status().ok()) return store_error(at->status(), "reading", directory_);
  return page;
}

void EventLog::start(Listener listener) {
  listener_ = std::move(listener);
  thread_ = std::thread([this] { run(); });
}

std::uint64_t EventLog::append(LogRecord record, bool sync) {
  std::uint64_t sequence = 0;
  {
    const std::lock_guard lock(mutex_);
    sequence = ++last_sequence_;
    queue_.push_back({{sequence, unix_ms_now(), std::move(record)}, sync});
  }
  wake_.notify_all();
  return sequence;
}

Status EventLog::write(const std::vector<Pending>& batch, bool sync) {
  rocksdb::WriteBatch writes;
  for (const auto& pending : batch) {
    writes.Put(event_key(pending.entry.sequence),
               slice_of(encode(StoredEvent{pending.entry.unix_ms, pending.entry.record})));
  }
  std::shared_ptr<Store> store;
  {
    const std::lock_guard lock(store_mutex_);
    if (store_ == nullptr) {
      PLANARIA_ASSIGN(store_, Store::open(directory_));
    }
    store = store_;
  }
  rocksdb::WriteOptions options;
  options.sync = sync;
  const auto status = store->db->Write(options, &writes);
  if (status.ok()) return ok_status();
  // What of the batch reached the disk is unknown now. Opening again tells, and the same records under the same keys
  // do no harm when they are there already.
  store.reset();
  const std::lock_guard lock(store_mutex_);
  store_.reset();
  return store_error(status, fmt::format("writing record {}", batch.front().entry.sequence), directory_);
}

void EventLog::run() {
  std::unique_lock lock(mutex_);
  std::vector<Pending> batch;
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    batch.clear();
    batch.swap(queue_);
    const bool last_try = stopping_;
    lock.unlock();

    bool sync = false;
    for (const auto& pending : batch) sync = sync || pending.sync;
    for (;;) {
      const auto written = write(batch, sync);
      if (written) break;
      listener_(written.error());
      lock.lock();
      const bool give_up = last_try || wake_.wait_for(lock, kRetryAfter, [this] { return stopping_; });
      lock.unlock();
      if (give_up) return;
    }
    if (sync) listener_(batch.back().entry.sequence);
    lock.lock();
  }
}

}  // namespace planaria

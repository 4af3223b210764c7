// The coordinator's durable log: every decision in order, on RocksDB.
//
// Records have gapless sequence numbers from 1. append() queues; one log thread writes whatever is queued as one batch
// and syncs once when any record of the batch asks for it, so that the decisions of a burst share one disk sync. When
// the disk refuses, the thread tells the listener and tries again for ever: nothing is announced meanwhile, nothing is
// lost, and training goes on in its view. A directory has one writer at a time; readers may look while it is written.
// Byte layout: docs/FORMATS.md, "coordinator log".
//
// Thread contract: append and read may be called from any thread; the listener runs on the log thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/codec.hpp"
#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/log_record.hpp"

namespace planaria {

struct LogEntry {
  std::uint64_t sequence = 0;
  std::int64_t unix_ms = 0;
  LogRecord record;
};

// What a directory's log belongs to, and what workers rely on over restarts. Written at each start.
struct LoggedJob {
  Hash128 job;
  std::string name;
  std::string toml;
  std::uint64_t job_key = 0;  // kept over restarts: workers tag data-plane frames with it
  ByteVector frame_key;       // secret of the data plane and of telemetry, or empty
  std::uint16_t control_port = 0;
  std::uint16_t http_port = 0;
  std::uint16_t telemetry_port = 0;
  std::uint16_t publish_port = 0;

  template <class V>
  void fields(V& v) {
    v(job, name, toml, job_key, frame_key, control_port, http_port, telemetry_port, publish_port);
  }
};

struct LogPage {
  std::vector<LogEntry> entries;
  std::uint64_t next = 0;  // pass as `after` to go on; equal to `after` when there is nothing more yet
};

// A look at a log that another process may be writing, for tools and tests. Damaged records are errors that name the
// record.
struct LogContents {
  std::optional<LoggedJob> job;
  std::vector<LogEntry> entries;
};
[[nodiscard]] Result<LogContents> read_log(const std::string& directory);

class EventLog {
 public:
  // Called on the log thread: with the highest durable sequence number, or with the error that it is retrying.
  using Listener = std::function<void(Result<std::uint64_t> durable)>;

  static constexpr std::size_t kMaxPage = 1000;       // entries of one read
  static constexpr std::size_t kMaxScanned = 20'000;  // records that one read looks at

  // Creates the directory when it isn't there. `unavailable` when another coordinator has it open.
  [[nodiscard]] static Result<std::unique_ptr<EventLog>> open(const std::string& directory);
  // Writes what is queued, at most one try, and stops.
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  [[nodiscard]] Result<std::optional<LoggedJob>> job() const;
  // Replaces what job() gave; durable when it returns.
  [[nodiscard]] Status record_job(const LoggedJob& job);

  // Every record from the first one on.
  [[nodiscard]] Result<std::vector<LogEntry>> read_all() const;

  // Records after `after`, oldest first, at most `limit`; step records are left out unless asked for. Sees what the log
  // thread has written, synced or not.
  [[nodiscard]] Result<LogPage> read(std::uint64_t after, std::size_t limit, bool with_steps) const;

  // Precondition of append: called once, before the first append.
  void start(Listener listener);

  // Queues the record and returns its sequence number. With sync the listener will hear of it; without, it is written
  // soon, and synced with the next record that asks.
  std::uint64_t append(LogRecord record, bool sync);

 private:
  struct Pending {
    LogEntry entry;
    bool sync = false;
  };
  struct Store;

  explicit EventLog(std::string directory);
  void run();
  [[nodiscard]] Status write(const std::vector<Pending>& batch, bool sync);

  const std::string directory_;
  int lock_file_ = -1;

  mutable std::mutex store_mutex_;
  std::shared_ptr<Store> store_;  // replaced when a failed store is opened again

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Pending> queue_;
  std::uint64_t last_sequence_ = 0;
  bool stopping_ = false;
  Listener listener_;
  std::thread thread_;
};

}  // namespace planaria

#include "coordinator/log/event_log.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <sys/resource.h>

#include <csignal>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;

LogRecord step(std::uint64_t number) {
  return log_record::StepLogged{ViewNumber(1), Step(number), 2.5};
}
LogRecord prepared(std::uint64_t view) {
  return log_record::Prepared{ViewNumber(view), {WorkerId(3)}, "worker 3 lost"};
}

// Remembers what the log said, and waits for it.
class Heard {
 public:
  EventLog::Listener listener() {
    return [this](Result<std::uint64_t> durable) {
      const std::lock_guard lock(mutex_);
      if (durable) {
        durable_ = std::max(durable_, *durable);
        ++calls_;
      } else {
        error_ = durable.error().message();
      }
      changed_.notify_all();
    };
  }
  void await(std::uint64_t sequence) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return durable_ >= sequence; });
  }
  std::string await_error() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !error_.empty(); });
    return error_;
  }
  std::uint64_t calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t durable_ = 0;
  std::uint64_t calls_ = 0;
  std::string error_;
};

std::unique_ptr<EventLog> open(const std::string& directory) {
  auto log = EventLog::open(directory);
  EXPECT_TRUE(log) << (log ? "" : log.error().message());
  return std::move(*log);
}

// Changes a stored record behind the log's back.
void put_raw(const std::string& directory, std::uint64_t sequence, const std::string* value) {
  rocksdb::DB* raw = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open({}, directory, &raw).ok());
  const std::unique_ptr<rocksdb::DB> db(raw);
  std::string key(9, 'e');
  for (int i = 0; i < 8; ++i) key[1 + i] = static_cast<char>(sequence >> (56 - 8 * i));
  ASSERT_TRUE((value != nullptr ? db->Put({}, key, *value) : db->Delete({}, key)).ok());
}

void write_prepares(const std::string& directory, std::uint64_t count) {
  Heard heard;
  auto log = open(directory);
  log->start(heard.listener());
  for (std::uint64_t i = 1; i <= count; ++i) {
    log->append(prepared(i), true);
    heard.await(i);  // a batch of its own
  }
}

TEST(EventLog, GivesBackEveryRecordInOrderAfterARestart) {
  const TemporaryDirectory directory;
  write_prepares(directory.path(), 3);
  Heard heard;
  auto log = open(directory.path());
  log->start(heard.listener());
  EXPECT_EQ(log->append(step(1), true), 4U);
  heard.await(4);
  const auto entries = log->read_all();
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ((*entries)[i].sequence, i + 1);
  const auto* second = std::get_if<log_record::Prepared>(&(*entries)[1].record);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->view, ViewNumber(2));
  EXPECT_EQ(second->excluded, std::vector<WorkerId>{WorkerId(3)});
}

TEST(EventLog, ARecordWithoutSyncIsWrittenButDoesNotSpeak) {
  const TemporaryDirectory directory;
  Heard heard;
  {
    auto log = open(directory.path());
    log->start(heard.listener());
    log->append(step(1), false);
  }
  EXPECT_EQ(heard.calls(), 0U);
  const auto contents = read_log(directory.path());
  ASSERT_TRUE(contents);
  EXPECT_EQ(contents->entries.size(), 1U);
}

TEST(EventLog, ASyncCoversTheRecordsBeforeIt) {
  const TemporaryDirectory directory;
  Heard heard;
  auto log = open(directory.path());
  log->start(heard.listener());
  log->append(step(1), false);
  log->append(step(2), false);
  const auto barrier = log->append(prepared(7), true);
  heard.await(barrier);
  const auto contents = read_log(directory.path());
  ASSERT_TRUE(contents);
  ASSERT_EQ(contents->entries.size(), 3U);
  EXPECT_TRUE(std::holds_alternative<log_record::Prepared>(contents->entries[2].record));
}

TEST(EventLog, ABurstSharesSyncs) {
  const TemporaryDirectory directory;
  Heard heard;
  auto log = open(directory.path());
  for (int i = 0; i < 100; ++i) log->append(prepared(i), true);
  log->start(heard.listener());
  heard.await(100);
  EXPECT_EQ(heard.calls(), 1U);
}

TEST(EventLog, ASecondCoordinatorIsRefused) {
  const TemporaryDirectory directory;
  const auto log = open(directory.path());
  const auto second = EventLog::open(directory.path());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("another coordinator"));
}

// docs/FORMATS.md, "Coordinator log".
TEST(EventLog, TheDocumentsExampleIsWhatIsWritten) {
  const TemporaryDirectory directory;
  {
    Heard heard;
    auto log = open(directory.path());
    log->start(heard.listener());
    heard.await(log->append(log_record::Prepared{ViewNumber(2), {WorkerId(3)}, "lost"}, true));
  }
  rocksdb::DB* raw = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open({}, directory.path(), &raw).ok());
  const std::unique_ptr<rocksdb::DB> db(raw);
  std::string value;
  ASSERT_TRUE(db->Get({}, std::string("e\0\0\0\0\0\0\0\1", 9), &value).ok());
  const std::string view("\x02\0\0\0\0\0\0\0", 8);
  const std::string excluded("\x01\0\0\0\x03\0\0\0", 8);
  const std::string reason("\x04\0\0\0lost", 8);
  const std::string suspicion("\0\0\0", 3);
  EXPECT_EQ(value.substr(8), "\x05" + view + excluded + reason + suspicion);
}

TEST(EventLog, KeepsTheJobAndItsKeys) {
  const TemporaryDirectory directory;
  {
    auto log = open(directory.path());
    EXPECT_FALSE(log->job()->has_value());
    ASSERT_TRUE(log->record_job({{1, 2}, "tiny", "name = \"tiny\"", 77, {9, 8}}));
  }
  const auto job = open(directory.path())->job();
  ASSERT_TRUE(job && *job);
  EXPECT_EQ((*job)->job, (Hash128{1, 2}));
  EXPECT_EQ((*job)->job_key, 77U);
  EXPECT_EQ((*job)->frame_key, (ByteVector{9, 8}));
}

TEST(EventLog, GarbageInARecordIsAnErrorThatNamesIt) {
  const TemporaryDirectory directory;
  write_prepares(directory.path(), 3);
  const std::string garbage = "\xff\xff\xff";
  put_raw(directory.path(), 2, &garbage);
  const auto entries = open(directory.path())->read_all();
  ASSERT_FALSE(entries);
  EXPECT_EQ(entries.error().code(), ErrorCode::corrupt);
  EXPECT_THAT(entries.error().message(), HasSubstr("record 2 can't be read"));
}

TEST(EventLog, AMissingRecordIsAnErrorThatNamesIt) {
  const TemporaryDirectory directory;
  write_prepares(directory.path(), 3);
  put_raw(directory.path(), 2, nullptr);
  const auto contents = read_log(directory.path());
  ASSERT_FALSE(contents);
  EXPECT_THAT(contents.error().message(), HasSubstr("record 2 is missing"));
}

TEST(EventLog, ATornTailIsDroppedAndTheRestIsKept) {
  const TemporaryDirectory directory;
  write_prepares(directory.path(), 3);
  for (const auto& file : std::filesystem::directory_iterator(directory.path())) {
    if (file.path().extension() != ".log" || file.file_size() == 0) continue;
    std::filesystem::resize_file(file.path(), file.file_size() - 5);
  }
  const auto entries = open(directory.path())->read_all();
  ASSERT_TRUE(entries) << entries.error().message();
  EXPECT_EQ(entries->size(), 2U);
}

TEST(EventLog, ADamagedSyncedRecordIsNeverDroppedInSilence) {
  const TemporaryDirectory directory;
  write_prepares(directory.path(), 3);
  for (const auto& file : std::filesystem::directory_iterator(directory.path())) {
    if (file.path().extension() != ".log" || file.file_size() == 0) continue;
    std::fstream bytes(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(file.file_size() / 2));
    bytes.put('\x5a');
  }
  const auto log = EventLog::open(directory.path());
  ASSERT_FALSE(log);
  EXPECT_EQ(log.error().code(), ErrorCode::corrupt);
  EXPECT_THAT(log.error().message(), HasSubstr("damaged log"));
}

TEST(EventLog, PagesLeaveOutStepsUnlessAskedFor) {
  const TemporaryDirectory directory;
  Heard heard;
  auto log = open(directory.path());
  log->start(heard.listener());
  for (int i = 1; i <= 5; ++i) log->append(step(i), false);
  log->append(prepared(1), true);
  heard.await(6);
  const auto decisions = log->read(0, 10, false);
  ASSERT_TRUE(decisions);
  EXPECT_EQ(decisions->entries.size(), 1U);
  EXPECT_EQ(decisions->next, 6U);
  const auto all = log->read(2, 2, true);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->entries.size(), 2U);
  EXPECT_EQ(all->next, 4U);
  EXPECT_EQ(log->read(6, 10, true)->next, 6U);
}

// No file may grow while it lives, as on a full disk.
class FullDisk {
 public:
  FullDisk() : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit none{1, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &none);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
  sighandler_t handler_;
};

TEST(EventLog, WhatAFullDiskRefusesIsDurableOnceThereIsRoom) {
  const TemporaryDirectory directory;
  write_prepares(directory.path(), 2);
  Heard heard;
  auto log = open(directory.path());
  log->start(heard.listener());
  {
    const FullDisk full;
    log->append(prepared(3), true);
    EXPECT_THAT(heard.await_error(), HasSubstr("record 3"));
    log->append(step(1), false);
  }
  const auto last = log->append(prepared(4), true);
  heard.await(last);
  const auto contents = read_log(directory.path());
  ASSERT_TRUE(contents) << contents.error().message();
  ASSERT_EQ(contents->entries.size(), 5U);
  EXPECT_EQ(std::get<log_record::Prepared>(contents->entries[2].record).view, ViewNumber(3));
}

TEST(EventLog, ADirectoryThatCannotBeMadeSaysSo) {
  const auto log = EventLog::open("/proc/planaria-log");
  ASSERT_FALSE(log);
  EXPECT_THAT(log.error().message(), HasSubstr("/proc/planaria-log"));
}

}  // namespace
}  // namespace planaria

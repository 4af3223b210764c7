#include "worker/trainer/ledger.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

class LedgerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Ledger> create() {
    auto ledger = Ledger::create(path_, WorkerId(3), Incarnation(2));
    EXPECT_TRUE(ledger.ok());
    return std::move(ledger).value();
  }
  static LedgerRecord record(std::uint64_t step, std::uint32_t index) {
    return {.step = Step(step),
            .micro_batch = MicroBatchIndex(index),
            .attempt = 1,
            .view = ViewNumber(4),
            .recompute = index % 2 == 1,
            .at = Instant{static_cast<std::int64_t>(1000 * step + index)}};
  }

  const TemporaryDirectory root_;
  const std::string path_ = ledger_path(root_.path(), WorkerId(3), Incarnation(2));
};

TEST_F(LedgerTest, RecordsComeBackInOrder) {
  {
    const auto ledger = create();
    for (std::uint32_t i = 0; i < 5; ++i) ASSERT_TRUE(ledger->append(record(7, i)).ok());
  }
  const auto read = read_ledger(path_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->worker, WorkerId(3));
  EXPECT_EQ(read->incarnation, Incarnation(2));
  ASSERT_EQ(read->records.size(), 5U);
  for (std::uint32_t i = 0; i < 5; ++i) EXPECT_EQ(read->records[i], record(7, i));
}

TEST_F(LedgerTest, ItGrowsBeyondItsFirstMapping) {
  const auto ledger = create();
  constexpr std::uint32_t kMany = 100'000;
  for (std::uint32_t i = 0; i < kMany; ++i) ASSERT_TRUE(ledger->append(record(1, i)).ok());
  const auto read = read_ledger(path_);
  ASSERT_TRUE(read.ok());
  ASSERT_EQ(read->records.size(), kMany);
  EXPECT_EQ(read->records.back(), record(1, kMany - 1));
}

TEST_F(LedgerTest, WhatWasWrittenSurvivesSigkill) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto ledger = create();
    for (std::uint32_t i = 0; i < 17; ++i) (void)ledger->append(record(2, i));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const auto read = read_ledger(path_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->records.size(), 17U);
}

TEST_F(LedgerTest, AnIncarnationBeginsOnce) {
  const auto ledger = create();
  EXPECT_FALSE(Ledger::create(path_, WorkerId(3), Incarnation(2)).ok());
}

TEST_F(LedgerTest, OtherFilesAreRefused) {
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
  std::ofstream(path_) << std::string(200, 'x');
  EXPECT_EQ(read_ledger(path_).error().code(), ErrorCode::corrupt);
  std::ofstream(path_, std::ios::trunc) << "short";
  EXPECT_EQ(read_ledger(path_).error().code(), ErrorCode::corrupt);
  EXPECT_EQ(read_ledger(root_.path("none")).error().code(), ErrorCode::not_found);
}

TEST_F(LedgerTest, ARecordThatWasCutOffIsNotThere) {
  {
    const auto ledger = create();
    for (std::uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(ledger->append(record(1, i)).ok());
  }
  std::filesystem::resize_file(path_, kLedgerHeaderBytes + 2 * kLedgerRecordBytes + 20);
  EXPECT_EQ(read_ledger(path_)->records.size(), 2U);
}

}  // namespace
}  // namespace planaria

#include "common/log.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace planaria {
namespace {

// Logs to a file of this test's own and reads it back.
class LogTest : public testing::Test {
 protected:
  void SetUp() override {
    file_ = testing::TempDir() + "planaria_log_" + std::to_string(::getpid()) + ".jsonl";
    std::filesystem::remove(file_);
    ASSERT_TRUE(
        start_logging({.level = LogLevel::info, .text = false, .json_file = file_, .fields = {{"worker", 3U}}}));
  }
  void TearDown() override {
    ASSERT_TRUE(start_logging({.level = LogLevel::warning}));
    std::filesystem::remove(file_);
  }
  std::vector<nlohmann::json> lines() {
    flush_logs();
    std::ifstream in(file_);
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
  std::string file_;
};

TEST_F(LogTest, ALineCarriesProcessContextAndOwnFields) {
  const Log log = Log("worker.agent").with({{"view", ViewNumber(4)}});
  log.info("view committed", {{"step", Step(12)}, {"ratio", 0.5}, {"late", true}, {"delta", -3}, {"name", "w3"}});
  const auto written = lines();
  ASSERT_EQ(written.size(), 1U);
  EXPECT_EQ(written[0]["component"], "worker.agent");
  EXPECT_EQ(written[0]["message"], "view committed");
  EXPECT_EQ(written[0]["level"], "info");
  EXPECT_EQ(written[0]["worker"], 3);
  EXPECT_EQ(written[0]["view"], 4);
  EXPECT_EQ(written[0]["step"], 12);
  EXPECT_EQ(written[0]["ratio"], 0.5);
  EXPECT_EQ(written[0]["late"], true);
  EXPECT_EQ(written[0]["delta"], -3);
  EXPECT_EQ(written[0]["name"], "w3");
}

TEST_F(LogTest, LaterFieldsReplaceEarlierOnesOfTheSameName) {
  const Log log = Log("a").with({{"view", 1}}).with({{"view", 2}});
  log.info("x", {{"worker", 9}});
  EXPECT_EQ(lines().at(0)["view"], 2);
  EXPECT_EQ(lines().at(0)["worker"], 9);
}

TEST_F(LogTest, LowerLevelsAreNotWritten) {
  const Log log("a");
  log.debug("no");
  log.trace("no");
  log.warning("yes");
  EXPECT_FALSE(Log::enabled(LogLevel::debug));
  EXPECT_EQ(lines().size(), 1U);
}

TEST_F(LogTest, HostileTextStaysOneValidLine) {
  Log("a").error("two\nlines \x1b[2J \"quoted\" \xff\xfe", {{"peer", std::string("}\n{\"level\":\"x\xc0\"")}});
  const auto written = lines();
  ASSERT_EQ(written.size(), 1U);
  EXPECT_EQ(written[0]["level"], "error");
}

TEST_F(LogTest, LinesOfManyThreadsAreNeverTorn) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      const Log log = Log("thread").with({{"thread", t}});
      for (int i = 0; i < 250; ++i) log.info(std::string(100, 'x'), {{"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines().size(), 1000U);
}

TEST_F(LogTest, AFileThatCannotBeOpenedLeavesTheFormerSetting) {
  const Status status = start_logging({.json_file = "/proc/no/such/place/log.jsonl"});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ErrorCode::io);
  Log("a").info("still here");
  EXPECT_EQ(lines().size(), 1U);
}

TEST(LogText, GoesToStandardErrorWithControlCodesEscaped) {
  testing::internal::CaptureStderr();
  ASSERT_TRUE(start_logging({.level = LogLevel::info}));
  Log("coordinator").info("hello \x1b[1m", {{"reason", "worker 2 is silent"}, {"view", 3}});
  flush_logs();
  const std::string text = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(start_logging({.level = LogLevel::warning}));
  EXPECT_NE(text.find("info    coordinator  hello \\x1b[1m reason=\"worker 2 is silent\" view=3\n"), std::string::npos)
      << text;
}

TEST(LogLevels, ComeBackByNameAndUnknownOnesAreRefused) {
  EXPECT_EQ(*parse_log_level("debug"), LogLevel::debug);
  EXPECT_FALSE(parse_log_level("loud"));
}

TEST_F(LogTest, WhatIsRareOutlivesAProcessThatIsKilled) {
  Log("a").info("a view");
  EXPECT_GT(std::filesystem::file_size(file_), 0U);  // nobody has flushed
}

}  // namespace
}  // namespace planaria

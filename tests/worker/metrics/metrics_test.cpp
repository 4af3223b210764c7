#include "worker/metrics/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/file_faults.hpp"
#include "common/file_memory.hpp"
#include "worker/metrics/tensorboard_event.pb.h"

namespace planaria {
namespace {

using tensorboard::Event;

StepMetrics metrics_of(std::uint64_t step) {
  StepMetrics metrics;
  metrics.step = Step(step);
  metrics.view = ViewNumber(2);
  metrics.workers = 3;
  metrics.loss = 2.5;
  metrics.learning_rate = 6e-4;
  metrics.gradient_norm = 0.75;
  metrics.tokens_per_s = 1234;
  metrics.unix_time_s = 1.7e9 + static_cast<double>(step);
  if (step % 2 == 0) metrics.validation_loss = 2.25;
  return metrics;
}

std::vector<std::string> lines_of(FileSystem& fs, const std::string& path) {
  std::istringstream text(*read_file(fs, path, 1 << 20));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

// CRC-32C by its definition, bit by bit.
std::uint32_t reference_masked_crc(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1U) != 0 ? (crc >> 1) ^ 0x82F63B78U : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

// Every record of an event file, its frame checked; stops at the first that is not whole.
std::vector<Event> events_of(FileSystem& fs, const std::string& path) {
  const std::string file = *read_file(fs, path, 1 << 20);
  std::string_view left = file;
  std::vector<Event> events;
  while (left.size() >= 16) {
    std::uint64_t length = 0;
    std::uint32_t crc = 0;
    std::memcpy(&length, left.data(), sizeof length);
    std::memcpy(&crc, left.data() + 8, sizeof crc);
    EXPECT_EQ(crc, reference_masked_crc(left.substr(0, 8)));
    if (left.size() < 16 + length) break;
    const std::string_view data = left.substr(12, length);
    std::memcpy(&crc, left.data() + 12 + length, sizeof crc);
    EXPECT_EQ(crc, reference_masked_crc(data));
    EXPECT_TRUE(events.emplace_back().ParseFromArray(data.data(), static_cast<int>(data.size())));
    left.remove_prefix(16 + length);
  }
  return events;
}

TEST(Crc, KnownAnswerHolds) {
  // RFC 3720, B.4: 32 zero bytes give 8A9136AA.
  const std::uint32_t crc = 0x8A9136AAU;
  EXPECT_EQ(reference_masked_crc(std::string(32, '\0')), ((crc >> 15) | (crc << 17)) + 0xA282EAD8U);
}

TEST(Jsonl, EachStepIsOneObject) {
  MemoryFileSystem fs;
  auto writer = JsonlWriter::open(fs, "m.jsonl");
  for (const std::uint64_t step : {1, 2}) ASSERT_TRUE(writer->append(metrics_of(step)));
  const auto lines = lines_of(fs, "m.jsonl");
  ASSERT_EQ(lines.size(), 2U);
  const auto first = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(first["step"], 1);
  EXPECT_EQ(first["loss"], 2.5);
  EXPECT_EQ(first["lr"], 6e-4);
  EXPECT_EQ(first["workers"], 3);
  EXPECT_FALSE(first.contains("val_loss"));
  EXPECT_EQ(nlohmann::json::parse(lines[1])["val_loss"], 2.25);
}

TEST(Jsonl, LossThatIsNotFiniteIsNull) {
  StepMetrics metrics = metrics_of(1);
  metrics.loss = std::nan("");
  EXPECT_TRUE(nlohmann::json::parse(render_jsonl(metrics))["loss"].is_null());
}

TEST(Jsonl, TornLastLineOfACrashIsClosedOff) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_file_atomically(fs, "m.jsonl", "{\"step\":1}\n{\"st"));
  ASSERT_TRUE(JsonlWriter::open(fs, "m.jsonl")->append(metrics_of(2)));
  const auto lines = lines_of(fs, "m.jsonl");
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(nlohmann::json::parse(lines[2])["step"], 2);
}

TEST(Jsonl, FullDiskLosesLinesAndNothingElse) {
  MemoryFileSystem memory;
  FaultyFileSystem fs(memory);
  auto writer = JsonlWriter::open(fs, "m.jsonl");
  ASSERT_TRUE(writer->append(metrics_of(1)));
  fs.fill_after(10);
  EXPECT_EQ(writer->append(metrics_of(2)).error().code(), ErrorCode::exhausted);
  fs.heal();
  ASSERT_TRUE(writer->append(metrics_of(3)));
  const auto lines = lines_of(memory, "m.jsonl");
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_TRUE(nlohmann::json::parse(lines[1], nullptr, false).is_discarded());
  EXPECT_EQ(nlohmann::json::parse(lines[2])["step"], 3);
}

TEST(Tensorboard, FileHasVersionStartAndScalarsInSoundFrames) {
  MemoryFileSystem fs;
  TensorboardWriter writer(fs, {"tb", "host", 1700000000, Step(5)});
  ASSERT_TRUE(writer.append(metrics_of(6)));
  const auto events = events_of(fs, "tb/events.out.tfevents.1700000000.host.0");
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 5);
  EXPECT_EQ(events[2].step(), 6);
  EXPECT_EQ(events[2].wall_time(), 1.7e9 + 6);
  ASSERT_EQ(events[2].summary().value_size(), 8);
  EXPECT_EQ(events[2].summary().value(0).tag(), "loss/train");
  EXPECT_EQ(events[2].summary().value(1).simple_value(), 2.25F);
}

TEST(Tensorboard, AfterATornRecordANewFileGoesOn) {
  MemoryFileSystem memory;
  FaultyFileSystem fs(memory);
  TensorboardWriter writer(fs, {"tb", "host", 1700000000, Step(1)});
  ASSERT_TRUE(writer.append(metrics_of(1)));
  fs.fill_after(7);
  EXPECT_FALSE(writer.append(metrics_of(2)));
  fs.heal();
  ASSERT_TRUE(writer.append(metrics_of(3)));
  EXPECT_EQ(events_of(memory, "tb/events.out.tfevents.1700000000.host.0").size(), 3U);
  const auto second = events_of(memory, "tb/events.out.tfevents.1700000000.host.1");
  ASSERT_EQ(second.size(), 3U);
  EXPECT_EQ(second[2].step(), 3);
}

TEST(Metrics, OneFailingKindDoesNotStopTheOther) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_file_atomically(fs, "tensorboard", "a file in its place"));
  auto writer = MetricsWriter::open(fs, {"", true, true, "host", 1700000000, Step(1)});
  ASSERT_TRUE(writer) << writer.error().message();
  EXPECT_FALSE(writer->append(metrics_of(1)));
  EXPECT_EQ(lines_of(fs, "metrics.jsonl").size(), 1U);
}

}  // namespace
}  // namespace planaria

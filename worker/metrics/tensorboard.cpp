// TensorBoard event files: TFRecord frames, each an Event message.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "worker/metrics/metrics.hpp"
#include "worker/metrics/tensorboard_event.pb.h"

namespace planaria {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1U) != 0 ? 0x82F63B78U : 0U);
    table[i] = value;
  }
  return table;
}

// CRC-32C (Castagnoli), rotated and offset as TFRecord wants it, so that a CRC of bytes with CRCs in them stays good.
std::uint32_t masked_crc(std::string_view bytes) {
  static constexpr auto kTable = make_crc_table();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char byte : bytes) crc = kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFFU] ^ (crc >> 8);
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

std::string frame(const tensorboard::Event& event) {
  const std::string data = event.SerializeAsString();
  std::string record;
  put(record, std::uint64_t{data.size()});
  put(record, masked_crc(record));
  record += data;
  put(record, masked_crc(data));
  return record;
}

std::string frame(const StepMetrics& metrics) {
  tensorboard::Event event;
  event.set_wall_time(metrics.unix_time_s);
  event.set_step(static_cast<std::int64_t>(metrics.step.value()));
  const auto scalar = [&event](const char* tag, double value) {
    auto* entry = event.mutable_summary()->add_value();
    entry->set_tag(tag);
    entry->set_simple_value(static_cast<float>(value));
  };
  scalar("loss/train", metrics.loss);
  if (metrics.validation_loss) scalar("loss/validation", *metrics.validation_loss);
  scalar("optimizer/learning_rate", metrics.learning_rate);
  scalar("optimizer/gradient_norm", metrics.gradient_norm);
  scalar("speed/tokens_per_s", metrics.tokens_per_s);
  scalar("speed/step_s", metrics.step_s);
  scalar("cluster/workers", metrics.workers);
  scalar("cluster/view", static_cast<double>(metrics.view.value()));
  return frame(event);
}

}  // namespace

Status TensorboardWriter::open_file(Step first_step, double unix_time_s) {
  PLANARIA_TRY(fs_->make_directories(options_.directory));
  const std::string name =
      fmt::format("events.out.tfevents.{:010}.{}.{}", options_.unix_time_s, options_.host, files_++);
  PLANARIA_ASSIGN(auto file, fs_->create(join_path(options_.directory, name)));
  tensorboard::Event version;
  version.set_wall_time(unix_time_s);
  version.set_file_version("brain.Event:2");
  tensorboard::Event start;
  start.set_wall_time(unix_time_s);
  start.set_step(static_cast<std::int64_t>(first_step.value()));
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  PLANARIA_TRY(file->append(frame(version) + frame(start)));
  file_ = std::move(file);
  return ok_status();
}

Status TensorboardWriter::append(const StepMetrics& metrics) {
  if (!file_) PLANARIA_TRY(open_file(files_ == 0 ? options_.first_step : metrics.step, metrics.unix_time_s));
  const Status written = file_->append(frame(metrics));
  // Readers stop at a torn record: what follows goes to a new file.
  if (!written) file_.reset();
  return written;
}

}  // namespace planaria

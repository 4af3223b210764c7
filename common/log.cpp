#include "common/log.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

namespace planaria {
namespace {

constexpr std::array<std::string_view, 6> kLevelNames{"trace", "debug", "info", "warning", "error", "off"};
static_assert(kLevelNames.size() == static_cast<std::size_t>(LogLevel::count_));

// What start_logging set. Lines are formatted here; spdlog's sinks write them whole.
struct Sinks {
  std::shared_ptr<spdlog::logger> text;
  std::shared_ptr<spdlog::logger> json;
  std::vector<LogField> fields;
};

std::shared_ptr<spdlog::logger> raw_logger(spdlog::sink_ptr sink) {
  auto logger = std::make_shared<spdlog::logger>("planaria", std::move(sink));
  logger->set_pattern("%v");
  logger->set_level(spdlog::level::trace);
  // What is rare is on disk at once: it must outlive a process that is killed.
  logger->flush_on(spdlog::level::info);
  // A log that can't be written (full disk, closed stderr) must not disturb the process that wanted to tell something.
  logger->set_error_handler([](const std::string&) {});
  return logger;
}

class Global {
 public:
  static Global& instance() {
    static Global global;
    return global;
  }
  std::shared_ptr<const Sinks> sinks() {
    const std::lock_guard lock(mutex_);
    return sinks_;
  }
  void set(std::shared_ptr<const Sinks> sinks, LogLevel level) {
    const std::lock_guard lock(mutex_);
    sinks_ = std::move(sinks);
    level_.store(level, std::memory_order_relaxed);
  }
  LogLevel level() const { return level_.load(std::memory_order_relaxed); }

 private:
  Global() {
    auto sinks = std::make_shared<Sinks>();
    sinks->text = raw_logger(std::make_shared<spdlog::sinks::stderr_sink_mt>());
    sinks_ = std::move(sinks);
  }
  std::atomic<LogLevel> level_{LogLevel::warning};
  std::mutex mutex_;
  std::shared_ptr<const Sinks> sinks_;
};

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool is_plain(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7F && c != '"' && c != '='; });
}

// Keeps a terminal's control codes and line breaks out of a message that may quote a peer or a file.
std::string printable(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      shown += "\n    ";
    } else if (byte < 0x20 || byte == 0x7F) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

std::string text_value(const LogValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return is_plain(*text) ? *text : quoted(*text);
  return std::visit(
      [](const auto& v) -> std::string {
        if constexpr (std::same_as<std::decay_t<decltype(v)>, std::string>) {
          return v;
        } else if constexpr (std::same_as<std::decay_t<decltype(v)>, double>) {
          return fmt::format("{:.6g}", v);
        } else {
          return fmt::format("{}", v);
        }
      },
      value);
}

std::string json_value(const LogValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return quoted(*text);
  if (const auto* number = std::get_if<double>(&value))
    return std::isfinite(*number) ? fmt::format("{}", *number) : "null";
  return text_value(value);
}

using Fields = std::vector<const LogField*>;

// Later fields win; order of first appearance.
Fields merge(std::initializer_list<std::pair<const LogField*, std::size_t>> groups) {
  Fields merged;
  for (const auto& [first, count] : groups) {
    for (const LogField* field = first; field != first + count; ++field) {
      const auto same =
          std::ranges::find(merged, field->key, [](const LogField* f) -> const std::string& { return f->key; });
      if (same != merged.end()) {
        *same = field;
      } else {
        merged.push_back(field);
      }
    }
  }
  return merged;
}

}  // namespace

std::string_view to_string(LogLevel level) {
  return kLevelNames.at(static_cast<std::size_t>(level));
}

Result<LogLevel> parse_log_level(std::string_view name) {
  const auto found = std::ranges::find(kLevelNames, name);
  if (found == kLevelNames.end()) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("log level \"{}\": expected one of {}", name, fmt::join(kLevelNames, ", ")));
  }
  return static_cast<LogLevel>(found - kLevelNames.begin());
}

Status start_logging(const LogOptions& options) {
  auto sinks = std::make_shared<Sinks>();
  sinks->fields = options.fields;
  try {
    if (options.text) sinks->text = raw_logger(std::make_shared<spdlog::sinks::stderr_sink_mt>());
    if (!options.json_file.empty()) {
      sinks->json = raw_logger(std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.json_file));
    }
  } catch (const spdlog::spdlog_ex& error) {
    return Error(ErrorCode::io, fmt::format("log file {}: {}", options.json_file, error.what()));
  }
  Global::instance().set(std::move(sinks), options.level);
  return ok_status();
}

void flush_logs() {
  const auto sinks = Global::instance().sinks();
  if (sinks->text) sinks->text->flush();
  if (sinks->json) sinks->json->flush();
}

Log Log::with(std::initializer_list<LogField> fields) const {
  std::vector<LogField> all;
  for (const LogField* field : merge({{fields_.data(), fields_.size()}, {fields.begin(), fields.size()}})) {
    all.push_back(*field);
  }
  return Log(component_, std::move(all));
}

bool Log::enabled(LogLevel level) {
  return level >= Global::instance().level() && level < LogLevel::off;
}

void Log::write(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) const {
  if (!enabled(level)) return;
  const auto sinks = Global::instance().sinks();
  const auto now = std::chrono::system_clock::now();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  const std::string time = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(now), ms);
  const Fields all = merge({{sinks->fields.data(), sinks->fields.size()},
                            {fields_.data(), fields_.size()},
                            {fields.begin(), fields.size()}});
  // spdlog decides by its own level only whether to flush.
  const auto spdlog_level = level >= LogLevel::info ? spdlog::level::info : spdlog::level::debug;
  if (sinks->text) {
    std::string line = fmt::format("{} {:<7} {:<12} {}", time, to_string(level), component_, printable(message));
    for (const LogField* field : all) line += fmt::format(" {}={}", field->key, text_value(field->value));
    sinks->text->log(spdlog_level, spdlog::string_view_t(line));
  }
  if (sinks->json) {
    std::string line = fmt::format(R"({{"time":"{}","level":"{}","component":{},"message":{})", time, to_string(level),
                                   quoted(component_), quoted(std::string(message)));
    for (const LogField* field : all) line += fmt::format(",{}:{}", quoted(field->key), json_value(field->value));
    sinks->json->log(spdlog_level, spdlog::string_view_t(line + "}"));
  }
}

}  // namespace planaria

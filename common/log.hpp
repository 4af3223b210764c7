// Structured logs: level, component, message and key=value fields; text on stderr, JSON lines in a file.
//
// A Log is a small value: a component's name and the fields that all its lines carry. `log.with(…)` adds fields, so a
// worker's log knows its worker, a view's its view, and a line says only what is new. Text from peers and files is
// escaped; one call is one line.
//
// Lines of `info` and above are written at once, finer ones when a buffer is full: `info` is for what is rare (views,
// joins, recoveries), never for each step or message.
//
// The one piece of global state is where lines go, set by start_logging at a process's start; before that, warnings
// and errors go to stderr.
//
// Thread contract: a Log is a value; any thread may log at any time, lines are never torn.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "common/ids.hpp"
#include "common/result.hpp"

namespace planaria {

enum class LogLevel : std::uint8_t { trace, debug, info, warning, error, off, count_ };
[[nodiscard]] std::string_view to_string(LogLevel level);
[[nodiscard]] Result<LogLevel> parse_log_level(std::string_view name);

using LogValue = std::variant<bool, std::int64_t, std::uint64_t, double, std::string>;

struct LogField {
  std::string key;
  LogValue value;

  template <class T>
  LogField(std::string_view name, const T& v) : key(name), value(convert(v)) {}

 private:
  template <class T>
  static LogValue convert(const T& v) {
    if constexpr (std::same_as<T, bool>) {
      return v;
    } else if constexpr (std::signed_integral<T>) {
      return static_cast<std::int64_t>(v);
    } else if constexpr (std::unsigned_integral<T>) {
      return static_cast<std::uint64_t>(v);
    } else if constexpr (std::floating_point<T>) {
      return static_cast<double>(v);
    } else if constexpr (std::is_enum_v<T>) {
      return std::string(to_string(v));
    } else if constexpr (requires { static_cast<std::uint64_t>(v.value()); }) {
      return static_cast<std::uint64_t>(v.value());  // strong ids
    } else {
      return std::string(v);
    }
  }
};

struct LogOptions {
  LogLevel level = LogLevel::info;
  bool text = true;                // lines of `level` and above on stderr
  std::string json_file;           // lines of `level` and above appended as JSON; empty = none
  std::vector<LogField> fields{};  // carried by every line of this process
};

// Sets where lines go from now on. Fails when the file can't be opened; the former setting stays then.
[[nodiscard]] Status start_logging(const LogOptions& options);
// Writes out what is buffered; before _exit and at the end of main.
void flush_logs();

class Log {
 public:
  explicit Log(std::string component, std::vector<LogField> fields = {})
      : component_(std::move(component)), fields_(std::move(fields)) {}

  // The same log with more fields; a key that is there already takes the new value.
  [[nodiscard]] Log with(std::initializer_list<LogField> fields) const;

  // True when a line of this level would go anywhere; for callers whose fields are costly to make.
  [[nodiscard]] static bool enabled(LogLevel level);

  void write(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {}) const;
  void trace(std::string_view m, std::initializer_list<LogField> f = {}) const { write(LogLevel::trace, m, f); }
  void debug(std::string_view m, std::initializer_list<LogField> f = {}) const { write(LogLevel::debug, m, f); }
  void info(std::string_view m, std::initializer_list<LogField> f = {}) const { write(LogLevel::info, m, f); }
  void warning(std::string_view m, std::initializer_list<LogField> f = {}) const { write(LogLevel::warning, m, f); }
  void error(std::string_view m, std::initializer_list<LogField> f = {}) const { write(LogLevel::error, m, f); }

 private:
  std::string component_;
  std::vector<LogField> fields_;
};

}  // namespace planaria

// Configuration: one TOML document, flags and environment variables on top of it, read into plain structs.
//
// A reader asks for each key it knows, by section, name and allowed range; what it doesn't ask for is an unknown key.
// A value comes from `--set section.key=value`, else from the variable PLANARIA_SECTION_KEY, else from the file, else
// the struct keeps what it had. All problems of one document are collected and told together, each with its place
// (file:line, flag or variable), the key and what was expected. Nothing here throws.
//
// Thread contract: a ConfigReader belongs to one thread.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"

namespace planaria {

inline constexpr std::size_t kMaxConfigBytes = 1U << 20;
inline constexpr std::size_t kMaxConfigString = 4096;

// Both ends are allowed values.
struct IntegerRange {
  std::int64_t min = 0;
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
};
struct NumberRange {
  double min = 0.0;
  double max = std::numeric_limits<double>::max();
};
// "an integer from 1 to 64", "an integer of 1 or more", "one of a, b".
[[nodiscard]] std::string expectation(const IntegerRange& range);
[[nodiscard]] std::string expectation(const NumberRange& range);
[[nodiscard]] std::string expectation(std::span<const std::string_view> names);

// Environment variables by name.
using Environment = std::map<std::string, std::string, std::less<>>;
inline constexpr std::string_view kEnvironmentPrefix = "PLANARIA_";
// This process's variables that begin with kEnvironmentPrefix.
[[nodiscard]] Environment process_environment();

// The candidate nearest to `word` by edit distance (swaps count one), or "" when none is near enough to be meant.
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);

// Problems of one document; a Status once all are known. The first kShown are told, the rest counted.
class Problems {
 public:
  void add(std::string problem) { list_.push_back(std::move(problem)); }
  [[nodiscard]] bool empty() const { return list_.empty(); }
  [[nodiscard]] Status status() const;

 private:
  static constexpr std::size_t kShown = 12;
  std::vector<std::string> list_;
};

class ConfigReader {
 public:
  // `assignments` are "section.key=value" (a top-level key has no section); of two for one key the last one holds.
  // Fails when the file can't be read, is larger than kMaxConfigBytes, isn't TOML, or an assignment has no '='.
  [[nodiscard]] static Result<ConfigReader> from_file(const std::string& path,
                                                      std::span<const std::string> assignments = {},
                                                      const Environment& environment = {});
  // `source` stands for the file's name in messages; relative paths in the text stay as they are.
  [[nodiscard]] static Result<ConfigReader> from_text(std::string_view text, std::string source,
                                                      std::span<const std::string> assignments = {},
                                                      const Environment& environment = {});
  ConfigReader(ConfigReader&&) noexcept;
  ConfigReader& operator=(ConfigReader&&) noexcept;
  ~ConfigReader();

  // The keys asked for next are those of [name]; "" is the top level, where a reader starts.
  void section(std::string_view name);

  // Reads a key of the current section into `out`, which stays as it is when the key is absent or wrong. True when a
  // good value was given.
  template <std::integral T>
  requires(!std::same_as<T, bool>) bool key(std::string_view name, T& out, IntegerRange range = {}) {
    using Limits = std::numeric_limits<T>;
    if (std::cmp_less(range.min, Limits::min())) range.min = static_cast<std::int64_t>(Limits::min());
    if (std::cmp_greater(range.max, Limits::max())) range.max = static_cast<std::int64_t>(Limits::max());
    std::int64_t value = 0;
    if (!read_integer(name, range, value)) return false;
    out = static_cast<T>(value);
    return true;
  }
  template <class E>
  requires std::is_enum_v<E>
  bool key(std::string_view name, E& out, std::span<const std::string_view> names) {
    std::size_t index = 0;
    if (!read_choice(name, names, index)) return false;
    out = static_cast<E>(index);
    return true;
  }
  bool key(std::string_view name, double& out, const NumberRange& range);
  bool key(std::string_view name, bool& out);
  bool key(std::string_view name, std::string& out);
  bool key(std::string_view name, Hash128& out);
  // A file name, made absolute: a relative one that the file gives counts from the file's directory, others from the
  // working one.
  bool path(std::string_view name, std::string& out);
  // A value that is never printed and never written back (ConfigWriter leaves it out).
  bool secret(std::string_view name, std::string& out) { return key(name, out); }

  // Calls read(reader, index) for each table of [[name]]; key() inside it reads from that table. Flags and variables
  // don't reach into arrays.
  void each(std::string_view name, const std::function<void(ConfigReader&, std::size_t)>& read);

  // A problem with a key of the current section, told at the place where its value came from.
  void refuse(std::string_view name, const std::string& message);

  // All problems met, unknown keys, flags and variables included; success when there are none.
  [[nodiscard]] Status finish();

 private:
  struct State;
  explicit ConfigReader(std::unique_ptr<State> state);
  static Result<ConfigReader> load(std::string_view text, std::string source, std::span<const std::string> assignments,
                                   const Environment& environment);
  bool read_integer(std::string_view name, const IntegerRange& range, std::int64_t& out);
  bool read_choice(std::string_view name, std::span<const std::string_view> names, std::size_t& out);

  std::unique_ptr<State> state_;
};

// Writes what a ConfigReader reads, through the same calls.
class ConfigWriter {
 public:
  void section(std::string_view name);
  void key(std::string_view name, const double& value, const NumberRange& range);
  void key(std::string_view name, const bool& value);
  void key(std::string_view name, const std::string& value);
  void key(std::string_view name, const Hash128& value);
  void path(std::string_view name, const std::string& value) { key(name, value); }
  void secret(std::string_view, const std::string&) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) void key(std::string_view name, const T& value, const IntegerRange&) {
    line(name, std::to_string(value));
  }
  template <class E>
  requires std::is_enum_v<E>
  void key(std::string_view name, const E& value, std::span<const std::string_view> names) {
    key(name, std::string(names[static_cast<std::size_t>(value)]));
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void line(std::string_view name, std::string_view value);
  std::string text_;
};

}  // namespace planaria

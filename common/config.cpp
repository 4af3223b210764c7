#include "common/config.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>

extern char** environ;  // NOLINT: POSIX's own name

namespace planaria {
namespace {

constexpr std::size_t kShownValue = 60;
constexpr std::size_t kMaxComparedWord = 64;

std::string shorten(std::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, kShownValue)) shown += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  if (text.size() > kShownValue) shown += "…";
  return shown;
}

// Optimal string alignment distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({change, last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

// TOML text is UTF-8; flags and variables may be anything, and must be writable as TOML again.
bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t size = lead < 0x80                   ? 1
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xF0 && lead < 0xF5 ? 4
                                                           : 0;
    if (size == 0 || i + size > text.size()) return false;
    for (std::size_t k = 1; k < size; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return false;
    }
    const auto second = static_cast<unsigned char>(size > 1 ? text[i + 1] : 0);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F)) {
      return false;
    }
    i += size;
  }
  return true;
}

std::string variable_name(std::string_view key) {
  std::string name(kEnvironmentPrefix);
  for (const char c : key) name += c == '.' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

std::string describe(const toml::node& node) {
  if (const auto* text = node.as_string()) return fmt::format("the string \"{}\"", shorten(text->get()));
  if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  if (node.is_table()) return "a table";
  if (node.is_array()) return "an array";
  return "a date or time";
}

Result<std::string> read_text(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return Error(ErrorCode::not_found, fmt::format("{}: no such file", path));
  if (fs::is_directory(status)) {
    return Error(ErrorCode::invalid_argument, fmt::format("{}: is a directory, expected a TOML file", path));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error(ErrorCode::invalid_argument, fmt::format("{}: can't be opened; check its permissions", path));
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return Error(ErrorCode::io, fmt::format("{}: can't be read", path));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

// The same file whatever the working directory is later, or in another process.
std::string made_absolute(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path made = std::filesystem::absolute(path, error);
  return (error ? path : made).lexically_normal().string();
}

}  // namespace

std::string expectation(const IntegerRange& range) {
  if (range.max == std::numeric_limits<std::int64_t>::max()) return fmt::format("an integer of {} or more", range.min);
  return fmt::format("an integer from {} to {}", range.min, range.max);
}

std::string expectation(const NumberRange& range) {
  if (range.max == std::numeric_limits<double>::max()) return fmt::format("a number of {} or more", range.min);
  return fmt::format("a number from {} to {}", range.min, range.max);
}

std::string expectation(std::span<const std::string_view> names) {
  return fmt::format("one of \"{}\"", fmt::join(names, "\", \""));
}

Environment process_environment() {
  Environment found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || !text.starts_with(kEnvironmentPrefix)) continue;
    found.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return found;
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  if (word.size() > kMaxComparedWord) return {};
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(1, (word.size() + 2) / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return std::string(best);
}

Status Problems::status() const {
  if (list_.empty()) return ok_status();
  const std::size_t shown = std::min(list_.size(), kShown);
  std::string text =
      fmt::format("{}", fmt::join(list_.begin(), list_.begin() + static_cast<std::ptrdiff_t>(shown), "\n"));
  if (list_.size() > shown) text += fmt::format("\n… and {} more", list_.size() - shown);
  return Error(ErrorCode::invalid_argument, std::move(text));
}

struct ConfigReader::State {
  // A value with the place it came from: a node of the file, or the text of a flag or variable.
  struct Found {
    const toml::node* node = nullptr;
    std::string text;
    std::string place;
    [[nodiscard]] std::string shown() const {
      return node != nullptr ? describe(*node) : fmt::format("\"{}\"", shorten(text));
    }
  };

  std::string source;
  bool in_file = false;
  std::string directory;  // of the file
  toml::table root;
  std::map<std::string, std::string, std::less<>> assignments;
  Environment environment;
  Problems problems;

  std::string section;                 // "" = top level
  const toml::table* table = nullptr;  // of the section, or of the current element of an array; null when absent
  bool in_array = false;
  std::map<std::string, std::set<std::string>, std::less<>> known;  // section -> keys asked for
  std::set<std::string> arrays;

  [[nodiscard]] std::string full(std::string_view name) const {
    return section.empty() ? std::string(name) : fmt::format("{}.{}", section, name);
  }
  [[nodiscard]] std::string at(const toml::node& node) const {
    return fmt::format("{}:{}", source, node.source().begin.line);
  }
  [[nodiscard]] std::string at(const toml::key& key) const {
    return fmt::format("{}:{}", source, key.source().begin.line);
  }

  std::optional<Found> find(std::string_view name) {
    known[section].emplace(name);
    const std::string key = full(name);
    if (!in_array) {
      if (const auto flag = assignments.find(key); flag != assignments.end()) {
        return Found{nullptr, flag->second, "--set " + key};
      }
      if (const auto variable = environment.find(variable_name(key)); variable != environment.end()) {
        return Found{nullptr, variable->second, "variable " + variable->first};
      }
    }
    const toml::node* node = table == nullptr ? nullptr : table->get(name);
    if (node == nullptr) return std::nullopt;
    return Found{node, {}, at(*node)};
  }
  void expected(const Found& found, std::string_view name, std::string_view what) {
    problems.add(fmt::format("{}: {}: expected {}, found {}", found.place, full(name), what, found.shown()));
  }

  [[nodiscard]] std::string suggestion(const std::string& in_section, std::string_view key) const;
  void check_keys(const toml::table& keys, const std::string& in_section, bool top_level);
  void check_overrides();
};

std::string ConfigReader::State::suggestion(const std::string& in_section, std::string_view key) const {
  std::vector<std::string> names;
  if (const auto own = known.find(in_section); own != known.end()) {
    names.assign(own->second.begin(), own->second.end());
  }
  for (const auto& [other, keys] : known) {
    if (other == in_section || !keys.contains(std::string(key))) continue;
    return other.empty() ? "; it belongs above the first section" : fmt::format("; it belongs into [{}]", other);
  }
  if (const std::string near = nearest(key, names); !near.empty()) {
    return fmt::format("; did you mean \"{}\"?", near);
  }
  return !names.empty() && names.size() <= 8 ? fmt::format("; known here: {}", fmt::join(names, ", ")) : "";
}

void ConfigReader::State::check_keys(const toml::table& keys, const std::string& in_section, bool top_level) {
  std::vector<std::string> sections;
  if (top_level) {
    for (const auto& [name, unused] : known) {
      if (!name.empty()) sections.push_back(name);
    }
  }
  for (const auto& [key, node] : keys) {
    const std::string name(key.str());
    const auto own = known.find(in_section);
    if (own != known.end() && own->second.contains(name)) continue;
    if (top_level && known.contains(name)) {
      const bool is_array = arrays.contains(name);
      if (is_array ? node.is_array_of_tables() : node.is_table()) continue;
      const std::string wanted = is_array ? fmt::format("tables, [[{}]]", name) : fmt::format("a section, [{}]", name);
      problems.add(fmt::format("{}: {}: expected {}, found {}", at(key), name, wanted, describe(node)));
    } else if (top_level && (node.is_table() || node.is_array_of_tables())) {
      const std::string near = nearest(name, sections);
      const std::string hint = near.empty() ? fmt::format("; known: {}", fmt::join(sections, ", "))
                                            : fmt::format("; did you mean [{}]?", near);
      problems.add(fmt::format("{}: [{}]: unknown section{}", at(key), shorten(name), hint));
    } else {
      const std::string shown = in_section.empty() ? name : in_section + "." + name;
      problems.add(fmt::format("{}: {}: unknown key{}", at(key), shorten(shown), suggestion(in_section, name)));
    }
  }
}

void ConfigReader::State::check_overrides() {
  std::set<std::string, std::less<>> variables;
  std::vector<std::string> all;
  for (const auto& [name, keys] : known) {
    if (arrays.contains(name)) continue;
    for (const std::string& key : keys) {
      all.push_back(name.empty() ? key : name + "." + key);
      variables.insert(variable_name(all.back()));
    }
  }
  for (const auto& [key, unused] : assignments) {
    if (std::ranges::find(all, key) != all.end()) continue;
    const std::size_t dot = key.find('.');
    const std::string of = dot == std::string::npos ? "" : key.substr(0, dot);
    const std::string name = dot == std::string::npos ? key : key.substr(dot + 1);
    const std::string near = nearest(key, all);
    const std::string hint = near.empty() ? suggestion(of, name) : fmt::format("; did you mean \"{}\"?", near);
    problems.add(fmt::format("--set {}: unknown key{}", shorten(key), hint));
  }
  const std::vector<std::string> names(variables.begin(), variables.end());
  for (const auto& [variable, unused] : environment) {
    if (variables.contains(variable)) continue;
    // Other variables with this prefix may be meant for other programs; only a section's name makes it a key.
    const bool of_section = std::ranges::any_of(known, [&variable = variable](const auto& entry) {
      return !entry.first.empty() && variable.starts_with(variable_name(entry.first) + "_");
    });
    if (!of_section) continue;
    const std::string near = nearest(variable, names);
    problems.add(fmt::format("variable {}: names no key{}", shorten(variable),
                             near.empty() ? "" : fmt::format("; did you mean {}?", near)));
  }
}

ConfigReader::ConfigReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
ConfigReader::ConfigReader(ConfigReader&&) noexcept = default;
ConfigReader& ConfigReader::operator=(ConfigReader&&) noexcept = default;
ConfigReader::~ConfigReader() = default;

Result<ConfigReader> ConfigReader::from_file(const std::string& path, std::span<const std::string> assignments,
                                             const Environment& environment) {
  PLANARIA_ASSIGN(const std::string text, read_text(path));
  PLANARIA_ASSIGN(ConfigReader reader, load(text, path, assignments, environment));
  reader.state_->in_file = true;
  reader.state_->directory = std::filesystem::path(path).parent_path().string();
  return reader;
}

Result<ConfigReader> ConfigReader::from_text(std::string_view text, std::string source,
                                             std::span<const std::string> assignments, const Environment& environment) {
  return load(text, std::move(source), assignments, environment);
}

Result<ConfigReader> ConfigReader::load(std::string_view text, std::string source,
                                        std::span<const std::string> assignments, const Environment& environment) {
  if (text.size() > kMaxConfigBytes) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("{}: larger than {} bytes, which no configuration is", source, kMaxConfigBytes));
  }
  auto state = std::make_unique<State>();
  try {
    state->root = toml::parse(text);
  } catch (const toml::parse_error& error) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("{}:{}: not TOML: {}", source, error.source().begin.line, error.description()));
  } catch (const std::exception& error) {
    return Error(ErrorCode::invalid_argument, fmt::format("{}: not TOML: {}", source, error.what()));
  }
  for (const std::string& assignment : assignments) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("--set {}: expected section.key=value", shorten(assignment)));
    }
    state->assignments.insert_or_assign(assignment.substr(0, equals), assignment.substr(equals + 1));
  }
  state->source = std::move(source);
  state->environment = environment;
  state->table = &state->root;
  return ConfigReader(std::move(state));
}

void ConfigReader::section(std::string_view name) {
  state_->section = name;
  state_->known.try_emplace(state_->section);
  state_->table = name.empty() ? &state_->root : state_->root[name].as_table();
}

bool ConfigReader::read_integer(std::string_view name, const IntegerRange& range, std::int64_t& out) {
  const auto found = state_->find(name);
  if (!found) return false;
  std::optional<std::int64_t> value;
  if (found->node != nullptr) {
    if (const auto* number = found->node->as_integer()) value = number->get();
  } else {
    std::string digits = found->text;
    std::erase(digits, '_');
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error == std::errc() && end == digits.data() + digits.size()) value = number;
  }
  if (!value || *value < range.min || *value > range.max) {
    state_->expected(*found, name, expectation(range));
    return false;
  }
  out = *value;
  return true;
}

bool ConfigReader::read_choice(std::string_view name, std::span<const std::string_view> names, std::size_t& out) {
  const auto found = state_->find(name);
  if (!found) return false;
  const auto* node = found->node == nullptr ? nullptr : found->node->as_string();
  const std::string& text = node != nullptr ? node->get() : found->text;
  const auto choice = std::ranges::find(names, std::string_view(text));
  if (choice == names.end() || (found->node != nullptr && node == nullptr)) {
    const std::string near = nearest(text, std::vector<std::string>(names.begin(), names.end()));
    const std::string hint = near.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", near);
    state_->expected(*found, name, expectation(names) + hint);
    return false;
  }
  out = static_cast<std::size_t>(choice - names.begin());
  return true;
}

bool ConfigReader::key(std::string_view name, double& out, const NumberRange& range) {
  const auto found = state_->find(name);
  if (!found) return false;
  double value = std::nan("");
  if (found->node != nullptr) {
    if (const auto* number = found->node->as_floating_point()) value = number->get();
    if (const auto* number = found->node->as_integer()) value = static_cast<double>(number->get());
  } else {
    double number = 0.0;
    const char* const last = found->text.data() + found->text.size();
    const auto [end, error] = std::from_chars(found->text.data(), last, number);
    if (error == std::errc() && end == last) value = number;
  }
  if (!(value >= range.min && value <= range.max)) {
    state_->expected(*found, name, expectation(range));
    return false;
  }
  out = value;
  return true;
}

bool ConfigReader::key(std::string_view name, bool& out) {
  const auto found = state_->find(name);
  if (!found) return false;
  const auto* node = found->node == nullptr ? nullptr : found->node->as_boolean();
  const bool is_text = found->node == nullptr && (found->text == "true" || found->text == "false");
  if (node == nullptr && !is_text) {
    state_->expected(*found, name, "true or false");
    return false;
  }
  out = node != nullptr ? node->get() : found->text == "true";
  return true;
}

bool ConfigReader::key(std::string_view name, std::string& out) {
  const auto found = state_->find(name);
  if (!found) return false;
  const auto* node = found->node == nullptr ? nullptr : found->node->as_string();
  if (found->node != nullptr && node == nullptr) {
    state_->expected(*found, name, "a string in quotes");
    return false;
  }
  const std::string& text = node != nullptr ? node->get() : found->text;
  if (text.size() > kMaxConfigString || !is_utf8(text)) {
    state_->problems.add(fmt::format("{}: {}: expected UTF-8 text of at most {} bytes", found->place,
                                     state_->full(name), kMaxConfigString));
    return false;
  }
  out = text;
  return true;
}

bool ConfigReader::key(std::string_view name, Hash128& out) {
  std::string text;
  if (!key(name, text)) return false;
  if (text.empty()) return false;
  const auto hash = Hash128::from_hex(text);
  if (!hash) {
    refuse(name, "expected 32 hex digits");
    return false;
  }
  out = *hash;
  return true;
}

bool ConfigReader::path(std::string_view name, std::string& out) {
  if (!key(name, out)) return false;
  const bool of_document = state_->find(name)->node != nullptr;
  if (out.empty() || std::filesystem::path(out).is_absolute() || (of_document && !state_->in_file)) return true;
  out = made_absolute(of_document ? std::filesystem::path(state_->directory) / out : std::filesystem::path(out));
  return true;
}

void ConfigReader::each(std::string_view name, const std::function<void(ConfigReader&, std::size_t)>& read) {
  const std::string outer_section = state_->section;
  const toml::table* const outer_table = state_->table;
  state_->section = name;
  state_->known.try_emplace(state_->section);
  state_->arrays.emplace(name);
  state_->in_array = true;
  if (const toml::array* array = state_->root[name].as_array();
      array != nullptr && array->is_homogeneous<toml::table>()) {
    std::size_t index = 0;
    for (const toml::node& element : *array) {
      state_->table = element.as_table();
      read(*this, index++);
      state_->check_keys(*state_->table, state_->section, false);
    }
  }
  state_->in_array = false;
  state_->section = outer_section;
  state_->table = outer_table;
}

void ConfigReader::refuse(std::string_view name, const std::string& message) {
  const auto found = state_->find(name);
  const std::string place = found                                                        ? found->place
                            : state_->table != nullptr && state_->table != &state_->root ? state_->at(*state_->table)
                                                                                         : state_->source;
  state_->problems.add(fmt::format("{}: {}: {}", place, state_->full(name), message));
}

Status ConfigReader::finish() {
  state_->check_keys(state_->root, "", true);
  for (const auto& [name, keys] : state_->known) {
    if (name.empty() || state_->arrays.contains(name)) continue;
    if (const toml::table* table = state_->root[name].as_table()) state_->check_keys(*table, name, false);
  }
  state_->check_overrides();
  return state_->problems.status();
}

void ConfigWriter::section(std::string_view name) {
  if (!name.empty()) text_ += fmt::format("{}[{}]\n", text_.empty() ? "" : "\n", name);
}

void ConfigWriter::key(std::string_view name, const double& value, const NumberRange&) {
  std::string number = fmt::format("{}", value);
  if (number.find_first_of(".e") == std::string::npos) number += ".0";
  line(name, number);
}

void ConfigWriter::key(std::string_view name, const bool& value) {
  line(name, value ? "true" : "false");
}

void ConfigWriter::key(std::string_view name, const std::string& value) {
  std::string quoted = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      quoted += fmt::format("\\u{:04X}", byte);
    } else {
      quoted += c;
    }
  }
  line(name, quoted + '"');
}

void ConfigWriter::key(std::string_view name, const Hash128& value) {
  key(name, value == Hash128{} ? std::string() : value.hex());
}

void ConfigWriter::line(std::string_view name, std::string_view value) {
  text_ += fmt::format("{} = {}\n", name, value);
}

}  // namespace planaria

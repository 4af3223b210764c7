#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <concepts>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "proto/job_keys.hpp"

namespace planaria {
namespace {

// What docs/JOB.md must say of each key, but for its meaning: "| `model.layers` | an integer from 1 to 1024 | 6 |".
class TableMaker {
 public:
  void section(std::string_view name) { section_ = name; }
  template <std::integral T>
  requires(!std::same_as<T, bool>) void key(std::string_view name, const T& value, const IntegerRange& range) {
    row(name, expectation(range), fmt::format("{}", value));
  }
  template <class E>
  requires std::is_enum_v<E>
  void key(std::string_view name, const E& value, std::span<const std::string_view> names) {
    row(name, expectation(names), fmt::format("\"{}\"", names[static_cast<std::size_t>(value)]));
  }
  void key(std::string_view name, const double& value, const NumberRange& range) {
    row(name, expectation(range), fmt::format("{}", value));
  }
  void key(std::string_view name, const bool& value) { row(name, "true or false", fmt::format("{}", value)); }
  void key(std::string_view name, const std::string& value) { row(name, "text", fmt::format("\"{}\"", value)); }
  void key(std::string_view name, const Hash128&) { row(name, "32 hex digits", "none"); }
  void path(std::string_view name, const std::string&) { row(name, "a path", "none"); }
  void secret(std::string_view name, const std::string&) { row(name, "text", "none"); }

  std::vector<std::string> rows;

 private:
  void row(std::string_view name, const std::string& values, const std::string& fallback) {
    rows.push_back(
        fmt::format("| `{}{}{}` | {} | {} |", section_, section_.empty() ? "" : ".", name, values, fallback));
  }
  std::string section_;
};

TEST(JobTable, TheDocumentNamesEveryKeyItsRangeAndItsDefault) {
  TableMaker made;
  const JobSpec defaults;
  visit_job_keys(made, defaults);
  std::ifstream document(PLANARIA_JOB_DOCUMENT);
  ASSERT_TRUE(document);
  std::vector<std::string> rows;
  for (std::string line; std::getline(document, line);) {
    if (!line.starts_with("| `")) continue;
    std::size_t end = 0;
    for (int column = 0; column < 4; ++column) end = line.find('|', end) + 1;
    rows.push_back(line.substr(0, end));
    EXPECT_GT(line.size(), end + 5) << "says nothing of: " << line;
  }
  EXPECT_THAT(rows, testing::ElementsAreArray(made.rows));
}

}  // namespace
}  // namespace planaria

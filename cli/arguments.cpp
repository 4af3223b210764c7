#include "cli/arguments.hpp"

#include <fmt/format.h>

#include <charconv>
#include <string>

namespace planaria {
namespace {

template <class T>
bool read_whole(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

CLI::Validator whole_number(std::uint64_t min, std::uint64_t max) {
  const std::string expected = max == std::numeric_limits<std::uint64_t>::max()
                                   ? fmt::format("a whole number of {} or more", min)
                                   : fmt::format("a whole number from {} to {}", min, max);
  return {[=](std::string& input) {
            std::uint64_t value = 0;
            if (!read_whole(input, value) || value < min || value > max) {
              return fmt::format("expected {}, not '{}'", expected, input);
            }
            input = std::to_string(value);
            return std::string();
          },
          ""};
}

CLI::Validator number_between(double min, double max) {
  return {[=](std::string& input) {
            double value = 0;
            // The comparison is false for what is not a number.
            if (read_whole(input, value) && value >= min && value <= max) return std::string();
            return fmt::format("expected a number from {} to {}, not '{}'", min, max, input);
          },
          ""};
}

int fail(const Error& error) {
  fmt::print(stderr, "planaria: {}\n", error.message());
  return static_cast<int>(exit_code_of(error.code()));
}

}  // namespace planaria

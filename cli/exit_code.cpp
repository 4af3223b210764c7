#include "cli/exit_code.hpp"

#include <fmt/format.h>

namespace planaria {

ExitCode exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return ExitCode::usage;
    case ErrorCode::not_found:
    case ErrorCode::corrupt:
      return ExitCode::data;
    case ErrorCode::mismatch:
    case ErrorCode::stale:
    case ErrorCode::unsupported:
      return ExitCode::refused;
    case ErrorCode::unavailable:
    case ErrorCode::exhausted:
    case ErrorCode::io:
      return ExitCode::unavailable;
    case ErrorCode::cancelled:
      return ExitCode::stopped;
    case ErrorCode::internal:
      return ExitCode::failed;
  }
  return ExitCode::failed;
}

int fail(const Error& error) {
  fmt::print(stderr, "planaria: {}\n", error.message());
  return static_cast<int>(exit_code_of(error.code()));
}

}  // namespace planaria

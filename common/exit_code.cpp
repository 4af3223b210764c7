#include "common/exit_code.hpp"

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

std::optional<ErrorCode> error_code_of_exit(int code) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::ok:
      return std::nullopt;
    case ExitCode::usage:
      return ErrorCode::invalid_argument;
    case ExitCode::data:
      return ErrorCode::not_found;
    case ExitCode::refused:
      return ErrorCode::mismatch;
    case ExitCode::unavailable:
      return ErrorCode::unavailable;
    case ExitCode::stopped:
      return ErrorCode::cancelled;
    case ExitCode::failed:
      break;
  }
  return ErrorCode::internal;
}

}  // namespace planaria

#include "common/result.hpp"

namespace planaria {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid argument";
    case ErrorCode::not_found:
      return "not found";
    case ErrorCode::corrupt:
      return "corrupt";
    case ErrorCode::mismatch:
      return "mismatch";
    case ErrorCode::stale:
      return "stale";
    case ErrorCode::unavailable:
      return "unavailable";
    case ErrorCode::cancelled:
      return "cancelled";
    case ErrorCode::exhausted:
      return "exhausted";
    case ErrorCode::io:
      return "i/o";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::internal:
      return "internal";
  }
  return "unknown";
}

Error Error::within(std::string_view context) const {
  std::string text(context);
  text += ": ";
  text += message_;
  return {code_, std::move(text)};
}

std::string Error::describe() const {
  std::string text(to_string(code_));
  text += ": ";
  text += message_;
  return text;
}

}  // namespace planaria

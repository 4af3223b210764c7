// Errors as values.
//
// Every call that can fail returns a Result<T>: either a T or an Error that says what happened, where, and what to
// do. No exception crosses a library boundary; asserts are for programmer errors only.
//
// Thread contract: plain values, no shared state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace planaria {

// A code exists only where a caller reacts to it; all detail is in the message.
enum class ErrorCode : std::uint8_t {
  invalid_argument,  // the caller's or user's input is wrong; correcting it helps
  not_found,         // a file, key or member isn't there
  corrupt,           // bytes don't match their hash, format or bounds
  mismatch,          // versions, job hashes or numeric classes differ
  stale,             // the message belongs to a view, generation or incarnation that is over
  unavailable,       // a peer, port or service can't be reached now; trying again may help
  cancelled,         // the operation's view was fenced or its owner is shutting down
  exhausted,         // disk, memory or a bound is used up
  io,                // the operating system refused
  unsupported,       // this build or machine can't do it
  internal,          // a bug
};

[[nodiscard]] std::string_view to_string(ErrorCode code);

class [[nodiscard]] Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  [[nodiscard]] ErrorCode code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }

  // The same error with "context: " in front, for callers that know more of where it happened.
  [[nodiscard]] Error within(std::string_view context) const;

  // "corrupt: message", for logs and the terminal.
  [[nodiscard]] std::string describe() const;

 private:
  ErrorCode code_;
  std::string message_;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : storage_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : storage_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit on purpose

  [[nodiscard]] bool ok() const { return storage_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Precondition of the next six: ok(). A temporary gives its value away: a reference into it would outlive it in
  // `for (x : *f())`.
  [[nodiscard]] T& value() & { return std::get<0>(storage_); }
  [[nodiscard]] const T& value() const& { return std::get<0>(storage_); }
  [[nodiscard]] T value() && { return std::get<0>(std::move(storage_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Precondition: !ok().
  [[nodiscard]] const Error& error() const { return std::get<1>(storage_); }

 private:
  std::variant<T, Error> storage_;
};

struct Unit {};

// A call that yields nothing but success.
using Status = Result<Unit>;
inline Status ok_status() {
  return Unit{};
}

}  // namespace planaria

#define PLANARIA_CONCAT_INNER(a, b) a##b
#define PLANARIA_CONCAT(a, b) PLANARIA_CONCAT_INNER(a, b)

// Returns the error of `expr` from the enclosing function, or goes on.
#define PLANARIA_TRY(expr)                                 \
  do {                                                     \
    if (auto planaria_status = (expr); !planaria_status) { \
      return planaria_status.error();                      \
    }                                                      \
  } while (false)

// PLANARIA_ASSIGN(auto x, f()): x is f()'s value, or the enclosing function returns f()'s error.
#define PLANARIA_ASSIGN(declaration, expr) \
  PLANARIA_ASSIGN_IMPL(PLANARIA_CONCAT(planaria_result_, __LINE__), declaration, expr)
#define PLANARIA_ASSIGN_IMPL(temporary, declaration, expr) \
  auto temporary = (expr);                                 \
  if (!temporary) return temporary.error();                \
  declaration = std::move(temporary).value()

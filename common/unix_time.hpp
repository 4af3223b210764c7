// The time of day, for people and files. Decisions and intervals use common/clock.hpp.
//
// Thread contract: any thread may call.
#pragma once

#include <chrono>
#include <cstdint>

namespace planaria {

// Milliseconds since 1970; of two calls the second may give less.
[[nodiscard]] inline std::int64_t unix_ms_now() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}

}  // namespace planaria

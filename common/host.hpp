// What this machine is called and has.
//
// Thread contract: pure functions of the system.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.hpp"

namespace planaria {

// The path of this process's executable. io: the system doesn't tell.
[[nodiscard]] Result<std::string> own_executable();

// "unknown" when the system doesn't tell.
[[nodiscard]] std::string host_name();

// Main memory; 0 when the system doesn't tell.
[[nodiscard]] std::uint64_t host_memory_bytes();

// What of it new work can have without the system killing a process; 0 when the system doesn't tell.
[[nodiscard]] std::uint64_t available_memory_bytes();

}  // namespace planaria

// What this machine is called.
//
// Thread contract: pure function of the system.
#pragma once

#include <string>

namespace planaria {

// "unknown" when the system doesn't tell.
[[nodiscard]] std::string host_name();

}  // namespace planaria

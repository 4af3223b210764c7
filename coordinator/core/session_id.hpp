// A worker's control connection, as the coordinator counts them: a worker that connects anew has another.
//
// Thread contract: plain values.
#pragma once

#include <cstdint>

#include "common/ids.hpp"

namespace planaria {

using SessionId = StrongId<struct SessionIdTag, std::uint64_t>;

}  // namespace planaria

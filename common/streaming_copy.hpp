// A copy that leaves the caches to others: for what isn't read again soon. Memory that is written past the caches isn't
// read first, so that large copies move two thirds of the bytes.
//
// Thread contract: pure function; what it wrote is seen by whoever is told of it after it returned.
#pragma once

#include <cstddef>
#include <span>

namespace planaria {

// Precondition: as many bytes of room, which don't overlap with them.
void copy_past_caches(std::span<std::byte> to, std::span<const std::byte> from);

}  // namespace planaria

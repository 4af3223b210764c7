// Bytes of a lost data fragment of a snapshot, from the same bytes of others (storage/erasure_code.hpp).
//
// Thread contract: pure function.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "proto/snapshot_layout.hpp"

namespace planaria {

struct RebuildInput {
  std::uint32_t fragment = 0;
  std::vector<std::span<const std::byte>> parts;  // what it has of the bytes, in order; what it lacks is zeros
};

// invalid_argument: with fragments that are all zeros, not k different ones without `lost`; more bytes than asked for.
[[nodiscard]] Result<std::vector<std::byte>> rebuild_fragment(const Stripe& stripe, std::uint32_t lost,
                                                              std::uint64_t bytes,
                                                              std::span<const RebuildInput> inputs);

}  // namespace planaria

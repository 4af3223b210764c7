// Bytes of a lost data fragment of a snapshot, from the same bytes of others (storage/erasure_code.hpp), and whether
// they are the lost ones.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/snapshot_layout.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct RebuildInput {
  std::uint32_t fragment = 0;
  std::vector<std::span<const std::byte>> parts;  // what it has of the bytes, in order; what it lacks is zeros
};

// invalid_argument: with fragments that are all zeros, not k different ones without `lost`; more bytes than asked for.
[[nodiscard]] Result<std::vector<std::byte>> rebuild_fragment(const Stripe& stripe, std::uint32_t lost,
                                                              std::uint64_t bytes,
                                                              std::span<const RebuildInput> inputs);

// Of tiles that were made again, one behind the other, and the hashes that their owner took. corrupt: other bytes, or
// not as many or not as many hashes as the tiles have.
[[nodiscard]] Status check_made(const StateMap& map, std::span<const TileRange> tiles, std::span<const std::byte> made,
                                std::span<const Hash128> hashes);

}  // namespace planaria

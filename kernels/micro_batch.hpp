// A micro-batch: its shape, and its tokens in host memory.
//
// Thread contract: plain values; a HostBatch belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace planaria {

struct MicroBatchShape {
  std::size_t sequences = 1;
  std::size_t context = 0;  // tokens of a sequence

  [[nodiscard]] constexpr std::size_t rows() const { return sequences * context; }
};

struct HostBatch {
  std::vector<std::int32_t> tokens;    // [sequences, context]
  std::vector<std::int32_t> targets;   // [sequences, context]
  std::vector<std::uint64_t> samples;  // sequence_index of each sequence
};

}  // namespace planaria

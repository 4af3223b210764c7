// Which text a sequence holds: a pure function of (seed, sequence index), with no cursor to lose.
//
// Sequence j of micro-batch i of step t has the index n = ((t-1)·M + i)·B + j: steps count from 1, so the first step
// begins at n = 0. With W disjoint windows of T tokens in the training part, n lies in epoch e = n / W at position
// p = n mod W, and holds window P_e(p), where P_e is a permutation of [0, W) keyed by (seed, e). Hence every window
// is used exactly once in each epoch, whoever computes it and in whatever order.
//
// P_e: a balanced Feistel network of kFeistelRounds rounds on the smallest even number of bits 2h >= 2 with
// 2^2h >= W; its round function is the low h bits of Philox(key, counter_hi = e, counter_lo = round·2^32 + half) with
// key = philox_key(seed, data_order). Results >= W are fed back until one lies in [0, W) (cycle walking), which keeps
// it a bijection and takes fewer than four passes on average.
//
// Thread contract: pure functions and values.
#pragma once

#include <cstdint>

#include "common/ids.hpp"

namespace planaria {

inline constexpr std::uint32_t kFeistelRounds = 8;

// What a job fixes about its batches.
struct BatchShape {
  std::uint32_t micro_batches = 1;  // M of a step
  std::uint32_t sequences = 1;      // B of a micro-batch
};

// Precondition: step >= 1, micro_batch < M, sequence < B.
[[nodiscard]] constexpr std::uint64_t sequence_index(BatchShape shape, Step step, MicroBatchIndex micro_batch,
                                                     std::uint32_t sequence) {
  return ((step.value() - 1) * shape.micro_batches + micro_batch.value()) * shape.sequences + sequence;
}

class WindowOrder {
 public:
  // Precondition: 1 <= windows <= 2^62.
  WindowOrder(std::uint64_t seed, std::uint64_t windows);

  // The window that sequence n holds.
  [[nodiscard]] std::uint64_t window(std::uint64_t n) const { return permute(n / windows_, n % windows_); }
  // P_epoch(position). Precondition: position < windows().
  [[nodiscard]] std::uint64_t permute(std::uint64_t epoch, std::uint64_t position) const;
  [[nodiscard]] std::uint64_t windows() const { return windows_; }

 private:
  std::uint64_t key_;
  std::uint64_t windows_;
  std::uint32_t half_bits_ = 1;
};

// The k-th of `count` validation sequences: fixed, spread evenly over the W_v windows of the validation part (with
// count > W_v some come twice). Precondition: k < count, windows >= 1.
[[nodiscard]] constexpr std::uint64_t validation_window(std::uint64_t k, std::uint64_t count, std::uint64_t windows) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(k) * windows / count);
}

}  // namespace planaria

// The bookkeeping of one step on one worker: what is computed, which tree nodes exist, what arrived from whom.
//
// Thread contract: owned by WorkerCore.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "common/hash.hpp"
#include "proto/layout.hpp"
#include "worker/core/events.hpp"

namespace planaria {

// Work that outlives a view: sums of finished slots and the reduced gradient belong to the step.
struct StepWork {
  struct Range {
    SlotRange slots;
    bool recompute = false;       // taken over from a lost worker
    std::uint32_t issued = 0;     // micro-batches given to the trainer, a prefix
    std::uint32_t done = 0;       // finished slots, a prefix
    std::vector<TreeNode> nodes;  // sums that exist now, left to right
  };

  Step step;
  std::uint32_t attempt = 0;
  std::vector<Range> ranges;                    // in the order in which they are computed
  std::vector<std::optional<SlotLoss>> losses;  // by slot
  std::vector<bool> reduced;                    // tiles of the reduced gradient that are held
  std::optional<Hash128> digest;                // of the measured gradient
  bool finite = true;
  double gradient_norm = 0;
  std::uint32_t micro_batches_issued = 0;
  std::uint32_t micro_batches_computed = 0;

  void reset(Step to, std::uint32_t to_attempt, std::uint32_t slots, std::uint32_t tiles);
  [[nodiscard]] bool begun() const;              // a micro-batch was issued or reduced tiles arrived
  [[nodiscard]] bool computed() const;           // every assigned slot is finished
  [[nodiscard]] bool losses_complete() const;    // of all V slots
  [[nodiscard]] bool gradient_complete() const;  // every tile of the reduced gradient is held
  [[nodiscard]] bool holds_reduced(TileRange tiles) const;
  [[nodiscard]] std::vector<TileRange> reduced_ranges() const;
  [[nodiscard]] std::vector<SlotRange> nonfinite_slots() const;
  void mark_reduced(const std::vector<TileRange>& tiles);
};

// Everything of a step's exchange that is void when the view changes.
struct ExchangeState {
  std::vector<SlotAssignment> slots;
  std::vector<ShardAssignment> shards;
  bool compute = true;  // pieces are needed
  bool skip_update = false;
  bool pieces_sent = false;
  bool reduced_sent = false;
  bool gate_sent = false;
  bool ack_sent = false;
  bool alarmed = false;
  std::map<TreeNode, worker_action::ReduceShards::Input> pieces;  // from others, for the own shards
  std::vector<worker_action::ReduceShards::Input> repeated;       // kept by the mutation `add_twice` only
  std::uint32_t slots_covered = 0;                                // by `pieces`
  std::map<WorkerId, Gate> gates;
  std::map<WorkerId, Ack> acks;
};

}  // namespace planaria

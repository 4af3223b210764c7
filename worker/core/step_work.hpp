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
#include "proto/evaluation.hpp"
#include "proto/layout.hpp"
#include "proto/tile_set.hpp"
#include "worker/core/events.hpp"

namespace planaria {

// Work that outlives a view: sums of finished slots and the reduced gradient belong to the step.
struct StepWork {
  struct Stage {
    StageWork work;
    bool recompute = false;  // taken over from a lost worker
    // The next items to be given to the trainer, and those whose end it tells of next. Where the head is, a training
    // item goes forward and backward at once.
    SlotItem forward, backward;
    SlotItem forward_end, backward_end;
    std::uint32_t depth = 1;      // of micro-batches that may be in flight: 1F1B's and what is allowed ahead of it
    std::uint32_t waiting = 0;    // micro-batches whose weights' gradients may wait
    std::uint32_t in_flight = 0;  // training items given for the forward pass and not for the backward pass
    std::uint32_t done = 0;       // finished slots, a prefix
    std::vector<TreeNode> nodes;  // sums that exist now, left to right

    [[nodiscard]] bool begun(const StepItems& items) const { return forward != items.first(work.slots, false); }
    [[nodiscard]] bool computed() const { return done == work.slots.size(); }
  };

  Step step;
  std::uint32_t attempt = 0;
  StepItems items;
  std::vector<Stage> stages;
  std::vector<std::optional<SlotLoss>> losses;  // by slot
  TileSet reduced;                              // tiles of the reduced gradient that are held
  std::vector<bool> nonfinite;                  // slots, as far as known
  TileSet measured;                             // tiles whose sums of squares are known here
  std::vector<double> sums;                     // those, by tile
  bool finite = true;                           // as far as known
  bool skipped = false;                         // committed without an update
  std::uint32_t micro_batches_issued = 0;
  std::uint32_t micro_batches_computed = 0;

  void reset(Step to, std::uint32_t to_attempt, const StepItems& of_step, std::uint32_t tiles);
  [[nodiscard]] Stage new_stage(const StageAssignment& assignment) const;
  [[nodiscard]] bool begun() const;                          // a micro-batch was issued or reduced tiles arrived
  [[nodiscard]] bool computed() const;                       // every stage has finished its slots
  [[nodiscard]] bool losses_complete() const;                // of all V slots
  [[nodiscard]] std::vector<SlotLoss> known_losses() const;  // of all V slots, or none
  [[nodiscard]] std::vector<SlotRange> nonfinite_slots(SlotRange among) const;
  void mark_nonfinite(const std::vector<SlotRange>& slots);
  [[nodiscard]] Hash128 hash_of_sums(const TileSet& tiles) const;
};

// What each member has to say to all, as far as it is known here, and whether it was passed on (proto/relays.hpp).
template <class Word>
struct Words {
  std::map<WorkerId, Word> of;
  bool own_passed = false;  // to the own relay; of a relay: what its group says, to the other relays
  bool all_passed = false;  // of a relay: to its group
};

// Everything of a step's exchange that is void when the view changes.
struct ExchangeState {
  std::vector<StageAssignment> stages;
  std::vector<ShardAssignment> shards;
  bool compute = true;  // pieces are needed
  bool skip_update = false;
  bool pieces_sent = false;
  bool reduced_sent = false;
  bool gate_sent = false;
  bool update_asked = false;
  bool updated = false;  // and what follows from it was sent
  bool hashed = false;   // where the step is compared
  bool ack_sent = false;
  bool alarmed = false;
  std::set<std::uint32_t> reducing;                                // shards given to the trainer, by their first tile
  std::map<BoundaryId, PayloadRef> inputs;                         // that arrived and weren't used yet
  std::vector<std::pair<WorkerId, BoundaryRequest>> requests;      // what others want of the own stages' outputs
  std::map<StageNode, worker_action::ReduceShards::Input> pieces;  // from others, for the own shards
  std::vector<std::uint32_t> piece_slots;                          // by block: of how many slots there are pieces
  std::vector<worker_action::ReduceShards::Input> repeated;        // kept by the mutation `add_twice` only
  Words<GateWord> gates;
  std::optional<Instant> keepers_owe_since;                   // the gate waits for them alone
  std::vector<std::pair<Parameters, PayloadRef>> parameters;  // that came before the own update began
  TileSet parameters_taken;
  Words<AckWord> acks;
};

}  // namespace planaria

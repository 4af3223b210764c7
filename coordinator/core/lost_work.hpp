// Who computes what of a step nobody has any more.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "proto/layout.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// Shares lost work out so that all is done soon: finely, where that pays, in few aligned runs, where the sums that
// travel cost more. What a worker is given counts for what it is given next.
class LostWork {
 public:
  struct Taker {
    WorkerId worker;
    double speed = 1;      // whole micro-batches a second
    double remaining = 0;  // of the step's work that is its own: whole micro-batches' time, in slots
  };
  // Who could take a block's work.
  struct Candidate {
    std::size_t taker = 0;
    double fetching_s = 0;  // until it has the block; above 0, its own work may wait for what it takes
    bool operator==(const Candidate&) const = default;
  };
  struct Costs {
    std::span<const double> block_shares;  // of a micro-batch's time
    double micro_batches_per_slot = 1;
    double bytes_per_s = 1;  // between two members
  };
  using Able = std::function<std::vector<Candidate>(std::uint32_t block)>;  // not empty

  // Both outlive this.
  LostWork(const StateMap& map, const Costs& costs, std::vector<Taker> takers);

  // Who takes which part of `lost`: in runs of blocks that the same ones could take.
  [[nodiscard]] std::vector<std::pair<WorkerId, StageWork>> share(const StageWork& lost, const Able& able);

 private:
  // Slots as they could be shared out.
  struct Deal {
    std::vector<std::pair<Candidate, SlotRange>> shares;  // what they take, in order
    double seconds = 0;  // until the last one is done, and its sums are where they are added
  };
  [[nodiscard]] std::vector<Candidate> in_time(std::vector<Candidate> able, const StageWork& lost) const;
  void share_slots(const StageWork& lost, const std::vector<Candidate>& able,
                   std::vector<std::pair<WorkerId, StageWork>>& shared);
  [[nodiscard]] Deal deal(const StageWork& lost, std::uint32_t run, const std::vector<Candidate>& able) const;
  [[nodiscard]] double free_in(const Candidate& candidate) const;  // seconds

  const StateMap& map_;
  const Costs costs_;
  std::vector<Taker> takers_;
};

}  // namespace planaria

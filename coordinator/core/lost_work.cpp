#include "coordinator/core/lost_work.hpp"

#include <algorithm>
#include <map>
#include <queue>

#include "proto/block_cost.hpp"

namespace planaria {
LostWork::LostWork(const StateMap& map, const Costs& costs, std::vector<Taker> takers)
    : map_(map), costs_(costs), takers_(std::move(takers)) {}

std::vector<std::pair<WorkerId, StageWork>> LostWork::share(const StageWork& lost, const Able& able) {
  std::vector<std::pair<WorkerId, StageWork>> shared;
  BlockRange run{lost.blocks.begin, lost.blocks.begin};
  std::vector<Candidate> of_run;
  for (std::uint32_t block = lost.blocks.begin; block < lost.blocks.end; ++block) {
    std::vector<Candidate> next = in_time(able(block), lost);
    if (!run.empty() && next != of_run) {
      share_slots({run, lost.slots}, of_run, shared);
      run = {block, block};
    }
    of_run = std::move(next);
    ++run.end;
  }
  share_slots({run, lost.slots}, of_run, shared);
  return shared;
}

// Without those who would still fetch when the holders had done all of it: they would only cut it into smaller parts.
std::vector<LostWork::Candidate> LostWork::in_time(std::vector<Candidate> able, const StageWork& lost) const {
  double work = share_of(costs_.block_shares, lost.blocks) * lost.slots.size();
  double speed = 0;
  for (const Candidate& candidate : able) {
    if (candidate.fetching_s > 0) continue;
    work += takers_[candidate.taker].remaining;
    speed += takers_[candidate.taker].speed;
  }
  if (speed <= 0) return able;
  const double alone = work * costs_.micro_batches_per_slot / speed;
  std::erase_if(able, [&](const Candidate& candidate) { return candidate.fetching_s >= alone; });
  return able;
}

void LostWork::share_slots(const StageWork& lost, const std::vector<Candidate>& able,
                           std::vector<std::pair<WorkerId, StageWork>>& shared) {
  Deal best;
  for (std::uint32_t run = 1;; run *= 2) {
    Deal next = deal(lost, run, able);
    if (best.shares.empty() || next.seconds < best.seconds) best = std::move(next);
    if (run >= lost.slots.size()) break;
  }
  const double cost = share_of(costs_.block_shares, lost.blocks);
  for (const auto& [candidate, slots] : best.shares) {
    Taker& taker = takers_[candidate.taker];
    shared.push_back({taker.worker, {lost.blocks, slots}});
    taker.remaining += cost * slots.size();
  }
}

double LostWork::free_in(const Candidate& candidate) const {
  const Taker& taker = takers_[candidate.taker];
  return candidate.fetching_s + taker.remaining * costs_.micro_batches_per_slot / taker.speed;
}

// Aligned runs of slots go one by one to whoever would be done first, then those of a worker side by side, in the
// workers' order; who fetches gets the last ones, as stages take slots in order.
LostWork::Deal LostWork::deal(const StageWork& lost, std::uint32_t run, const std::vector<Candidate>& able) const {
  const double slot_seconds = share_of(costs_.block_shares, lost.blocks) * costs_.micro_batches_per_slot;
  using Turn = std::pair<double, std::size_t>;  // seconds with one more run; place in `able`
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  const auto free_after = [&](std::size_t place, std::uint32_t runs) {
    return free_in(able[place]) + slot_seconds * run * runs / takers_[able[place].taker].speed;
  };
  for (std::size_t place = 0; place < able.size(); ++place) turns.emplace(free_after(place, 1), place);
  std::map<std::size_t, std::uint32_t> runs;  // by place
  Deal deal;
  const auto first = lost.slots.begin / run;
  const auto end = (lost.slots.end + run - 1) / run;
  for (std::uint32_t k = first; k < end; ++k) {
    const auto [seconds, place] = turns.top();
    turns.pop();
    deal.seconds = std::max(deal.seconds, seconds);
    turns.emplace(free_after(place, ++runs[place] + 1), place);
  }
  std::uint32_t at = first;
  std::size_t sums = 0;
  std::vector<std::pair<std::size_t, std::uint32_t>> in_order(runs.begin(), runs.end());
  std::ranges::stable_sort(in_order, {}, [&](const auto& share) { return able[share.first].fetching_s; });
  for (const auto& [place, count] : in_order) {
    const SlotRange slots = SlotRange{at * run, (at + count) * run}.common(lost.slots);
    deal.shares.emplace_back(able[place], slots);
    sums += maximal_nodes(slots).size();
    at += count;
  }
  const auto bytes = static_cast<double>(map_.bytes(map_.tiles_of(lost.blocks)));
  deal.seconds += static_cast<double>(sums) * bytes / (static_cast<double>(able.size()) * costs_.bytes_per_s);
  return deal;
}

}  // namespace planaria

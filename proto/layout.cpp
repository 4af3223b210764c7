#include "proto/layout.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace planaria {
namespace {

// Above this the exact search over splits costs more than the few nodes that it saves.
constexpr std::size_t kExactSplitPipelines = 64;
constexpr std::uint32_t kExactSplitSlots = 2048;

std::string number(std::uint64_t value) {
  return std::to_string(value);
}

// Adds the additions below `node` and tells how many cover nodes they use; nothing when the cover has a hole.
bool build_tree(TreeNode node, const std::set<TreeNode>& cover, std::vector<TreeAddition>& additions,
                std::size_t& used) {
  if (cover.contains(node)) {
    ++used;
    return true;
  }
  if (node.level == 0) return false;
  const TreeNode left{node.level - 1, node.index * 2};
  const TreeNode right{node.level - 1, node.index * 2 + 1};
  if (!build_tree(left, cover, additions, used) || !build_tree(right, cover, additions, used)) return false;
  additions.push_back({left, right, node});
  return true;
}

// The largest time a slot share may take, over all workers, when slots go one by one to whoever is done first.
std::vector<std::uint32_t> fastest_shares(std::uint32_t slots, std::span<const double> speeds) {
  std::vector<std::uint32_t> shares(speeds.size(), 0);
  std::uint32_t left = slots;
  if (slots >= speeds.size()) {
    std::ranges::fill(shares, 1U);
    left -= static_cast<std::uint32_t>(speeds.size());
  }
  using Entry = std::pair<double, std::size_t>;  // finish time with one more slot, worker
  std::set<Entry> queue;
  for (std::size_t i = 0; i < speeds.size(); ++i) queue.emplace((shares[i] + 1) / speeds[i], i);
  for (; left > 0; --left) {
    const std::size_t i = queue.begin()->second;
    queue.erase(queue.begin());
    ++shares[i];
    queue.emplace((shares[i] + 1) / speeds[i], i);
  }
  return shares;
}

// Of all contiguous splits whose slowest share takes at most `limit`, the one with the fewest tree nodes.
std::vector<std::uint32_t> fewest_nodes(std::uint32_t slots, std::span<const double> speeds, double limit,
                                        std::vector<std::uint32_t> fallback) {
  constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();
  const std::size_t workers = speeds.size();
  const std::uint32_t least = slots >= workers ? 1 : 0;
  std::vector<std::vector<std::uint32_t>> cost(workers + 1, std::vector<std::uint32_t>(slots + 1, kNever));
  auto choice = cost;
  cost[0][0] = 0;
  for (std::size_t i = 0; i < workers; ++i) {
    const auto most = static_cast<std::uint32_t>(std::min<double>(slots, std::floor(limit * speeds[i] + 1e-9)));
    for (std::uint32_t begin = 0; begin <= slots; ++begin) {
      if (cost[i][begin] == kNever) continue;
      for (std::uint32_t share = least; share <= most && begin + share <= slots; ++share) {
        const auto nodes = static_cast<std::uint32_t>(maximal_nodes({begin, begin + share}).size());
        if (cost[i][begin] + nodes < cost[i + 1][begin + share]) {
          cost[i + 1][begin + share] = cost[i][begin] + nodes;
          choice[i + 1][begin + share] = share;
        }
      }
    }
  }
  if (cost[workers][slots] == kNever) return fallback;
  std::vector<std::uint32_t> shares(workers);
  std::uint32_t end = slots;
  for (std::size_t i = workers; i > 0; --i) {
    shares[i - 1] = choice[i][end];
    end -= shares[i - 1];
  }
  return shares;
}

// Calls `visit(slots, column)` for the columns of equal stages, left to right; `column` holds them by first block.
// False, at once, when `visit` says so or two stages begin at one cell.
template <class Visit>
bool for_columns(std::span<const StageAssignment> stages, std::uint32_t slots, const Visit& visit) {
  std::map<std::uint32_t, std::vector<const StageAssignment*>> begins, ends;  // by slot
  std::set<std::uint32_t> cuts{0, slots};
  for (const StageAssignment& stage : stages) {
    if (stage.work.empty()) continue;
    begins[stage.work.slots.begin].push_back(&stage);
    ends[stage.work.slots.end].push_back(&stage);
    cuts.insert({stage.work.slots.begin, stage.work.slots.end});
  }
  std::map<std::uint32_t, const StageAssignment*> column;
  for (auto cut = cuts.begin(); std::next(cut) != cuts.end(); ++cut) {
    for (const StageAssignment* stage : ends[*cut]) column.erase(stage->work.blocks.begin);
    for (const StageAssignment* stage : begins[*cut]) {
      if (!column.emplace(stage->work.blocks.begin, stage).second) return false;
    }
    if (!visit(SlotRange{*cut, *std::next(cut)}, column)) return false;
  }
  return true;
}

// In each column the stages must stand on each other from the first block to the last; `whole`: no column is empty.
Status check_stages(const ViewRecord& view, std::span<const StageAssignment> stages, const LayoutBounds& bounds,
                    bool whole, const char* what) {
  for (const StageAssignment& stage : stages) {
    const auto& [blocks, slots] = stage.work;
    if (!view.has(stage.worker))
      return Error(ErrorCode::corrupt, std::string(what) + ": a stage's worker is no member");
    if (blocks.empty() || blocks.end > bounds.blocks || slots.begin > slots.end || slots.end > bounds.slots) {
      return Error(ErrorCode::corrupt, std::string(what) + ": a stage lies outside the blocks and slots");
    }
  }
  std::uint32_t bad_slot = 0;
  const bool tiled = for_columns(stages, bounds.slots, [&](SlotRange slots, const auto& column) {
    bad_slot = slots.begin;
    std::uint32_t block = 0;
    for (const auto& [first, stage] : column) {
      if (first != block) return false;
      block = stage->work.blocks.end;
    }
    return block == bounds.blocks || (column.empty() && !whole);
  });
  if (tiled) return ok_status();
  return Error(ErrorCode::corrupt,
               std::string(what) + ": the stages of slot " + number(bad_slot) + " don't hold every block once");
}

Status check_shards(const ViewRecord& view, std::span<const ShardAssignment> shards, std::uint32_t tiles,
                    const char* what) {
  std::uint32_t end = 0;
  for (const ShardAssignment& shard : shards) {
    if (!view.has(shard.owner)) return Error(ErrorCode::corrupt, std::string(what) + ": a shard's owner is no member");
    if (shard.tiles.begin != end || shard.tiles.empty()) {
      return Error(ErrorCode::corrupt, std::string(what) + ": shards don't cover tile " + number(end) + " once");
    }
    end = shard.tiles.end;
  }
  if (end != tiles) return Error(ErrorCode::corrupt, std::string(what) + ": tile " + number(end) + " has no owner");
  return ok_status();
}

}  // namespace

std::vector<TreeNode> maximal_nodes(SlotRange range) {
  std::vector<TreeNode> nodes;
  std::uint32_t begin = range.begin;
  while (begin < range.end) {
    std::uint32_t level = begin == 0 ? 31 : static_cast<std::uint32_t>(std::countr_zero(begin));
    while ((std::uint64_t{1} << level) > range.end - begin) --level;
    nodes.push_back({level, begin >> level});
    begin += 1U << level;
  }
  return nodes;
}

Result<std::vector<TreeAddition>> finish_tree(std::span<const TreeNode> cover, std::uint32_t slots) {
  if (!std::has_single_bit(slots)) return Error(ErrorCode::invalid_argument, "the number of slots is a power of two");
  const std::set<TreeNode> nodes(cover.begin(), cover.end());
  std::vector<TreeAddition> additions;
  std::size_t used = 0;
  const TreeNode root{static_cast<std::uint32_t>(std::countr_zero(slots)), 0};
  if (nodes.size() != cover.size() || !build_tree(root, nodes, additions, used) || used != nodes.size()) {
    return Error(ErrorCode::corrupt, "the tree nodes don't cover the slots exactly once");
  }
  return additions;
}

const Member* ViewRecord::member(WorkerId worker) const {
  const auto found = std::ranges::lower_bound(members, worker, {}, &Member::worker);
  return found != members.end() && found->worker == worker ? &*found : nullptr;
}

std::vector<SlotRange> ResumePlan::lost_slots() const {
  std::vector<SlotRange> ranges;
  for (const StageAssignment& stage : stages) {
    if (stage.recompute && !stage.work.empty()) ranges.push_back(stage.work.slots);
  }
  std::ranges::sort(ranges);
  std::vector<SlotRange> merged;
  for (const SlotRange range : ranges) {
    if (!merged.empty() && range.begin <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, range.end);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

std::vector<ShardAssignment> split_shards(const StateMap& map, std::span<const WorkerId> owners) {
  assert(!owners.empty());
  const std::uint64_t total = map.bytes({0, map.tile_count()});
  std::vector<ShardAssignment> shards;
  std::uint64_t before = 0;
  for (std::uint32_t tile = 0; tile < map.tile_count(); ++tile) {
    const std::uint64_t bytes = map.bytes({tile, tile + 1});
    // The owner in whose share the tile's middle falls.
    const auto index = std::min<std::uint64_t>((before + bytes / 2) * owners.size() / std::max<std::uint64_t>(total, 1),
                                               owners.size() - 1);
    const WorkerId owner = owners[index];
    const bool joins = !shards.empty() && shards.back().owner == owner &&
                       map.block_of(TileIndex(tile - 1)) == map.block_of(TileIndex(tile));
    if (joins) {
      shards.back().tiles.end = tile + 1;
    } else {
      shards.push_back({owner, {tile, tile + 1}, false});
    }
    before += bytes;
  }
  return shards;
}

std::vector<SlotRange> split_slots(std::uint32_t slots, std::span<const double> speeds, double slack) {
  assert(!speeds.empty());
  std::vector<std::uint32_t> shares = fastest_shares(slots, speeds);
  if (speeds.size() <= kExactSplitPipelines && slots <= kExactSplitSlots) {
    double slowest = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) slowest = std::max(slowest, shares[i] / speeds[i]);
    shares = fewest_nodes(slots, speeds, slowest * (1 + slack), std::move(shares));
  }
  std::vector<SlotRange> ranges;
  std::uint32_t begin = 0;
  for (const std::uint32_t share : shares) {
    ranges.push_back({begin, begin + share});
    begin += share;
  }
  return ranges;
}

std::vector<StageAssignment> single_stages(std::uint32_t blocks, std::span<const WorkerId> workers,
                                           std::span<const SlotRange> slots) {
  assert(workers.size() == slots.size());
  std::vector<StageAssignment> stages;
  for (std::size_t i = 0; i < workers.size(); ++i) stages.push_back({workers[i], {{0, blocks}, slots[i]}, false});
  return stages;
}

std::uint32_t stages_above(std::span<const StageAssignment> stages, const StageWork& work) {
  std::uint32_t count = 0;
  std::set<StageWork> level{work};
  while (true) {
    std::set<StageWork> above;
    for (const StageAssignment& stage : stages) {
      const bool on_top = std::ranges::any_of(level, [&](const StageWork& below) {
        return stage.work.blocks.begin == below.blocks.end && !stage.work.slots.common(below.slots).empty();
      });
      if (on_top && !stage.work.empty()) above.insert(stage.work);
    }
    if (above.empty()) return count;
    ++count;
    level = std::move(above);
  }
}

std::vector<StageWork> uncovered_work(std::span<const StageAssignment> stages, std::uint32_t blocks,
                                      std::uint32_t slots) {
  std::vector<StageWork> gaps;
  for_columns(stages, slots, [&](SlotRange range, const auto& column) {
    std::uint32_t block = 0;
    const auto gap_to = [&](std::uint32_t end) {
      if (block == end) return;
      const BlockRange missing{block, end};
      const auto left = std::ranges::find_if(
          gaps, [&](const StageWork& gap) { return gap.blocks == missing && gap.slots.end == range.begin; });
      if (left != gaps.end()) {
        left->slots.end = range.end;
      } else {
        gaps.push_back({missing, range});
      }
    };
    for (const auto& [first, stage] : column) {
      gap_to(first);
      block = stage->work.blocks.end;
    }
    gap_to(blocks);
    return true;
  });
  return gaps;
}

Status check_view(const ViewRecord& view, const LayoutBounds& bounds) {
  if (view.view == ViewNumber(0)) return Error(ErrorCode::corrupt, "a view has a number above 0");
  if (view.members.empty()) return Error(ErrorCode::corrupt, "a view has members");
  for (std::size_t i = 1; i < view.members.size(); ++i) {
    if (!(view.members[i - 1].worker < view.members[i].worker)) {
      return Error(ErrorCode::corrupt, "a view's members are in order and unique");
    }
  }
  if (!view.has(view.checkpoint_writer)) return Error(ErrorCode::corrupt, "the checkpoint writer is no member");
  PLANARIA_TRY(check_stages(view, view.stages, bounds, true, "layout"));
  PLANARIA_TRY(check_stages(view, view.resume.stages, bounds, view.resume.compute, "resume plan"));
  PLANARIA_TRY(check_shards(view, view.shards, bounds.tiles, "layout"));
  PLANARIA_TRY(check_shards(view, view.resume.shards, bounds.tiles, "resume plan"));
  for (const StateFetch& fetch : view.resume.fetches) {
    const bool from_member = fetch.source != StateSource::peer || (view.has(fetch.from) && fetch.from != fetch.worker);
    if (!view.has(fetch.worker) || !from_member || fetch.tiles.empty() || fetch.tiles.end > bounds.tiles) {
      return Error(ErrorCode::corrupt, "a state fetch names no members or no tiles");
    }
  }
  return ok_status();
}

}  // namespace planaria

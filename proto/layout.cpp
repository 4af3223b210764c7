#include "proto/layout.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <set>

namespace planaria {
namespace {

// Above this the exact search over splits costs more than the few nodes that it saves.
constexpr std::size_t kExactSplitWorkers = 64;
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

Status check_cover(std::vector<SlotRange> ranges, std::uint32_t slots, bool exact, const char* what) {
  std::ranges::sort(ranges);
  std::uint32_t end = 0;
  for (const SlotRange range : ranges) {
    if (range.empty()) continue;
    if (range.begin < end || range.end > slots) {
      return Error(ErrorCode::corrupt, std::string(what) + ": slots overlap or lie outside at " + number(range.begin));
    }
    if (exact && range.begin != end) {
      return Error(ErrorCode::corrupt, std::string(what) + ": slot " + number(end) + " has no owner");
    }
    end = range.end;
  }
  if (exact && end != slots) {
    return Error(ErrorCode::corrupt, std::string(what) + ": slot " + number(end) + " has no owner");
  }
  return ok_status();
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

std::vector<SlotAssignment> split_slots(std::uint32_t slots, std::span<const WorkerId> workers,
                                        std::span<const double> speeds, double slack) {
  assert(!workers.empty() && workers.size() == speeds.size());
  std::vector<std::uint32_t> shares = fastest_shares(slots, speeds);
  if (workers.size() <= kExactSplitWorkers && slots <= kExactSplitSlots) {
    double slowest = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) slowest = std::max(slowest, shares[i] / speeds[i]);
    shares = fewest_nodes(slots, speeds, slowest * (1 + slack), std::move(shares));
  }
  std::vector<SlotAssignment> assignments;
  std::uint32_t begin = 0;
  for (std::size_t i = 0; i < workers.size(); ++i) {
    assignments.push_back({workers[i], {begin, begin + shares[i]}});
    begin += shares[i];
  }
  return assignments;
}

Status check_view(const ViewRecord& view, std::uint32_t slots, std::uint32_t tiles) {
  if (view.view == ViewNumber(0)) return Error(ErrorCode::corrupt, "a view has a number above 0");
  if (view.members.empty()) return Error(ErrorCode::corrupt, "a view has members");
  for (std::size_t i = 1; i < view.members.size(); ++i) {
    if (!(view.members[i - 1].worker < view.members[i].worker)) {
      return Error(ErrorCode::corrupt, "a view's members are in order and unique");
    }
  }
  if (!view.has(view.checkpoint_writer)) return Error(ErrorCode::corrupt, "the checkpoint writer is no member");
  const auto ranges_of = [](const std::vector<SlotAssignment>& assignments) {
    std::vector<SlotRange> ranges;
    for (const SlotAssignment& assignment : assignments) ranges.push_back(assignment.slots);
    return ranges;
  };
  for (const auto* assignments : {&view.slots, &view.resume.slots}) {
    for (const SlotAssignment& assignment : *assignments) {
      if (!view.has(assignment.worker)) return Error(ErrorCode::corrupt, "a slot's owner is no member");
    }
  }
  PLANARIA_TRY(check_cover(ranges_of(view.slots), slots, true, "layout"));
  PLANARIA_TRY(check_cover(ranges_of(view.resume.slots), slots, view.resume.compute, "resume plan"));
  PLANARIA_TRY(check_shards(view, view.shards, tiles, "layout"));
  PLANARIA_TRY(check_shards(view, view.resume.shards, tiles, "resume plan"));
  for (const StateFetch& fetch : view.resume.fetches) {
    const bool from_member = fetch.source != StateSource::peer || (view.has(fetch.from) && fetch.from != fetch.worker);
    if (!view.has(fetch.worker) || !from_member || fetch.tiles.empty() || fetch.tiles.end > tiles) {
      return Error(ErrorCode::corrupt, "a state fetch names no members or no tiles");
    }
  }
  return ok_status();
}

}  // namespace planaria

#include "proto/layout.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <queue>
#include <set>
#include <unordered_map>

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
  const auto count = static_cast<std::uint32_t>(speeds.size());
  const std::uint32_t least = slots >= count ? 1 : 0;
  // All are done with so many at a time that leaves one slot each, or more, to be given: those needn't be queued for.
  const double sum = std::accumulate(speeds.begin(), speeds.end(), 0.0);
  const double time = slots > count && sum > 0 ? (slots - count) / sum : 0;
  std::vector<std::uint32_t> shares;
  std::uint32_t left = slots;
  for (const double speed : speeds) {
    auto share = static_cast<std::uint32_t>(time * speed);
    if (share > 0 && share / speed > time) --share;  // the product was rounded up
    shares.push_back(std::max(least, share));
    left -= shares.back();
  }
  using Entry = std::pair<double, std::size_t>;  // finish time with one more slot, worker
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < speeds.size(); ++i) entries.emplace_back((shares[i] + 1) / speeds[i], i);
  std::priority_queue queue(std::greater<Entry>{}, std::move(entries));
  for (; left > 0; --left) {
    const std::size_t i = queue.top().second;
    queue.pop();
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

// In each column the stages must stand on each other from the first block to the last; without `whole` there may be
// gaps, but no block twice.
Status check_stages(const ViewRecord& view, std::span<const StageAssignment> stages, std::uint32_t all_blocks,
                    std::uint32_t all_slots, bool whole, const char* what) {
  for (const StageAssignment& stage : stages) {
    const auto& [blocks, slots] = stage.work;
    const Member* const member = view.member(stage.worker);
    if (member == nullptr || member->role != Role::worker) {
      return Error(ErrorCode::corrupt, std::string(what) + ": a stage's worker is no member, or a keeper");
    }
    if (blocks.empty() || blocks.end > all_blocks || slots.begin > slots.end || slots.end > all_slots) {
      return Error(ErrorCode::corrupt, std::string(what) + ": a stage lies outside the blocks and slots");
    }
  }
  std::uint32_t bad_slot = 0;
  const bool tiled = for_columns(stages, all_slots, [&](SlotRange slots, const auto& column) {
    bad_slot = slots.begin;
    std::uint32_t block = 0;
    for (const auto& [first, stage] : column) {
      if (whole ? first != block : first < block) return false;
      block = stage->work.blocks.end;
    }
    return block == all_blocks || !whole;
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

// Who computes with each block, by BlockIndex; each worker once, in order.
std::vector<std::vector<WorkerId>> users_of_blocks(std::size_t blocks, std::span<const StageAssignment> stages) {
  std::vector<std::set<WorkerId>> users(blocks);
  for (const StageAssignment& stage : stages) {
    for (std::uint32_t block = stage.work.blocks.begin; block < stage.work.blocks.end; ++block) {
      users[block].insert(stage.worker);
    }
  }
  std::vector<std::vector<WorkerId>> ordered;
  for (const auto& of_block : users) ordered.emplace_back(of_block.begin(), of_block.end());
  return ordered;
}

// Gives a block's tiles to its users so that those who have least get most.
class ShardSplitter {
 public:
  ShardSplitter(const StateMap& map, std::span<const ShardAssignment> former)
      : map_(map), owners_(map.tile_count()), former_(map.tile_count()) {
    for (const ShardAssignment& shard : former) {
      for (std::uint32_t tile = shard.tiles.begin; tile < shard.tiles.end; ++tile) former_[tile] = shard.owner;
    }
  }

  void split(TileRange tiles, std::vector<WorkerId> users) {
    sort_by_bytes(users);
    const std::uint64_t level = fill_users(users, map_.bytes(tiles));
    const auto fits = [&](WorkerId user, std::uint32_t tile) {
      return bytes_[user] + map_.bytes({tile, tile + 1}) / 2 <= level;
    };
    std::vector<std::uint32_t> moving;
    for (std::uint32_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const bool stays = former_[tile] && std::ranges::find(users, *former_[tile]) != users.end();
      if (stays && fits(*former_[tile], tile)) {
        give(tile, *former_[tile]);
      } else {
        moving.push_back(tile);
      }
    }
    auto user = users.begin();
    for (const std::uint32_t tile : moving) {
      while (std::next(user) != users.end() && !fits(*user, tile)) ++user;
      give(tile, *user);
    }
  }

  [[nodiscard]] std::vector<ShardAssignment> take() const {
    std::vector<ShardAssignment> shards;
    for (std::uint32_t tile = 0; tile < owners_.size(); ++tile) {
      const bool joins = !shards.empty() && shards.back().owner == owners_[tile] &&
                         map_.block_of(TileIndex(tile - 1)) == map_.block_of(TileIndex(tile));
      if (joins) {
        shards.back().tiles.end = tile + 1;
      } else {
        shards.push_back({owners_[tile], {tile, tile + 1}, false});
      }
    }
    return shards;
  }

 private:
  // Of equal ones those with lower ids come first.
  void sort_by_bytes(std::vector<WorkerId>& users) {
    std::vector<std::pair<std::uint64_t, WorkerId>> order;
    for (const WorkerId user : users) order.emplace_back(bytes_[user], user);
    std::ranges::sort(order);
    std::ranges::transform(order, users.begin(), &std::pair<std::uint64_t, WorkerId>::second);
  }
  // Up to which level `bytes` fill the users, who are in order of what they have; those above it are left out.
  std::uint64_t fill_users(std::vector<WorkerId>& users, std::uint64_t bytes) {
    std::uint64_t sum = bytes;
    for (std::size_t count = 1; count <= users.size(); ++count) {
      sum += bytes_[users[count - 1]];
      const std::uint64_t level = sum / count;
      if (count < users.size() && level > bytes_[users[count]]) continue;
      users.resize(count);
      return level;
    }
    return 0;
  }
  void give(std::uint32_t tile, WorkerId owner) {
    owners_[tile] = owner;
    bytes_[owner] += map_.bytes({tile, tile + 1});
  }

  const StateMap& map_;
  std::vector<WorkerId> owners_;
  std::vector<std::optional<WorkerId>> former_;
  std::unordered_map<WorkerId, std::uint64_t> bytes_;
};

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

const Member* ViewRecord::keeper_of(const std::string& host) const {
  const auto has_part = [this](WorkerId keeper) {
    return std::ranges::any_of(snapshots.stripes, [&](const Stripe& stripe) {
      return std::ranges::find(stripe.fragments, keeper, &StripeFragment::keeper) != stripe.fragments.end();
    });
  };
  const auto found = std::ranges::find_if(members, [&](const Member& member) {
    return member.role == Role::keeper && member.host == host && has_part(member.worker);
  });
  return found == members.end() ? nullptr : &*found;
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

std::uint32_t ResumePlan::lost_slot_count() const {
  std::uint32_t count = 0;
  for (const SlotRange range : lost_slots()) count += range.size();
  return count;
}

std::vector<ShardAssignment> split_shards(const StateMap& map, std::span<const StageAssignment> stages,
                                          std::span<const ShardAssignment> former) {
  const auto users = users_of_blocks(map.blocks().size(), stages);
  ShardSplitter splitter(map, former);
  for (std::size_t block = 0; block < users.size(); ++block) {
    assert(!users[block].empty());
    splitter.split(map.blocks()[block].tile_range(), users[block]);
  }
  return splitter.take();
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

namespace {

// The longest way from the stage to others, each next to the one before it.
template <class IsNext>
std::uint32_t longest_way(std::span<const StageAssignment> stages, const StageWork& work, IsNext is_next) {
  std::uint32_t count = 0;
  std::set<StageWork> level{work};
  while (true) {
    std::set<StageWork> beyond;
    for (const StageAssignment& stage : stages) {
      const bool next = std::ranges::any_of(level, [&](const StageWork& from) {
        return is_next(from, stage.work) && !stage.work.slots.common(from.slots).empty();
      });
      if (next && !stage.work.empty()) beyond.insert(stage.work);
    }
    if (beyond.empty()) return count;
    ++count;
    level = std::move(beyond);
  }
}

}  // namespace

std::uint32_t stages_above(std::span<const StageAssignment> stages, const StageWork& work) {
  return longest_way(stages, work, [](const StageWork& from, const StageWork& stage) {
    return stage.blocks.begin == from.blocks.end;
  });
}

std::uint32_t stages_below(std::span<const StageAssignment> stages, const StageWork& work) {
  return longest_way(stages, work, [](const StageWork& from, const StageWork& stage) {
    return stage.blocks.end == from.blocks.begin;
  });
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

namespace {

// The layout's shards belong to workers that compute with them: they have the parameters already.
Status check_shard_users(const ViewRecord& view, const StateMap& map) {
  const auto users = users_of_blocks(map.blocks().size(), view.stages);
  for (const ShardAssignment& shard : view.shards) {
    const BlockIndex block = map.block_of(TileIndex(shard.tiles.begin));
    const bool one_block = map.block_of(TileIndex(shard.tiles.end - 1)) == block;
    if (!one_block || !std::ranges::binary_search(users[block.value()], shard.owner)) {
      return Error(ErrorCode::corrupt,
                   "layout: the owner of tile " + number(shard.tiles.begin) + " doesn't compute with its block");
    }
  }
  return ok_status();
}

// Snapshots lie at members that are keepers, and what is lost is made by members from what members have.
Status check_snapshots(const ViewRecord& view, const StateMap& map) {
  if (auto sound = check_snapshot_layout(view.snapshots, map); !sound) return sound;
  for (const Stripe& stripe : view.snapshots.stripes) {
    for (const StripeFragment& fragment : stripe.fragments) {
      const Member* const member = view.member(fragment.keeper);
      if (member == nullptr || member->role != Role::keeper) {
        return Error(ErrorCode::corrupt, "a snapshot's fragment lies at no keeper of the view");
      }
    }
  }
  for (const FragmentRebuild& rebuild : view.resume.rebuilds) {
    PLANARIA_TRY(check_rebuild(rebuild, map));
    const bool members = view.has(rebuild.worker) && std::ranges::all_of(rebuild.sources, [&](const auto& source) {
                           return view.has(source.from);
                         });
    if (!members || rebuild.snapshot.step.next() != view.resume.step) {
      return Error(ErrorCode::corrupt, "a rebuild of another step, or by or from others than members");
    }
  }
  return ok_status();
}

}  // namespace

Status check_view(const ViewRecord& view, const StateMap& map, std::uint32_t slots) {
  const auto blocks = static_cast<std::uint32_t>(map.blocks().size());
  if (view.view == ViewNumber(0)) return Error(ErrorCode::corrupt, "a view has a number above 0");
  if (view.members.empty()) return Error(ErrorCode::corrupt, "a view has members");
  for (std::size_t i = 1; i < view.members.size(); ++i) {
    if (!(view.members[i - 1].worker < view.members[i].worker)) {
      return Error(ErrorCode::corrupt, "a view's members are in order and unique");
    }
  }
  if (!view.has(view.checkpoint_writer)) return Error(ErrorCode::corrupt, "the checkpoint writer is no member");
  if (view.resume.step == Step(0)) return Error(ErrorCode::corrupt, "a view goes on with a step above 0");
  PLANARIA_TRY(check_stages(view, view.stages, blocks, slots, true, "layout"));
  PLANARIA_TRY(check_stages(view, view.resume.stages, blocks, slots, view.resume.compute, "resume plan"));
  PLANARIA_TRY(check_shards(view, view.shards, map.tile_count(), "layout"));
  PLANARIA_TRY(check_shards(view, view.resume.shards, map.tile_count(), "resume plan"));
  PLANARIA_TRY(check_shard_users(view, map));
  for (const StateFetch& fetch : view.resume.fetches) {
    const bool from_member = fetch.source != StateSource::peer || (view.has(fetch.from) && fetch.from != fetch.worker);
    if (!view.has(fetch.worker) || !from_member || fetch.tiles.empty() || fetch.tiles.end > map.tile_count()) {
      return Error(ErrorCode::corrupt, "a state fetch names no members or no tiles");
    }
  }
  return check_snapshots(view, map);
}

}  // namespace planaria

#include "coordinator/core/snapshot_planning.hpp"

#include <set>
#include <vector>

namespace planaria {

namespace {

// What would be lost with each host, and is protected where it has a keeper.
std::map<std::string, TileSet> tiles_of_hosts(std::span<const Member> members, const Duties& duties, bool every_step) {
  std::map<std::string, TileSet> first_kept, kept;
  for (const Member& member : members) {
    first_kept[member.host].add(duties.first_kept_by(member.worker));
    kept[member.host].add(duties.of(member.worker).kept);
  }
  if (!every_step) return first_kept;
  TileSet seen, several;  // of which more hosts than one keep the second
  for (const auto& [host, tiles] : kept) {
    several.add(seen.common(tiles));
    seen.add(tiles);
  }
  for (auto& [host, tiles] : first_kept) tiles.remove(several);
  return first_kept;
}

}  // namespace

SnapshotPlan plan_snapshots(const StateMap& map, std::span<const Member> members, const Duties& duties,
                            std::map<WorkerId, SnapshotKeeper> keepers, const SnapshotSpec& spec) {
  SnapshotPlan plan;
  if (keepers.empty() || spec.every_steps == 0) return plan;
  const auto tiles = tiles_of_hosts(members, duties, spec.every_steps == 1);
  while (true) {
    std::vector<ProtectedHost> hosts;
    std::set<std::string> has_keeper;  // the first one of a host counts
    for (const Member& member : members) {
      const auto keeper = keepers.find(member.worker);
      if (keeper == keepers.end() || !has_keeper.insert(member.host).second) continue;
      hosts.push_back({member.worker, keeper->second.zone, tiles.at(member.host)});
    }
    plan.layout = place_snapshots(map, hosts, {spec.data, spec.parity});
    auto lacks_most = keepers.end();
    std::uint64_t most = 0;
    for (auto keeper = keepers.begin(); keeper != keepers.end(); ++keeper) {
      const std::uint64_t needs = snapshot_memory(map, plan.layout, keeper->first, spec.durable);
      const std::uint64_t has = keeper->second.memory_bytes;
      if (has == 0 || needs <= has + most) continue;
      most = needs - has;
      lacks_most = keeper;
    }
    if (lacks_most == keepers.end()) return plan;
    plan.left_out[lacks_most->first] = lacks_most->second.memory_bytes + most;
    keepers.erase(lacks_most);
  }
}

}  // namespace planaria

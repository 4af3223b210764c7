#include "coordinator/core/snapshot_status.hpp"

#include <algorithm>
#include <map>

#include "proto/duty.hpp"

namespace planaria {
namespace {

class Reckoning {
 public:
  Reckoning(const StateMap& map, const ViewRecord& view, const std::set<WorkerId>& lost)
      : map_(map), view_(view), lost_(lost), duties_(map, view.sharded, view.stages, view.shards) {
    for (const Member& member : view.members) {
      if (!lost.contains(member.worker)) kept_[member.host].add(duties_.of(member.worker).kept);
    }
    for (const Stripe& stripe : view.snapshots.stripes) {
      for (const StripeFragment& fragment : stripe.fragments) in_stripes_.add(TileSet(fragment.tiles));
    }
  }

  [[nodiscard]] std::vector<SnapshotHost> hosts(bool durable) const {
    std::map<std::string, SnapshotHost> hosts;
    for (const Member& member : view_.members) {
      SnapshotHost& host = hosts[member.host];
      host.host = member.host;
      if (&member != view_.keeper_of(member.host)) continue;
      for (const Stripe& stripe : view_.snapshots.stripes) {
        for (std::size_t i = 0; i < stripe.fragments.size(); ++i) {
          if (stripe.fragments[i].keeper != member.worker) continue;
          host.keeper = member.worker;
          if (i >= stripe.data) host.parity_bytes += stripe_bytes(map_, stripe);
        }
      }
      host.there = !lost_.contains(member.worker);
      host.memory_bytes = snapshot_memory(map_, view_.snapshots, member.worker, durable);
    }
    for (auto& [name, host] : hosts) host.state_bytes = kTensorsOfState * bytes_of(map_, only_at(name));
    std::vector<SnapshotHost> listed;
    for (auto& [name, host] : hosts) listed.push_back(std::move(host));
    return listed;
  }

  // Any so many: of each stripe what it has beyond its data; of what is in none, the hosts that keep it but one.
  [[nodiscard]] std::uint32_t tolerated() const {
    std::uint32_t least = tolerated_losses(view_.snapshots, present());
    bool any = !view_.snapshots.stripes.empty();
    for (std::uint32_t tile = 0; tile < map_.tiles_with_state().end; ++tile) {
      if (in_stripes_.contains(TileIndex(tile))) continue;
      std::uint32_t hosts = 0;
      for (const auto& [host, kept] : kept_) hosts += kept.contains(TileIndex(tile)) ? 1 : 0;
      // Who goes back to an older snapshot finds in it what is in stripes only.
      const bool in_reach = view_.snapshot_every <= 1 || view_.snapshots.stripes.empty();
      const std::uint32_t spare = in_reach ? std::max(hosts, 1U) - 1 : 0;
      least = any ? std::min(least, spare) : spare;
      any = true;
    }
    return least;
  }

  [[nodiscard]] std::vector<std::string> alone() const {
    TileSet safe;  // whatever host is lost: in stripes with parity to spare
    const auto there = present();
    // Who goes back to an older snapshot needs all of it.
    const bool whole = view_.snapshot_every <= 1 || in_stripes_.contains(TileSet(map_.tiles_with_state()));
    for (std::size_t s = 0; whole && s < view_.snapshots.stripes.size(); ++s) {
      if (tolerated_losses({{view_.snapshots.stripes[s]}}, {there[s]}) == 0) continue;
      for (const StripeFragment& fragment : view_.snapshots.stripes[s].fragments) safe.add(TileSet(fragment.tiles));
    }
    std::vector<std::string> hosts;
    for (const auto& [host, kept] : kept_) {
      if (!only_at(host).without(safe).empty()) hosts.push_back(host);
    }
    return hosts;
  }

 private:
  [[nodiscard]] TileSet only_at(const std::string& name) const {
    const auto own = kept_.find(name);
    if (own == kept_.end()) return {};
    TileSet tiles = own->second;
    for (const auto& [host, kept] : kept_) {
      if (host != name) tiles.remove(kept);
    }
    return tiles;
  }
  [[nodiscard]] std::vector<std::vector<bool>> present() const {
    std::vector<std::vector<bool>> present;
    for (const Stripe& stripe : view_.snapshots.stripes) {
      std::vector<bool>& fragments = present.emplace_back();
      for (const StripeFragment& fragment : stripe.fragments) fragments.push_back(!lost_.contains(fragment.keeper));
    }
    return present;
  }

  const StateMap& map_;
  const ViewRecord& view_;
  const std::set<WorkerId>& lost_;
  const Duties duties_;
  std::map<std::string, TileSet> kept_;  // by host, of workers that are there
  TileSet in_stripes_;
};

}  // namespace

SnapshotStatus snapshot_status(const StateMap& map, const ViewRecord& view, std::optional<Step> committed,
                               const std::set<WorkerId>& lost, bool durable) {
  SnapshotStatus status;
  status.every_steps = view.snapshot_every;
  const Reckoning reckoning(map, view, lost);
  status.hosts = reckoning.hosts(durable);
  if (committed && *committed > Step(0) && view.snapshot_every != 0) {
    const std::uint64_t before = committed->previous().value();
    const Step newest = std::max(Step(before - before % view.snapshot_every), view.resume.step.previous());
    if (*committed > newest && view.protects(newest)) status.complete = newest;
  }
  // Without stripes several hosts keep each tile: all who should, once they acknowledged a step of the view.
  const bool complete = status.complete || (committed && view.snapshots.stripes.empty());
  if (complete) status.tolerated = reckoning.tolerated();
  if (complete) status.alone = reckoning.alone();
  return status;
}

}  // namespace planaria

// What snapshots protect now: which hosts may be lost.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proto/layout.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct SnapshotHost {
  std::string host;
  std::optional<WorkerId> keeper;  // none: it has none, or the keeper holds no part
  bool there = true;               // the keeper isn't lost
  std::uint64_t state_bytes = 0;   // that only this host keeps
  std::uint64_t parity_bytes = 0;  // of others
  std::uint64_t memory_bytes = 0;  // that the keeper may need
};

struct SnapshotStatus {
  std::uint64_t every_steps = 0;
  std::uint64_t wanted_every_steps = 0;    // by the job: waiting for them took too long, where it is less
  std::optional<double> overhead;          // part of the time that gates wait for them; none: not measured yet
  std::optional<Step> complete;            // the newest whole snapshot of the view
  std::optional<std::uint32_t> tolerated;  // any so many hosts may be lost at once; none: nothing is complete yet
  std::vector<std::string> alone;          // hosts whose loss alone costs the steps since the durable checkpoint
  std::vector<SnapshotHost> hosts;         // by name
};

// `committed`: the newest step that was committed in this view; whose gate opens says that the snapshot before is
// complete. `lost`: members that are known to be gone. `durable`: keepers save snapshots.
[[nodiscard]] SnapshotStatus snapshot_status(const StateMap& map, const ViewRecord& view, std::optional<Step> committed,
                                             const std::set<WorkerId>& lost, bool durable);

}  // namespace planaria

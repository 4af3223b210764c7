// Where the keepers of a view hold what of its snapshots.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "proto/duty.hpp"
#include "proto/job_spec.hpp"
#include "proto/layout.hpp"
#include "proto/snapshot_layout.hpp"

namespace planaria {

// A snapshot after each step protects what would be lost with its only host: workers hold the state before it, too.
// Where steps lie between snapshots they don't, and each tile is protected, by the host of the first worker that keeps
// it. Hosts without a keeper are unprotected, and so are, from the one that lacks most on, those whose keepers don't
// have the memory for their part.
struct SnapshotKeeper {
  std::string zone;
  std::uint64_t memory_bytes = 0;  // 0: it doesn't know
};
struct SnapshotPlan {
  SnapshotLayout layout;
  std::map<WorkerId, std::uint64_t> left_out;  // keepers, and the bytes that they would need
};
// `keepers`: of `members`, those that get fragments.
[[nodiscard]] SnapshotPlan plan_snapshots(const StateMap& map, std::span<const Member> members, const Duties& duties,
                                          std::map<WorkerId, SnapshotKeeper> keepers, const SnapshotSpec& spec);

}  // namespace planaria

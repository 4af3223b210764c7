// A cluster's links by what its workers' transfers have shown (LinkMeasure): each class of links (a host, a network
// class in a zone, a zone, between zones) is as the median of its measured pairs, and a pair that is far from its
// class has a link of its own. What nobody measured stays as it was.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <map>
#include <set>
#include <span>

#include "coordinator/planner/profile.hpp"
#include "proto/control.hpp"

namespace planaria {

struct KnownLink {
  double bytes_per_second = 0;  // 0 = not measured, here and below
  double latency_seconds = 0;
  Instant told_at{};
};
// What one worker measured, by the other end.
using LinkTable = std::map<WorkerId, KnownLink>;

// Puts what the worker tells in the place of what it told of the same links. Numbers that are no rates or times count
// as not measured; what was told long ago is forgotten. Of many links the first ones are kept.
void note_links(LinkTable& table, std::span<const LinkMeasure> told, Instant now);

// Links of workers that aren't in the cluster are ignored. Of more pairs that are far from their class than a layout
// can be judged by in time, the farthest count.
void apply_links(ClusterProfile& cluster, const std::map<WorkerId, LinkTable>& measured);

// Workers with a link that is far from what it was; all of them when a class is.
[[nodiscard]] std::set<WorkerId> workers_with_other_links(const ClusterProfile& now, const ClusterProfile& then);

}  // namespace planaria

// A cluster's links by what its workers' transfers have shown (LinkMeasure): each class of links (a host, a network
// class in a zone, a zone, between zones) is as the median of its measured pairs, and a pair that is far from its
// class has a link of its own. What nobody measured stays as it was.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <map>
#include <span>

#include "coordinator/planner/profile.hpp"
#include "proto/control.hpp"

namespace planaria {

// What one worker measured, by the other end.
using LinkTable = std::map<WorkerId, LinkMeasure>;

// Adds what the worker tells; numbers that are no rates or times are left out.
void note_links(LinkTable& table, std::span<const LinkMeasure> told);

// Links of workers that aren't in the cluster are ignored.
void apply_links(ClusterProfile& cluster, const std::map<WorkerId, LinkTable>& measured);

}  // namespace planaria

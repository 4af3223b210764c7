// Cluster files: the workers and links that `planaria plan` plans for.
//
//   gflops = 80.0             # of a worker of speed 1, in a job's training
//   [same_host]               # also [same_zone], [between_zones]
//   bandwidth_gbit = 40.0     # each direction
//   latency_us = 10.0
//   [[nic]]                   # a network that workers of one zone with this class reach each other by
//   name = "rdma"
//   bandwidth_gbit = 200.0
//   latency_us = 5.0
//   [[worker]]
//   count = 4                 # so many alike, default 1; ids go up in the file's order, from 0
//   speed = 1.0
//   memory_gib = 16.0
//   host = "a"                # default: a host of its own for each
//   zone = "z"
//   nic = "rdma"
//   [[link]]                  # one pair that differs
//   from = 0
//   to = 5
//   bandwidth_gbit = 1.0
//   latency_us = 500.0
//
// Parsing is bounded and names every problem with its place.
//
// Thread contract: pure functions (load_cluster reads the file).
#pragma once

#include <string>
#include <string_view>

#include "coordinator/planner/profile.hpp"

namespace planaria {

inline constexpr std::size_t kMaxClusterWorkers = 20'000;
inline constexpr std::size_t kMaxClusterLinks = 10'000;
inline constexpr std::size_t kMaxClusterNics = 16;

struct ClusterFile {
  double flops_per_s = 50e9;  // of a worker of speed 1
  ClusterProfile cluster;
};

[[nodiscard]] Result<ClusterFile> load_cluster(const std::string& path);
[[nodiscard]] Result<ClusterFile> parse_cluster(std::string_view text, std::string source);
// What parse_cluster reads back as the same cluster, a table for each worker.
[[nodiscard]] std::string cluster_to_toml(const ClusterFile& file);

}  // namespace planaria

// What the planner knows of a model and of a cluster: seconds, bytes, speeds and links.
//
// Seconds of blocks are those of a worker of speed 1; a worker of speed 2 needs half of them. They are measured by the
// workers, or, before anything is measured, counted from the model's shape by model_profile().
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct BlockProfile {
  std::string name;
  double forward_s = 0;   // of one micro-batch on a worker of speed 1
  double backward_s = 0;  // likewise
  // Of the block's own state; a tied copy's are ModelProfile::tied_elements.
  std::uint64_t elements = 0;
  // Kept from forward to backward for one micro-batch, the block's input included.
  std::uint64_t saved_bytes = 0;
  // Kept besides from the first part of a split backward pass to the second, the weights' gradients.
  std::uint64_t delta_bytes = 0;

  [[nodiscard]] double seconds() const { return forward_s + backward_s; }
};

struct ModelProfile {
  std::vector<BlockProfile> blocks;  // by BlockIndex
  std::uint64_t boundary_bytes = 0;  // between two blocks, one direction, one micro-batch
  std::uint64_t tile_elements = 0;
  std::uint64_t tied_elements = 0;    // of the head's copy of the embedding; 0 when it has weights of its own
  std::uint64_t gradient_width = 4;   // bytes an element: of gradients and their sums
  std::uint64_t state_width = 12;     // of the master value and both moments
  std::uint64_t parameter_width = 4;  // of working parameters
  // Working parameters are of the master's type, so that whoever has the whole state needs no others.
  bool master_is_working = true;
};

// Counted by floating-point operations (proto/block_cost.hpp), for workers whose speed 1 is `flops_per_s`.
// Preconditions: validate(job) holds; the map is the job's; flops_per_s > 0.
[[nodiscard]] ModelProfile model_profile(const JobSpec& job, const StateMap& map, double flops_per_s);

struct WorkerProfile {
  WorkerId worker;
  double speed = 1;
  std::uint64_t memory_bytes = 0;  // that training may use
  std::string host;
  std::string zone;
  std::string nic;      // a name; see ClusterProfile::nics
  double beside_s = 0;  // that a step takes it besides micro-batches and transfers: sums, update
};

struct LinkProfile {
  double bytes_per_s = 1e9;  // each direction
  double latency_s = 1e-4;
};

struct NicProfile {
  std::string name;
  LinkProfile link;
};

struct LinkOverride {
  WorkerId from;
  WorkerId to;  // both directions are meant
  LinkProfile link;
};

// A pair's link is its override; else that of their host, when they share it; else, in one zone, that of their NIC
// class when both have the same and it is listed (networks of different classes meet over the common one only: Holmes,
// section 3); else that of their zone; else the one between zones.
struct ClusterProfile {
  std::vector<WorkerProfile> workers;  // by WorkerId
  LinkProfile same_host{5e9, 10e-6};
  LinkProfile same_zone{1.25e9, 100e-6};
  LinkProfile between_zones{0.125e9, 2e-3};
  std::vector<NicProfile> nics;
  std::vector<LinkOverride> overrides;
};

// Times besides micro-batches 0 or more; speeds, memories, seconds and bandwidths above 0 and finite, workers in order
// of their ids, each once; a host lies in one zone; overrides join two different workers that are there.
[[nodiscard]] Status check_profiles(const ModelProfile& model, const ClusterProfile& cluster);

// Null when it isn't in the cluster.
[[nodiscard]] const WorkerProfile* find_worker(const ClusterProfile& cluster, WorkerId worker);

}  // namespace planaria

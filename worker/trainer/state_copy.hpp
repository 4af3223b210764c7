// A copy of state to be made for the keeper of the host: what is read, and as what it is told; and state to be taken
// from there.
//
// Thread contract: plain values; the leases are let go by whoever copies.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/ids.hpp"
#include "common/transport/transport.hpp"
#include "kernels/device.hpp"
#include "proto/state_map.hpp"
#include "worker/core/events.hpp"

namespace planaria {

struct StateCopy {
  WorkerId keeper;
  ViewNumber view;
  Step stamp;
  std::vector<TileRange> tiles;
  std::vector<std::uint64_t> tile_bytes;  // of each
  std::vector<ConstSlice> values;         // tile after tile, each with master, first and second moment
  std::shared_ptr<Device> device;         // in whose memory they lie; null: the host's
};

struct StateAttach {
  worker_action::AttachState action;
  std::vector<std::uint64_t> vector_bytes;  // of each tile, one of its vectors
};

}  // namespace planaria

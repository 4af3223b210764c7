// What the host reads of a device's memory: the memory itself where it can, else copies in page-locked memory, which is
// used again once the last slice of it let go. What was long not needed goes back before more is taken.
//
// Thread contract: HostStaging from any thread; a HostLook belongs to one thread. Neither orders its reads after the
// device's ops: what is read was finished (Device::synchronize) and is leased, so that nothing writes to it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "common/transport/transport.hpp"
#include "kernels/device.hpp"
#include "proto/state_map.hpp"

namespace planaria {

class HostStaging {
 public:
  explicit HostStaging(std::shared_ptr<Device> device);

  // The same bytes in the same order, where the host can read them. `values` are let go when they were copied.
  // Where no more pages can be locked, the copy is in other memory, and slower. exhausted when the host has none.
  [[nodiscard]] Result<std::vector<ConstSlice>> readable(std::vector<ConstSlice> values) const;

  // Memory that is kept for the next copies, and taken by those under way.
  [[nodiscard]] std::size_t bytes() const;

 private:
  class Room;
  const std::shared_ptr<Device> device_;
  const std::shared_ptr<Room> room_;
};

// A part of a flat vector in device memory, for a moment.
class HostLook {
 public:
  explicit HostLook(Device& device) : device_(&device) {}
  // Valid until the next look, and as long as the vector.
  [[nodiscard]] Result<std::span<const float>> at(const float* vector, ElementRange elements);

 private:
  Device* device_;
  std::vector<float> copy_;
};

}  // namespace planaria

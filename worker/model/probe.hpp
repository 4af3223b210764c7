// The numeric class of a device, proved: a tiny fixed training run whose bits every member of a class must share.
//
// Thread contract: runs on the thread that owns the device.
#pragma once

#include "common/hash.hpp"
#include "common/result.hpp"
#include "kernels/device.hpp"

namespace planaria {

// Hash over the device's stated class, its kernels' probe, and losses, norms and weights of a few steps of a tiny
// model of each family (forward, backward, norm, clip, update, dropout, tied embedding). Fixed: no job changes it.
// Takes well under a second on one core.
[[nodiscard]] Result<Hash128> probe_numeric_class(Device& device);

}  // namespace planaria

// How fast a device multiplies matrices: what is known of a worker before it has trained.
//
// Thread contract: runs on the thread that owns the device.
#pragma once

#include "common/clock.hpp"
#include "common/result.hpp"
#include "kernels/device.hpp"

namespace planaria {

// Billions of floating-point operations a second in a linear layer, forward and backward: the best of a few short runs.
// Takes some tens of milliseconds.
[[nodiscard]] Result<double> measure_gflops(Device& device, const Clock& clock);

}  // namespace planaria

// What a library with devices of its own offers. It is loaded when such a device is asked for, so that one binary
// serves machines with and without them; library and binary are of one build.
//
// Thread contract: its functions may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>

#include "common/result.hpp"
#include "kernels/device.hpp"
#include "proto/precision.hpp"

namespace planaria {

struct DevicePlugin {
  // Of the build: anything else may lay out the same types otherwise.
  const char* build = nullptr;
  // Devices of this machine. unavailable: no driver, or none of the device's kind.
  Result<std::uint32_t> (*count)() = nullptr;
  // `automatic` is bf16. unavailable: there is no such device; unsupported: this build has no code for it, by its name.
  Result<std::unique_ptr<Device>> (*make)(std::uint32_t index, Precision precision) = nullptr;
};

// What `build` is of the code that calls this.
[[nodiscard]] const char* device_plugin_build();

// The library's one symbol with C linkage, of type `const DevicePlugin* ()`.
inline constexpr const char* kDevicePluginEntry = "planaria_device_plugin";
// Beside the executable, or in ../lib/planaria from there.
inline constexpr const char* kCudaPluginFile = "libplanaria_cuda.so";

}  // namespace planaria

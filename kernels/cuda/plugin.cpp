// The library's entry (kernels/device_plugin.hpp).
#include "kernels/device_plugin.hpp"

#include <string>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/fp32_device.hpp"

namespace planaria::cuda {
namespace {

Result<std::uint32_t> count() {
  int devices = 0;
  const Status asked = status_of(cudaGetDeviceCount(&devices), "asking the driver for GPUs");
  if (!asked || devices == 0) {
    return Error(ErrorCode::unavailable, (asked ? std::string("the driver knows no GPU") : asked.error().message()) +
                                             "; it takes an NVIDIA GPU with a driver for CUDA 13, or another device: "
                                             "\"cpu\", or \"auto\", which takes what is there");
  }
  return static_cast<std::uint32_t>(devices);
}

Result<std::unique_ptr<Device>> make(std::uint32_t index, Precision precision) {
  PLANARIA_ASSIGN(const std::uint32_t devices, count());
  if (index >= devices) {
    return Error(ErrorCode::unavailable,
                 "there is no GPU " + std::to_string(index) + ": this machine has " + std::to_string(devices));
  }
  if (precision == Precision::fp32) {
    PLANARIA_ASSIGN(auto device, Fp32Device::create(static_cast<int>(index)));
    return std::unique_ptr<Device>(std::move(device));
  }
  PLANARIA_ASSIGN(auto device, CudaDevice::create(static_cast<int>(index)));
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace
}  // namespace planaria::cuda

extern "C" __attribute__((visibility("default"))) const planaria::DevicePlugin* planaria_device_plugin() {
  static const planaria::DevicePlugin plugin{planaria::device_plugin_build(), planaria::cuda::count,
                                             planaria::cuda::make};
  return &plugin;
}

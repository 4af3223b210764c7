// A model on the device that a command computes with, op by op in fp32.
//
// Thread contract: belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/result.hpp"
#include "kernels/device.hpp"

namespace planaria {

class ModelDevice {
 public:
  // `device`: as people write it (proto/device_choice.hpp). `parameters`: the whole flat vector in host memory, which
  // must outlive this. Errors as make_device()'s; exhausted: the device hasn't the memory for the parameters.
  [[nodiscard]] static Result<ModelDevice> create(const std::string& device, std::uint32_t threads,
                                                  std::span<const float> parameters);

  [[nodiscard]] TensorDevice& ops() const { return *device_->tensor_device(); }
  // In the device's memory.
  [[nodiscard]] const float* parameters() const { return parameters_; }

 private:
  std::unique_ptr<Device> device_;
  DeviceBuffer copy_;  // where the device can't read the host's
  const float* parameters_ = nullptr;
};

}  // namespace planaria

#include "cli/model_device.hpp"

#include <utility>

#include "kernels/make_device.hpp"

namespace planaria {

Result<ModelDevice> ModelDevice::create(const std::string& device, std::uint32_t threads,
                                        std::span<const float> parameters) {
  PLANARIA_ASSIGN(const DeviceChoice choice, parse_device(device, Precision::fp32));
  PLANARIA_ASSIGN(MadeDevice made, make_device(choice, {.threads = threads}));
  ModelDevice model;
  model.device_ = std::move(made.device);
  if (model.device_->tensor_device() == nullptr) {
    return Error(ErrorCode::unsupported, model.device_->name() + " has no ops of a model in fp32");
  }
  model.parameters_ = parameters.data();
  if (model.device_->host_accessible()) return model;
  PLANARIA_ASSIGN(model.copy_, model.device_->reserve(parameters.size_bytes()));
  model.device_->copy_in(model.copy_.data(), parameters.data(), parameters.size_bytes());
  PLANARIA_TRY(model.device_->synchronize());
  model.parameters_ = model.copy_.floats();
  return model;
}

}  // namespace planaria

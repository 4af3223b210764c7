#include "kernels/device.hpp"

#include <utility>

#include "kernels/model_engine.hpp"

namespace planaria {

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this != &other) {
    if (device_ != nullptr) device_->release(data_, bytes_);
    device_ = std::exchange(other.device_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (device_ != nullptr) device_->release(data_, bytes_);
}

Result<std::unique_ptr<ModelEngine>> Device::make_engine(const ModelSpec&, const StateMap&, const MicroBatchShape&,
                                                         std::uint64_t) {
  return std::unique_ptr<ModelEngine>();
}

Result<std::shared_ptr<void>> Device::lock_host(std::span<std::byte>) {
  return std::shared_ptr<void>();
}

Result<std::vector<std::byte>> Device::kernel_choices() {
  return std::vector<std::byte>();
}

Status Device::adopt_kernel_choices(std::span<const std::byte> choices) {
  if (choices.empty()) return ok_status();
  return Error(ErrorCode::mismatch, "choices of kernels were made for another kind of device than " + name());
}

}  // namespace planaria

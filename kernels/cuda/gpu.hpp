// One GPU beneath a device (kernels/device.hpp): its memory, its stream and the ops on flat fp32 vectors, which are the
// same whatever number format models are trained in.
//
// Thread contract: as Device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device.hpp"

namespace planaria::cuda {

// Error with what was attempted: exhausted for memory, unavailable without a driver or device, else internal.
[[nodiscard]] Status status_of(cudaError_t error, const char* attempt);

// unavailable: there is no such GPU, or no driver; unsupported: this build has no code for it.
[[nodiscard]] Result<cudaDeviceProp> properties_of(int index);

// Interface: Device, or TensorDevice.
template <class Interface>
class Gpu : public Interface {
 public:
  ~Gpu() override;

  [[nodiscard]] std::string name() const override;
  [[nodiscard]] std::size_t threads() const override { return 1; }
  [[nodiscard]] std::uint64_t memory_bytes() const override { return properties_.totalGlobalMem; }
  [[nodiscard]] Status own() override;
  [[nodiscard]] bool host_accessible() const override { return false; }

  [[nodiscard]] Result<DeviceBuffer> allocate(std::size_t bytes) override;
  [[nodiscard]] Result<DeviceBuffer> reserve(std::size_t bytes) override;
  void copy_in(void* device_target, const void* host_source, std::size_t bytes) override;
  void copy_out(void* host_target, const void* device_source, std::size_t bytes) override;
  void copy(void* target, const void* source, std::size_t bytes) override;
  using Interface::read;
  [[nodiscard]] Status read(std::span<const HostRead> parts, const Device::Arrived& arrived) override;
  [[nodiscard]] Result<std::shared_ptr<std::byte>> allocate_host(std::size_t bytes) override;
  [[nodiscard]] Result<std::shared_ptr<void>> lock_host(std::span<std::byte> memory) override;
  [[nodiscard]] Status synchronize() override;

  void adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
             const float* gradient, const AdamwTarget& target) override;
  void tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) override;
  void add(std::size_t count, const float* a, const float* b, float* out) override;
  void fold(std::size_t count, std::span<const float* const> parts, float* out) override;
  void scale(std::size_t count, float factor, const float* x, float* out) override;
  void zero(std::size_t count, float* x) override;

  // For what computes on it.
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  // Memory that kernels write and the host reads: synchronize() copies it to `target`. Null when there is none, which
  // is noted.
  [[nodiscard]] double* result(std::size_t count, double* target);
  // Keeps the first error.
  void note(Status status);
  void note(cudaError_t error, const char* attempt);

 protected:
  Gpu(int index, const cudaDeviceProp& properties) : index_(index), properties_(properties) {}
  // Takes the GPU for the calling thread. Once, before all else.
  [[nodiscard]] Status open();

  [[nodiscard]] const cudaDeviceProp& properties() const { return properties_; }
  // The numeric class of a kind of devices whose kernels have that revision.
  [[nodiscard]] std::string class_of(std::string_view kind, int revision) const;
  // Billions of operations a second, of so many a cycle and multiprocessor; 0: the GPU doesn't tell its clock.
  [[nodiscard]] double gflops(double of_multiprocessor) const;

 private:
  // Page-locked memory for results, used again after each synchronize().
  struct Chunk {
    double* values = nullptr;
    std::size_t capacity = 0;
    std::size_t used = 0;
  };
  struct Pending {
    const double* values;
    std::size_t count;
    double* target;
  };

  void release(void* data, std::size_t bytes) override;

  const int index_;
  const cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr;
  cudaStream_t reads_ = nullptr;
  Status error_ = ok_status();
  std::vector<Chunk> chunks_;
  std::vector<Pending> pending_;
};

extern template class Gpu<Device>;
extern template class Gpu<TensorDevice>;

}  // namespace planaria::cuda

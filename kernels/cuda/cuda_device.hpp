// One GPU as a device (kernels/device.hpp): fp32 vectors in its memory, ops on one stream, and an engine that trains in
// bf16 (kernels/cuda/bf16_engine.hpp).
//
// Thread contract: as Device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/matmul.hpp"
#include "kernels/device.hpp"

namespace planaria::cuda {

// Error with what was attempted: exhausted for memory, unavailable without a driver or device, else internal.
[[nodiscard]] Status status_of(cudaError_t error, const char* attempt);

class CudaDevice final : public Device {
 public:
  // unavailable: there is no such GPU, or no driver; unsupported: this build has no code for it.
  [[nodiscard]] static Result<std::unique_ptr<CudaDevice>> create(int index);
  ~CudaDevice() override;

  [[nodiscard]] std::string name() const override;
  [[nodiscard]] std::string numeric_class() const override;
  [[nodiscard]] std::size_t threads() const override { return 1; }
  [[nodiscard]] double rated_gflops() const override;
  [[nodiscard]] std::uint64_t memory_bytes() const override { return properties_.totalGlobalMem; }
  [[nodiscard]] Status own() override;
  [[nodiscard]] bool host_accessible() const override { return false; }

  [[nodiscard]] Result<DeviceBuffer> allocate(std::size_t bytes) override;
  [[nodiscard]] Result<DeviceBuffer> reserve(std::size_t bytes) override;
  void copy_in(void* device_target, const void* host_source, std::size_t bytes) override;
  void copy_out(void* host_target, const void* device_source, std::size_t bytes) override;
  void copy(void* target, const void* source, std::size_t bytes) override;
  using Device::read;
  [[nodiscard]] Status read(std::span<const HostRead> parts, const Arrived& arrived) override;
  [[nodiscard]] Result<std::shared_ptr<std::byte>> allocate_host(std::size_t bytes) override;
  [[nodiscard]] Result<std::shared_ptr<void>> lock_host(std::span<std::byte> memory) override;
  [[nodiscard]] Result<std::unique_ptr<ModelEngine>> make_engine(const ModelSpec& model, const StateMap& map,
                                                                 const MicroBatchShape& shape,
                                                                 std::uint64_t seed) override;
  [[nodiscard]] bool chooses_kernels() const override { return true; }
  [[nodiscard]] Result<std::vector<std::byte>> kernel_choices() override;
  [[nodiscard]] Status adopt_kernel_choices(std::span<const std::byte> choices) override;
  [[nodiscard]] Status synchronize() override;

  void adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
             const float* gradient, const AdamwTarget& target) override;
  void tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) override;
  void add(std::size_t count, const float* a, const float* b, float* out) override;
  void fold(std::size_t count, std::span<const float* const> parts, float* out) override;
  void scale(std::size_t count, float factor, const float* x, float* out) override;
  void zero(std::size_t count, float* x) override;

  // For the engine.
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  // The kernel table: one for all engines, so that they compute alike.
  [[nodiscard]] Result<MatmulTable*> matmuls();
  // Memory that kernels write and the host reads: synchronize() copies it to `target`.
  [[nodiscard]] double* result(std::size_t count, double* target);
  // Keeps the first error.
  void note(Status status);
  void note(cudaError_t error, const char* attempt);

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

  CudaDevice(int index, const cudaDeviceProp& properties) : index_(index), properties_(properties) {}
  void release(void* data, std::size_t bytes) override;

  const int index_;
  const cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr;
  cudaStream_t reads_ = nullptr;
  Status error_ = ok_status();
  std::unique_ptr<MatmulTable> matmuls_;
  std::vector<Chunk> chunks_;
  std::vector<Pending> pending_;
};

}  // namespace planaria::cuda

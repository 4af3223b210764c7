// One GPU as a device that trains in bf16 (kernels/cuda/bf16_engine.hpp).
//
// Thread contract: as Device.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/gpu.hpp"
#include "kernels/cuda/matmul.hpp"

namespace planaria::cuda {

class CudaDevice final : public Gpu<Device> {
 public:
  // unavailable: there is no such GPU, or no driver; unsupported: this build has no code for it.
  [[nodiscard]] static Result<std::unique_ptr<CudaDevice>> create(int index);

  [[nodiscard]] std::string numeric_class() const override;
  [[nodiscard]] double rated_gflops() const override;
  [[nodiscard]] Result<std::unique_ptr<ModelEngine>> make_engine(const ModelSpec& model, const StateMap& map,
                                                                 const MicroBatchShape& shape,
                                                                 std::uint64_t seed) override;
  [[nodiscard]] bool chooses_kernels() const override { return true; }
  [[nodiscard]] Result<std::vector<std::byte>> kernel_choices() override;
  [[nodiscard]] Status adopt_kernel_choices(std::span<const std::byte> choices) override;

  // The kernel table: one for all engines, so that they compute alike.
  [[nodiscard]] Result<MatmulTable*> matmuls();

 private:
  using Gpu::Gpu;

  std::unique_ptr<MatmulTable> matmuls_;
};

}  // namespace planaria::cuda

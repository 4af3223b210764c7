#include "kernels/cuda/cuda_device.hpp"

#include <utility>

#include "kernels/cuda/bf16_engine.hpp"

namespace planaria::cuda {
namespace {

// Raised by whoever changes what a kernel computes, to the bit.
constexpr int kRevision = 2;

}  // namespace

Result<std::unique_ptr<CudaDevice>> CudaDevice::create(int index) {
  PLANARIA_ASSIGN(const cudaDeviceProp properties, properties_of(index));
  std::unique_ptr<CudaDevice> device(new CudaDevice(index, properties));
  PLANARIA_TRY(device->open());
  return device;
}

std::string CudaDevice::numeric_class() const {
  return class_of("cuda", kRevision);
}

// Dense bf16 products with fp32 sums (NVIDIA's white papers of each architecture).
double CudaDevice::rated_gflops() const {
  if (properties().major >= 10) return gflops(8192);
  if (properties().major == 9) return gflops(4096);
  return gflops(properties().minor == 0 ? 2048 : 512);
}

Result<MatmulTable*> CudaDevice::matmuls() {
  if (!matmuls_) {
    PLANARIA_ASSIGN(MatmulTable table, MatmulTable::create(stream()));
    matmuls_ = std::make_unique<MatmulTable>(std::move(table));
  }
  return matmuls_.get();
}

Result<std::unique_ptr<ModelEngine>> CudaDevice::make_engine(const ModelSpec& model, const StateMap& map,
                                                             const MicroBatchShape& shape, std::uint64_t seed) {
  return Bf16Engine::create(*this, model, map, shape, seed);
}

Result<std::vector<std::byte>> CudaDevice::kernel_choices() {
  PLANARIA_ASSIGN(const MatmulTable* table, matmuls());
  return table->choices();
}

Status CudaDevice::adopt_kernel_choices(std::span<const std::byte> choices) {
  PLANARIA_ASSIGN(MatmulTable * table, matmuls());
  return table->adopt(choices);
}

}  // namespace planaria::cuda

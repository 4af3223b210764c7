// A GPU in fp32 against PyTorch.
#include <cuda_runtime.h>

#include "kernels/cuda/fp32_device.hpp"
#include "oracle_suite.hpp"

namespace planaria {
namespace {

std::unique_ptr<TensorDevice> gpu() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return nullptr;
  auto device = cuda::Fp32Device::create(0);
  EXPECT_TRUE(device.ok()) << (device ? "" : device.error().describe());
  return device ? std::move(*device) : nullptr;
}

INSTANTIATE_TEST_SUITE_P(Families, OracleTest,
                         ::testing::Combine(::testing::Values(ModelFamily::gpt2, ModelFamily::llama),
                                            ::testing::Values(OracleDevice{"cuda", gpu})),
                         name_of_oracle);

}  // namespace
}  // namespace planaria

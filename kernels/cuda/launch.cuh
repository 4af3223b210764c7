// Launch configurations. None of them changes a bit of any result.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

namespace planaria::cuda {

[[nodiscard]] inline unsigned blocks_for(std::size_t work, std::size_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

// Of the current device; 0 when it can't be asked, which the launch then reports.
[[nodiscard]] inline std::size_t device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) return 0;
  return static_cast<std::size_t>(value);
}

// As many blocks as run at once, for kernels whose blocks take one piece of work after another; lets the kernel have so
// much shared memory.
template <class Kernel>
[[nodiscard]] unsigned resident_blocks(Kernel* kernel, unsigned threads, std::size_t shared_bytes, std::size_t pieces) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  int a_multiprocessor = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&a_multiprocessor, kernel, static_cast<int>(threads), shared_bytes);
  const std::size_t resident =
      static_cast<std::size_t>(a_multiprocessor) * device_attribute(cudaDevAttrMultiProcessorCount);
  return static_cast<unsigned>(std::clamp<std::size_t>(resident, 1, std::max<std::size_t>(pieces, 1)));
}

}  // namespace planaria::cuda

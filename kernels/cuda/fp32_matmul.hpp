// Matrix products in fp32 by cuBLASLt, without TF32: those of one linear map y = x · Wᵀ, its way back, and its weights'
// gradient.
//
// An algorithm is the library's first proposal of those that add up a sum in one piece, so that nothing depends on who
// is done first, and that need no workspace and no more alignment than a float has. The proposal is a function of the
// shape, the GPU and the library's version, which are in the numeric class: nothing is measured, and all who ask get
// the same.
//
// Thread contract: belongs to one thread; products are queued on its stream.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <memory>

#include "common/result.hpp"
#include "kernels/cuda/matmul_shape.hpp"
#include "kernels/ops.hpp"

namespace planaria::cuda {

class Fp32Matmuls {
 public:
  // unsupported: no cuBLASLt on this device; exhausted: no memory for it.
  [[nodiscard]] static Result<Fp32Matmuls> create(cudaStream_t stream);
  Fp32Matmuls(Fp32Matmuls&& other) noexcept;
  Fp32Matmuls& operator=(Fp32Matmuls&& other) noexcept;
  ~Fp32Matmuls();

  // Operands in device memory, layouts as in LinearShape. unsupported: the library has no algorithm; internal: it
  // refused.
  // y = x · Wᵀ
  [[nodiscard]] Status forward(const LinearShape& shape, const float* x, const float* weight, float* y);
  // dx = dy · W
  [[nodiscard]] Status input_gradient(const LinearShape& shape, const float* dy, const float* weight, float* dx);
  // dW += dyᵀ · x
  [[nodiscard]] Status weight_gradient(const LinearShape& shape, const float* x, const float* dy, float* d_weight);

 private:
  struct Entry;

  Fp32Matmuls() = default;
  [[nodiscard]] Result<Entry*> find(const MatmulShape& shape);
  [[nodiscard]] Status multiply(MatmulKind kind, const LinearShape& shape, const float* a, const float* b, float* d);

  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  std::map<MatmulShape, std::unique_ptr<Entry>> entries_;
};

}  // namespace planaria::cuda

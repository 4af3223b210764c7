// Inside of the kernel table: a shape in cuBLASLt's terms, the settings of an algorithm, and the search among them.
//
// Thread contract: as MatmulTable; a plan's descriptor changes with every launch.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "kernels/cuda/matmul.hpp"

namespace planaria::cuda {

// cuBLASLt's matrices are column-major: our [rows, columns] of a stride is its [columns, rows] with that leading
// dimension. Each product is therefore computed as its transpose, D = op(a) · op(b).
struct MatmulPlan {
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
  cudaDataType_t output = CUDA_R_16BF;
  bool bias = false;
  bool auxiliary = false;  // u
};

struct Library {
  cublasLtHandle_t handle = nullptr;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
};

[[nodiscard]] Status cuda_status(cudaError_t status, std::string_view attempt, const MatmulShape& shape);
[[nodiscard]] Status library_status(cublasStatus_t status, std::string_view attempt, const MatmulShape& shape);

// `type`: of x, weight and y, and of their gradients. fp32 is multiplied as such, and not in TF32.
// invalid_argument: the shape contradicts itself.
[[nodiscard]] Result<MatmulPlan> make_plan(const MatmulShape& shape, cudaDataType_t type = CUDA_R_16BF);
// Searches and checks read no operands but take the alignment they may count on from the plan's pointers.
[[nodiscard]] cublasStatus_t expect_least_alignment(MatmulPlan& plan);
[[nodiscard]] cublasStatus_t launch(const Library& library, MatmulKind kind, MatmulPlan& plan, const MatmulEntry& entry,
                                    const MatmulOperands& operands);

// Nothing if this device or library can't run it, or if it would add parts of sums in the order of their arrival.
[[nodiscard]] std::optional<MatmulEntry> accept(const Library& library, MatmulPlan& plan,
                                                const cublasLtMatmulAlgo_t& algorithm);
// What the library would take, best first by its own estimate.
[[nodiscard]] std::vector<cublasLtMatmulAlgo_t> propose(const Library& library, MatmulPlan& plan, int count,
                                                        std::uint64_t workspace);
enum class Dimension { tile, cluster, stages, option, swizzle, split };
// The algorithm with one setting changed in every way; which of them run, the library's check tells.
[[nodiscard]] std::vector<cublasLtMatmulAlgo_t> variants(const cublasLtMatmulAlgo_t& base, Dimension dimension);

// The fastest algorithm that gives the same bits every time. Errors as MatmulTable::choose.
[[nodiscard]] Result<MatmulEntry> search(const Library& library, const MatmulShape& shape, MatmulPlan& plan);

}  // namespace planaria::cuda

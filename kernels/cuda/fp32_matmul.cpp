#include "kernels/cuda/fp32_matmul.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "kernels/cuda/matmul_plan.hpp"

namespace planaria::cuda {
namespace {

constexpr int kProposals = 16;

MatmulShape shape_of(MatmulKind kind, const LinearShape& shape) {
  return {.kind = kind,
          .rows = static_cast<std::uint32_t>(shape.rows),
          .in = static_cast<std::uint32_t>(shape.in),
          .out = static_cast<std::uint32_t>(shape.out),
          .out_stride = static_cast<std::uint32_t>(shape.out)};
}

// What cublasLt.h calls dots performed in one sequence.
bool adds_in_one_piece(const cublasLtMatmulAlgo_t& algorithm) {
  std::uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::size_t written = 0;
  return cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                              sizeof(scheme), &written) == CUBLAS_STATUS_SUCCESS &&
         scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

Result<cublasLtMatmulAlgo_t> first_proposal(cublasLtHandle_t handle, MatmulPlan& plan, const MatmulShape& shape) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  cublasStatus_t status = cublasLtMatmulPreferenceInit(&preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    if (status != CUBLAS_STATUS_SUCCESS) return;
    status = cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{0});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, static_cast<std::uint32_t>(sizeof(float)));
  }
  PLANARIA_TRY(library_status(status, "saying what algorithms may be", shape));
  std::array<cublasLtMatmulHeuristicResult_t, kProposals> proposals{};
  int count = 0;
  PLANARIA_TRY(
      library_status(cublasLtMatmulAlgoGetHeuristic(handle, &plan.operation, &plan.a, &plan.b, &plan.d, &plan.d,
                                                    &preference, kProposals, proposals.data(), &count),
                     "asking for an fp32 algorithm", shape));
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const auto& proposal = proposals[i];
    if (proposal.state == CUBLAS_STATUS_SUCCESS && proposal.workspaceSize == 0 && adds_in_one_piece(proposal.algo)) {
      return proposal.algo;
    }
  }
  return Error(ErrorCode::unsupported, "cuBLASLt has no fp32 algorithm with sums in one piece for " + describe(shape));
}

}  // namespace

struct Fp32Matmuls::Entry {
  MatmulPlan plan;
  cublasLtMatmulAlgo_t algorithm{};
};

Result<Fp32Matmuls> Fp32Matmuls::create(cudaStream_t stream) {
  Fp32Matmuls matmuls;
  matmuls.stream_ = stream;
  if (const auto status = cublasLtCreate(&matmuls.handle_); status != CUBLAS_STATUS_SUCCESS) {
    return Error(status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::exhausted : ErrorCode::unsupported,
                 std::string("cuBLASLt can't start: ") + cublasLtGetStatusString(status));
  }
  return matmuls;
}

Fp32Matmuls::Fp32Matmuls(Fp32Matmuls&& other) noexcept
    : stream_(other.stream_), handle_(std::exchange(other.handle_, nullptr)), entries_(std::move(other.entries_)) {}

Fp32Matmuls& Fp32Matmuls::operator=(Fp32Matmuls&& other) noexcept {
  std::swap(stream_, other.stream_);
  std::swap(handle_, other.handle_);
  std::swap(entries_, other.entries_);
  return *this;
}

Fp32Matmuls::~Fp32Matmuls() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

Result<Fp32Matmuls::Entry*> Fp32Matmuls::find(const MatmulShape& shape) {
  const auto known = entries_.find(shape);
  if (known != entries_.end()) return known->second.get();
  auto entry = std::make_unique<Entry>();
  PLANARIA_ASSIGN(entry->plan, make_plan(shape, CUDA_R_32F));
  PLANARIA_ASSIGN(entry->algorithm, first_proposal(handle_, entry->plan, shape));
  return entries_.emplace(shape, std::move(entry)).first->second.get();
}

// The operands of the transposed product that the library computes, as in make_plan().
Status Fp32Matmuls::multiply(MatmulKind kind, const LinearShape& linear, const float* a, const float* b, float* d) {
  const MatmulShape shape = shape_of(kind, linear);
  PLANARIA_ASSIGN(Entry* const entry, find(shape));
  MatmulPlan& plan = entry->plan;
  const float alpha = 1;
  const float beta = kind == MatmulKind::weight_gradient ? 1 : 0;
  return library_status(cublasLtMatmul(handle_, &plan.operation, &alpha, a, &plan.a, b, &plan.b, &beta, d, &plan.d, d,
                                       &plan.d, &entry->algorithm, nullptr, 0, stream_),
                        "multiplying", shape);
}

Status Fp32Matmuls::forward(const LinearShape& shape, const float* x, const float* weight, float* y) {
  return multiply(MatmulKind::forward, shape, weight, x, y);
}

Status Fp32Matmuls::input_gradient(const LinearShape& shape, const float* dy, const float* weight, float* dx) {
  return multiply(MatmulKind::input_gradient, shape, weight, dy, dx);
}

Status Fp32Matmuls::weight_gradient(const LinearShape& shape, const float* x, const float* dy, float* d_weight) {
  return multiply(MatmulKind::weight_gradient, shape, x, dy, d_weight);
}

}  // namespace planaria::cuda

#include "kernels/cuda/matmul.hpp"

#include <fmt/format.h>

#include <iterator>
#include <string_view>
#include <utility>

#include "kernels/cuda/matmul_plan.hpp"

namespace planaria::cuda {
namespace {

constexpr std::string_view kKindNames[] = {"forward", "forward_gelu", "input_gradient", "input_dgelu",
                                           "weight_gradient"};

template <class T>
cublasStatus_t set(MatmulPlan& plan, cublasLtMatmulDescAttributes_t attribute, T value) {
  return cublasLtMatmulDescSetAttribute(&plan.operation, attribute, &value, sizeof(value));
}

cublasStatus_t set_pointers(MatmulPlan& plan, const void* bias, const void* auxiliary) {
  if (plan.bias) {
    if (const auto status = set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)) return status;
  }
  return plan.auxiliary ? set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, auxiliary) : CUBLAS_STATUS_SUCCESS;
}
Status check(const MatmulShape& shape) {
  const auto refuse = [&](std::string_view why) {
    return Error(ErrorCode::invalid_argument, fmt::format("{}: {}", describe(shape), why));
  };
  if (shape.kind >= MatmulKind::count_) return refuse("there is no such kind");
  if (shape.rows == 0 || shape.in == 0 || shape.out == 0) return refuse("a size is 0");
  if (shape.out_stride < shape.out) return refuse("the stride is less than a row");
  if (shape.bias && !is_forward(shape.kind)) return refuse("only forward kinds add a bias");
  // cublasLt.h, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD.
  if ((shape.kind == MatmulKind::forward_gelu && shape.out_stride % 8 != 0) ||
      (shape.kind == MatmulKind::input_dgelu && shape.in % 8 != 0)) {
    return refuse("a row of u must be a multiple of 8 elements");
  }
  return ok_status();
}

std::uint32_t epilogue_of(const MatmulShape& shape) {
  switch (shape.kind) {
    case MatmulKind::forward:
      return shape.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    case MatmulKind::forward_gelu:
      return shape.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case MatmulKind::input_dgelu:
      return CUBLASLT_EPILOGUE_DGELU;
    default:
      return CUBLASLT_EPILOGUE_DEFAULT;
  }
}

}  // namespace

Status cuda_status(cudaError_t status, std::string_view attempt, const MatmulShape& shape) {
  if (status == cudaSuccess) return ok_status();
  (void)cudaGetLastError();  // or the next launch would be blamed for it
  ErrorCode code = ErrorCode::internal;
  if (status == cudaErrorMemoryAllocation) code = ErrorCode::exhausted;
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver || status == cudaErrorNotSupported) {
    code = ErrorCode::unsupported;
  }
  return Error(code, fmt::format("{} for {}: {} ({})", attempt, describe(shape), cudaGetErrorString(status),
                                 cudaGetErrorName(status)));
}

Status library_status(cublasStatus_t status, std::string_view attempt, const MatmulShape& shape) {
  if (status == CUBLAS_STATUS_SUCCESS) return ok_status();
  ErrorCode code = ErrorCode::internal;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) code = ErrorCode::exhausted;
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_ARCH_MISMATCH ||
      status == CUBLAS_STATUS_NOT_INITIALIZED) {
    code = ErrorCode::unsupported;
  }
  return Error(code, fmt::format("{} for {}: {}", attempt, describe(shape), cublasLtGetStatusString(status)));
}

bool is_forward(MatmulKind kind) {
  return kind == MatmulKind::forward || kind == MatmulKind::forward_gelu;
}

cublasStatus_t expect_least_alignment(MatmulPlan& plan) {
  const auto* address = reinterpret_cast<const void*>(std::uintptr_t{kMatmulAlignment});  // NOLINT: a number, not read
  return set_pointers(plan, address, address);
}

Result<MatmulPlan> make_plan(const MatmulShape& s) {
  PLANARIA_TRY(check(s));
  MatmulPlan plan;
  const bool forward = is_forward(s.kind);
  const bool weight = s.kind == MatmulKind::weight_gradient;
  plan.beta = weight ? 1.0F : 0.0F;
  plan.bias = s.bias;
  plan.auxiliary = s.kind == MatmulKind::forward_gelu || s.kind == MatmulKind::input_dgelu;

  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto need = [&](cublasStatus_t next) {
    if (status == CUBLAS_STATUS_SUCCESS) status = next;
  };
  const auto x = [&](auto& layout) { need(cublasLtMatrixLayoutInit(&layout, CUDA_R_16BF, s.in, s.rows, s.in)); };
  const auto y = [&](auto& layout) {
    need(cublasLtMatrixLayoutInit(&layout, CUDA_R_16BF, s.out, s.rows, s.out_stride));
  };
  const auto w = [&](auto& layout, cudaDataType type) {
    need(cublasLtMatrixLayoutInit(&layout, type, s.in, s.out, s.in));
  };
  need(cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  if (weight) {
    x(plan.a), y(plan.b), w(plan.d, CUDA_R_32F);
  } else {
    w(plan.a, CUDA_R_16BF);
    forward ? (x(plan.b), y(plan.d)) : (y(plan.b), x(plan.d));
  }
  const auto set_attribute = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
    need(set(plan, attribute, value));
  };
  set_attribute(CUBLASLT_MATMUL_DESC_TRANSA, static_cast<std::int32_t>(forward ? CUBLAS_OP_T : CUBLAS_OP_N));
  set_attribute(CUBLASLT_MATMUL_DESC_TRANSB, static_cast<std::int32_t>(weight ? CUBLAS_OP_T : CUBLAS_OP_N));
  set_attribute(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(s));
  if (plan.bias) set_attribute(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(CUDA_R_16BF));
  if (plan.auxiliary) {
    set_attribute(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, static_cast<std::int32_t>(CUDA_R_16BF));
    set_attribute(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, static_cast<std::int64_t>(forward ? s.out_stride : s.in));
  }
  need(expect_least_alignment(plan));
  PLANARIA_TRY(library_status(status, "making the descriptors", s));
  return plan;
}

cublasStatus_t launch(const Library& library, MatmulKind kind, MatmulPlan& plan, const MatmulEntry& entry,
                      const MatmulOperands& o) {
  const bool forward = is_forward(kind);
  const bool weight = kind == MatmulKind::weight_gradient;
  const void* a = weight ? o.x : o.weight;
  const void* b = forward ? o.x : o.dy;
  void* d = forward ? static_cast<void*>(o.y) : weight ? static_cast<void*>(o.d_weight) : o.dx;
  const float alpha = 1;
  if (const auto status = set_pointers(plan, o.bias, o.u)) return status;
  return cublasLtMatmul(library.handle, &plan.operation, &alpha, a, &plan.a, b, &plan.b, &plan.beta, d, &plan.d, d,
                        &plan.d, &entry.algorithm, library.workspace, entry.workspace_bytes, library.stream);
}

std::string describe(const MatmulShape& shape) {
  const auto kind = static_cast<std::size_t>(shape.kind);
  return fmt::format("{} rows={} in={} out={} stride={}{}", kind < std::size(kKindNames) ? kKindNames[kind] : "?",
                     shape.rows, shape.in, shape.out, shape.out_stride, shape.bias ? " bias" : "");
}

Result<MatmulTable> MatmulTable::create(cudaStream_t stream) {
  MatmulTable table;
  table.stream_ = stream;
  if (const auto status = cublasLtCreate(&table.handle_); status != CUBLAS_STATUS_SUCCESS) {
    return Error(status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::exhausted : ErrorCode::unsupported,
                 fmt::format("cuBLASLt can't start: {}", cublasLtGetStatusString(status)));
  }
  if (const auto status = cudaMalloc(&table.workspace_, kWorkspaceBytes); status != cudaSuccess) {
    (void)cudaGetLastError();
    return Error(status == cudaErrorMemoryAllocation ? ErrorCode::exhausted : ErrorCode::unsupported,
                 fmt::format("no {} bytes of device memory for cuBLASLt's workspace: {}", kWorkspaceBytes,
                             cudaGetErrorString(status)));
  }
  return table;
}

MatmulTable::MatmulTable(MatmulTable&& other) noexcept {
  *this = std::move(other);
}
MatmulTable& MatmulTable::operator=(MatmulTable&& other) noexcept {
  std::swap(stream_, other.stream_);
  std::swap(handle_, other.handle_);
  std::swap(workspace_, other.workspace_);
  std::swap(entries_, other.entries_);
  std::swap(plans_, other.plans_);
  return *this;
}
MatmulTable::~MatmulTable() {
  if (workspace_ != nullptr) (void)cudaFree(workspace_);  // waits for what is queued
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

Status MatmulTable::choose(const MatmulShape& shape) {
  if (entries_.contains(shape)) return ok_status();
  PLANARIA_ASSIGN(auto plan, make_plan(shape));
  PLANARIA_ASSIGN(const MatmulEntry entry, search({handle_, stream_, workspace_}, shape, plan));
  plans_[shape] = std::make_unique<MatmulPlan>(plan);
  entries_[shape] = entry;
  return ok_status();
}

Status MatmulTable::adopt(const MatmulShape& shape, const MatmulEntry& entry) {
  PLANARIA_ASSIGN(auto plan, make_plan(shape));
  const auto accepted = accept({handle_, stream_, workspace_}, plan, entry.algorithm);
  if (!accepted || accepted->workspace_bytes > entry.workspace_bytes || entry.workspace_bytes > kWorkspaceBytes) {
    return Error(ErrorCode::unsupported,
                 fmt::format("{}: this device or this cuBLASLt ({}) can't run the algorithm that was chosen ({})",
                             describe(shape), cublasLtGetVersion(), describe(entry)));
  }
  plans_[shape] = std::make_unique<MatmulPlan>(plan);
  entries_[shape] = entry;
  return ok_status();
}

Status MatmulTable::multiply(const MatmulShape& shape, const MatmulOperands& operands) {
  const auto entry = entries_.find(shape);
  if (entry == entries_.end()) {
    return Error(ErrorCode::internal, fmt::format("no algorithm was chosen for {}", describe(shape)));
  }
  return library_status(
      launch({handle_, stream_, workspace_}, shape.kind, *plans_.find(shape)->second, entry->second, operands),
      "multiplying", shape);
}

}  // namespace planaria::cuda

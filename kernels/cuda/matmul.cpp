#include "kernels/cuda/matmul.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "kernels/cuda/matmul_plan.hpp"

namespace planaria::cuda {
namespace {

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

cublasStatus_t expect_least_alignment(MatmulPlan& plan) {
  const auto* address = reinterpret_cast<const void*>(std::uintptr_t{kMatmulAlignment});  // NOLINT: a number, not read
  return set_pointers(plan, address, address);
}

Result<MatmulPlan> make_plan(const MatmulShape& s, cudaDataType_t type) {
  PLANARIA_TRY(validate(s));
  MatmulPlan plan;
  const bool forward = is_forward(s.kind);
  const bool weight = s.kind == MatmulKind::weight_gradient;
  plan.output = weight ? CUDA_R_32F : type;
  plan.bias = s.bias;
  plan.auxiliary = s.kind == MatmulKind::forward_gelu || s.kind == MatmulKind::input_dgelu;

  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto need = [&](cublasStatus_t next) {
    if (status == CUBLAS_STATUS_SUCCESS) status = next;
  };
  const auto x = [&](auto& layout) { need(cublasLtMatrixLayoutInit(&layout, type, s.in, s.rows, s.in)); };
  const auto y = [&](auto& layout) { need(cublasLtMatrixLayoutInit(&layout, type, s.out, s.rows, s.out_stride)); };
  const auto w = [&](auto& layout, cudaDataType_t of_w) {
    need(cublasLtMatrixLayoutInit(&layout, of_w, s.in, s.out, s.in));
  };
  const auto compute = type == CUDA_R_32F ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
  need(cublasLtMatmulDescInit(&plan.operation, compute, CUDA_R_32F));
  if (weight) {
    x(plan.a), y(plan.b), w(plan.d, plan.output);
  } else {
    w(plan.a, type);
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
  const float beta = weight && !o.begin ? 1 : 0;
  if (const auto status = set_pointers(plan, o.bias, o.u)) return status;
  return cublasLtMatmul(library.handle, &plan.operation, &alpha, a, &plan.a, b, &plan.b, &beta, d, &plan.d, d, &plan.d,
                        &entry.algorithm, library.workspace, entry.workspace_bytes, library.stream);
}

Result<MatmulTable> MatmulTable::create(cudaStream_t stream) {
  MatmulTable table;
  table.stream_ = stream;
  int device = 0;
  cudaDeviceProp properties{};
  auto found = cudaGetDevice(&device);
  if (found == cudaSuccess) found = cudaGetDeviceProperties(&properties, device);
  if (found != cudaSuccess) {
    (void)cudaGetLastError();
    return Error(ErrorCode::unsupported, fmt::format("no GPU for cuBLASLt: {}", cudaGetErrorString(found)));
  }
  table.origin_ = {properties.name, static_cast<std::uint32_t>(properties.multiProcessorCount), cublasLtGetVersion()};
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
  std::swap(origin_, other.origin_);
  std::swap(adopted_, other.adopted_);
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
  if (adopted_) {
    PLANARIA_TRY(validate(shape));
    return Error(ErrorCode::mismatch, fmt::format("the choices of matrix products that were adopted have none for {}: "
                                                  "they are of another model or micro-batch",
                                                  describe(shape)));
  }
  PLANARIA_ASSIGN(auto plan, make_plan(shape));
  PLANARIA_ASSIGN(const MatmulEntry entry, search({handle_, stream_, workspace_}, shape, plan));
  plans_[shape] = std::make_unique<MatmulPlan>(plan);
  entries_[shape] = entry;
  return ok_status();
}

Result<std::vector<std::byte>> MatmulTable::choices() const {
  MatmulChoices choices{origin_, {}};
  for (const auto& [shape, entry] : entries_) {
    choices.choices.push_back({shape, std::to_array(entry.algorithm.data), entry.workspace_bytes, entry.microseconds});
  }
  return encode_choices(choices);
}

Status MatmulTable::adopt(std::span<const std::byte> choices) {
  PLANARIA_ASSIGN(const MatmulChoices adopted, decode_choices(choices));
  if (adopted.origin != origin_) {
    return Error(ErrorCode::mismatch, fmt::format("the choices of matrix products are for {}; this is {}",
                                                  describe(adopted.origin), describe(origin_)));
  }
  std::map<MatmulShape, MatmulEntry> entries;
  std::map<MatmulShape, std::unique_ptr<MatmulPlan>> plans;
  for (const MatmulChoice& choice : adopted.choices) {
    MatmulEntry entry{{}, choice.workspace_bytes, choice.microseconds};
    std::ranges::copy(choice.algorithm, entry.algorithm.data);
    PLANARIA_ASSIGN(auto plan, make_plan(choice.shape));
    const auto accepted = accept({handle_, stream_, workspace_}, plan, entry.algorithm);
    if (!accepted || accepted->workspace_bytes > entry.workspace_bytes || entry.workspace_bytes > kWorkspaceBytes) {
      return Error(ErrorCode::unsupported, fmt::format("{}: this device can't run the algorithm that was chosen ({})",
                                                       describe(choice.shape), describe(entry)));
    }
    entries.emplace(choice.shape, entry);
    plans.emplace(choice.shape, std::make_unique<MatmulPlan>(plan));
  }
  for (const auto& [shape, entry] : entries_) {
    if (entries.contains(shape)) continue;
    return Error(ErrorCode::mismatch,
                 fmt::format("the choices of matrix products have none for {}, which this device computes already",
                             describe(shape)));
  }
  entries_ = std::move(entries);
  plans_ = std::move(plans);
  adopted_ = true;
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

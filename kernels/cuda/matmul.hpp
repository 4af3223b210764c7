// Matrix products by cuBLASLt, each by one algorithm that was chosen by measurement and then stays: the kernel table.
//
// cuBLASLt promises the same bits for the same algorithm, library version, architecture and number of multiprocessors
// (cuBLAS documentation, section 2.1.4), and may choose another algorithm whenever it is asked. So it is asked once a
// job, and only algorithms are taken whose sums have a fixed order. A table made on one machine is used on all of its
// numeric class.
//
// Thread contract: a MatmulTable belongs to one thread; multiply() queues work on its stream.
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "common/result.hpp"

namespace planaria::cuda {

// Which side of a linear map y = x · Wᵀ + bias is computed; x: [rows, in], W: [out, in], y: [rows, out], row-major.
enum class MatmulKind : std::uint8_t {
  forward,          // y = x · Wᵀ (+ bias)
  forward_gelu,     // y = gelu(u), u = x · Wᵀ (+ bias) kept for the backward pass; gelu in its tanh form
  input_gradient,   // dx = dy · W
  input_dgelu,      // dx = (dy · W) ∘ gelu'(u)
  weight_gradient,  // dW += dyᵀ · x, fp32
  count_
};

struct MatmulShape {
  MatmulKind kind = MatmulKind::forward;
  std::uint32_t rows = 0;
  std::uint32_t in = 0;
  std::uint32_t out = 0;
  std::uint32_t out_stride = 0;  // elements of a row of y or dy; at least `out`
  bool bias = false;             // forward kinds

  auto operator<=>(const MatmulShape&) const = default;
};

inline constexpr std::size_t kMatmulAlignment = 16;  // bytes, of every pointer below

// Device memory. What a kind doesn't use is null.
struct MatmulOperands {
  const __nv_bfloat16* x = nullptr;       // forward kinds, weight_gradient
  const __nv_bfloat16* weight = nullptr;  // forward kinds, input kinds
  const __nv_bfloat16* bias = nullptr;
  const __nv_bfloat16* dy = nullptr;  // input kinds, weight_gradient
  __nv_bfloat16* y = nullptr;         // forward kinds
  __nv_bfloat16* u = nullptr;         // forward_gelu writes it as y; input_dgelu reads it, [rows, in] as dx
  __nv_bfloat16* dx = nullptr;        // input kinds
  float* d_weight = nullptr;          // weight_gradient: accumulated
};

struct MatmulEntry {
  cublasLtMatmulAlgo_t algorithm{};  // as the library serializes it
  std::uint64_t workspace_bytes = 0;
  float microseconds = 0;  // when it was chosen
};

// For people: "forward rows=16384 in=768 out=2304 stride=2304 bias"; "algorithm 66 tile 128x256 …".
[[nodiscard]] std::string describe(const MatmulShape& shape);
[[nodiscard]] std::string describe(const MatmulEntry& entry);

struct MatmulPlan;  // a shape in the library's terms

class MatmulTable {
 public:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{64} << 20;

  // unsupported: no cuBLASLt on this device; exhausted: no memory for the workspace.
  [[nodiscard]] static Result<MatmulTable> create(cudaStream_t stream);
  MatmulTable(MatmulTable&& other) noexcept;
  MatmulTable& operator=(MatmulTable&& other) noexcept;
  ~MatmulTable();

  // Measures the algorithms that the library proposes for the shape, on random values, and keeps the fastest of those
  // that gave the same bits every time; a shape that is there already is left alone. Takes about a second and memory
  // for the shape's operands, and waits for the device: not while a collective may spin. invalid_argument: the shape
  // contradicts itself, or a GELU kind's row of u is no multiple of 8; unsupported: there is none; exhausted: no
  // memory.
  [[nodiscard]] Status choose(const MatmulShape& shape);
  // Takes an entry that was chosen elsewhere, in place of one that is there. unsupported: this device or library can't
  // run it.
  [[nodiscard]] Status adopt(const MatmulShape& shape, const MatmulEntry& entry);
  [[nodiscard]] const std::map<MatmulShape, MatmulEntry>& entries() const { return entries_; }

  // The work queued is all on the stream. internal: the shape was neither chosen nor adopted, or the library refused.
  [[nodiscard]] Status multiply(const MatmulShape& shape, const MatmulOperands& operands);

 private:
  MatmulTable() = default;

  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<MatmulShape, MatmulEntry> entries_;
  std::map<MatmulShape, std::unique_ptr<MatmulPlan>> plans_;
};

}  // namespace planaria::cuda

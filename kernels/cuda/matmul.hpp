// Matrix products by cuBLASLt, each by one algorithm that was chosen by measurement and then stays: the kernel table.
//
// cuBLASLt promises the same bits for the same algorithm, library version, architecture and number of multiprocessors
// (cuBLAS documentation, section 2.1.4), and may choose another algorithm whenever it is asked. So it is asked once a
// job, and only algorithms are taken whose sums have a fixed order. Two measurements may also end differently: a table
// made by one process is handed to all others of its job (kernels/cuda/matmul_choices.hpp).
//
// Thread contract: a MatmulTable belongs to one thread; multiply() queues work on its stream.
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/result.hpp"
#include "kernels/cuda/matmul_choices.hpp"
#include "kernels/cuda/matmul_shape.hpp"

namespace planaria::cuda {

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
  float* d_weight = nullptr;          // weight_gradient: accumulated,
  bool begin = false;                 // or taken as 0 before
};

struct MatmulEntry {
  cublasLtMatmulAlgo_t algorithm{};  // as the library serializes it
  std::uint64_t workspace_bytes = 0;
  float microseconds = 0;  // when it was chosen
};

// For people: "algorithm 66 tile 128x256 …".
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
  // for the shape's operands, and waits for the device: not while a collective may spin. invalid_argument: validate()
  // refuses the shape; mismatch: the table was adopted, without this shape; unsupported: there is none; exhausted: no
  // memory.
  [[nodiscard]] Status choose(const MatmulShape& shape);
  // All entries, for adopt() of other tables. exhausted: they are more than the format allows.
  [[nodiscard]] Result<std::vector<std::byte>> choices() const;
  // Takes the entries of another table in place of its own, and measures none from now on: a table that added to what
  // it adopted would again differ from others. Bytes from anyone; on an error nothing has changed. corrupt: damaged;
  // mismatch: of another format, GPU or library, or without a shape that is in this table and so may be in use;
  // unsupported: this device can't run one.
  [[nodiscard]] Status adopt(std::span<const std::byte> choices);
  [[nodiscard]] const std::map<MatmulShape, MatmulEntry>& entries() const { return entries_; }

  // The work queued is all on the stream. internal: the shape was neither chosen nor adopted, or the library refused.
  [[nodiscard]] Status multiply(const MatmulShape& shape, const MatmulOperands& operands);

 private:
  MatmulTable() = default;

  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  MatmulOrigin origin_;
  bool adopted_ = false;
  std::map<MatmulShape, MatmulEntry> entries_;
  std::map<MatmulShape, std::unique_ptr<MatmulPlan>> plans_;
};

}  // namespace planaria::cuda

// The kernels of one instruction set as a table of functions. A kernel does one piece of an op on the calling thread;
// how an op is cut into pieces, and on which thread they run, is the device's business and never changes bits.
//
// Thread contract: constant; kernels are pure functions on disjoint outputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops.hpp"

namespace planaria {

inline constexpr std::size_t gemm_rows = 6;      // of a packed panel of A
inline constexpr std::size_t gemm_columns = 16;  // of a packed panel of B

[[nodiscard]] constexpr std::size_t panels_of(std::size_t count, std::size_t panel) {
  return (count + panel - 1) / panel;
}

enum class GemmStart : std::uint8_t { zero, bias, accumulate };

// C[rows, columns] = start + A * B, with A and B packed from their first row and column on.
struct GemmBlock {
  const float* a = nullptr;
  const float* b = nullptr;
  std::size_t k = 0;
  std::size_t rows = 0;
  std::size_t columns = 0;
  float* c = nullptr;
  std::size_t c_stride = 0;
  GemmStart start = GemmStart::zero;
  const float* bias = nullptr;  // of the first column on
  std::size_t a_panel_k = 0;  // k a panel of A was packed with; 0 = k. Lets a shorter k use the front of longer panels
  std::size_t b_panel_k = 0;
};

using PackFunction = void (*)(const float* source, std::size_t stride, std::size_t count, std::size_t k, float* panels);

struct DropoutPiece {
  std::uint64_t key = 0;
  std::uint64_t counter_high = 0;
  std::uint64_t counter_low = 0;  // of element 0
  std::uint32_t threshold = 0;    // keeps where (word >> 8) >= threshold
  float factor = 1;
};

// Pieces are [begin, end) of rows, columns, elements or the like, as named.
struct KernelTable {
  const char* isa;

  PackFunction pack_a_k_contiguous;
  PackFunction pack_b_k_contiguous;
  PackFunction pack_a_k_strided;
  PackFunction pack_b_k_strided;
  void (*gemm_block)(const GemmBlock& block);
  // target[column] += sum over rows of x, rows ascending.
  void (*add_column_sums)(std::size_t rows, std::size_t width, std::size_t column_begin, std::size_t column_end,
                          const float* x, float* target);

  void (*embedding_forward)(const EmbeddingShape& shape, std::size_t row_begin, std::size_t row_end,
                            const std::int32_t* tokens, const float* token_table, const float* position_table,
                            float* out);
  void (*embedding_backward)(const EmbeddingShape& shape, std::size_t column_begin, std::size_t column_end,
                             const std::int32_t* tokens, const float* d_out, float* d_token_table,
                             float* d_position_table);

  void (*layernorm_forward)(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* x,
                            const float* gain, const float* bias, float* y, float* mean, float* inverse_deviation);
  void (*layernorm_backward_input)(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* dy,
                                   const float* x, const float* gain, const float* mean, const float* inverse_deviation,
                                   const float* residual, float* dx);
  // mean null: RMSNorm (mean 0); d_bias null: none.
  void (*norm_backward_gain)(const NormShape& shape, std::size_t column_begin, std::size_t column_end, const float* dy,
                             const float* x, const float* mean, const float* inverse_deviation, float* d_gain,
                             float* d_bias);
  void (*rmsnorm_forward)(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* x,
                          const float* gain, float* y, float* inverse_rms);
  void (*rmsnorm_backward_input)(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* dy,
                                 const float* x, const float* gain, const float* inverse_rms, const float* residual,
                                 float* dx);

  // Floats of scratch a thread needs for one piece of attention (forward or backward).
  std::size_t (*attention_scratch)(const AttentionShape& shape);
  // Queries [begin, end) of one head of one sequence.
  void (*attention_forward)(const AttentionShape& shape, std::size_t sequence, std::size_t head,
                            std::size_t query_begin, std::size_t query_end, const float* qkv, float* out,
                            float* log_sums, float* scratch);
  // One key/value head of one sequence with all query heads that read it.
  void (*attention_backward)(const AttentionShape& shape, std::size_t sequence, std::size_t kv_head, const float* qkv,
                             const float* out, const float* log_sums, const float* d_out, float* d_qkv, float* scratch);
  // direction: 1 forward, -1 backward.
  void (*rope)(const AttentionShape& shape, std::size_t row_begin, std::size_t row_end, float direction,
               const float* table, float* qkv);

  void (*gelu_forward)(std::size_t begin, std::size_t end, const float* x, float* y);
  void (*gelu_backward)(std::size_t begin, std::size_t end, const float* x, const float* dy, float* dx);
  void (*swiglu_forward)(const SwigluShape& shape, std::size_t row_begin, std::size_t row_end, const float* gate_up,
                         float* out);
  void (*swiglu_backward)(const SwigluShape& shape, std::size_t row_begin, std::size_t row_end, const float* gate_up,
                          const float* d_out, float* d_gate_up);
  // Elements of one sequence; pointers are to its element 0. Precondition: begin is a multiple of 32.
  void (*dropout)(const DropoutPiece& piece, std::size_t begin, std::size_t end, const float* x, const float* residual,
                  float* y);

  void (*cross_entropy)(const CrossEntropyShape& shape, std::size_t row_begin, std::size_t row_end, const float* logits,
                        const std::int32_t* targets, double* row_losses, float* d_logits);

  void (*adamw)(const AdamwStep& step, std::size_t begin, std::size_t end, const AdamwSource& source,
                const float* gradient, const AdamwTarget& target);
  double (*sum_of_squares)(std::size_t count, const float* x);
  void (*add)(std::size_t begin, std::size_t end, const float* a, const float* b, float* out);
  void (*fold)(std::size_t begin, std::size_t end, const float* const* parts, std::size_t part_count, float* out);
  void (*scale)(std::size_t begin, std::size_t end, float factor, const float* x, float* out);
};

namespace baseline {
extern const KernelTable kernel_table;
}
namespace avx2 {
extern const KernelTable kernel_table;
}

}  // namespace planaria

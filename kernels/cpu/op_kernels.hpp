// The kernels other than matrix multiplication; kernel_table.hpp says what each does.
//
// Thread contract: pure functions on disjoint outputs.
#pragma once

#include "kernels/cpu/kernel_table.hpp"

namespace planaria::PLANARIA_ISA {

void add_column_sums(std::size_t rows, std::size_t width, std::size_t column_begin, std::size_t column_end,
                     const float* x, float* target);
void embedding_forward(const EmbeddingShape& shape, std::size_t row_begin, std::size_t row_end,
                       const std::int32_t* tokens, const float* token_table, const float* position_table, float* out);
void embedding_backward(const EmbeddingShape& shape, std::size_t column_begin, std::size_t column_end,
                        const std::int32_t* tokens, const float* d_out, float* d_token_table, float* d_position_table);
void layernorm_forward(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* x,
                       const float* gain, const float* bias, float* y, float* mean, float* inverse_deviation);
void layernorm_backward_input(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* dy,
                              const float* x, const float* gain, const float* mean, const float* inverse_deviation,
                              const float* residual, float* dx);
void norm_backward_gain(const NormShape& shape, std::size_t column_begin, std::size_t column_end, const float* dy,
                        const float* x, const float* mean, const float* inverse_deviation, float* d_gain,
                        float* d_bias);
void rmsnorm_forward(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* x,
                     const float* gain, float* y, float* inverse_rms);
void rmsnorm_backward_input(const NormShape& shape, std::size_t row_begin, std::size_t row_end, const float* dy,
                            const float* x, const float* gain, const float* inverse_rms, const float* residual,
                            float* dx);
std::size_t attention_scratch(const AttentionShape& shape);
void attention_forward(const AttentionShape& shape, std::size_t sequence, std::size_t head, std::size_t query_begin,
                       std::size_t query_end, const float* qkv, float* out, float* log_sums, float* scratch);
void attention_backward(const AttentionShape& shape, std::size_t sequence, std::size_t kv_head, const float* qkv,
                        const float* out, const float* log_sums, const float* d_out, float* d_qkv, float* scratch);
void rope(const AttentionShape& shape, std::size_t row_begin, std::size_t row_end, float direction, const float* table,
          float* qkv);
void gelu_forward(std::size_t begin, std::size_t end, const float* x, float* y);
void gelu_backward(std::size_t begin, std::size_t end, const float* x, const float* dy, float* dx);
void swiglu_forward(const SwigluShape& shape, std::size_t row_begin, std::size_t row_end, const float* gate_up,
                    float* out);
void swiglu_backward(const SwigluShape& shape, std::size_t row_begin, std::size_t row_end, const float* gate_up,
                     const float* d_out, float* d_gate_up);
void dropout(const DropoutPiece& piece, std::size_t begin, std::size_t end, const float* x, const float* residual,
             float* y);
void cross_entropy(const CrossEntropyShape& shape, std::size_t row_begin, std::size_t row_end, const float* logits,
                   const std::int32_t* targets, double* row_losses, float* d_logits);
void adamw(const AdamwStep& step, std::size_t begin, std::size_t end, const AdamwSource& source, const float* gradient,
           const AdamwTarget& target);
double sum_of_squares(std::size_t count, const float* x);
void add(std::size_t begin, std::size_t end, const float* a, const float* b, float* out);
void fold(std::size_t begin, std::size_t end, const float* const* parts, std::size_t part_count, float* out);
void scale(std::size_t begin, std::size_t end, float factor, const float* x, float* out);

}  // namespace planaria::PLANARIA_ISA

#include "kernels/cpu/kernel_table.hpp"

#include "kernels/cpu/gemm_kernels.hpp"
#include "kernels/cpu/op_kernels.hpp"

#define PLANARIA_TEXT_OF(name) #name
#define PLANARIA_TEXT(name) PLANARIA_TEXT_OF(name)

namespace planaria::PLANARIA_ISA {

const KernelTable kernel_table{
    .isa = PLANARIA_TEXT(PLANARIA_ISA),
    .pack_a_k_contiguous = pack_a_k_contiguous,
    .pack_b_k_contiguous = pack_b_k_contiguous,
    .pack_a_k_strided = pack_a_k_strided,
    .pack_b_k_strided = pack_b_k_strided,
    .gemm_block = gemm_block,
    .add_column_sums = add_column_sums,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .layernorm_forward = layernorm_forward,
    .layernorm_backward_input = layernorm_backward_input,
    .norm_backward_gain = norm_backward_gain,
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward_input = rmsnorm_backward_input,
    .attention_scratch = attention_scratch,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .rope = rope,
    .gelu_forward = gelu_forward,
    .gelu_backward = gelu_backward,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .dropout = dropout,
    .cross_entropy = cross_entropy,
    .adamw = adamw,
    .sum_of_squares = sum_of_squares,
    .add = add,
    .fold = fold,
    .scale = scale,
};

}  // namespace planaria::PLANARIA_ISA

// Every op in plain loops and double precision: what the fast kernels of any device are compared with. Written to be
// read, not to be quick; layouts and names are those of kernels/device.hpp.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.hpp"

namespace planaria::reference {

using Values = std::vector<double>;
using Tokens = std::vector<std::int32_t>;

[[nodiscard]] Values widen(std::span<const float> values);

// positions may be empty.
[[nodiscard]] Values embedding(const EmbeddingShape& shape, const Tokens& tokens, const Values& table,
                               const Values& positions);
// Adds to both tables' gradients; d_positions may be empty.
void embedding_backward(const EmbeddingShape& shape, const Tokens& tokens, const Values& d_out, Values& d_table,
                        Values& d_positions);

[[nodiscard]] Values layernorm(const NormShape& shape, const Values& x, const Values& gain, const Values& bias);
struct NormGradients {
  Values x, gain, bias;
};
[[nodiscard]] NormGradients layernorm_backward(const NormShape& shape, const Values& dy, const Values& x,
                                               const Values& gain);
[[nodiscard]] Values rmsnorm(const NormShape& shape, const Values& x, const Values& gain);
[[nodiscard]] NormGradients rmsnorm_backward(const NormShape& shape, const Values& dy, const Values& x,
                                             const Values& gain);

// bias may be empty.
[[nodiscard]] Values linear(const LinearShape& shape, const Values& x, const Values& weight, const Values& bias);
struct LinearGradients {
  Values x, weight, bias;
};
[[nodiscard]] LinearGradients linear_backward(const LinearShape& shape, const Values& dy, const Values& x,
                                              const Values& weight);

[[nodiscard]] Values attention(const AttentionShape& shape, const Values& qkv);
[[nodiscard]] Values attention_backward(const AttentionShape& shape, const Values& qkv, const Values& d_out);
// direction: 1 forward, -1 backward.
[[nodiscard]] Values rope(const AttentionShape& shape, double theta, double direction, const Values& qkv);

[[nodiscard]] Values gelu(const Values& x);
[[nodiscard]] Values gelu_backward(const Values& x, const Values& dy);
[[nodiscard]] Values swiglu(const SwigluShape& shape, const Values& gate_up);
[[nodiscard]] Values swiglu_backward(const SwigluShape& shape, const Values& gate_up, const Values& d_out);
[[nodiscard]] Values dropout(const DropoutKey& key, const DropoutShape& shape, std::span<const std::uint64_t> samples,
                             const Values& x);

struct LossAndGradient {
  Values losses;  // of each sequence
  Values logits;
};
[[nodiscard]] LossAndGradient cross_entropy(const CrossEntropyShape& shape, const Values& logits,
                                            const Tokens& targets);

struct AdamwState {
  Values parameter, moment1, moment2;
};
[[nodiscard]] AdamwState adamw(const AdamwStep& step, const AdamwState& source, const Values& gradient);

}  // namespace planaria::reference

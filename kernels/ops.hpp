// Shapes and scalars of the ops (kernels/device.hpp): plain structs, so that no two numbers of a call can be swapped.
//
// All tensors are dense, row-major fp32. A micro-batch is `sequences` sequences of `context` tokens; its rows are
// ordered by sequence, then by position, and rows = sequences * context.
//
// Thread contract: plain values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace planaria {

struct EmbeddingShape {
  std::size_t sequences = 0;
  std::size_t context = 0;
  std::size_t width = 0;
  std::size_t vocab = 0;
};

struct NormShape {
  std::size_t rows = 0;
  std::size_t width = 0;
  float epsilon = 1e-5F;
};

// y[rows, out] = x[rows, in] * w[out, in]^T + bias[out]
struct LinearShape {
  std::size_t rows = 0;
  std::size_t in = 0;
  std::size_t out = 0;
};

// A row of qkv holds all query heads, then all key heads, then all value heads: (heads + 2 * kv_heads) * head_size.
// Query head h reads key and value head h / (heads / kv_heads). Precondition: kv_heads divides heads.
struct AttentionShape {
  std::size_t sequences = 0;
  std::size_t context = 0;
  std::size_t heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_size = 0;

  [[nodiscard]] constexpr std::size_t qkv_width() const { return (heads + 2 * kv_heads) * head_size; }
  [[nodiscard]] constexpr std::size_t out_width() const { return heads * head_size; }
  // Elements of the log-sum-exp buffer: [sequences, heads, context].
  [[nodiscard]] constexpr std::size_t log_sum_count() const { return sequences * heads * context; }
};

// A row of gate_up holds the gate (width), then the up projection (width); out = silu(gate) * up.
struct SwigluShape {
  std::size_t rows = 0;
  std::size_t width = 0;
};

// Which decisions a dropout draws: a pure function of these, the sample and the element's place in its sequence.
struct DropoutKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t layer = 0;  // global layer index; any fixed number for the embedding
  std::uint32_t which = 0;  // 0 embedding output, 1 attention output, 2 MLP output; below 256
};

struct DropoutShape {
  std::size_t sequences = 0;
  std::size_t elements = 0;  // of one sequence: context * width
  float probability = 0.0F;  // of dropping, in [0, 1); survivors are scaled by 1 / (1 - probability)
};

struct CrossEntropyShape {
  std::size_t sequences = 0;
  std::size_t context = 0;
  std::size_t vocab = 0;
};

// One AdamW update; everything that depends on the step alone is computed by the caller, in double, with own code.
struct AdamwStep {
  float learning_rate = 0;
  float beta1 = 0.9F;
  float beta2 = 0.95F;
  float epsilon = 1e-8F;
  float weight_decay = 0;
  float bias_correction1 = 1;  // 1 - beta1^t
  float bias_correction2 = 1;  // 1 - beta2^t
  float gradient_scale = 1;    // clip coefficient (and 1/N, if it is not applied before), multiplied onto the gradient
};

struct AdamwSource {
  const float* parameter = nullptr;
  const float* moment1 = nullptr;
  const float* moment2 = nullptr;
};

struct AdamwTarget {
  float* parameter = nullptr;
  float* moment1 = nullptr;
  float* moment2 = nullptr;
};

// Elements [begin, end) of flat vectors that one update treats alike.
struct UpdateRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool decays = false;
  [[nodiscard]] constexpr std::uint64_t size() const { return end - begin; }
};

// Rotary angles of positions 0 … context-1 by own sine and cosine in double, rounded once: row t holds
// cos(t * theta^(-2i/head_size)) for i < head_size/2, then the sines. Precondition: head_size is even.
[[nodiscard]] std::vector<float> make_rope_table(std::size_t context, std::size_t head_size, double theta);

// The dropout decision in plain form, for tests and for other devices: true = the element survives.
[[nodiscard]] bool dropout_keeps(const DropoutKey& key, std::uint64_t sample, std::size_t element, float probability);

}  // namespace planaria

// Loss, update and norm. The softmax row is read twice and written twice; AdamW reads four streams and writes three.
#include "kernels/cpu/op_kernels.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/elementary.hpp"

namespace planaria::PLANARIA_ISA {

void cross_entropy(const CrossEntropyShape& shape, std::size_t row_begin, std::size_t row_end, const float* logits,
                   const std::int32_t* targets, double* row_losses, float* d_logits) {
  const std::size_t vocab = shape.vocab;
  for (std::size_t row = row_begin; row < row_end; ++row) {
    const float* in = logits + row * vocab;
    float* out = d_logits == nullptr ? nullptr : d_logits + row * vocab;
    if (targets[row] < 0) {
      row_losses[row] = 0;
      if (out != nullptr) __builtin_memset(out, 0, vocab * sizeof(float));
      continue;
    }
    const auto target = static_cast<std::size_t>(targets[row]);
    const float target_logit = in[target];
    V8 highest = splat(in[0]);
    std::size_t i = 0;
    for (; i + lanes <= vocab; i += lanes) highest = max(load(in + i), highest);
    float top = max_lanes(highest);
    for (; i < vocab; ++i) top = in[i] > top ? in[i] : top;

    RowSum sum;
    for_vectors(0, vocab, [&](std::size_t j, auto part) {
      const V8 e = keep_lanes(exp(load(in + j, part) - splat(top)), part);
      sum.add(j, e);
      if (out != nullptr) store(out + j, e, part);
    });
    const float total = sum.total();
    row_losses[row] = det_log(static_cast<double>(total)) + (static_cast<double>(top) - target_logit);
    if (out == nullptr) continue;
    const V8 inverse = splat(1.0F / total);
    for_vectors(0, vocab, [&](std::size_t j, auto part) { store(out + j, load(out + j, part) * inverse, part); });
    out[target] -= 1.0F;
  }
}

void adamw(const AdamwStep& step, std::size_t begin, std::size_t end, const AdamwSource& source, const float* gradient,
           const AdamwTarget& target) {
  const V8 inverse_correction1 = splat(1.0F / step.bias_correction1);
  const V8 inverse_correction2 = splat(1.0F / step.bias_correction2);
  const V8 rate = splat(-step.learning_rate);
  for_vectors(begin, end, [&](std::size_t i, auto part) {
    const V8 g = load(gradient + i, part) * splat(step.gradient_scale);
    const V8 m = fma(splat(step.beta1), load(source.moment1 + i, part), splat(1.0F - step.beta1) * g);
    const V8 v = fma(splat(step.beta2), load(source.moment2 + i, part), splat(1.0F - step.beta2) * (g * g));
    const V8 p = load(source.parameter + i, part);
    const V8 direction = (m * inverse_correction1) / (sqrt(v * inverse_correction2) + splat(step.epsilon));
    store(target.moment1 + i, m, part);
    store(target.moment2 + i, v, part);
    store(target.parameter + i, fma(rate, fma(splat(step.weight_decay), p, direction), p), part);
  });
}

double sum_of_squares(std::size_t count, const float* x) {
  // Sixteen virtual lanes: element i in lane i % 16.
  D4 sums[4]{};
  for_vectors(0, count, [&](std::size_t i, auto part) {
    const V8 v = load(x + i, part);
    const V4 low = {v[0], v[1], v[2], v[3]};
    const V4 high = {v[4], v[5], v[6], v[7]};
    const D4 a = __builtin_convertvector(low, D4);
    const D4 b = __builtin_convertvector(high, D4);
    const std::size_t half = (i & lanes) == 0 ? 0 : 2;
    sums[half] += a * a;
    sums[half + 1] += b * b;
  });
  const D4 total = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  return (total[0] + total[2]) + (total[1] + total[3]);
}

}  // namespace planaria::PLANARIA_ISA

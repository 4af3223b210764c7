#include "kernels/reference/reference.hpp"

#include <algorithm>
#include <cmath>

namespace planaria::reference {
namespace {

const double gelu_slope = std::sqrt(2.0 / std::acos(-1.0));
constexpr double gelu_cubic = 0.044715;

double logistic(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

// Where a head's row of queries, keys or values starts in qkv.
struct QkvIndex {
  const AttentionShape& shape;

  [[nodiscard]] std::size_t row(std::size_t sequence, std::size_t t) const {
    return (sequence * shape.context + t) * shape.qkv_width();
  }
  [[nodiscard]] std::size_t query(std::size_t sequence, std::size_t t, std::size_t head) const {
    return row(sequence, t) + head * shape.head_size;
  }
  [[nodiscard]] std::size_t key(std::size_t sequence, std::size_t t, std::size_t head) const {
    return row(sequence, t) + (shape.heads + head / (shape.heads / shape.kv_heads)) * shape.head_size;
  }
  [[nodiscard]] std::size_t value(std::size_t sequence, std::size_t t, std::size_t head) const {
    return key(sequence, t, head) + shape.kv_heads * shape.head_size;
  }
  [[nodiscard]] std::size_t out(std::size_t sequence, std::size_t t, std::size_t head) const {
    return (sequence * shape.context + t) * shape.out_width() + head * shape.head_size;
  }
};

// softmax of the scores of query t with the keys 0 … t.
Values probabilities(const AttentionShape& shape, const Values& qkv, std::size_t sequence, std::size_t head,
                     std::size_t t) {
  const QkvIndex at{shape};
  Values p(t + 1);
  for (std::size_t k = 0; k <= t; ++k) {
    for (std::size_t i = 0; i < shape.head_size; ++i) {
      p[k] += qkv[at.query(sequence, t, head) + i] * qkv[at.key(sequence, k, head) + i];
    }
    p[k] /= std::sqrt(static_cast<double>(shape.head_size));
  }
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& value : p) sum += value = std::exp(value - top);
  for (double& value : p) value /= sum;
  return p;
}

template <class Body>
void for_each_query(const AttentionShape& shape, const Body& body) {
  for (std::size_t sequence = 0; sequence < shape.sequences; ++sequence) {
    for (std::size_t head = 0; head < shape.heads; ++head) {
      for (std::size_t t = 0; t < shape.context; ++t) body(sequence, head, t);
    }
  }
}

}  // namespace

Values widen(std::span<const float> values) {
  return {values.begin(), values.end()};
}

Values embedding(const EmbeddingShape& shape, const Tokens& tokens, const Values& table, const Values& positions) {
  Values out(tokens.size() * shape.width);
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    for (std::size_t i = 0; i < shape.width; ++i) {
      out[row * shape.width + i] = table[static_cast<std::size_t>(tokens[row]) * shape.width + i];
      if (!positions.empty()) out[row * shape.width + i] += positions[row % shape.context * shape.width + i];
    }
  }
  return out;
}

void embedding_backward(const EmbeddingShape& shape, const Tokens& tokens, const Values& d_out, Values& d_table,
                        Values& d_positions) {
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    for (std::size_t i = 0; i < shape.width; ++i) {
      d_table[static_cast<std::size_t>(tokens[row]) * shape.width + i] += d_out[row * shape.width + i];
      if (!d_positions.empty()) d_positions[row % shape.context * shape.width + i] += d_out[row * shape.width + i];
    }
  }
}

namespace {

struct Moments {
  double mean = 0;
  double inverse = 0;
};

Moments moments_of(const NormShape& shape, const double* row, bool centered) {
  const double width = static_cast<double>(shape.width);
  Moments m;
  for (std::size_t i = 0; centered && i < shape.width; ++i) m.mean += row[i] / width;
  double variance = 0;
  for (std::size_t i = 0; i < shape.width; ++i) variance += (row[i] - m.mean) * (row[i] - m.mean) / width;
  m.inverse = 1.0 / std::sqrt(variance + static_cast<double>(shape.epsilon));
  return m;
}

Values norm(const NormShape& shape, const Values& x, const Values& gain, const Values& bias, bool centered) {
  Values y(x.size());
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const Moments m = moments_of(shape, &x[row * shape.width], centered);
    for (std::size_t i = 0; i < shape.width; ++i) {
      const std::size_t at = row * shape.width + i;
      y[at] = (x[at] - m.mean) * m.inverse * gain[i] + (bias.empty() ? 0.0 : bias[i]);
    }
  }
  return y;
}

NormGradients norm_backward(const NormShape& shape, const Values& dy, const Values& x, const Values& gain,
                            bool centered) {
  NormGradients d{Values(x.size()), Values(shape.width), Values(shape.width)};
  const double width = static_cast<double>(shape.width);
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const Moments m = moments_of(shape, &x[row * shape.width], centered);
    double sum = 0;
    double product = 0;
    for (std::size_t i = 0; i < shape.width; ++i) {
      const std::size_t at = row * shape.width + i;
      const double normal = (x[at] - m.mean) * m.inverse;
      if (centered) sum += dy[at] * gain[i] / width;
      product += dy[at] * gain[i] * normal / width;
      d.gain[i] += dy[at] * normal;
      d.bias[i] += dy[at];
    }
    for (std::size_t i = 0; i < shape.width; ++i) {
      const std::size_t at = row * shape.width + i;
      d.x[at] = (dy[at] * gain[i] - sum - (x[at] - m.mean) * m.inverse * product) * m.inverse;
    }
  }
  return d;
}

}  // namespace

Values layernorm(const NormShape& shape, const Values& x, const Values& gain, const Values& bias) {
  return norm(shape, x, gain, bias, true);
}
NormGradients layernorm_backward(const NormShape& shape, const Values& dy, const Values& x, const Values& gain) {
  return norm_backward(shape, dy, x, gain, true);
}
Values rmsnorm(const NormShape& shape, const Values& x, const Values& gain) {
  return norm(shape, x, gain, {}, false);
}
NormGradients rmsnorm_backward(const NormShape& shape, const Values& dy, const Values& x, const Values& gain) {
  return norm_backward(shape, dy, x, gain, false);
}

Values linear(const LinearShape& shape, const Values& x, const Values& weight, const Values& bias) {
  Values y(shape.rows * shape.out);
  for (std::size_t row = 0; row < shape.rows; ++row) {
    for (std::size_t o = 0; o < shape.out; ++o) {
      double sum = bias.empty() ? 0.0 : bias[o];
      for (std::size_t i = 0; i < shape.in; ++i) sum += x[row * shape.in + i] * weight[o * shape.in + i];
      y[row * shape.out + o] = sum;
    }
  }
  return y;
}

LinearGradients linear_backward(const LinearShape& shape, const Values& dy, const Values& x, const Values& weight) {
  LinearGradients d{Values(x.size()), Values(weight.size()), Values(shape.out)};
  for (std::size_t row = 0; row < shape.rows; ++row) {
    for (std::size_t o = 0; o < shape.out; ++o) {
      const double g = dy[row * shape.out + o];
      d.bias[o] += g;
      for (std::size_t i = 0; i < shape.in; ++i) {
        d.x[row * shape.in + i] += g * weight[o * shape.in + i];
        d.weight[o * shape.in + i] += g * x[row * shape.in + i];
      }
    }
  }
  return d;
}

Values attention(const AttentionShape& shape, const Values& qkv) {
  const QkvIndex at{shape};
  Values out(shape.sequences * shape.context * shape.out_width());
  for_each_query(shape, [&](std::size_t sequence, std::size_t head, std::size_t t) {
    const Values p = probabilities(shape, qkv, sequence, head, t);
    for (std::size_t k = 0; k <= t; ++k) {
      for (std::size_t i = 0; i < shape.head_size; ++i) {
        out[at.out(sequence, t, head) + i] += p[k] * qkv[at.value(sequence, k, head) + i];
      }
    }
  });
  return out;
}

Values attention_backward(const AttentionShape& shape, const Values& qkv, const Values& d_out) {
  const QkvIndex at{shape};
  const double factor = 1.0 / std::sqrt(static_cast<double>(shape.head_size));
  Values d_qkv(qkv.size());
  for_each_query(shape, [&](std::size_t sequence, std::size_t head, std::size_t t) {
    const Values p = probabilities(shape, qkv, sequence, head, t);
    const double* d = &d_out[at.out(sequence, t, head)];
    Values dp(t + 1);
    double mean = 0;
    for (std::size_t k = 0; k <= t; ++k) {
      for (std::size_t i = 0; i < shape.head_size; ++i) {
        dp[k] += d[i] * qkv[at.value(sequence, k, head) + i];
        d_qkv[at.value(sequence, k, head) + i] += p[k] * d[i];
      }
      mean += p[k] * dp[k];
    }
    for (std::size_t k = 0; k <= t; ++k) {
      const double ds = p[k] * (dp[k] - mean) * factor;
      for (std::size_t i = 0; i < shape.head_size; ++i) {
        d_qkv[at.query(sequence, t, head) + i] += ds * qkv[at.key(sequence, k, head) + i];
        d_qkv[at.key(sequence, k, head) + i] += ds * qkv[at.query(sequence, t, head) + i];
      }
    }
  });
  return d_qkv;
}

Values rope(const AttentionShape& shape, double theta, double direction, const Values& qkv) {
  Values out = qkv;
  const std::size_t half = shape.head_size / 2;
  for (std::size_t row = 0; row < shape.sequences * shape.context; ++row) {
    for (std::size_t head = 0; head < shape.heads + shape.kv_heads; ++head) {
      for (std::size_t i = 0; i < half; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(shape.head_size);
        const double angle = direction * static_cast<double>(row % shape.context) * std::pow(theta, exponent);
        const std::size_t first = row * shape.qkv_width() + head * shape.head_size + i;
        out[first] = qkv[first] * std::cos(angle) - qkv[first + half] * std::sin(angle);
        out[first + half] = qkv[first + half] * std::cos(angle) + qkv[first] * std::sin(angle);
      }
    }
  }
  return out;
}

Values gelu(const Values& x) {
  Values y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = 0.5 * x[i] * (1.0 + std::tanh(gelu_slope * (x[i] + gelu_cubic * x[i] * x[i] * x[i])));
  }
  return y;
}

Values gelu_backward(const Values& x, const Values& dy) {
  Values dx(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double t = std::tanh(gelu_slope * (x[i] + gelu_cubic * x[i] * x[i] * x[i]));
    const double slope = gelu_slope * (1.0 + 3.0 * gelu_cubic * x[i] * x[i]);
    dx[i] = dy[i] * (0.5 * (1.0 + t) + 0.5 * x[i] * (1.0 - t * t) * slope);
  }
  return dx;
}

Values swiglu(const SwigluShape& shape, const Values& gate_up) {
  Values out(shape.rows * shape.width);
  for (std::size_t row = 0; row < shape.rows; ++row) {
    for (std::size_t i = 0; i < shape.width; ++i) {
      const double gate = gate_up[row * 2 * shape.width + i];
      out[row * shape.width + i] = gate * logistic(gate) * gate_up[row * 2 * shape.width + shape.width + i];
    }
  }
  return out;
}

Values swiglu_backward(const SwigluShape& shape, const Values& gate_up, const Values& d_out) {
  Values d(gate_up.size());
  for (std::size_t row = 0; row < shape.rows; ++row) {
    for (std::size_t i = 0; i < shape.width; ++i) {
      const std::size_t at = row * 2 * shape.width + i;
      const double s = logistic(gate_up[at]);
      const double g = d_out[row * shape.width + i];
      d[at] = g * gate_up[at + shape.width] * (s + gate_up[at] * s * (1.0 - s));
      d[at + shape.width] = g * gate_up[at] * s;
    }
  }
  return d;
}

Values dropout(const DropoutKey& key, const DropoutShape& shape, std::span<const std::uint64_t> samples,
               const Values& x) {
  Values y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const bool keeps = dropout_keeps(key, samples[i / shape.elements], i % shape.elements, shape.probability);
    y[i] = keeps ? x[i] / (1.0 - static_cast<double>(shape.probability)) : 0.0;
  }
  return y;
}

LossAndGradient cross_entropy(const CrossEntropyShape& shape, const Values& logits, const Tokens& targets) {
  LossAndGradient result{Values(shape.sequences), Values(logits.size())};
  for (std::size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] < 0) continue;
    const double* in = &logits[row * shape.vocab];
    double* d = &result.logits[row * shape.vocab];
    const double top = *std::max_element(in, in + shape.vocab);
    double sum = 0;
    for (std::size_t i = 0; i < shape.vocab; ++i) sum += std::exp(in[i] - top);
    for (std::size_t i = 0; i < shape.vocab; ++i) d[i] = std::exp(in[i] - top) / sum;
    d[targets[row]] -= 1.0;
    result.losses[row / shape.context] += std::log(sum) + top - in[targets[row]];
  }
  return result;
}

AdamwState adamw(const AdamwStep& step, const AdamwState& source, const Values& gradient) {
  AdamwState target = source;
  const double beta1 = step.beta1;
  const double beta2 = step.beta2;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const double g = gradient[i] * step.gradient_scale;
    const double m = target.moment1[i] = beta1 * source.moment1[i] + (1.0 - beta1) * g;
    const double v = target.moment2[i] = beta2 * source.moment2[i] + (1.0 - beta2) * g * g;
    const double direction = (m / step.bias_correction1) / (std::sqrt(v / step.bias_correction2) + step.epsilon);
    target.parameter[i] -= step.learning_rate * (direction + step.weight_decay * source.parameter[i]);
  }
  return target;
}

}  // namespace planaria::reference

// All large ops of a device, one after the other, for tests of their bits.
//
// Thread contract: as the device.
#pragma once

#include "common/hash.hpp"
#include "tests/kernels/kernel_fixture.hpp"

namespace planaria::kernels_test {

// On one shape; the data lies `shift` floats off alignment, in host memory.
inline Hash128 run_ops(TensorDevice& device, std::size_t context, std::size_t width, std::size_t shift) {
  const std::size_t out = 3 * width;
  const auto place = [&](std::size_t count) { return Floats(count + shift); };
  const auto fill = [&](Floats& buffer, std::uint64_t seed) {
    const Floats values = Draw(seed).floats(buffer.size() - shift);
    std::copy(values.begin(), values.end(), buffer.begin() + static_cast<std::ptrdiff_t>(shift));
    return buffer.data() + shift;
  };
  Floats b1 = place(context * width), b2 = place(out * width), b3 = place(out), b4 = place(context * out),
         b5 = place(context * out), b6 = place(context * width), b7 = place(out * width), b8 = place(context * width),
         b9 = place(width), b10 = place(width);
  float *x = fill(b1, 1), *w = fill(b2, 2), *b = fill(b3, 3), *qkv = fill(b4, 4), *d_qkv = fill(b5, 5),
        *dx = fill(b6, 6), *dw = fill(b7, 7), *y = fill(b8, 8), *gain = fill(b9, 9), *bias = fill(b10, 10);
  Floats mean(context), inverse(context);
  const LinearShape linear{context, width, out};
  const AttentionShape attention{1, context, width / 8, width / 8, 8};
  Floats log_sums(attention.log_sum_count());
  const NormShape norm{context, width, 1e-5F};
  device.layernorm_forward(norm, x, gain, bias, y, mean.data(), inverse.data());
  device.linear_forward(linear, y, w, b, qkv);
  device.attention_forward(attention, qkv, dx, log_sums.data());
  device.gelu_forward(context * width, dx, y);
  device.attention_backward(attention, qkv, dx, log_sums.data(), y, d_qkv);
  device.linear_backward_weight(linear, x, d_qkv, dw, b);
  device.linear_backward_input(linear, d_qkv, w, y);
  device.layernorm_backward(norm, y, x, gain, mean.data(), inverse.data(), x, dx, gain, bias);
  double square = 0;
  device.tile_sums_of_squares(out * width, out * width, dw, &square);
  Hasher hasher;
  const auto add = [&](const float* data, std::size_t count) { hasher.update(std::as_bytes(std::span(data, count))); };
  add(qkv, context * out);
  add(d_qkv, context * out);
  add(dw, out * width);
  add(b, out);
  add(dx, context * width);
  add(gain, width);
  add(bias, width);
  hasher.update(std::as_bytes(std::span(&square, 1)));
  return hasher.digest();
}

}  // namespace planaria::kernels_test

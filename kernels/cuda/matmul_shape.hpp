// Which matrix products there are: a kind and sizes. Nothing here needs a GPU or its libraries.
//
// Thread contract: plain values.
#pragma once

#include <compare>
#include <cstdint>
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
[[nodiscard]] constexpr bool is_forward(MatmulKind kind) {
  return kind == MatmulKind::forward || kind == MatmulKind::forward_gelu;
}

struct MatmulShape {
  MatmulKind kind = MatmulKind::forward;
  std::uint32_t rows = 0;
  std::uint32_t in = 0;
  std::uint32_t out = 0;
  std::uint32_t out_stride = 0;  // elements of a row of y or dy; at least `out`
  bool bias = false;             // forward kinds

  auto operator<=>(const MatmulShape&) const = default;

  template <class Visitor>
  void fields(Visitor& visit) {
    visit(kind, rows, in, out, out_stride, bias);
  }
};

// For people: "forward rows=16384 in=768 out=2304 stride=2304 bias".
[[nodiscard]] std::string describe(const MatmulShape& shape);
// invalid_argument: the shape contradicts itself, or a GELU kind's row of u is no multiple of 8 elements.
[[nodiscard]] Status validate(const MatmulShape& shape);

}  // namespace planaria::cuda

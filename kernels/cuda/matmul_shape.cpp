#include "kernels/cuda/matmul_shape.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <iterator>
#include <string_view>

namespace planaria::cuda {
namespace {

constexpr std::string_view kKindNames[] = {"forward", "forward_gelu", "input_gradient", "input_dgelu",
                                           "weight_gradient"};
static_assert(std::size(kKindNames) == static_cast<std::size_t>(MatmulKind::count_));

}  // namespace

std::string describe(const MatmulShape& shape) {
  const auto kind = static_cast<std::size_t>(shape.kind);
  return fmt::format("{} rows={} in={} out={} stride={}{}", kind < std::size(kKindNames) ? kKindNames[kind] : "?",
                     shape.rows, shape.in, shape.out, shape.out_stride, shape.bias ? " bias" : "");
}

Status validate(const MatmulShape& shape) {
  const auto refuse = [&](std::string_view why) {
    return Error(ErrorCode::invalid_argument, fmt::format("{}: {}", describe(shape), why));
  };
  if (shape.kind >= MatmulKind::count_) return refuse("there is no such kind");
  if (shape.rows == 0 || shape.in == 0 || shape.out == 0) return refuse("a size is 0");
  if (shape.out_stride < shape.out) return refuse("the stride is less than a row");
  if (shape.bias && !is_forward(shape.kind)) return refuse("only forward kinds add a bias");
  // cublasLt.h, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD.
  if ((shape.kind == MatmulKind::forward_gelu && shape.out_stride % 8 != 0) ||
      (shape.kind == MatmulKind::input_dgelu && shape.in % 8 != 0)) {
    return refuse("a row of u must be a multiple of 8 elements");
  }
  return ok_status();
}

}  // namespace planaria::cuda

// Ops on the flat fp32 vectors of a model's state: sums, the optimizer's update, what is measured of a gradient. The
// same element-wise arithmetic as the CPU's, operation by operation, without fused multiply-add: where the header of a
// device promises an order (kernels/device.hpp), it is this one.
//
// Thread contract: queue work on the stream; the caller's device is current.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <span>

#include "kernels/ops.hpp"

namespace planaria::cuda {

void add(cudaStream_t stream, std::size_t count, const float* a, const float* b, float* out);
inline constexpr std::size_t kMaxFoldParts = 33;  // of a tree over 2^32 slots
// out = p0 + (p1 + (p2 + …)). Precondition: 1 to kMaxFoldParts parts. out may be any part.
void fold(cudaStream_t stream, std::size_t count, std::span<const float* const> parts, float* out);
void scale(cudaStream_t stream, std::size_t count, float factor, const float* x, float* out);

// As Device::adamw.
void adamw(cudaStream_t stream, const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
           const float* gradient, const AdamwTarget& target);

// sums[i] = the sum of squares of tile i of x, in double, in an order that depends on the tile's length alone; device
// memory. ceil(count / tile_elements) of them.
void tile_sums_of_squares(cudaStream_t stream, std::size_t tile_elements, std::size_t count, const float* x,
                          double* sums);

}  // namespace planaria::cuda

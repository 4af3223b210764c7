#include "kernels/cpu/cpu_device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/dropout_counter.hpp"

namespace planaria {
namespace {

// Raised whenever an algorithm changes in a way that changes bits.
constexpr int algorithm_revision = 1;

constexpr std::size_t element_piece = 16384;  // of elementwise ops; a multiple of the dropout kernel's 32
constexpr std::size_t row_piece = 16;
constexpr std::size_t column_piece = 64;
constexpr std::size_t query_piece = 96;                      // two blocks of the attention kernel
constexpr std::size_t packed_floats = std::size_t{4} << 20;  // limit of each packed operand: 16 MiB
constexpr std::size_t huge_page = std::size_t{2} << 20;

std::size_t machine_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

template <class Body>
void CpuDevice::split(std::size_t count, std::size_t piece, const Body& body) {
  if (!failure_) return;
  pool_.run((count + piece - 1) / piece,
            [&](std::size_t index, std::size_t) { body(index * piece, std::min(count, (index + 1) * piece)); });
}

std::string CpuDevice::numeric_class() const {
  // The kernels use no math library and one order of operations for any cache size, so nothing else matters.
  return std::string("cpu fp32 ") + kernels_.isa + " algorithms-" + std::to_string(algorithm_revision);
}

Result<DeviceBuffer> CpuDevice::allocate(std::size_t bytes) {
  auto buffer = reserve(bytes);
  if (buffer) std::memset(buffer->data(), 0, bytes);
  return buffer;
}

Result<DeviceBuffer> CpuDevice::reserve(std::size_t bytes) {
  const std::size_t alignment = bytes >= huge_page ? huge_page : 64;
  const std::size_t rounded = round_up(std::max<std::size_t>(bytes, 1), alignment);
  // The system would promise more than the machine has, and kill the process when the promise is called in.
  void* data = rounded < bytes || rounded > machine_memory() ? nullptr : std::aligned_alloc(alignment, rounded);
  if (data == nullptr) {
    return Error(ErrorCode::exhausted, "no memory for " + std::to_string(bytes) +
                                           " bytes on the CPU; use a smaller model, micro-batch or context");
  }
  // Packing walks matrices by columns: a page a row with small pages.
  if (alignment == huge_page) madvise(data, rounded, MADV_HUGEPAGE);
  return DeviceBuffer(this, data, bytes);
}

void CpuDevice::release(void* data, std::size_t) {
  std::free(data);
}

void CpuDevice::copy_in(void* device_target, const void* host_source, std::size_t bytes) {
  copy(device_target, host_source, bytes);
}

void CpuDevice::copy_out(void* host_target, const void* device_source, std::size_t bytes) {
  copy(host_target, device_source, bytes);
}

void CpuDevice::copy(void* target, const void* source, std::size_t bytes) {
  split(bytes, element_piece * sizeof(float), [&](std::size_t begin, std::size_t end) {
    std::memcpy(static_cast<char*>(target) + begin, static_cast<const char*>(source) + begin, end - begin);
  });
}

Status CpuDevice::read(std::span<const HostRead> parts, const Arrived& arrived) {
  std::size_t there = 0;
  for (const HostRead& part : parts) {
    std::memcpy(part.target, part.source, part.bytes);
    arrived(there += part.bytes);
  }
  return ok_status();
}

Result<std::shared_ptr<std::byte>> CpuDevice::allocate_host(std::size_t bytes) {
  void* const memory = std::aligned_alloc(64, round_up(std::max<std::size_t>(bytes, 1), 64));
  if (memory == nullptr) return Error(ErrorCode::exhausted, "no memory for " + std::to_string(bytes) + " bytes");
  return std::shared_ptr<std::byte>(static_cast<std::byte*>(memory), [](std::byte* given) { std::free(given); });
}

Status CpuDevice::synchronize() {
  return failure_;
}

float* CpuDevice::scratch(DeviceBuffer& buffer, std::size_t floats) {
  if (buffer.bytes() < floats * sizeof(float)) {
    buffer = DeviceBuffer();
    auto grown = allocate_floats(floats);
    if (!grown) {
      failure_ = grown.error();
      return nullptr;
    }
    buffer = std::move(grown).value();
  }
  return buffer.floats();
}

void CpuDevice::gemm(const Gemm& g) {
  if (!failure_ || g.rows == 0 || g.columns == 0) return;
  // Operands are packed in chunks that stay within a bound; a block's panels of A and B fit the second-level cache.
  constexpr std::size_t block_rows = 22 * gemm_rows;
  constexpr std::size_t block_columns = 8 * gemm_columns;
  const std::size_t depth = std::max<std::size_t>(g.k, 1);
  const auto chunk_of = [&](std::size_t count, std::size_t block) {
    return std::min(round_up(count, block), std::max<std::size_t>(1, packed_floats / depth / block) * block);
  };
  const std::size_t chunk_rows = chunk_of(g.rows, block_rows);
  const std::size_t chunk_columns = chunk_of(g.columns, block_columns);
  float* packed_a = scratch(packed_a_, chunk_rows * depth);
  float* packed_b = scratch(packed_b_, chunk_columns * depth);
  if (packed_a == nullptr || packed_b == nullptr) return;

  const auto pack = [&](const Operand& operand, bool is_a, std::size_t first, std::size_t count, float* target,
                        std::size_t piece) {
    const PackFunction function =
        is_a ? (operand.k_contiguous ? kernels_.pack_a_k_contiguous : kernels_.pack_a_k_strided)
             : (operand.k_contiguous ? kernels_.pack_b_k_contiguous : kernels_.pack_b_k_strided);
    const std::size_t begin = piece * (is_a ? 8 * gemm_rows : 4 * gemm_columns);
    const std::size_t end = std::min(count, begin + (is_a ? 8 * gemm_rows : 4 * gemm_columns));
    const std::size_t skip = first + begin;
    function(operand.data + (operand.k_contiguous ? skip * operand.stride : skip), operand.stride, end - begin, g.k,
             target + begin * g.k);
  };

  for (std::size_t i0 = 0; i0 < g.rows; i0 += chunk_rows) {
    const std::size_t rows = std::min(chunk_rows, g.rows - i0);
    for (std::size_t j0 = 0; j0 < g.columns; j0 += chunk_columns) {
      const std::size_t columns = std::min(chunk_columns, g.columns - j0);
      const std::size_t a_pieces = j0 == 0 ? panels_of(rows, 8 * gemm_rows) : 0;
      pool_.run(a_pieces + panels_of(columns, 4 * gemm_columns), [&](std::size_t piece, std::size_t) {
        if (piece < a_pieces) {
          pack(g.a, true, i0, rows, packed_a, piece);
        } else {
          pack(g.b, false, j0, columns, packed_b, piece - a_pieces);
        }
      });
      const std::size_t across = panels_of(columns, block_columns);
      pool_.run(panels_of(rows, block_rows) * across, [&](std::size_t piece, std::size_t) {
        const std::size_t i = piece / across * block_rows;
        const std::size_t j = piece % across * block_columns;
        kernels_.gemm_block({.a = packed_a + i * g.k,
                             .b = packed_b + j * g.k,
                             .k = g.k,
                             .rows = std::min(block_rows, rows - i),
                             .columns = std::min(block_columns, columns - j),
                             .c = g.c + (i0 + i) * g.columns + j0 + j,
                             .c_stride = g.columns,
                             .start = g.start,
                             .bias = g.bias == nullptr ? nullptr : g.bias + j0 + j});
      });
    }
  }
}

void CpuDevice::linear_forward(const LinearShape& shape, const float* x, const float* weight, const float* bias,
                               float* y) {
  gemm({shape.rows,
        shape.out,
        shape.in,
        {x, shape.in, true},
        {weight, shape.in, true},
        y,
        bias == nullptr ? GemmStart::zero : GemmStart::bias,
        bias});
}

void CpuDevice::linear_backward_input(const LinearShape& shape, const float* dy, const float* weight, float* dx) {
  gemm({shape.rows,
        shape.in,
        shape.out,
        {dy, shape.out, true},
        {weight, shape.in, false},
        dx,
        GemmStart::zero,
        nullptr});
}

void CpuDevice::linear_backward_weight(const LinearShape& shape, const float* x, const float* dy, float* d_weight,
                                       float* d_bias) {
  gemm({shape.out,
        shape.in,
        shape.rows,
        {dy, shape.out, false},
        {x, shape.in, false},
        d_weight,
        GemmStart::accumulate,
        nullptr});
  if (d_bias == nullptr) return;
  split(shape.out, column_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.add_column_sums(shape.rows, shape.out, begin, end, dy, d_bias);
  });
}

void CpuDevice::embedding_forward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* token_table,
                                  const float* position_table, float* out) {
  split(shape.sequences * shape.context, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.embedding_forward(shape, begin, end, tokens, token_table, position_table, out);
  });
}

void CpuDevice::embedding_backward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* d_out,
                                   float* d_token_table, float* d_position_table) {
  split(shape.width, column_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.embedding_backward(shape, begin, end, tokens, d_out, d_token_table, d_position_table);
  });
}

void CpuDevice::layernorm_forward(const NormShape& shape, const float* x, const float* gain, const float* bias,
                                  float* y, float* mean, float* inverse_deviation) {
  split(shape.rows, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.layernorm_forward(shape, begin, end, x, gain, bias, y, mean, inverse_deviation);
  });
}

void CpuDevice::layernorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                                   const float* mean, const float* inverse_deviation, const float* residual, float* dx,
                                   float* d_gain, float* d_bias) {
  split(shape.width, column_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.norm_backward_gain(shape, begin, end, dy, x, mean, inverse_deviation, d_gain, d_bias);
  });
  split(shape.rows, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.layernorm_backward_input(shape, begin, end, dy, x, gain, mean, inverse_deviation, residual, dx);
  });
}

void CpuDevice::rmsnorm_forward(const NormShape& shape, const float* x, const float* gain, float* y,
                                float* inverse_rms) {
  split(shape.rows, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.rmsnorm_forward(shape, begin, end, x, gain, y, inverse_rms);
  });
}

void CpuDevice::rmsnorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                                 const float* inverse_rms, const float* residual, float* dx, float* d_gain) {
  split(shape.width, column_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.norm_backward_gain(shape, begin, end, dy, x, nullptr, inverse_rms, d_gain, nullptr);
  });
  split(shape.rows, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.rmsnorm_backward_input(shape, begin, end, dy, x, gain, inverse_rms, residual, dx);
  });
}

void CpuDevice::attention_forward(const AttentionShape& shape, const float* qkv, float* out, float* log_sums) {
  const std::size_t each = kernels_.attention_scratch(shape);
  float* room = failure_ ? scratch(thread_scratch_, each * pool_.threads()) : nullptr;
  if (room == nullptr) return;
  const std::size_t pieces = (shape.context + query_piece - 1) / query_piece;
  const std::size_t all = shape.sequences * shape.heads;
  // Late queries see the most keys: the largest pieces go first.
  pool_.run(all * pieces, [&](std::size_t index, std::size_t thread) {
    const std::size_t begin = (pieces - 1 - index / all) * query_piece;
    const std::size_t head = index % all;
    kernels_.attention_forward(shape, head / shape.heads, head % shape.heads, begin,
                               std::min(shape.context, begin + query_piece), qkv, out, log_sums, room + thread * each);
  });
}

void CpuDevice::attention_backward(const AttentionShape& shape, const float* qkv, const float* out,
                                   const float* log_sums, const float* d_out, float* d_qkv) {
  const std::size_t each = kernels_.attention_scratch(shape);
  float* room = failure_ ? scratch(thread_scratch_, each * pool_.threads()) : nullptr;
  if (room == nullptr) return;
  pool_.run(shape.sequences * shape.kv_heads, [&](std::size_t index, std::size_t thread) {
    kernels_.attention_backward(shape, index / shape.kv_heads, index % shape.kv_heads, qkv, out, log_sums, d_out, d_qkv,
                                room + thread * each);
  });
}

void CpuDevice::rope_forward(const AttentionShape& shape, const float* table, float* qkv) {
  split(shape.sequences * shape.context, row_piece,
        [&](std::size_t begin, std::size_t end) { kernels_.rope(shape, begin, end, 1.0F, table, qkv); });
}

void CpuDevice::rope_backward(const AttentionShape& shape, const float* table, float* d_qkv) {
  split(shape.sequences * shape.context, row_piece,
        [&](std::size_t begin, std::size_t end) { kernels_.rope(shape, begin, end, -1.0F, table, d_qkv); });
}

void CpuDevice::gelu_forward(std::size_t count, const float* x, float* y) {
  split(count, element_piece, [&](std::size_t begin, std::size_t end) { kernels_.gelu_forward(begin, end, x, y); });
}

void CpuDevice::gelu_backward(std::size_t count, const float* x, const float* dy, float* dx) {
  split(count, element_piece,
        [&](std::size_t begin, std::size_t end) { kernels_.gelu_backward(begin, end, x, dy, dx); });
}

void CpuDevice::swiglu_forward(const SwigluShape& shape, const float* gate_up, float* out) {
  split(shape.rows, row_piece,
        [&](std::size_t begin, std::size_t end) { kernels_.swiglu_forward(shape, begin, end, gate_up, out); });
}

void CpuDevice::swiglu_backward(const SwigluShape& shape, const float* gate_up, const float* d_out, float* d_gate_up) {
  split(shape.rows, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.swiglu_backward(shape, begin, end, gate_up, d_out, d_gate_up);
  });
}

void CpuDevice::dropout(const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples, const float* x,
                        const float* residual, float* y) {
  for (std::size_t sequence = 0; sequence < shape.sequences; ++sequence) {
    const DropoutPiece piece{.key = dropout_stream(key),
                             .counter_high = samples[sequence],
                             .counter_low = dropout_counter(key),
                             .threshold = dropout_threshold(shape.probability),
                             .factor = 1.0F / (1.0F - shape.probability)};
    const std::size_t at = sequence * shape.elements;
    split(shape.elements, element_piece, [&](std::size_t begin, std::size_t end) {
      kernels_.dropout(piece, begin, end, x + at, residual == nullptr ? nullptr : residual + at, y + at);
    });
  }
}

void CpuDevice::cross_entropy(const CrossEntropyShape& shape, const float* logits, const std::int32_t* targets,
                              double* losses, float* d_logits) {
  const std::size_t rows = shape.sequences * shape.context;
  row_losses_.resize(rows);
  split(rows, row_piece, [&](std::size_t begin, std::size_t end) {
    kernels_.cross_entropy(shape, begin, end, logits, targets, row_losses_.data(), d_logits);
  });
  for (std::size_t sequence = 0; sequence < shape.sequences; ++sequence) {
    double sum = 0;
    for (std::size_t t = 0; t < shape.context; ++t) sum += row_losses_[sequence * shape.context + t];
    losses[sequence] = sum;
  }
}

void CpuDevice::adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
                      const float* gradient, const AdamwTarget& target) {
  for (const UpdateRange& range : ranges) {
    AdamwStep scalars = step;
    if (!range.decays) scalars.weight_decay = 0;
    split(range.size(), element_piece, [&](std::size_t begin, std::size_t end) {
      kernels_.adamw(scalars, range.begin + begin, range.begin + end, source, gradient, target);
    });
  }
}

void CpuDevice::tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) {
  split(count, tile_elements, [&](std::size_t begin, std::size_t end) {
    sums[begin / tile_elements] = kernels_.sum_of_squares(end - begin, x + begin);
  });
}

void CpuDevice::add(std::size_t count, const float* a, const float* b, float* out) {
  split(count, element_piece, [&](std::size_t begin, std::size_t end) { kernels_.add(begin, end, a, b, out); });
}

void CpuDevice::fold(std::size_t count, std::span<const float* const> parts, float* out) {
  split(count, element_piece,
        [&](std::size_t begin, std::size_t end) { kernels_.fold(begin, end, parts.data(), parts.size(), out); });
}

void CpuDevice::scale(std::size_t count, float factor, const float* x, float* out) {
  split(count, element_piece, [&](std::size_t begin, std::size_t end) { kernels_.scale(begin, end, factor, x, out); });
}

void CpuDevice::zero(std::size_t count, float* x) {
  split(count, element_piece,
        [&](std::size_t begin, std::size_t end) { std::memset(x + begin, 0, (end - begin) * sizeof(float)); });
}

Result<std::unique_ptr<TensorDevice>> make_cpu_device(const CpuOptions& options) {
  if (options.threads == 0 || options.threads > 1024) {
    return Error(ErrorCode::invalid_argument,
                 "a CPU device needs 1 to 1024 threads, not " + std::to_string(options.threads));
  }
  const bool has_avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (options.isa == CpuIsa::avx2 && !has_avx2) {
    return Error(ErrorCode::unsupported, "this CPU has no AVX2 with FMA");
  }
  const bool use_avx2 = has_avx2 && options.isa != CpuIsa::baseline;
  return std::unique_ptr<TensorDevice>(
      std::make_unique<CpuDevice>(use_avx2 ? avx2::kernel_table : baseline::kernel_table, options.threads));
}

}  // namespace planaria

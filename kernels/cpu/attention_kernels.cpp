// Causal attention by blocks of queries. The scores of one block of queries against all keys they see stay in the
// second-level cache: product, softmax and the product with the values follow each other there, and nothing of size
// context * context ever goes to memory. Backward computes the probabilities again from the saved log-sum-exps.
//
// A row's bits depend on its own query and the keys before it: products are the chains of gemm_kernels, sums over keys
// have sixteen virtual lanes, and the keys a block computes beyond a row's own are replaced by exact zeros.
#include "kernels/cpu/gemm_kernels.hpp"
#include "kernels/cpu/op_kernels.hpp"
#include "kernels/elementary.hpp"

namespace planaria::PLANARIA_ISA {
namespace {

constexpr std::size_t query_block = 8 * gemm_rows;

constexpr std::size_t padded_rows(std::size_t rows) {
  return panels_of(rows, gemm_rows) * gemm_rows;
}
constexpr std::size_t padded_columns(std::size_t columns) {
  return panels_of(columns, gemm_columns) * gemm_columns;
}

// Cuts a thread's scratch into 64-byte aligned parts; without a base it only counts.
struct Carver {
  float* base = nullptr;
  std::size_t used = 0;

  float* take(std::size_t count) {
    float* part = base == nullptr ? nullptr : base + used;
    used += (count + 15) / 16 * 16;
    return part;
  }
};

struct BackwardScratch {
  float *keys, *values;                      // packed as B with k = head size
  float* keys_by_key;                        // packed as B with k = key
  float *scores, *d_scores;                  // rows
  float* d_scores_rows;                      // packed as A with k = key
  float *scores_columns, *d_scores_columns;  // packed as A with k = query
  float *query_rows, *d_out_rows;            // packed as A with k = head size
  float *query_columns, *d_out_columns;      // packed as B with k = query

  BackwardScratch(const AttentionShape& shape, Carver& carver)
      : keys(carver.take(padded_columns(shape.context) * shape.head_size)),
        values(carver.take(padded_columns(shape.context) * shape.head_size)),
        keys_by_key(carver.take(shape.context * padded_columns(shape.head_size))),
        scores(carver.take(query_block * padded_columns(shape.context))),
        d_scores(carver.take(query_block * padded_columns(shape.context))),
        d_scores_rows(carver.take(padded_rows(query_block) * shape.context)),
        scores_columns(carver.take(padded_rows(shape.context) * query_block)),
        d_scores_columns(carver.take(padded_rows(shape.context) * query_block)),
        query_rows(carver.take(padded_rows(query_block) * shape.head_size)),
        d_out_rows(carver.take(padded_rows(query_block) * shape.head_size)),
        query_columns(carver.take(query_block * padded_columns(shape.head_size))),
        d_out_columns(carver.take(query_block * padded_columns(shape.head_size))) {}
};

// The keys after a row's own.
PLANARIA_INLINE void zero_after(float* row, std::size_t live, std::size_t width) {
  for (std::size_t i = live; i < width; ++i) row[i] = 0.0F;
}

PLANARIA_INLINE float row_maximum(const float* row, std::size_t count) {
  V8 highest = splat(row[0]);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) highest = max(load(row + i), highest);
  float top = max_lanes(highest);
  for (; i < count; ++i) top = row[i] > top ? row[i] : top;
  return top;
}

}  // namespace

std::size_t attention_scratch(const AttentionShape& shape) {
  Carver carver;
  const BackwardScratch backward(shape, carver);  // forward needs a part of it
  return carver.used;
}

void attention_forward(const AttentionShape& shape, std::size_t sequence, std::size_t head, std::size_t query_begin,
                       std::size_t query_end, const float* qkv, float* out, float* log_sums, float* scratch) {
  const std::size_t stride = shape.qkv_width();
  const std::size_t size = shape.head_size;
  const std::size_t kv_head = head / (shape.heads / shape.kv_heads);
  const float* base = qkv + sequence * shape.context * stride;
  const float* query = base + head * size;
  const float* key = base + (shape.heads + kv_head) * size;
  const float* value = base + (shape.heads + shape.kv_heads + kv_head) * size;
  const float factor = 1.0F / sqrt(static_cast<float>(size));
  log_sums += (sequence * shape.heads + head) * shape.context;

  Carver carver{scratch};
  float* keys = carver.take(padded_columns(query_end) * size);
  float* values = carver.take(query_end * padded_columns(size));
  float* scores = carver.take(query_block * padded_columns(query_end));
  float* packed_scores = carver.take(padded_rows(query_block) * query_end);
  float* packed_queries = carver.take(padded_rows(query_block) * size);
  pack_b_k_contiguous(key, stride, query_end, size, keys);
  pack_b_k_strided(value, stride, size, query_end, values);

  for (std::size_t first = query_begin; first < query_end; first += query_block) {
    const std::size_t rows = query_end - first < query_block ? query_end - first : query_block;
    const std::size_t visible = first + rows;
    const std::size_t width = padded_columns(visible);
    pack_a_k_contiguous(query + first * stride, stride, rows, size, packed_queries);
    gemm_block(
        {.a = packed_queries, .b = keys, .k = size, .rows = rows, .columns = visible, .c = scores, .c_stride = width});
    float inverse[query_block];
    for (std::size_t r = 0; r < rows; ++r) {
      float* row = scores + r * width;
      const std::size_t live = first + r + 1;
      const float top = row_maximum(row, live) * factor;
      RowSum sum;
      for_vectors(0, live, [&](std::size_t i, auto part) {
        const V8 p = keep_lanes(exp(fma(load(row + i, part), splat(factor), splat(-top))), part);
        sum.add(i, p);
        store(row + i, p, part);
      });
      zero_after(row, live, width);
      const float total = sum.total();
      inverse[r] = 1.0F / total;
      log_sums[first + r] = top + static_cast<float>(det_log(static_cast<double>(total)));
    }
    pack_a_k_contiguous(scores, width, rows, visible, packed_scores);
    float* target = out + (sequence * shape.context + first) * shape.out_width() + head * size;
    gemm_block({.a = packed_scores,
                .b = values,
                .k = visible,
                .rows = rows,
                .columns = size,
                .c = target,
                .c_stride = shape.out_width(),
                .b_panel_k = query_end});
    for (std::size_t r = 0; r < rows; ++r) {
      float* row = target + r * shape.out_width();
      for_vectors(0, size,
                  [&](std::size_t i, auto part) { store(row + i, load(row + i, part) * splat(inverse[r]), part); });
    }
  }
}

void attention_backward(const AttentionShape& shape, std::size_t sequence, std::size_t kv_head, const float* qkv,
                        const float* out, const float* log_sums, const float* d_out, float* d_qkv, float* scratch) {
  const std::size_t stride = shape.qkv_width();
  const std::size_t out_stride = shape.out_width();
  const std::size_t size = shape.head_size;
  const std::size_t context = shape.context;
  const std::size_t group = shape.heads / shape.kv_heads;
  const std::size_t row0 = sequence * context;
  const float* key = qkv + row0 * stride + (shape.heads + kv_head) * size;
  const float* value = qkv + row0 * stride + (shape.heads + shape.kv_heads + kv_head) * size;
  float* d_key = d_qkv + row0 * stride + (shape.heads + kv_head) * size;
  float* d_value = d_qkv + row0 * stride + (shape.heads + shape.kv_heads + kv_head) * size;
  const float factor = 1.0F / sqrt(static_cast<float>(size));

  Carver carver{scratch};
  const BackwardScratch s(shape, carver);
  pack_b_k_contiguous(key, stride, context, size, s.keys);
  pack_b_k_contiguous(value, stride, context, size, s.values);
  pack_b_k_strided(key, stride, size, context, s.keys_by_key);
  for (std::size_t t = 0; t < context; ++t) {
    __builtin_memset(d_key + t * stride, 0, size * sizeof(float));
    __builtin_memset(d_value + t * stride, 0, size * sizeof(float));
  }

  for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (std::size_t first = 0; first < context; first += query_block) {
      const std::size_t rows = context - first < query_block ? context - first : query_block;
      const std::size_t visible = first + rows;
      const std::size_t width = padded_columns(visible);
      const float* query = qkv + (row0 + first) * stride + head * size;
      const float* block_out = out + (row0 + first) * out_stride + head * size;
      const float* block_d_out = d_out + (row0 + first) * out_stride + head * size;
      const float* block_log_sums = log_sums + (sequence * shape.heads + head) * context + first;
      pack_a_k_contiguous(query, stride, rows, size, s.query_rows);
      pack_a_k_contiguous(block_d_out, out_stride, rows, size, s.d_out_rows);
      gemm_block({.a = s.query_rows,
                  .b = s.keys,
                  .k = size,
                  .rows = rows,
                  .columns = visible,
                  .c = s.scores,
                  .c_stride = width});
      gemm_block({.a = s.d_out_rows,
                  .b = s.values,
                  .k = size,
                  .rows = rows,
                  .columns = visible,
                  .c = s.d_scores,
                  .c_stride = width});
      for (std::size_t r = 0; r < rows; ++r) {
        float* p_row = s.scores + r * width;
        float* d_row = s.d_scores + r * width;
        const std::size_t live = first + r + 1;
        RowSum dot;
        for_vectors(0, size, [&](std::size_t i, auto part) {
          dot.add(i, load(block_out + r * out_stride + i, part) * load(block_d_out + r * out_stride + i, part));
        });
        const V8 mean = splat(dot.total());
        for_vectors(0, live, [&](std::size_t i, auto part) {
          const V8 p = exp(fma(load(p_row + i, part), splat(factor), splat(-block_log_sums[r])));
          store(p_row + i, p, part);
          store(d_row + i, p * (load(d_row + i, part) - mean) * splat(factor), part);
        });
        zero_after(p_row, live, width);
        zero_after(d_row, live, width);
      }
      pack_a_k_contiguous(s.d_scores, width, rows, visible, s.d_scores_rows);
      gemm_block({.a = s.d_scores_rows,
                  .b = s.keys_by_key,
                  .k = visible,
                  .rows = rows,
                  .columns = size,
                  .c = d_qkv + (row0 + first) * stride + head * size,
                  .c_stride = stride,
                  .b_panel_k = context});
      pack_a_k_strided(s.scores, width, visible, rows, s.scores_columns);
      pack_a_k_strided(s.d_scores, width, visible, rows, s.d_scores_columns);
      pack_b_k_strided(block_d_out, out_stride, size, rows, s.d_out_columns);
      pack_b_k_strided(query, stride, size, rows, s.query_columns);
      gemm_block({.a = s.scores_columns,
                  .b = s.d_out_columns,
                  .k = rows,
                  .rows = visible,
                  .columns = size,
                  .c = d_value,
                  .c_stride = stride,
                  .start = GemmStart::accumulate});
      gemm_block({.a = s.d_scores_columns,
                  .b = s.query_columns,
                  .k = rows,
                  .rows = visible,
                  .columns = size,
                  .c = d_key,
                  .c_stride = stride,
                  .start = GemmStart::accumulate});
    }
  }
}

}  // namespace planaria::PLANARIA_ISA

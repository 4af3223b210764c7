// Element-wise ops on bf16 and fp32, 16 bytes a load, fp32 in between. Activations of bf16 use the special function
// unit twice an element; the error of 2^-21 disappears in the result's 2^-9. Those of fp32 are exact to a few units in
// the last place.
#include "kernels/cuda/pointwise.hpp"

#include <type_traits>

#include "kernels/cuda/chunk_columns.cuh"
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/map.cuh"
#include "kernels/cuda/packs.cuh"
#include "kernels/dropout_counter.hpp"

namespace planaria::cuda {
namespace {

constexpr float kGeluSlope = 1.5957691216057308F;  // 2 * sqrt(2 / pi): tanh(u) = 2 * sigmoid(2u) - 1
constexpr float kGeluCubic = kGeluSlope * 0.044715F;

// Of elements that are stored as T.
template <class T>
__device__ float gate_of(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return 1.0F / (1.0F + expf(-x));
  } else {
    return sigmoid(x);
  }
}

template <class T>
__device__ float gelu_gate(float x) {
  return gate_of<T>(x * fmaf(x * x, kGeluCubic, kGeluSlope));
}

template <class T>
__device__ float gelu_gradient(float x, float dy) {
  const float gate = gelu_gate<T>(x);
  const float slope = fmaf(x * x, 3.0F * kGeluCubic, kGeluSlope);
  return dy * fmaf(x * slope, gate * (1.0F - gate), gate);
}

template <class T>
struct GeluForward {
  static constexpr int kDepth = 4;
  const T* x;
  T* y;

  template <int N>
  __device__ Pack<N, T> load(std::size_t, std::size_t i) const {
    return cuda::load<N>(x + i);
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Pack<N, T>& loaded) const {
    Floats<N> values = unpack(loaded);
#pragma unroll
    for (int j = 0; j < N; ++j) values.at[j] *= gelu_gate<T>(values.at[j]);
    store<N>(y + i, pack_as<T>(values));
  }
};

struct GeluBackward {
  static constexpr int kDepth = 2;
  const float* x;
  const float* dy;
  float* dx;

  template <int N>
  struct Loaded {
    Floats<N> x, dy;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t, std::size_t i) const {
    return {cuda::load<N>(x + i), cuda::load<N>(dy + i)};
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, Loaded<N> loaded) const {
#pragma unroll
    for (int j = 0; j < N; ++j) loaded.dy.at[j] = gelu_gradient<float>(loaded.x.at[j], loaded.dy.at[j]);
    store<N>(dx + i, loaded.dy);
  }
};

// A block goes over 256 columns of one chunk, strip by strip, so that it can sum them on the way.
template <int N, bool kSums>
__global__ void __launch_bounds__(kStripThreads)
    gelu_backward_chunks(std::size_t rows, std::size_t width, const Bf16* x, const Bf16* dy, Bf16* dx, float* chunks) {
  constexpr unsigned kAtOnce = 4;
  static_assert(kStripRows % kAtOnce == 0);
  __shared__ StripSums<N> strips;
  const ChunkTile<N> tile(rows, width);
  Floats<N> sums{};
  for (unsigned first = 0; first < kStripRows; first += kAtOnce) {
    Packed<N> packed_x[kAtOnce];
    Packed<N> packed_dy[kAtOnce];
#pragma unroll
    for (unsigned r = 0; r < kAtOnce; ++r) {
      const std::size_t row = tile.first_row + (first + r) * kStrips;
      if (row >= tile.end_row || tile.column >= width) continue;
      packed_x[r] = load<N>(x + row * width + tile.column);
      packed_dy[r] = load<N>(dy + row * width + tile.column);
    }
#pragma unroll
    for (unsigned r = 0; r < kAtOnce; ++r) {
      const std::size_t row = tile.first_row + (first + r) * kStrips;
      if (row >= tile.end_row || tile.column >= width) continue;
      const Floats<N> in = unpack(packed_x[r]);
      Floats<N> out = unpack(packed_dy[r]);
#pragma unroll
      for (int i = 0; i < N; ++i) out.at[i] = gelu_gradient<Bf16>(in.at[i], out.at[i]);
      const Packed<N> rounded = pack(out);
      store<N>(dx + row * width + tile.column, rounded);
      out = unpack(rounded);
#pragma unroll
      for (int i = 0; i < N; ++i) sums.at[i] += out.at[i];
    }
  }
  if constexpr (kSums) {
    add_strips<N>(strips, sums, width - tile.first_column, chunks + tile.chunk * width + tile.first_column);
  }
}

template <int N>
void launch_gelu_backward(cudaStream_t stream, std::size_t rows, std::size_t width, const Bf16* x, const Bf16* dy,
                          Bf16* dx, float* chunks) {
  const unsigned tiles = chunk_tiles<N>(rows, width);
  if (chunks != nullptr) {
    gelu_backward_chunks<N, true><<<tiles, kStripThreads, 0, stream>>>(rows, width, x, dy, dx, chunks);
  } else {
    gelu_backward_chunks<N, false><<<tiles, kStripThreads, 0, stream>>>(rows, width, x, dy, dx, nullptr);
  }
}

template <class T>
struct SwigluForward {
  static constexpr int kDepth = 2;
  std::size_t width;
  const T* gate_up;
  T* out;

  template <int N>
  struct Loaded {
    Pack<N, T> gate, up;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t row, std::size_t i) const {
    const T* gate = gate_up + row * 2 * width + i;
    return {cuda::load<N>(gate), cuda::load<N>(gate + width)};
  }
  template <int N>
  __device__ void finish(std::size_t row, std::size_t i, const Loaded<N>& loaded) const {
    Floats<N> gate = unpack(loaded.gate);
    const Floats<N> up = unpack(loaded.up);
#pragma unroll
    for (int j = 0; j < N; ++j) gate.at[j] *= gate_of<T>(gate.at[j]) * up.at[j];
    store<N>(out + row * width + i, pack_as<T>(gate));
  }
};

template <class T>
struct SwigluBackward {
  static constexpr int kDepth = 2;
  std::size_t width;
  const T* gate_up;
  const T* d_out;
  T* d_gate_up;

  template <int N>
  struct Loaded {
    Pack<N, T> gate, up, d;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t row, std::size_t i) const {
    const T* gate = gate_up + row * 2 * width + i;
    return {cuda::load<N>(gate), cuda::load<N>(gate + width), cuda::load<N>(d_out + row * width + i)};
  }
  template <int N>
  __device__ void finish(std::size_t row, std::size_t i, const Loaded<N>& loaded) const {
    Floats<N> gate = unpack(loaded.gate);
    Floats<N> up = unpack(loaded.up);
    const Floats<N> d = unpack(loaded.d);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float s = gate_of<T>(gate.at[j]);
      const float silu = gate.at[j] * s;
      gate.at[j] = d.at[j] * up.at[j] * fmaf(silu, 1.0F - s, s);
      up.at[j] = d.at[j] * silu;
    }
    T* d_gate = d_gate_up + row * 2 * width + i;
    store<N>(d_gate, pack_as<T>(gate));
    store<N>(d_gate + width, pack_as<T>(up));
  }
};

// Element i is a pair: of row i / row_pairs, head (i % row_pairs) / half, place i % half. Heads are read together, so
// that a row's angles come from the first-level cache but once.
template <class T>
struct Rope {
  static constexpr int kDepth = 1;
  std::size_t context, row_pairs, half, qkv_width;
  float direction;
  const float* table;
  T* qkv;

  template <int N>
  struct Loaded {
    Pack<N, T> first, second;
    Floats<N> cosine, sine;
  };
  struct Pair {
    T* first;
    const float* cosine;
  };
  __device__ Pair pair(std::size_t i) const {
    const Place at = place_of(i, row_pairs);
    const Place in_row = place_of(at.column, half);
    const std::size_t position = place_of(at.row, context).column;
    return {qkv + at.row * qkv_width + in_row.row * 2 * half + in_row.column,
            table + position * 2 * half + in_row.column};
  }
  template <int N>
  __device__ Loaded<N> load(std::size_t, std::size_t i) const {
    const Pair p = pair(i);
    return {cuda::load<N>(p.first), cuda::load<N>(p.first + half), cuda::load<N>(p.cosine),
            cuda::load<N>(p.cosine + half)};
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Loaded<N>& loaded) const {
    Floats<N> first = unpack(loaded.first);
    Floats<N> second = unpack(loaded.second);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float a = first.at[j];
      const float b = second.at[j];
      const float c = loaded.cosine.at[j];
      const float s = loaded.sine.at[j] * direction;
      first.at[j] = fmaf(a, c, -(b * s));
      second.at[j] = fmaf(b, c, a * s);
    }
    T* p = pair(i).first;
    store<N>(p, pack_as<T>(first));
    store<N>(p + half, pack_as<T>(second));
  }
};

// Philox4x32-10 as in common/philox.hpp.
__device__ uint4 philox_words(std::uint64_t key, std::uint64_t counter_high, std::uint64_t counter_low) {
  auto k0 = static_cast<unsigned>(key);
  auto k1 = static_cast<unsigned>(key >> 32);
  uint4 c = make_uint4(static_cast<unsigned>(counter_low), static_cast<unsigned>(counter_low >> 32),
                       static_cast<unsigned>(counter_high), static_cast<unsigned>(counter_high >> 32));
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c.x;
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * c.z;
    c = make_uint4(static_cast<unsigned>(product1 >> 32) ^ c.y ^ k0, static_cast<unsigned>(product1),
                   static_cast<unsigned>(product0 >> 32) ^ c.w ^ k1, static_cast<unsigned>(product0));
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// Rows are sequences, so that a vector's elements share two draws of four words.
template <class T>
struct Dropout {
  static constexpr int kDepth = 2;
  std::uint64_t key, counter_low;
  unsigned threshold;
  float factor;
  std::size_t elements;
  const std::uint64_t* samples;
  const T* x;
  const T* residual;
  T* y;

  template <int N>
  struct Loaded {
    Pack<N, T> x, residual;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t row, std::size_t i) const {
    Loaded<N> loaded{cuda::load<N>(x + row * elements + i), {}};
    if (residual != nullptr) loaded.residual = cuda::load<N>(residual + row * elements + i);
    return loaded;
  }
  __device__ float kept(float value, unsigned word) const {
    return (word >> 8) >= threshold ? __fmul_rn(value, factor) : 0.0F;
  }
  template <int N>
  __device__ void finish(std::size_t row, std::size_t i, const Loaded<N>& loaded) const {
    const std::uint64_t sample = samples[row];
    Floats<N> values = unpack(loaded.x);
    if constexpr (N == 1) {
      const uint4 words = philox_words(key, sample, counter_low + i / 4);
      const unsigned place = i % 4;
      const unsigned word = place < 2 ? (place == 0 ? words.x : words.y) : (place == 2 ? words.z : words.w);
      values.at[0] = kept(values.at[0], word);
    } else {
#pragma unroll
      for (int j = 0; j < N; j += 4) {
        const uint4 words = philox_words(key, sample, counter_low + (i + j) / 4);
        values.at[j] = kept(values.at[j], words.x);
        values.at[j + 1] = kept(values.at[j + 1], words.y);
        values.at[j + 2] = kept(values.at[j + 2], words.z);
        values.at[j + 3] = kept(values.at[j + 3], words.w);
      }
    }
    if (residual != nullptr) {
      const Floats<N> beside = unpack(loaded.residual);
#pragma unroll
      for (int j = 0; j < N; ++j) values.at[j] += beside.at[j];
    }
    store<N>(y + row * elements + i, pack_as<T>(values));
  }
};

struct AddRows {
  static constexpr int kDepth = 4;
  const Bf16* a;
  const Bf16* b;
  Bf16* out;

  template <int N>
  struct Loaded {
    Packed<N> a, b;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t, std::size_t i) const {
    return {cuda::load<N>(a + i), cuda::load<N>(b + i)};
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Loaded<N>& loaded) const {
    Floats<N> sum = unpack(loaded.a);
    const Floats<N> other = unpack(loaded.b);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.at[j] += other.at[j];
    store<N>(out + i, pack(sum));
  }
};

struct Narrow {
  static constexpr int kDepth = 2;
  const float* x;
  Bf16* y;

  template <int N>
  __device__ Floats<N> load(std::size_t, std::size_t i) const {
    return cuda::load<N>(x + i);
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Floats<N>& loaded) const {
    store<N>(y + i, pack(loaded));
  }
};

struct Widen {
  static constexpr int kDepth = 2;
  const Bf16* x;
  float* y;

  template <int N>
  __device__ Packed<N> load(std::size_t, std::size_t i) const {
    return cuda::load<N>(x + i);
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Packed<N>& loaded) const {
    store<N>(y + i, unpack(loaded));
  }
};

struct AddBias {
  static constexpr int kDepth = 1;
  std::size_t width;
  const float* bias;
  float* y;

  template <int N>
  struct Loaded {
    Floats<N> y, bias;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t row, std::size_t i) const {
    return {cuda::load<N>(y + row * width + i), cuda::load<N>(bias + i)};
  }
  template <int N>
  __device__ void finish(std::size_t row, std::size_t i, Loaded<N> loaded) const {
#pragma unroll
    for (int j = 0; j < N; ++j) loaded.y.at[j] += loaded.bias.at[j];
    store<N>(y + row * width + i, loaded.y);
  }
};

template <class T>
void launch_swiglu_forward(cudaStream_t stream, const SwigluShape& shape, const T* gate_up, T* out) {
  map<8>(stream, shape.rows, shape.width, shape.width % 8 == 0 && aligned_to_16(gate_up, out),
         SwigluForward<T>{shape.width, gate_up, out});
}

template <class T>
void launch_swiglu_backward(cudaStream_t stream, const SwigluShape& shape, const T* gate_up, const T* d_out,
                            T* d_gate_up) {
  map<8>(stream, shape.rows, shape.width, shape.width % 8 == 0 && aligned_to_16(gate_up, d_out, d_gate_up),
         SwigluBackward<T>{shape.width, gate_up, d_out, d_gate_up});
}

template <class T>
void launch_rope(cudaStream_t stream, const AttentionShape& shape, int direction, const float* table, T* qkv) {
  const std::size_t half = shape.head_size / 2;
  const std::size_t row_pairs = (shape.heads + shape.kv_heads) * half;
  // An odd head size has no rope; with half a multiple of 8 every head of every row starts at 16 bytes.
  map<8>(stream, 1, shape.sequences * shape.context * row_pairs, half % 8 == 0 && aligned_to_16(table, qkv),
         Rope<T>{shape.context, row_pairs, half, shape.qkv_width(), static_cast<float>(direction), table, qkv});
}

template <class T>
void launch_dropout(cudaStream_t stream, const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples,
                    const T* x, const T* residual, T* y) {
  map<8>(stream, shape.sequences, shape.elements, shape.elements % 8 == 0 && aligned_to_16(x, residual, y),
         Dropout<T>{.key = dropout_stream(key),
                    .counter_low = dropout_counter(key),
                    .threshold = dropout_threshold(shape.probability),
                    .factor = 1.0F / (1.0F - shape.probability),
                    .elements = shape.elements,
                    .samples = samples,
                    .x = x,
                    .residual = residual,
                    .y = y});
}

}  // namespace

void gelu_forward(cudaStream_t stream, std::size_t count, const Bf16* x, Bf16* y) {
  map<8>(stream, 1, count, aligned_to_16(x, y), GeluForward<Bf16>{x, y});
}
void gelu_forward(cudaStream_t stream, std::size_t count, const float* x, float* y) {
  map<4>(stream, 1, count, aligned_to_16(x, y), GeluForward<float>{x, y});
}

void gelu_backward(cudaStream_t stream, std::size_t rows, std::size_t width, const Bf16* x, const Bf16* dy, Bf16* dx,
                   float* dx_chunks) {
  if (rows == 0 || width == 0) return;
  if (width % 8 == 0 && aligned_to_16(x, dy, dx)) {
    launch_gelu_backward<8>(stream, rows, width, x, dy, dx, dx_chunks);
  } else {
    launch_gelu_backward<1>(stream, rows, width, x, dy, dx, dx_chunks);
  }
}
void gelu_backward(cudaStream_t stream, std::size_t count, const float* x, const float* dy, float* dx) {
  map<4>(stream, 1, count, aligned_to_16(x, dy, dx), GeluBackward{x, dy, dx});
}

void swiglu_forward(cudaStream_t stream, const SwigluShape& shape, const Bf16* gate_up, Bf16* out) {
  launch_swiglu_forward(stream, shape, gate_up, out);
}
void swiglu_forward(cudaStream_t stream, const SwigluShape& shape, const float* gate_up, float* out) {
  launch_swiglu_forward(stream, shape, gate_up, out);
}

void swiglu_backward(cudaStream_t stream, const SwigluShape& shape, const Bf16* gate_up, const Bf16* d_out,
                     Bf16* d_gate_up) {
  launch_swiglu_backward(stream, shape, gate_up, d_out, d_gate_up);
}
void swiglu_backward(cudaStream_t stream, const SwigluShape& shape, const float* gate_up, const float* d_out,
                     float* d_gate_up) {
  launch_swiglu_backward(stream, shape, gate_up, d_out, d_gate_up);
}

void rope(cudaStream_t stream, const AttentionShape& shape, int direction, const float* table, Bf16* qkv) {
  launch_rope(stream, shape, direction, table, qkv);
}
void rope(cudaStream_t stream, const AttentionShape& shape, int direction, const float* table, float* qkv) {
  launch_rope(stream, shape, direction, table, qkv);
}

void dropout(cudaStream_t stream, const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples,
             const Bf16* x, const Bf16* residual, Bf16* y) {
  launch_dropout(stream, key, shape, samples, x, residual, y);
}
void dropout(cudaStream_t stream, const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples,
             const float* x, const float* residual, float* y) {
  launch_dropout(stream, key, shape, samples, x, residual, y);
}

void add_bias(cudaStream_t stream, std::size_t rows, std::size_t width, const float* bias, float* y) {
  map<4>(stream, rows, width, width % 4 == 0 && aligned_to_16(bias, y), AddBias{width, bias, y});
}

void add(cudaStream_t stream, std::size_t count, const Bf16* a, const Bf16* b, Bf16* out) {
  map<8>(stream, 1, count, aligned_to_16(a, b, out), AddRows{a, b, out});
}

void narrow(cudaStream_t stream, std::size_t count, const float* x, Bf16* y) {
  map<8>(stream, 1, count, aligned_to_16(x, y), Narrow{x, y});
}

void widen(cudaStream_t stream, std::size_t count, const Bf16* x, float* y) {
  map<8>(stream, 1, count, aligned_to_16(x, y), Widen{x, y});
}

}  // namespace planaria::cuda

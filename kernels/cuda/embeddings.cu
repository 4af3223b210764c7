// Embeddings. Forward, a thread gathers 8 columns of both tables. Backward, a warp sums 256 columns of one group of a
// token's rows, several rows under way at once; a second kernel adds a token's groups to the table, each row of which
// has one owner. In fp32 a block finds a token's rows by itself.
#include "kernels/cuda/embeddings.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/map.cuh"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/sums.cuh"

namespace planaria::cuda {
namespace {

template <class T>
struct Gather {
  static constexpr int kDepth = 2;
  std::size_t context, width;
  const std::int32_t* tokens;
  const float* token_table;
  const float* position_table;
  T* out;

  template <int N>
  struct Loaded {
    Floats<N> token, position;
  };
  template <int N>
  __device__ Loaded<N> load(std::size_t, std::size_t i) const {
    const Place at = place_of(i, width);
    Loaded<N> loaded{};
    loaded.token = cuda::load<N>(token_table + static_cast<std::size_t>(tokens[at.row]) * width + at.column);
    if (position_table != nullptr) {
      const std::size_t position = place_of(at.row, context).column;
      loaded.position = cuda::load<N>(position_table + position * width + at.column);
    }
    return loaded;
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, Loaded<N> loaded) const {
#pragma unroll
    for (int j = 0; j < N; ++j) loaded.token.at[j] += loaded.position.at[j];
    store<N>(out + i, pack_as<T>(loaded.token));
  }
};

constexpr unsigned kThreads = 128;
constexpr unsigned kSearchThreads = 256;

// A warp's work: columns [column, …) of item `item`, N a lane.
template <int N>
struct Slab {
  std::size_t item;
  std::size_t column;

  __device__ explicit Slab(std::size_t width) {
    const Place at = place_of(std::size_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp,
                              (width + kWarp * N - 1) / (kWarp * N));
    item = at.row;
    column = at.column * (kWarp * N) + threadIdx.x % kWarp * N;
  }
};
template <int N>
unsigned slab_blocks(std::size_t items, std::size_t width) {
  return blocks_for(items * ((width + kWarp * N - 1) / (kWarp * N)), kThreads / kWarp);
}

template <int N>
__global__ void __launch_bounds__(kThreads, 8)
    sum_groups(std::size_t groups, std::size_t width, const std::int32_t* __restrict__ rows,
               const std::int32_t* __restrict__ begin, const Bf16* __restrict__ d_out, float* __restrict__ scratch) {
  constexpr int kAtOnce = 8;
  static_assert(kOccurrences % kAtOnce == 0);
  const Slab<N> slab(width);
  if (slab.item >= groups || slab.column >= width) return;
  const std::int32_t first = begin[slab.item];
  const std::int32_t count = begin[slab.item + 1] - first;
  Floats<N> sum{};
  for (std::int32_t base = 0; base < count; base += kAtOnce) {
    Packed<N> packed[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      packed[k] = Packed<N>{};
      if (base + k >= count) continue;
      packed[k] = load<N>(d_out + static_cast<std::size_t>(rows[first + base + k]) * width + slab.column);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const Floats<N> values = unpack(packed[k]);  // zeros behind the last row
#pragma unroll
      for (int i = 0; i < N; ++i) sum.at[i] += values.at[i];
    }
  }
  store<N>(scratch + slab.item * width + slab.column, sum);
}

template <int N>
__global__ void __launch_bounds__(kThreads, 8)
    add_groups(std::size_t distinct, std::size_t width, const std::int32_t* __restrict__ tokens,
               const std::int32_t* __restrict__ first, const float* __restrict__ scratch, float* d_token_table) {
  const Slab<N> slab(width);
  if (slab.item >= distinct || slab.column >= width) return;
  float* target = d_token_table + static_cast<std::size_t>(tokens[slab.item]) * width + slab.column;
  const std::int32_t end = first[slab.item + 1];
  Floats<N> total = load<N>(target);
  Floats<N> sum{};
#pragma unroll 4
  for (std::int32_t group = first[slab.item]; group < end; ++group) {
    const Floats<N> part = load<N>(scratch + static_cast<std::size_t>(group) * width + slab.column);
#pragma unroll
    for (int i = 0; i < N; ++i) sum.at[i] += part.at[i];
  }
#pragma unroll
  for (int i = 0; i < N; ++i) total.at[i] += sum.at[i];
  store<N>(target, total);
}

// Elements are those of the position table.
template <class T>
struct AddSequences {
  static constexpr int kDepth = 1;
  std::size_t sequences, elements;
  const T* d_out;
  float* target;

  template <int N>
  __device__ Floats<N> load(std::size_t, std::size_t i) const {
    Floats<N> sum{};
#pragma unroll 8
    for (std::size_t sequence = 0; sequence < sequences; ++sequence) {
      const Floats<N> values = unpack(cuda::load<N>(d_out + sequence * elements + i));
#pragma unroll
      for (int j = 0; j < N; ++j) sum.at[j] += values.at[j];
    }
    return sum;
  }
  template <int N>
  __device__ void finish(std::size_t, std::size_t i, const Floats<N>& sum) const {
    Floats<N> total = cuda::load<N>(target + i);
#pragma unroll
    for (int j = 0; j < N; ++j) total.at[j] += sum.at[j];
    store<N>(target + i, total);
  }
};

// A block has the table row of one token: that of micro-batch row blockIdx.x, if no row before has the same. It looks
// through the rows from there on, one a thread at a time, and adds those of its token one by one.
__global__ void __launch_bounds__(kSearchThreads)
    add_rows(std::size_t rows, std::size_t width, const std::int32_t* __restrict__ tokens,
             const float* __restrict__ d_out, float* d_token_table) {
  __shared__ unsigned found[kSearchThreads];  // places of the token's rows among those looked at, in order
  __shared__ unsigned of_warps[kSearchThreads / kWarp];
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned warp = threadIdx.x / kWarp;
  const std::size_t own = blockIdx.x;
  const std::int32_t token = tokens[own];
  for (std::size_t first = 0; first < own; first += kSearchThreads) {
    const std::size_t row = first + threadIdx.x;
    if (__syncthreads_or(row < own && tokens[row] == token ? 1 : 0) != 0) return;
  }
  float* const target = d_token_table + static_cast<std::size_t>(token) * width;
  for (std::size_t first = own; first < rows; first += kSearchThreads) {
    const std::size_t row = first + threadIdx.x;
    const bool here = row < rows && tokens[row] == token;
    const unsigned lanes = __ballot_sync(kAllLanes, here);
    if (lane == 0) of_warps[warp] = static_cast<unsigned>(__popc(lanes));
    __syncthreads();  // also: the rows found before are added
    unsigned place = static_cast<unsigned>(__popc(lanes & ((1U << lane) - 1)));
    unsigned count = 0;
    for (unsigned w = 0; w < kSearchThreads / kWarp; ++w) {
      if (w < warp) place += of_warps[w];
      count += of_warps[w];
    }
    if (here) found[place] = threadIdx.x;
    __syncthreads();
    if (count == 0) continue;
    for (std::size_t column = threadIdx.x; column < width; column += kSearchThreads) {
      float sum = target[column];
#pragma unroll 4
      for (unsigned k = 0; k < count; ++k) sum += d_out[(first + found[k]) * width + column];
      target[column] = sum;
    }
  }
}

template <int N>
void launch_sum_groups(cudaStream_t stream, std::size_t width, const DeviceOccurrences& at, const Bf16* d_out,
                       float* scratch) {
  sum_groups<N>
      <<<slab_blocks<N>(at.groups, width), kThreads, 0, stream>>>(at.groups, width, at.rows, at.begin, d_out, scratch);
}

template <int N>
void launch_add_groups(cudaStream_t stream, std::size_t width, const DeviceOccurrences& at, const float* scratch,
                       float* d_token_table) {
  add_groups<N><<<slab_blocks<N>(at.distinct, width), kThreads, 0, stream>>>(at.distinct, width, at.tokens, at.first,
                                                                             scratch, d_token_table);
}

}  // namespace

void embedding_forward(cudaStream_t stream, const EmbeddingShape& shape, const std::int32_t* tokens,
                       const float* token_table, const float* position_table, Bf16* out) {
  const bool vectors = shape.width % 8 == 0 && aligned_to_16(token_table, position_table, out);
  map<8>(stream, 1, shape.sequences * shape.context * shape.width, vectors,
         Gather<Bf16>{shape.context, shape.width, tokens, token_table, position_table, out});
}

void embedding_forward(cudaStream_t stream, const EmbeddingShape& shape, const std::int32_t* tokens,
                       const float* token_table, const float* position_table, float* out) {
  const bool vectors = shape.width % 4 == 0 && aligned_to_16(token_table, position_table, out);
  map<4>(stream, 1, shape.sequences * shape.context * shape.width, vectors,
         Gather<float>{shape.context, shape.width, tokens, token_table, position_table, out});
}

void find_occurrences(std::span<const std::int32_t> tokens, std::size_t vocab, TokenOccurrences& out) {
  // A counting sort; until tokens are known, `first` holds where each one's rows go.
  std::vector<std::int32_t>& place = out.first;
  place.assign(vocab + 1, 0);
  for (const std::int32_t token : tokens) ++place[static_cast<std::size_t>(token) + 1];
  for (std::size_t token = 0; token < vocab; ++token) place[token + 1] += place[token];
  out.rows.resize(tokens.size());
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    std::int32_t& at = place[static_cast<std::size_t>(tokens[row])];
    out.rows[static_cast<std::size_t>(at++)] = static_cast<std::int32_t>(row);
  }

  out.begin.clear();
  out.tokens.clear();
  std::int32_t begin = 0;
  for (std::size_t token = 0; token < vocab; ++token) {
    const std::int32_t end = place[token];  // moved past its rows; read before its place, or one before it, is taken
    if (begin == end) continue;
    out.first[out.tokens.size()] = static_cast<std::int32_t>(out.begin.size());
    out.tokens.push_back(static_cast<std::int32_t>(token));
    for (; begin < end; begin += static_cast<std::int32_t>(kOccurrences)) out.begin.push_back(begin);
    begin = end;
  }
  out.first[out.tokens.size()] = static_cast<std::int32_t>(out.begin.size());
  out.first.resize(out.tokens.size() + 1);
  out.begin.push_back(static_cast<std::int32_t>(tokens.size()));
}

void embedding_backward(cudaStream_t stream, const EmbeddingShape& shape, const DeviceOccurrences& occurrences,
                        const Bf16* d_out, float* scratch, float* d_token_table, float* d_position_table) {
  if (occurrences.groups == 0 || shape.width == 0) return;
  if (shape.width % 8 == 0 && aligned_to_16(d_out, scratch)) {
    launch_sum_groups<8>(stream, shape.width, occurrences, d_out, scratch);
  } else {
    launch_sum_groups<1>(stream, shape.width, occurrences, d_out, scratch);
  }
  if (shape.width % 4 == 0 && aligned_to_16(scratch, d_token_table)) {
    launch_add_groups<4>(stream, shape.width, occurrences, scratch, d_token_table);
  } else {
    launch_add_groups<1>(stream, shape.width, occurrences, scratch, d_token_table);
  }
  if (d_position_table == nullptr) return;
  const std::size_t elements = shape.context * shape.width;
  map<8>(stream, 1, elements, elements % 8 == 0 && aligned_to_16(d_out, d_position_table),
         AddSequences<Bf16>{shape.sequences, elements, d_out, d_position_table});
}

void embedding_backward(cudaStream_t stream, const EmbeddingShape& shape, const std::int32_t* tokens,
                        const float* d_out, float* d_token_table, float* d_position_table) {
  const std::size_t rows = shape.sequences * shape.context;
  if (rows == 0 || shape.width == 0) return;
  add_rows<<<static_cast<unsigned>(rows), kSearchThreads, 0, stream>>>(rows, shape.width, tokens, d_out, d_token_table);
  if (d_position_table == nullptr) return;
  const std::size_t elements = shape.context * shape.width;
  map<4>(stream, 1, elements, elements % 4 == 0 && aligned_to_16(d_out, d_position_table),
         AddSequences<float>{shape.sequences, elements, d_out, d_position_table});
}

}  // namespace planaria::cuda

// The search for a shape's algorithm: by measurement, among what the library proposes and settings close to it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <span>
#include <type_traits>
#include <utility>

#include "common/hash.hpp"
#include "common/philox.hpp"
#include "kernels/cuda/matmul_plan.hpp"

namespace planaria::cuda {
namespace {

constexpr std::size_t kPatternElements = std::size_t{8} * 1048573;  // 8 primes: rows of no width repeat soon
constexpr std::size_t kChunkBytes = std::size_t{8} << 20;           // of an output, copied and hashed at once
constexpr std::size_t kChunksPerRun = 16;
constexpr int kProposals = 64;
constexpr std::size_t kMaxCandidates = 224;  // timed for one shape
constexpr float kHopeless = 1.3F;            // times the best: not measured again
constexpr std::size_t kFinalists = 12;
constexpr int kRounds = 7;
constexpr int kRepeats = 20;

template <auto function>
struct Calls {
  template <class T>
  void operator()(T* pointer) const {
    (void)function(pointer);
  }
};
using DeviceMemory = std::unique_ptr<void, Calls<cudaFree>>;
using PinnedMemory = std::unique_ptr<void, Calls<cudaFreeHost>>;
using Event = std::unique_ptr<CUevent_st, Calls<cudaEventDestroy>>;
using Stream = std::unique_ptr<CUstream_st, Calls<cudaStreamDestroy>>;

// Random bf16 values in [-1, 1); any two in a row are also an fp32 value in that range. Zeros would draw less power,
// and the clock would not fall as it does in training.
std::vector<std::uint16_t> make_pattern() {
  PhiloxStream random(0x6d61746d756cULL);
  std::vector<std::uint16_t> pattern(kPatternElements);
  for (auto& value : pattern) {
    value = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(2.0F * unit_float(random.next_u32()) - 1.0F) >> 16);
  }
  return pattern;
}

// One shape's operands on the device and what is known of each algorithm for it.
class Search {
 public:
  Search(const Library& library, const MatmulShape& shape, MatmulPlan& plan)
      : library_(library), shape_(shape), plan_(plan) {}
  ~Search() { (void)cudaDeviceSynchronize(); }  // the noise may still read what the members free
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  Result<MatmulEntry> run() {
    PLANARIA_TRY(prepare());
    for (const auto& algorithm : propose(library_, plan_, kProposals, MatmulTable::kWorkspaceBytes)) {
      PLANARIA_TRY(attempt(algorithm));
    }
    if (candidates_.empty()) {
      return Error(ErrorCode::unsupported, fmt::format("cuBLASLt has no algorithm for {}", describe(shape_)));
    }
    const MatmulEntry proposal = candidates_.front().entry;
    // The best setting of one dimension depends on the others: twice around, the second time mostly known ones.
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto dimension : {Dimension::tile, Dimension::cluster, Dimension::stages, Dimension::option,
                                   Dimension::swizzle, Dimension::split}) {
        for (const auto& algorithm : variants(best().entry.algorithm, dimension)) {
          if (candidates_.size() < kMaxCandidates) PLANARIA_TRY(attempt(algorithm));
        }
      }
    }
    PLANARIA_TRY(rank());
    PLANARIA_ASSIGN(const std::vector<float> expected, sample_of(proposal));
    for (const Candidate& candidate : candidates_) {
      PLANARIA_ASSIGN(const std::vector<float> values, sample_of(candidate.entry));
      if (!agree(values, expected)) continue;
      PLANARIA_ASSIGN(const bool repeats, repeats_bits(candidate.entry));
      if (repeats) return candidate.entry;
    }
    return Error(ErrorCode::unsupported, fmt::format("none of {} algorithms for {} gave the same bits {} times",
                                                     candidates_.size(), describe(shape_), kRepeats));
  }

 private:
  struct Candidate {
    MatmulEntry entry;
    std::vector<float> times;  // entry.microseconds: the first, then the median
  };

  Status cuda(cudaError_t status, std::string_view attempt) const { return cuda_status(status, attempt, shape_); }
  Candidate& best() {
    return *std::ranges::min_element(candidates_, {}, [](const Candidate& c) { return c.entry.microseconds; });
  }

  Result<DeviceMemory> allocate(std::size_t bytes) const {
    void* memory = nullptr;
    PLANARIA_TRY(cuda(cudaMalloc(&memory, bytes), "allocating operands"));
    return DeviceMemory(memory);
  }

  // Fills the memory with the pattern from element `phase` on, so that no two operands are alike.
  Status fill(void* memory, std::size_t bytes, std::size_t phase) {
    constexpr std::size_t pattern_bytes = kPatternElements * sizeof(std::uint16_t);
    std::size_t from = phase * sizeof(std::uint16_t) % pattern_bytes;
    for (std::size_t at = 0; at < bytes;) {
      const std::size_t n = std::min(pattern_bytes - from, bytes - at);
      PLANARIA_TRY(cuda(
          cudaMemcpyAsync(static_cast<std::byte*>(memory) + at, static_cast<const std::byte*>(pattern_.get()) + from, n,
                          cudaMemcpyDeviceToDevice, library_.stream),
          "filling operands"));
      at += n;
      from = 0;
    }
    return ok_status();
  }

  template <class T>
  Status operand(T*& pointer, std::size_t elements) {
    PLANARIA_ASSIGN(DeviceMemory memory, allocate(elements * sizeof(std::remove_const_t<T>)));
    PLANARIA_TRY(fill(memory.get(), elements * sizeof(T), std::size_t{98760} * (memory_.size() + 1)));
    pointer = static_cast<T*>(memory.get());
    memory_.push_back(std::move(memory));
    return ok_status();
  }

  Status prepare() {
    constexpr std::size_t pattern_bytes = kPatternElements * sizeof(std::uint16_t);
    PLANARIA_ASSIGN(pattern_, allocate(pattern_bytes));
    PLANARIA_ASSIGN(noise_memory_, allocate(pattern_bytes));
    const auto pattern = make_pattern();
    PLANARIA_TRY(
        cuda(cudaMemcpyAsync(pattern_.get(), pattern.data(), pattern_bytes, cudaMemcpyHostToDevice, library_.stream),
             "copying the pattern"));
    PLANARIA_TRY(cuda(cudaStreamSynchronize(library_.stream), "copying the pattern"));
    void* pinned = nullptr;
    PLANARIA_TRY(cuda(cudaMallocHost(&pinned, kChunkBytes), "allocating pinned memory"));
    pinned_.reset(pinned);
    for (Event* event : {&start_, &stop_}) {
      cudaEvent_t created = nullptr;
      PLANARIA_TRY(cuda(cudaEventCreate(&created), "creating an event"));
      event->reset(created);
    }
    const auto& s = shape_;
    const std::size_t x = std::size_t{s.rows} * s.in, y = std::size_t{s.rows} * s.out_stride,
                      w = std::size_t{s.out} * s.in;
    const bool forward = is_forward(s.kind);
    const bool weight = s.kind == MatmulKind::weight_gradient;
    auto& o = operands_;
    if (forward || weight) PLANARIA_TRY(operand(o.x, x));
    if (!weight) PLANARIA_TRY(operand(o.weight, w));
    if (s.bias) PLANARIA_TRY(operand(o.bias, s.out));
    if (!forward) PLANARIA_TRY(operand(o.dy, y));
    if (plan_.auxiliary) PLANARIA_TRY(operand(o.u, forward ? y : x));
    if (forward) PLANARIA_TRY(operand(o.y, y));
    if (weight) PLANARIA_TRY(operand(o.d_weight, w));
    if (!forward && !weight) PLANARIA_TRY(operand(o.dx, x));

    const auto output = [this](const auto* memory, std::size_t elements) {
      const auto bytes = std::as_bytes(std::span(memory, elements));
      for (std::size_t at = 0; at < bytes.size(); at += kChunkBytes) {
        chunks_.push_back(bytes.subspan(at, std::min(kChunkBytes, bytes.size() - at)));
      }
    };
    if (forward) output(o.y, y);
    if (weight) output(o.d_weight, w);
    if (!forward && !weight) output(o.dx, x);
    if (s.kind == MatmulKind::forward_gelu) output(o.u, y);
    return prepare_noise();
  }

  // Another product that a second stream computes to take multiprocessors away.
  Status prepare_noise() {
    cudaStream_t stream = nullptr;
    PLANARIA_TRY(cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
    noise_stream_.reset(stream);
    noise_ = {library_.handle, stream, nullptr};
    PLANARIA_ASSIGN(noise_plan_, make_plan({MatmulKind::forward, 4096, 1024, 1024, 1024, false}));
    const auto algorithms = propose(noise_, noise_plan_, 1, 0);
    if (!algorithms.empty()) noise_entry_ = MatmulEntry{algorithms.front(), 0, 0};
    return ok_status();
  }
  Status disturb(float microseconds) {
    MatmulOperands o;
    o.x = o.weight = static_cast<const __nv_bfloat16*>(pattern_.get());
    o.y = static_cast<__nv_bfloat16*>(noise_memory_.get());
    const int times = std::min(4 + static_cast<int>(microseconds / 20.0F), 256);
    for (int i = 0; i < times; ++i) {
      if (noise_entry_) {
        PLANARIA_TRY(library_status(launch(noise_, MatmulKind::forward, noise_plan_, *noise_entry_, o),
                                    "multiplying beside it", shape_));
      }
      PLANARIA_TRY(cuda(cudaMemcpyAsync(o.y, pattern_.get(), kPatternElements * sizeof(std::uint16_t),
                                        cudaMemcpyDeviceToDevice, noise_.stream),
                        "copying beside it"));
    }
    return ok_status();
  }

  Status multiply(const MatmulEntry& entry) {
    return library_status(launch(library_, shape_.kind, plan_, entry, operands_), "multiplying", shape_);
  }

  // Of one call, the mean of `calls` behind one more that covers the time in which they are queued.
  Result<float> measure(const MatmulEntry& entry, int calls) {
    PLANARIA_TRY(multiply(entry));
    PLANARIA_TRY(cuda(cudaEventRecord(start_.get(), library_.stream), "timing"));
    for (int i = 0; i < calls; ++i) PLANARIA_TRY(multiply(entry));
    PLANARIA_TRY(cuda(cudaEventRecord(stop_.get(), library_.stream), "timing"));
    PLANARIA_TRY(cuda(cudaEventSynchronize(stop_.get()), "timing"));
    float milliseconds = 0;
    PLANARIA_TRY(cuda(cudaEventElapsedTime(&milliseconds, start_.get(), stop_.get()), "timing"));
    return 1000.0F * milliseconds / static_cast<float>(calls);
  }

  // Takes the algorithm among the candidates if it is new and runs; fails only if the device does.
  Status attempt(const cublasLtMatmulAlgo_t& algorithm) {
    if (!attempted_.insert(std::to_array(algorithm.data)).second) return ok_status();
    auto entry = accept(library_, plan_, algorithm);
    if (!entry) return ok_status();
    if (launch(library_, shape_.kind, plan_, *entry, operands_) != CUBLAS_STATUS_SUCCESS) {
      (void)cudaGetLastError();
      return cuda(cudaStreamSynchronize(library_.stream), "trying an algorithm");
    }
    PLANARIA_ASSIGN(entry->microseconds, measure(*entry, 1));
    candidates_.push_back({*entry, {}});
    return ok_status();
  }

  // The candidates left are the best, ordered by the median of times that were taken in turns: the clock drifts.
  Status rank() {
    std::ranges::sort(candidates_, {}, [](const Candidate& c) { return c.entry.microseconds; });
    const float most = kHopeless * candidates_.front().entry.microseconds;
    while (candidates_.size() > kFinalists || candidates_.back().entry.microseconds > most) candidates_.pop_back();
    for (int round = 0; round < kRounds; ++round) {
      for (Candidate& c : candidates_) {
        const int calls = std::clamp(static_cast<int>(400.0F / std::max(c.entry.microseconds, 1.0F)), 1, 8);
        PLANARIA_ASSIGN(const float time, measure(c.entry, calls));
        c.times.push_back(time);
      }
    }
    for (Candidate& c : candidates_) {
      std::ranges::nth_element(c.times, c.times.begin() + kRounds / 2);
      c.entry.microseconds = c.times[kRounds / 2];
    }
    std::ranges::sort(candidates_, {}, [](const Candidate& c) { return c.entry.microseconds; });
    return ok_status();
  }

  // What a run must not depend on is different each time: the workspace's content and, in odd runs, the company.
  Status run_afresh(const MatmulEntry& entry, int run) {
    if (shape_.kind == MatmulKind::weight_gradient) {
      PLANARIA_TRY(fill(operands_.d_weight, std::size_t{shape_.out} * shape_.in * sizeof(float), 0));
    }
    PLANARIA_TRY(cuda(cudaMemsetAsync(library_.workspace, run, MatmulTable::kWorkspaceBytes, library_.stream),
                      "clearing the workspace"));
    PLANARIA_TRY(cuda(cudaStreamSynchronize(library_.stream), "clearing the workspace"));
    if (run % 2 == 1) PLANARIA_TRY(disturb(entry.microseconds));
    return multiply(entry);
  }
  Result<std::span<const std::byte>> copy_out(std::span<const std::byte> chunk) {
    PLANARIA_TRY(
        cuda(cudaMemcpyAsync(pinned_.get(), chunk.data(), chunk.size(), cudaMemcpyDeviceToHost, library_.stream),
             "copying an output"));
    PLANARIA_TRY(cuda(cudaStreamSynchronize(library_.stream), "copying an output"));
    return std::span(static_cast<const std::byte*>(pinned_.get()), chunk.size());
  }

  // Every run is compared whole, or, where the output is large, a window that moves on with each run.
  Result<bool> repeats_bits(const MatmulEntry& entry) {
    std::vector<Hash128> first;
    PLANARIA_TRY(run_afresh(entry, 0));
    for (const auto& chunk : chunks_) {
      PLANARIA_ASSIGN(const auto bytes, copy_out(chunk));
      first.push_back(hash_bytes(bytes));
    }
    for (int run = 1; run <= kRepeats; ++run) {
      PLANARIA_TRY(run_afresh(entry, run));
      for (std::size_t i = 0; i < std::min(kChunksPerRun, chunks_.size()); ++i) {
        const std::size_t at = (static_cast<std::size_t>(run - 1) * kChunksPerRun + i) % chunks_.size();
        PLANARIA_ASSIGN(const auto bytes, copy_out(chunks_[at]));
        if (hash_bytes(bytes) != first[at]) return false;
      }
    }
    PLANARIA_TRY(cuda(cudaStreamSynchronize(noise_.stream), "multiplying beside it"));
    return true;
  }

  // The output's first chunk, as numbers.
  Result<std::vector<float>> sample_of(const MatmulEntry& entry) {
    PLANARIA_TRY(run_afresh(entry, 0));
    PLANARIA_ASSIGN(const auto bytes, copy_out(chunks_.front()));
    const bool wide = shape_.kind == MatmulKind::weight_gradient;
    std::vector<float> values(bytes.size() / (wide ? sizeof(float) : sizeof(std::uint16_t)));
    if (wide) {
      std::memcpy(values.data(), bytes.data(), bytes.size());
      return values;
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint16_t half = 0;
      std::memcpy(&half, bytes.data() + 2 * i, sizeof(half));
      values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
    }
    return values;
  }
  // Settings that the library accepts but doesn't propose might never have been tried by its makers: their values may
  // differ from those of its own proposal by rounding only.
  static bool agree(const std::vector<float>& values, const std::vector<float>& expected) {
    double squares = 0;
    for (const float value : expected) squares += static_cast<double>(value) * value;
    const double typical = std::sqrt(squares / static_cast<double>(expected.size()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double allowed = 0x1.0p-6 * std::abs(expected[i]) + 0x1.0p-10 * typical;
      if (!(std::abs(static_cast<double>(values[i]) - expected[i]) <= allowed)) return false;
    }
    return true;
  }

  Library library_;
  MatmulShape shape_;
  MatmulPlan& plan_;
  DeviceMemory pattern_, noise_memory_;
  std::vector<DeviceMemory> memory_;
  PinnedMemory pinned_;
  Event start_, stop_;
  MatmulOperands operands_;
  std::vector<std::span<const std::byte>> chunks_;  // of the outputs
  Stream noise_stream_;
  Library noise_;
  MatmulPlan noise_plan_;
  std::optional<MatmulEntry> noise_entry_;
  std::set<std::array<std::uint64_t, std::extent_v<decltype(cublasLtMatmulAlgo_t::data)>>> attempted_;
  std::vector<Candidate> candidates_;
};

}  // namespace

Result<MatmulEntry> search(const Library& library, const MatmulShape& shape, MatmulPlan& plan) {
  return Search(library, shape, plan).run();
}

}  // namespace planaria::cuda

#include "kernels/cuda/gpu.hpp"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "kernels/cuda/vectors.hpp"

namespace planaria::cuda {
namespace {

// Whoever reads much lets others in between.
constexpr std::size_t kReadAtOnce = std::size_t{16} << 20;
constexpr std::size_t kResultsAtOnce = std::size_t{1} << 16;
// Compute capability: the oldest of PLANARIA_CUDA_ARCHITECTURES.
constexpr int kOldestMajor = 8;

// Copies that are on their way; none: 0 bytes.
struct ReadBatch {
  ReadBatch() = default;
  ReadBatch(const ReadBatch&) = delete;
  ReadBatch& operator=(const ReadBatch&) = delete;
  ~ReadBatch() {
    if (copied != nullptr) cudaEventDestroy(copied);
  }

  cudaEvent_t copied = nullptr;
  std::size_t bytes = 0;
};

// What is to be read, in batches.
class ReadQueue {
 public:
  ReadQueue(cudaStream_t stream, std::span<const HostRead> parts) : stream_(stream), parts_(parts) {}

  [[nodiscard]] bool empty() const { return parts_.empty(); }

  // Of no bytes once all were started.
  [[nodiscard]] Status start(ReadBatch& batch) {
    batch.bytes = 0;
    while (batch.bytes < kReadAtOnce && !parts_.empty()) {
      const HostRead& part = parts_.front();
      const std::size_t bytes = std::min(kReadAtOnce - batch.bytes, part.bytes - begun_);
      PLANARIA_TRY(status_of(
          cudaMemcpyAsync(static_cast<std::byte*>(part.target) + begun_,
                          static_cast<const std::byte*>(part.source) + begun_, bytes, cudaMemcpyDeviceToHost, stream_),
          "reading from the GPU"));
      batch.bytes += bytes;
      begun_ += bytes;
      if (begun_ < part.bytes) continue;
      begun_ = 0;
      parts_ = parts_.subspan(1);
    }
    if (batch.bytes == 0) return ok_status();
    if (batch.copied == nullptr) {
      // Whoever waits sleeps: the training needs the processors.
      constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;
      PLANARIA_TRY(status_of(cudaEventCreateWithFlags(&batch.copied, kFlags), "making an event"));
    }
    return status_of(cudaEventRecord(batch.copied, stream_), "reading from the GPU");
  }

 private:
  cudaStream_t stream_;
  std::span<const HostRead> parts_;
  std::size_t begun_ = 0;  // of the first part that is left
};

}  // namespace

Status status_of(cudaError_t error, const char* attempt) {
  if (error == cudaSuccess) return ok_status();
  (void)cudaGetLastError();  // told here: it isn't the next kernel's
  const std::string text = std::string(attempt) + ": " + cudaGetErrorString(error);
  switch (error) {
    case cudaErrorMemoryAllocation:
      return Error(ErrorCode::exhausted, text);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
      return Error(ErrorCode::unavailable, text);
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorNotSupported:
      return Error(ErrorCode::unsupported, text);
    default:
      return Error(ErrorCode::internal, text);
  }
}

Result<cudaDeviceProp> properties_of(int index) {
  cudaDeviceProp properties{};
  PLANARIA_TRY(status_of(cudaGetDeviceProperties(&properties, index), "looking for the GPU"));
  if (properties.major < kOldestMajor) {
    return Error(ErrorCode::unsupported, std::string("this build has no code for a GPU like ") + properties.name +
                                             " (compute capability " + std::to_string(properties.major) + "." +
                                             std::to_string(properties.minor) + "): it takes 8.0 or newer");
  }
  return properties;
}

template <class Interface>
Status Gpu<Interface>::open() {
  PLANARIA_TRY(own());
  PLANARIA_TRY(status_of(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"));
  int least = 0, greatest = 0;  // priorities: what is read gives way
  PLANARIA_TRY(status_of(cudaDeviceGetStreamPriorityRange(&least, &greatest), "making a stream"));
  return status_of(cudaStreamCreateWithPriority(&reads_, cudaStreamNonBlocking, least), "making a stream");
}

template <class Interface>
Gpu<Interface>::~Gpu() {
  for (const Chunk& chunk : chunks_) cudaFreeHost(chunk.values);
  if (reads_ != nullptr) cudaStreamDestroy(reads_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

template <class Interface>
std::string Gpu<Interface>::name() const {
  return "cuda:" + std::to_string(index_);
}

template <class Interface>
std::string Gpu<Interface>::class_of(std::string_view kind, int revision) const {
  return fmt::format("{}; {}; sm_{}; {} multiprocessors; cuBLASLt {}; revision {}", kind, properties_.name,
                     10 * properties_.major + properties_.minor, properties_.multiProcessorCount, cublasLtGetVersion(),
                     revision);
}

template <class Interface>
double Gpu<Interface>::gflops(double of_multiprocessor) const {
  int kilohertz = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, index_) != cudaSuccess) return 0;
  return of_multiprocessor * properties_.multiProcessorCount * kilohertz / 1e6;
}

template <class Interface>
Status Gpu<Interface>::own() {
  return status_of(cudaSetDevice(index_), "taking the GPU");  // of the calling thread
}

template <class Interface>
void Gpu<Interface>::note(Status status) {
  if (error_ && !status) error_ = std::move(status);
}

template <class Interface>
void Gpu<Interface>::note(cudaError_t error, const char* attempt) {
  if (error != cudaSuccess) note(status_of(error, attempt));
}

template <class Interface>
Result<DeviceBuffer> Gpu<Interface>::reserve(std::size_t bytes) {
  void* data = nullptr;
  PLANARIA_TRY(status_of(cudaMalloc(&data, std::max<std::size_t>(bytes, 1)), "taking GPU memory"));
  return DeviceBuffer(this, data, bytes);
}

template <class Interface>
Result<DeviceBuffer> Gpu<Interface>::allocate(std::size_t bytes) {
  PLANARIA_ASSIGN(DeviceBuffer buffer, reserve(bytes));
  PLANARIA_TRY(status_of(cudaMemsetAsync(buffer.data(), 0, bytes, stream_), "clearing GPU memory"));
  return buffer;
}

template <class Interface>
void Gpu<Interface>::release(void* data, std::size_t) {
  cudaFree(data);  // after all work that is queued
}

template <class Interface>
void Gpu<Interface>::copy_in(void* device_target, const void* host_source, std::size_t bytes) {
  note(cudaMemcpyAsync(device_target, host_source, bytes, cudaMemcpyHostToDevice, stream_), "copying to the GPU");
}

template <class Interface>
void Gpu<Interface>::copy_out(void* host_target, const void* device_source, std::size_t bytes) {
  note(cudaMemcpyAsync(host_target, device_source, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the GPU");
  note(cudaStreamSynchronize(stream_), "copying from the GPU");
}

template <class Interface>
void Gpu<Interface>::copy(void* target, const void* source, std::size_t bytes) {
  if (bytes == 0) return;
  note(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream_), "copying on the GPU");
}

template <class Interface>
Status Gpu<Interface>::read(std::span<const HostRead> parts, const Device::Arrived& arrived) {
  PLANARIA_TRY(own());
  ReadQueue queue(reads_, parts);
  std::array<ReadBatch, 2> batches;  // on their way at a time: the copy engine has work while this thread is told
  std::size_t there = 0;
  Status status = ok_status();
  for (std::size_t turn = 0; status && (!queue.empty() || batches[0].bytes + batches[1].bytes > 0); ++turn) {
    ReadBatch& batch = batches[turn % batches.size()];
    const std::size_t came = batch.bytes;
    if (came > 0) status = status_of(cudaEventSynchronize(batch.copied), "reading from the GPU");
    if (status) status = queue.start(batch);
    if (status && came > 0) arrived(there += came);
  }
  // Nothing is under way when this returns.
  if (!status) (void)status_of(cudaStreamSynchronize(reads_), "reading from the GPU");
  return status;
}

template <class Interface>
Result<std::shared_ptr<std::byte>> Gpu<Interface>::allocate_host(std::size_t bytes) {
  void* memory = nullptr;
  PLANARIA_TRY(own());
  PLANARIA_TRY(status_of(cudaHostAlloc(&memory, std::max<std::size_t>(bytes, 1), cudaHostAllocDefault),
                         "taking page-locked memory"));
  return std::shared_ptr<std::byte>(static_cast<std::byte*>(memory), [](std::byte* given) { cudaFreeHost(given); });
}

template <class Interface>
Result<std::shared_ptr<void>> Gpu<Interface>::lock_host(std::span<std::byte> memory) {
  PLANARIA_TRY(own());
  PLANARIA_TRY(status_of(cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterDefault), "locking pages"));
  return std::shared_ptr<void>(memory.data(), [index = index_](void* locked) {
    (void)status_of(cudaSetDevice(index), "taking the GPU");  // by whichever thread
    (void)status_of(cudaHostUnregister(locked), "unlocking pages");
  });
}

template <class Interface>
Status Gpu<Interface>::synchronize() {
  note(cudaGetLastError(), "starting a kernel");
  note(cudaStreamSynchronize(stream_), "computing");
  for (const Pending& pending : pending_) std::copy_n(pending.values, pending.count, pending.target);
  pending_.clear();
  for (Chunk& chunk : chunks_) chunk.used = 0;
  return error_;
}

template <class Interface>
double* Gpu<Interface>::result(std::size_t count, double* target) {
  auto chunk = std::ranges::find_if(chunks_, [&](const Chunk& c) { return c.capacity - c.used >= count; });
  if (chunk == chunks_.end()) {
    Chunk more;
    more.capacity = std::max(count, kResultsAtOnce);
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, more.capacity * sizeof(double), cudaHostAllocDefault);
    note(error, "taking page-locked memory");
    if (error != cudaSuccess) return nullptr;
    more.values = static_cast<double*>(memory);
    chunk = chunks_.insert(chunks_.end(), more);
  }
  double* const values = chunk->values + chunk->used;
  chunk->used += count;
  pending_.push_back({values, count, target});
  return values;
}

template <class Interface>
void Gpu<Interface>::adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
                           const float* gradient, const AdamwTarget& target) {
  cuda::adamw(stream_, step, ranges, source, gradient, target);
}

template <class Interface>
void Gpu<Interface>::tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) {
  double* const values = result((count + tile_elements - 1) / tile_elements, sums);
  if (values != nullptr) cuda::tile_sums_of_squares(stream_, tile_elements, count, x, values);
}

template <class Interface>
void Gpu<Interface>::add(std::size_t count, const float* a, const float* b, float* out) {
  cuda::add(stream_, count, a, b, out);
}

template <class Interface>
void Gpu<Interface>::fold(std::size_t count, std::span<const float* const> parts, float* out) {
  if (parts.size() > kMaxFoldParts) return note(Error(ErrorCode::internal, "a fold of more parts than any tree has"));
  cuda::fold(stream_, count, parts, out);
}

template <class Interface>
void Gpu<Interface>::scale(std::size_t count, float factor, const float* x, float* out) {
  cuda::scale(stream_, count, factor, x, out);
}

template <class Interface>
void Gpu<Interface>::zero(std::size_t count, float* x) {
  note(cudaMemsetAsync(x, 0, count * sizeof(float), stream_), "clearing");
}

template class Gpu<Device>;
template class Gpu<TensorDevice>;

}  // namespace planaria::cuda

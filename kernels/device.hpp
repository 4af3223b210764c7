// A device: memory, ops on flat vectors, and what a transformer's training needs. One instance is one compute resource
// (the CPU with its threads, or a GPU); a CUDA device comes from a library loaded at run time and implements the same
// interface.
//
// Every op's bits are a function of its inputs, its shape and the numeric class alone: never of the number of threads,
// of alignment, of the batch around it or of call order. Unless said otherwise an op overwrites its outputs, may not be
// given overlapping buffers, and takes pointers to this device's memory. Gradients of parameters ("accumulates")
// are always added onto their destination, in one form for every micro-batch, the first included.
//
// Errors of ops are sticky: an op after an error does nothing, and synchronize() returns the first one.
//
// Thread contract: a device belongs to one thread at a time, unless said otherwise; ops may be asynchronous until
// synchronize(). Two devices are independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "kernels/ops.hpp"

namespace planaria {

class Device;
class ModelEngine;
class StateMap;
class TensorDevice;
struct MicroBatchShape;
struct ModelSpec;

// Device memory with an owner: 64-byte aligned, zero-filled. Must not outlive its device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device* device, void* data, std::size_t bytes) : device_(device), data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] float* floats() const { return static_cast<float*>(data_); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Bytes of device memory that are to be read into host memory.
struct HostRead {
  void* target = nullptr;
  const void* source = nullptr;
  std::size_t bytes = 0;
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  // "cpu" or "cuda:0".
  [[nodiscard]] virtual std::string name() const = 0;
  // What the bits depend on: device type, instruction set, library versions, revision of the algorithms. Without the
  // thread count. Two devices with different strings are never expected to agree; equal strings are proved by a probe.
  [[nodiscard]] virtual std::string numeric_class() const = 0;
  [[nodiscard]] virtual std::size_t threads() const = 0;
  // Billions of operations a second of the products that it trains with, by its data sheet; 0: to be measured
  // (worker/model/device_speed.hpp). Bytes of memory that are its own; 0: the host's.
  [[nodiscard]] virtual double rated_gflops() const { return 0; }
  [[nodiscard]] virtual std::uint64_t memory_bytes() const { return 0; }
  // The calling thread owns the device from now on.
  [[nodiscard]] virtual Status own() { return ok_status(); }
  // True when host code may read and write device memory directly (after synchronize()).
  [[nodiscard]] virtual bool host_accessible() const = 0;

  // exhausted when there isn't enough memory.
  [[nodiscard]] virtual Result<DeviceBuffer> allocate(std::size_t bytes) = 0;
  [[nodiscard]] Result<DeviceBuffer> allocate_floats(std::size_t count) { return allocate(count * sizeof(float)); }
  // The same, but where the system can do so, a page takes up memory only once something is written to it. The contents
  // are undefined.
  [[nodiscard]] virtual Result<DeviceBuffer> reserve(std::size_t bytes) { return allocate(bytes); }
  [[nodiscard]] Result<DeviceBuffer> reserve_floats(std::size_t count) { return reserve(count * sizeof(float)); }
  virtual void copy_in(void* device_target, const void* host_source, std::size_t bytes) = 0;
  virtual void copy_out(void* host_target, const void* device_source, std::size_t bytes) = 0;
  virtual void copy(void* target, const void* source, std::size_t bytes) = 0;
  // Copies memory that no queued op writes to. From any thread, beside the owner's ops; done when it returns. Fast
  // where the targets are page-locked.
  [[nodiscard]] Status read(std::span<const HostRead> parts) {
    return read(parts, [](std::size_t) {});
  }
  // The same. `arrived` is called from this thread, while what follows is copied, with how many bytes of the parts,
  // from the first on, are there.
  using Arrived = std::function<void(std::size_t)>;
  [[nodiscard]] virtual Status read(std::span<const HostRead> parts, const Arrived& arrived) = 0;
  // Host memory that copies from and to this device are fast with (page-locked). From any thread; must not outlive the
  // device. exhausted when there isn't enough.
  [[nodiscard]] virtual Result<std::shared_ptr<std::byte>> allocate_host(std::size_t bytes) = 0;
  // Makes memory that the host has already fast in the same way, until the last owner of what is returned lets go; null
  // where nothing is to be done. Takes a third of a second a GiB. From any thread, as is letting go; must not outlive
  // the device or the memory. exhausted, unsupported: the system doesn't lock it.
  [[nodiscard]] virtual Result<std::shared_ptr<void>> lock_host(std::span<std::byte> memory);
  // What trains models on this device; null where a TensorDevice's ops do (worker/model/transformer_pass.hpp).
  // unsupported: the device can't train this model. Device and map outlive the engine. All choices of kernels are made
  // here: a step makes none.
  [[nodiscard]] virtual Result<std::unique_ptr<ModelEngine>> make_engine(const ModelSpec& model, const StateMap& map,
                                                                         const MicroBatchShape& shape,
                                                                         std::uint64_t seed);
  // Where several kernels compute the same but differ in bits, and only a measurement tells the fastest: which ones the
  // engines made so far compute by, in bytes for adopt_kernel_choices() of other devices. Empty where nothing is
  // measured. exhausted: they are more than the format allows.
  [[nodiscard]] virtual Result<std::vector<std::byte>> kernel_choices();
  // Computes by another device's choices from now on, in engines that are there as well as in those to come, and
  // measures no more: an engine that needs what they don't hold is a mismatch. Bytes from anyone; on an error nothing
  // has changed. corrupt: damaged; mismatch: made for another kind of device, or without what an engine here computes
  // by; unsupported: this device can't run one of the kernels.
  [[nodiscard]] virtual Status adopt_kernel_choices(std::span<const std::byte> choices);
  // Whether it chooses kernels by measuring.
  [[nodiscard]] virtual bool chooses_kernels() const { return false; }
  // Itself, where it has a transformer's ops one by one; else null.
  [[nodiscard]] virtual TensorDevice* tensor_device() { return nullptr; }
  // Waits for all ops; the first error since the device was made, if any.
  [[nodiscard]] virtual Status synchronize() = 0;

  // Of some ranges of flat vectors, which don't overlap, reads the state of step t-1 and writes that of step t (target
  // may be source, element by element): g = gradient * gradient_scale; m, v, then
  // p - lr * (m^ / (sqrt(v^) + epsilon) + weight_decay * p), with a weight_decay of 0 in ranges that don't decay.
  virtual void adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
                     const float* gradient, const AdamwTarget& target) = 0;
  // sums[i] (host memory, valid after synchronize()) = sum of squares of tile i of x, in double; the last tile may be
  // short. A tile's sum depends on its elements alone. Sums: ceil(count / tile_elements).
  virtual void tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) = 0;

  // out = a + b; out may be a or b.
  virtual void add(std::size_t count, const float* a, const float* b, float* out) = 0;
  // out = p0 + (p1 + (p2 + …)): the same bits as that many calls of add, in one pass; out may be any part.
  // Precondition: parts is not empty.
  virtual void fold(std::size_t count, std::span<const float* const> parts, float* out) = 0;
  // out = x * factor; out may be x.
  virtual void scale(std::size_t count, float factor, const float* x, float* out) = 0;
  virtual void zero(std::size_t count, float* x) = 0;

 private:
  friend class DeviceBuffer;
  virtual void release(void* data, std::size_t bytes) = 0;
};

// A device that computes a transformer op by op, in fp32.
class TensorDevice : public Device {
 public:
  [[nodiscard]] TensorDevice* tensor_device() final { return this; }

  // out[row] = token_table[tokens[row]] (+ position_table[row % context] when not null). Precondition: tokens < vocab.
  virtual void embedding_forward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* token_table,
                                 const float* position_table, float* out) = 0;
  // Accumulates both tables' gradients (d_position_table may be null), every table row in ascending row order.
  virtual void embedding_backward(const EmbeddingShape& shape, const std::int32_t* tokens, const float* d_out,
                                  float* d_token_table, float* d_position_table) = 0;

  // mean and inverse_deviation: [rows], kept for backward.
  virtual void layernorm_forward(const NormShape& shape, const float* x, const float* gain, const float* bias, float* y,
                                 float* mean, float* inverse_deviation) = 0;
  // dx = residual + gradient (residual: the gradient that bypasses the norm; may be null, may be dx itself).
  // Accumulates d_gain and d_bias.
  virtual void layernorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                                  const float* mean, const float* inverse_deviation, const float* residual, float* dx,
                                  float* d_gain, float* d_bias) = 0;
  virtual void rmsnorm_forward(const NormShape& shape, const float* x, const float* gain, float* y,
                               float* inverse_rms) = 0;
  virtual void rmsnorm_backward(const NormShape& shape, const float* dy, const float* x, const float* gain,
                                const float* inverse_rms, const float* residual, float* dx, float* d_gain) = 0;

  // bias may be null.
  virtual void linear_forward(const LinearShape& shape, const float* x, const float* weight, const float* bias,
                              float* y) = 0;
  virtual void linear_backward_input(const LinearShape& shape, const float* dy, const float* weight, float* dx) = 0;
  // Accumulates d_weight [out, in] and, when not null, d_bias [out].
  virtual void linear_backward_weight(const LinearShape& shape, const float* x, const float* dy, float* d_weight,
                                      float* d_bias) = 0;

  // Causal attention, scaled by 1/sqrt(head_size). out: [rows, heads * head_size]; log_sums: shape.log_sum_count().
  virtual void attention_forward(const AttentionShape& shape, const float* qkv, float* out, float* log_sums) = 0;
  virtual void attention_backward(const AttentionShape& shape, const float* qkv, const float* out,
                                  const float* log_sums, const float* d_out, float* d_qkv) = 0;

  // Rotates query and key heads of qkv in place, pairs (i, i + head_size/2); table from make_rope_table, on the device.
  virtual void rope_forward(const AttentionShape& shape, const float* table, float* qkv) = 0;
  // Rotates their gradients back, in place.
  virtual void rope_backward(const AttentionShape& shape, const float* table, float* d_qkv) = 0;

  // GELU by the tanh approximation. dx may be dy.
  virtual void gelu_forward(std::size_t count, const float* x, float* y) = 0;
  virtual void gelu_backward(std::size_t count, const float* x, const float* dy, float* dx) = 0;
  virtual void swiglu_forward(const SwigluShape& shape, const float* gate_up, float* out) = 0;
  virtual void swiglu_backward(const SwigluShape& shape, const float* gate_up, const float* d_out,
                               float* d_gate_up) = 0;

  // y = dropout(x) (+ residual when not null); y may be x or residual. samples (host memory): the global sample id of
  // each sequence. The backward pass is the same call on the gradient, without residual.
  virtual void dropout(const DropoutKey& key, const DropoutShape& shape, const std::uint64_t* samples, const float* x,
                       const float* residual, float* y) = 0;

  // Per sequence the sum of -log softmax(logits)[target], in double, added in position order, to losses (host memory,
  // [sequences], valid after synchronize()). Writes the gradient of the token *sum* to d_logits unless null; d_logits
  // may be logits. A negative target is left out: no loss, zero gradient.
  virtual void cross_entropy(const CrossEntropyShape& shape, const float* logits, const std::int32_t* targets,
                             double* losses, float* d_logits) = 0;
};

enum class CpuIsa : std::uint8_t { best, baseline, avx2 };

struct CpuOptions {
  std::size_t threads = 1;    // the owner thread is one of them
  CpuIsa isa = CpuIsa::best;  // for the own kernels; unsupported when the machine lacks it
};

[[nodiscard]] Result<std::unique_ptr<TensorDevice>> make_cpu_device(const CpuOptions& options);

// Runs a fixed small set of ops (forward, backward, norm, update) on Philox data and hashes their results: devices of
// one numeric class agree on it, whatever their threads.
[[nodiscard]] Result<Hash128> probe_kernels(TensorDevice& device);

}  // namespace planaria

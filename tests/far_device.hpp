// A device that computes as the CPU does, in memory that the host can't touch: what a GPU's rules forbid ends the test.
//
// Thread contract: as Device.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/device.hpp"

namespace planaria {

class FarDevice final : public TensorDevice {
 public:
  // locks: it has page-locked memory to give, and locks others'.
  explicit FarDevice(std::unique_ptr<TensorDevice> cpu, bool locks = true) : cpu_(std::move(cpu)), locks_(locks) {
    memory_ = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~FarDevice() override {
    if (locked_bytes() > 0) std::abort();  // a lock must not outlive it
    ::munmap(memory_, kBytes);
  }

  [[nodiscard]] std::string name() const override { return "far"; }
  [[nodiscard]] std::string numeric_class() const override { return cpu_->numeric_class(); }
  [[nodiscard]] std::size_t threads() const override { return cpu_->threads(); }
  [[nodiscard]] bool host_accessible() const override { return false; }

  [[nodiscard]] Result<DeviceBuffer> allocate(std::size_t bytes) override { return reserve(bytes); }
  [[nodiscard]] Result<DeviceBuffer> reserve(std::size_t bytes) override {
    const std::scoped_lock lock(mutex_);
    const std::size_t begin = std::exchange(used_, used_ + (bytes + 63) / 64 * 64);
    if (memory_ == MAP_FAILED || used_ > kBytes) return Error(ErrorCode::exhausted, "no far memory");
    return DeviceBuffer(this, static_cast<std::byte*>(memory_) + begin, bytes);
  }
  void copy_in(void* device_target, const void* host_source, std::size_t bytes) override {
    within([&] { cpu_->copy_in(device_target, host_source, bytes); });
  }
  void copy_out(void* host_target, const void* device_source, std::size_t bytes) override {
    within([&] { cpu_->copy_out(host_target, device_source, bytes); });
  }
  void copy(void* target, const void* source, std::size_t bytes) override {
    within([&] { cpu_->copy(target, source, bytes); });
  }
  using Device::read;
  [[nodiscard]] Status read(std::span<const HostRead> parts, const Arrived& arrived) override {
    std::size_t there = 0;
    for (const HostRead& part : parts) {
      if (before_part_) before_part_();
      if (is_locked(part)) read_directly_ += part.bytes;
      Status done = ok_status();
      within([&] { done = cpu_->read(std::span(&part, 1)); });
      PLANARIA_TRY(std::move(done));
      arrived(there += part.bytes);
    }
    return ok_status();
  }
  [[nodiscard]] Result<std::shared_ptr<std::byte>> allocate_host(std::size_t bytes) override {
    if (!locks_) return Error(ErrorCode::exhausted, "no more pages can be locked");
    return cpu_->allocate_host(bytes);
  }
  [[nodiscard]] Result<std::shared_ptr<void>> lock_host(std::span<std::byte> memory) override {
    const std::scoped_lock lock(mutex_);
    ++lock_attempts_;
    if (!locks_) return Error(ErrorCode::unsupported, "these pages can't be locked");
    if (!locked_.emplace(memory.data(), memory.size()).second) return Error(ErrorCode::internal, "locked already");
    return std::shared_ptr<void>(memory.data(), [this](void* begin) { unlock(begin); });
  }
  [[nodiscard]] Status synchronize() override { return cpu_->synchronize(); }

  [[nodiscard]] std::size_t locked_bytes() const {
    const std::scoped_lock lock(mutex_);
    std::size_t bytes = 0;
    for (const auto& [begin, size] : locked_) bytes += size;
    return bytes;
  }
  [[nodiscard]] std::size_t lock_attempts() const {
    const std::scoped_lock lock(mutex_);
    return lock_attempts_;
  }
  // Called by who reads, before each part. Set while nobody reads.
  void before_each_part(std::function<void()> call) { before_part_ = std::move(call); }
  // Bytes that were read into locked memory.
  [[nodiscard]] std::size_t read_directly() const { return read_directly_; }

  void embedding_forward(const EmbeddingShape& s, const std::int32_t* tokens, const float* token_table,
                         const float* position_table, float* out) override {
    within([&] { cpu_->embedding_forward(s, tokens, token_table, position_table, out); });
  }
  void embedding_backward(const EmbeddingShape& s, const std::int32_t* tokens, const float* d_out, float* d_tokens,
                          float* d_positions) override {
    within([&] { cpu_->embedding_backward(s, tokens, d_out, d_tokens, d_positions); });
  }
  void layernorm_forward(const NormShape& s, const float* x, const float* gain, const float* bias, float* y,
                         float* mean, float* inverse_deviation) override {
    within([&] { cpu_->layernorm_forward(s, x, gain, bias, y, mean, inverse_deviation); });
  }
  void layernorm_backward(const NormShape& s, const float* dy, const float* x, const float* gain, const float* mean,
                          const float* inverse_deviation, const float* residual, float* dx, float* d_gain,
                          float* d_bias) override {
    within([&] { cpu_->layernorm_backward(s, dy, x, gain, mean, inverse_deviation, residual, dx, d_gain, d_bias); });
  }
  void rmsnorm_forward(const NormShape& s, const float* x, const float* gain, float* y, float* inverse_rms) override {
    within([&] { cpu_->rmsnorm_forward(s, x, gain, y, inverse_rms); });
  }
  void rmsnorm_backward(const NormShape& s, const float* dy, const float* x, const float* gain,
                        const float* inverse_rms, const float* residual, float* dx, float* d_gain) override {
    within([&] { cpu_->rmsnorm_backward(s, dy, x, gain, inverse_rms, residual, dx, d_gain); });
  }
  void linear_forward(const LinearShape& s, const float* x, const float* weight, const float* bias, float* y) override {
    within([&] { cpu_->linear_forward(s, x, weight, bias, y); });
  }
  void linear_backward_input(const LinearShape& s, const float* dy, const float* weight, float* dx) override {
    within([&] { cpu_->linear_backward_input(s, dy, weight, dx); });
  }
  void linear_backward_weight(const LinearShape& s, const float* x, const float* dy, float* d_weight,
                              float* d_bias) override {
    within([&] { cpu_->linear_backward_weight(s, x, dy, d_weight, d_bias); });
  }
  void attention_forward(const AttentionShape& s, const float* qkv, float* out, float* log_sums) override {
    within([&] { cpu_->attention_forward(s, qkv, out, log_sums); });
  }
  void attention_backward(const AttentionShape& s, const float* qkv, const float* out, const float* log_sums,
                          const float* d_out, float* d_qkv) override {
    within([&] { cpu_->attention_backward(s, qkv, out, log_sums, d_out, d_qkv); });
  }
  void rope_forward(const AttentionShape& s, const float* table, float* qkv) override {
    within([&] { cpu_->rope_forward(s, table, qkv); });
  }
  void rope_backward(const AttentionShape& s, const float* table, float* d_qkv) override {
    within([&] { cpu_->rope_backward(s, table, d_qkv); });
  }
  void gelu_forward(std::size_t count, const float* x, float* y) override {
    within([&] { cpu_->gelu_forward(count, x, y); });
  }
  void gelu_backward(std::size_t count, const float* x, const float* dy, float* dx) override {
    within([&] { cpu_->gelu_backward(count, x, dy, dx); });
  }
  void swiglu_forward(const SwigluShape& s, const float* gate_up, float* out) override {
    within([&] { cpu_->swiglu_forward(s, gate_up, out); });
  }
  void swiglu_backward(const SwigluShape& s, const float* gate_up, const float* d_out, float* d_gate_up) override {
    within([&] { cpu_->swiglu_backward(s, gate_up, d_out, d_gate_up); });
  }
  void dropout(const DropoutKey& key, const DropoutShape& s, const std::uint64_t* samples, const float* x,
               const float* residual, float* y) override {
    within([&] { cpu_->dropout(key, s, samples, x, residual, y); });
  }
  void cross_entropy(const CrossEntropyShape& s, const float* logits, const std::int32_t* targets, double* losses,
                     float* d_logits) override {
    within([&] { cpu_->cross_entropy(s, logits, targets, losses, d_logits); });
  }
  void adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
             const float* gradient, const AdamwTarget& target) override {
    within([&] { cpu_->adamw(step, ranges, source, gradient, target); });
  }
  void tile_sums_of_squares(std::size_t tile_elements, std::size_t count, const float* x, double* sums) override {
    within([&] { cpu_->tile_sums_of_squares(tile_elements, count, x, sums); });
  }
  void add(std::size_t count, const float* a, const float* b, float* out) override {
    within([&] { cpu_->add(count, a, b, out); });
  }
  void fold(std::size_t count, std::span<const float* const> parts, float* out) override {
    within([&] { cpu_->fold(count, parts, out); });
  }
  void scale(std::size_t count, float factor, const float* x, float* out) override {
    within([&] { cpu_->scale(count, factor, x, out); });
  }
  void zero(std::size_t count, float* x) override {
    within([&] { cpu_->zero(count, x); });
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 30;

  // The memory can be touched while ops run, of whichever thread.
  template <class Op>
  void within(Op op) {
    opened(1);
    op();
    opened(-1);
  }
  void opened(int change) {
    const std::scoped_lock lock(mutex_);
    const bool was_open = open_ > 0;
    open_ += change;
    if (was_open != (open_ > 0)) ::mprotect(memory_, kBytes, open_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
  [[nodiscard]] bool is_locked(const HostRead& part) const {
    const std::scoped_lock lock(mutex_);
    auto* const target = static_cast<std::byte*>(part.target);
    const auto after = locked_.upper_bound(target);
    if (after == locked_.begin()) return false;
    const auto& [begin, size] = *std::prev(after);
    return target + part.bytes <= begin + size;
  }
  void unlock(void* begin) {
    const std::scoped_lock lock(mutex_);
    const auto locked = locked_.find(static_cast<std::byte*>(begin));
    // Locks are let go of once, and before their memory is.
    if (locked == locked_.end() || ::msync(begin, locked->second, MS_ASYNC) != 0) std::abort();
    locked_.erase(locked);
  }
  // Nothing is used twice: who reads what was given back finds it as it was, or nothing.
  void release(void*, std::size_t) override {}

  const std::unique_ptr<TensorDevice> cpu_;
  const bool locks_;
  std::function<void()> before_part_;
  void* memory_ = nullptr;
  mutable std::mutex mutex_;
  std::size_t used_ = 0;
  int open_ = 0;
  std::map<std::byte*, std::size_t> locked_;
  std::size_t lock_attempts_ = 0;
  std::atomic<std::size_t> read_directly_{0};
};

}  // namespace planaria

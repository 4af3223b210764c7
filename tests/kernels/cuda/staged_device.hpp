// A device with memory of its own, for tests that hand ops pointers to host memory: each op's operands are copied to it
// before and back after. Operands that share a place share one there, too.
//
// Thread contract: as Device; an op has run when it returns.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/device.hpp"

namespace planaria::cuda_test {

class StagedDevice final : public TensorDevice {
 public:
  // Operands lie `shift` elements of four bytes behind an aligned address.
  StagedDevice(std::unique_ptr<TensorDevice> inner, std::size_t shift) : inner_(std::move(inner)), shift_(shift) {}

  [[nodiscard]] std::string name() const override { return inner_->name(); }
  [[nodiscard]] std::string numeric_class() const override { return inner_->numeric_class(); }
  [[nodiscard]] std::size_t threads() const override { return inner_->threads(); }
  [[nodiscard]] bool host_accessible() const override { return true; }
  [[nodiscard]] Result<DeviceBuffer> allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  void copy_in(void* target, const void* source, std::size_t bytes) override { std::memcpy(target, source, bytes); }
  void copy_out(void* target, const void* source, std::size_t bytes) override { std::memcpy(target, source, bytes); }
  void copy(void* target, const void* source, std::size_t bytes) override {
    const std::size_t count = bytes / sizeof(float);
    run([&](Operands& o) {
      inner_->copy(o.out(static_cast<float*>(target), count), o.in(static_cast<const float*>(source), count), bytes);
    });
  }
  using TensorDevice::read;
  [[nodiscard]] Status read(std::span<const HostRead> parts, const Arrived& arrived) override {
    return inner_->read(parts, arrived);
  }
  [[nodiscard]] Result<std::shared_ptr<std::byte>> allocate_host(std::size_t bytes) override {
    return inner_->allocate_host(bytes);
  }
  [[nodiscard]] Status synchronize() override { return inner_->synchronize(); }

  void adamw(const AdamwStep& step, std::span<const UpdateRange> ranges, const AdamwSource& source,
             const float* gradient, const AdamwTarget& target) override {
    std::size_t n = 0;
    for (const UpdateRange& range : ranges) n = std::max<std::size_t>(n, range.end);
    run([&](Operands& o) {
      inner_->adamw(step, ranges, {o.in(source.parameter, n), o.in(source.moment1, n), o.in(source.moment2, n)},
                    o.in(gradient, n),
                    {o.out(target.parameter, n), o.out(target.moment1, n), o.out(target.moment2, n)});
    });
  }
  void tile_sums_of_squares(std::size_t tile_elements, std::size_t n, const float* x, double* sums) override {
    run([&](Operands& o) { inner_->tile_sums_of_squares(tile_elements, n, o.in(x, n), sums); });
  }
  void add(std::size_t n, const float* a, const float* b, float* out) override {
    run([&](Operands& o) { inner_->add(n, o.in(a, n), o.in(b, n), o.out(out, n)); });
  }
  void fold(std::size_t n, std::span<const float* const> parts, float* out) override {
    run([&](Operands& o) {
      std::vector<const float*> staged;
      for (const float* part : parts) staged.push_back(o.in(part, n));
      inner_->fold(n, staged, o.out(out, n));
    });
  }
  void scale(std::size_t n, float factor, const float* x, float* out) override {
    run([&](Operands& o) { inner_->scale(n, factor, o.in(x, n), o.out(out, n)); });
  }
  void zero(std::size_t n, float* x) override {
    run([&](Operands& o) { inner_->zero(n, o.out(x, n)); });
  }

  void embedding_forward(const EmbeddingShape& s, const std::int32_t* tokens, const float* token_table,
                         const float* position_table, float* out) override {
    const std::size_t rows = s.sequences * s.context;
    run([&](Operands& o) {
      inner_->embedding_forward(s, o.in(tokens, rows), o.in(token_table, s.vocab * s.width),
                                o.in(position_table, s.context * s.width), o.out(out, rows * s.width));
    });
  }
  void embedding_backward(const EmbeddingShape& s, const std::int32_t* tokens, const float* d_out, float* d_token_table,
                          float* d_position_table) override {
    const std::size_t rows = s.sequences * s.context;
    run([&](Operands& o) {
      inner_->embedding_backward(s, o.in(tokens, rows), o.in(d_out, rows * s.width),
                                 o.both(d_token_table, s.vocab * s.width),
                                 o.both(d_position_table, s.context * s.width));
    });
  }
  void layernorm_forward(const NormShape& s, const float* x, const float* gain, const float* bias, float* y,
                         float* mean, float* inverse) override {
    run([&](Operands& o) {
      inner_->layernorm_forward(s, o.in(x, s.rows * s.width), o.in(gain, s.width), o.in(bias, s.width),
                                o.out(y, s.rows * s.width), o.out(mean, s.rows), o.out(inverse, s.rows));
    });
  }
  void layernorm_backward(const NormShape& s, const float* dy, const float* x, const float* gain, const float* mean,
                          const float* inverse, const float* residual, float* dx, float* d_gain,
                          float* d_bias) override {
    const std::size_t n = s.rows * s.width;
    run([&](Operands& o) {
      inner_->layernorm_backward(s, o.in(dy, n), o.in(x, n), o.in(gain, s.width), o.in(mean, s.rows),
                                 o.in(inverse, s.rows), o.in(residual, n), o.out(dx, n), o.both(d_gain, s.width),
                                 o.both(d_bias, s.width));
    });
  }
  void rmsnorm_forward(const NormShape& s, const float* x, const float* gain, float* y, float* inverse) override {
    run([&](Operands& o) {
      inner_->rmsnorm_forward(s, o.in(x, s.rows * s.width), o.in(gain, s.width), o.out(y, s.rows * s.width),
                              o.out(inverse, s.rows));
    });
  }
  void rmsnorm_backward(const NormShape& s, const float* dy, const float* x, const float* gain, const float* inverse,
                        const float* residual, float* dx, float* d_gain) override {
    const std::size_t n = s.rows * s.width;
    run([&](Operands& o) {
      inner_->rmsnorm_backward(s, o.in(dy, n), o.in(x, n), o.in(gain, s.width), o.in(inverse, s.rows),
                               o.in(residual, n), o.out(dx, n), o.both(d_gain, s.width));
    });
  }
  void linear_forward(const LinearShape& s, const float* x, const float* weight, const float* bias, float* y) override {
    run([&](Operands& o) {
      inner_->linear_forward(s, o.in(x, s.rows * s.in), o.in(weight, s.out * s.in), o.in(bias, s.out),
                             o.out(y, s.rows * s.out));
    });
  }
  void linear_backward_input(const LinearShape& s, const float* dy, const float* weight, float* dx) override {
    run([&](Operands& o) {
      inner_->linear_backward_input(s, o.in(dy, s.rows * s.out), o.in(weight, s.out * s.in), o.out(dx, s.rows * s.in));
    });
  }
  void linear_backward_weight(const LinearShape& s, const float* x, const float* dy, float* d_weight,
                              float* d_bias) override {
    run([&](Operands& o) {
      inner_->linear_backward_weight(s, o.in(x, s.rows * s.in), o.in(dy, s.rows * s.out),
                                     o.both(d_weight, s.out * s.in), o.both(d_bias, s.out));
    });
  }
  void attention_forward(const AttentionShape& s, const float* qkv, float* out, float* log_sums) override {
    const std::size_t rows = s.sequences * s.context;
    run([&](Operands& o) {
      inner_->attention_forward(s, o.in(qkv, rows * s.qkv_width()), o.out(out, rows * s.out_width()),
                                o.out(log_sums, s.log_sum_count()));
    });
  }
  void attention_backward(const AttentionShape& s, const float* qkv, const float* out, const float* log_sums,
                          const float* d_out, float* d_qkv) override {
    const std::size_t rows = s.sequences * s.context;
    run([&](Operands& o) {
      inner_->attention_backward(s, o.in(qkv, rows * s.qkv_width()), o.in(out, rows * s.out_width()),
                                 o.in(log_sums, s.log_sum_count()), o.in(d_out, rows * s.out_width()),
                                 o.out(d_qkv, rows * s.qkv_width()));
    });
  }
  void rope_forward(const AttentionShape& s, const float* table, float* qkv) override {
    run([&](Operands& o) {
      inner_->rope_forward(s, o.in(table, s.context * s.head_size),
                           o.both(qkv, s.sequences * s.context * s.qkv_width()));
    });
  }
  void rope_backward(const AttentionShape& s, const float* table, float* d_qkv) override {
    run([&](Operands& o) {
      inner_->rope_backward(s, o.in(table, s.context * s.head_size),
                            o.both(d_qkv, s.sequences * s.context * s.qkv_width()));
    });
  }
  void gelu_forward(std::size_t n, const float* x, float* y) override {
    run([&](Operands& o) { inner_->gelu_forward(n, o.in(x, n), o.out(y, n)); });
  }
  void gelu_backward(std::size_t n, const float* x, const float* dy, float* dx) override {
    run([&](Operands& o) { inner_->gelu_backward(n, o.in(x, n), o.in(dy, n), o.out(dx, n)); });
  }
  void swiglu_forward(const SwigluShape& s, const float* gate_up, float* out) override {
    const std::size_t n = s.rows * s.width;
    run([&](Operands& o) { inner_->swiglu_forward(s, o.in(gate_up, 2 * n), o.out(out, n)); });
  }
  void swiglu_backward(const SwigluShape& s, const float* gate_up, const float* d_out, float* d_gate_up) override {
    const std::size_t n = s.rows * s.width;
    run([&](Operands& o) {
      inner_->swiglu_backward(s, o.in(gate_up, 2 * n), o.in(d_out, n), o.out(d_gate_up, 2 * n));
    });
  }
  void dropout(const DropoutKey& key, const DropoutShape& s, const std::uint64_t* samples, const float* x,
               const float* residual, float* y) override {
    const std::size_t n = s.sequences * s.elements;
    run([&](Operands& o) { inner_->dropout(key, s, samples, o.in(x, n), o.in(residual, n), o.out(y, n)); });
  }
  void cross_entropy(const CrossEntropyShape& s, const float* logits, const std::int32_t* targets, double* losses,
                     float* d_logits) override {
    const std::size_t rows = s.sequences * s.context;
    run([&](Operands& o) {
      inner_->cross_entropy(s, o.in(logits, rows * s.vocab), o.in(targets, rows), losses,
                            o.out(d_logits, rows * s.vocab));
    });
  }

 private:
  // Of one op, by their place in host memory; the order in which they are asked for doesn't matter.
  class Operands {
   public:
    explicit Operands(StagedDevice& device) : device_(device) {}

    template <class T>
    const T* in(const T* host, std::size_t count) {
      if (host == nullptr) return nullptr;
      T* const staged = place(host, count);
      device_.inner_->copy_in(staged, host, count * sizeof(T));
      return staged;
    }
    // Of NaNs, unless it is an input, too: what an op forgets to write shows.
    float* out(float* host, std::size_t count) {
      if (host == nullptr) return nullptr;
      float* const staged = place(host, count);
      outputs_[host] = {staged, count};
      return staged;
    }
    float* both(float* host, std::size_t count) {
      (void)in(host, count);
      return out(host, count);
    }
    void finish() {
      for (const auto& [host, staged] : outputs_) {
        device_.inner_->copy_out(host, staged.first, staged.second * sizeof(float));
      }
    }

   private:
    template <class T>
    T* place(const T* host, std::size_t count) {
      static_assert(sizeof(T) == sizeof(float));
      DeviceBuffer& buffer = buffers_[host];
      if (buffer.data() == nullptr) {
        auto made = device_.inner_->allocate_floats(count + device_.shift_);
        EXPECT_TRUE(made.ok());
        buffer = std::move(made).value();
        const std::vector<std::byte> nans(buffer.bytes(), std::byte{0xff});
        device_.inner_->copy_in(buffer.data(), nans.data(), nans.size());
      }
      return static_cast<T*>(buffer.data()) + device_.shift_;
    }

    StagedDevice& device_;
    std::map<const void*, DeviceBuffer> buffers_;
    std::map<float*, std::pair<float*, std::size_t>> outputs_;
  };

  template <class Op>
  void run(const Op& op) {
    Operands operands(*this);
    op(operands);
    operands.finish();
    const Status done = inner_->synchronize();
    EXPECT_TRUE(done.ok()) << (done ? "" : done.error().describe());
  }
  void release(void*, std::size_t) override {}  // buffers are the inner device's

  std::unique_ptr<TensorDevice> inner_;
  std::size_t shift_;
};

}  // namespace planaria::cuda_test

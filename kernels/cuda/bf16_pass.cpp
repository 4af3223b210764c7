#include "kernels/cuda/bf16_pass.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/classifier.hpp"
#include "kernels/cuda/pointwise.hpp"

namespace planaria::cuda {
namespace {

using Bf16 = __nv_bfloat16;

template <class T>
T* at(std::byte* base, std::size_t place) {
  return reinterpret_cast<T*>(base + place);
}

template <class T>
T* optional(T* base, std::size_t place) {
  return place == kNone ? nullptr : base + place;
}

Bf16* bf16(const DeviceBuffer& buffer) {
  return static_cast<Bf16*>(buffer.data());
}

}  // namespace

// What the GPU does between its begin and its end is a block's.
class Bf16Pass::BlockTimer {
 public:
  BlockTimer(Bf16Pass& pass, std::uint32_t block) : pass_(pass), block_(block) {
    if (pass_.measured_) begun_ = mark();
  }
  ~BlockTimer() {
    if (begun_ != nullptr) pass_.timed_.push_back({block_, begun_, mark()});
  }
  BlockTimer(const BlockTimer&) = delete;
  BlockTimer& operator=(const BlockTimer&) = delete;

 private:
  cudaEvent_t mark() {
    const cudaEvent_t event = pass_.take_event();
    pass_.engine_.device_.note(cudaEventRecord(event, pass_.stream()), "marking a time");
    return event;
  }

  Bf16Pass& pass_;
  std::uint32_t block_;
  cudaEvent_t begun_ = nullptr;
};

Result<std::unique_ptr<ModelPass>> Bf16Pass::create(Bf16Engine& engine, BlockRange blocks) {
  std::unique_ptr<Bf16Pass> pass(new Bf16Pass(engine));
  CudaDevice& device = engine.device_;
  const std::size_t rows = engine.shape_.rows();
  // Tokens and targets; occurrences: rows, groups, distinct tokens, and an end of both.
  const std::size_t batch_bytes =
      engine.shape_.sequences * sizeof(std::uint64_t) + (2 * rows + 4 * rows + 2) * sizeof(std::int32_t);
  PLANARIA_ASSIGN(pass->batch_, device.reserve(batch_bytes));
  PLANARIA_ASSIGN(pass->host_batch_, device.allocate_host(batch_bytes));
  PLANARIA_TRY(status_of(cudaEventCreateWithFlags(&pass->uploaded_, cudaEventDisableTiming), "making an event"));
  pass->boundaries_.resize(engine.head());
  pass->saved_.resize(engine.head() + 1);
  pass->took_.resize(engine.head() + 1);
  PLANARIA_TRY(pass->cover(blocks));
  return std::unique_ptr<ModelPass>(std::move(pass));
}

Bf16Pass::~Bf16Pass() {
  for (const Timed& timed : timed_) free_events_.insert(free_events_.end(), {timed.begun, timed.ended});
  for (const cudaEvent_t event : free_events_) cudaEventDestroy(event);
  if (uploaded_ == nullptr) return;
  cudaEventSynchronize(uploaded_);
  cudaEventDestroy(uploaded_);
}

Status Bf16Pass::cover(BlockRange blocks) {
  CudaDevice& device = engine_.device_;
  for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
    if (b > 0 && boundaries_[b - 1].bytes() == 0) {
      PLANARIA_ASSIGN(boundaries_[b - 1], device.reserve(elements() * sizeof(Bf16)));
    }
    if (b == 0 || saved_[b].bytes() != 0) continue;
    PLANARIA_ASSIGN(saved_[b],
                    device.reserve(b == engine_.head() ? engine_.head_places_.total : engine_.layer_places_.total));
  }
  return ok_status();
}

Status Bf16Pass::cover_deltas(BlockRange blocks, LinearDeltas& deltas) const {
  deltas.of_block.resize(saved_.size());
  for (std::uint32_t b = std::max(blocks.begin, 1U); b < std::min(blocks.end, engine_.head()); ++b) {
    if (deltas.of_block[b].bytes() != 0) continue;
    PLANARIA_ASSIGN(deltas.of_block[b], engine_.device_.reserve(engine_.delta_places_.total));
  }
  return ok_status();
}

cudaEvent_t Bf16Pass::take_event() {
  if (!free_events_.empty()) {
    const cudaEvent_t event = free_events_.back();
    free_events_.pop_back();
    return event;
  }
  cudaEvent_t event = nullptr;
  engine_.device_.note(cudaEventCreate(&event), "making an event");
  return event;
}

std::span<const Duration> Bf16Pass::took() const {
  for (const Timed& timed : timed_) {
    float ms = 0;
    engine_.device_.note(cudaEventElapsedTime(&ms, timed.begun, timed.ended), "reading a time");
    took_[timed.block] += std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::milli>(ms));
    free_events_.insert(free_events_.end(), {timed.begun, timed.ended});
  }
  timed_.clear();
  return took_;
}

Bf16Pass::BatchPlaces Bf16Pass::batch_places(void* base) const {
  auto* const samples = static_cast<std::uint64_t*>(base);
  auto* const tokens = reinterpret_cast<std::int32_t*>(samples + engine_.shape_.sequences);
  return {samples, tokens, tokens + engine_.shape_.rows(), tokens + 2 * engine_.shape_.rows()};
}

void Bf16Pass::upload(const void* host, std::size_t bytes) {
  CudaDevice& device = engine_.device_;
  const std::ptrdiff_t place = static_cast<const std::byte*>(host) - host_batch_.get();
  device.copy_in(static_cast<std::byte*>(batch_.data()) + place, host, bytes);
  device.note(cudaEventRecord(uploaded_, stream()), "marking an upload");
}

void Bf16Pass::load(const HostBatch& batch, Step step) {
  assert(batch.tokens.size() == engine_.shape_.rows() && batch.samples.size() == engine_.shape_.sequences);
  engine_.device_.note(cudaEventSynchronize(uploaded_), "waiting for an upload");
  const BatchPlaces to = batch_places(host_batch_.get());
  std::ranges::copy(batch.samples, to.samples);
  std::ranges::copy(batch.tokens, to.tokens);
  std::ranges::copy(batch.targets, to.targets);
  upload(host_batch_.get(), static_cast<std::size_t>(reinterpret_cast<std::byte*>(to.occurrences) - host_batch_.get()));
  static_cast<void>(took());
  std::ranges::fill(took_, Duration(0));
  step_ = step;
}

// Found when the layers' backward pass is queued: the host has nothing else to do then.
DeviceOccurrences Bf16Pass::upload_occurrences() {
  const BatchPlaces host = batch_places(host_batch_.get());
  find_occurrences({host.tokens, engine_.shape_.rows()}, engine_.model_.vocab, occurrences_);
  engine_.device_.note(cudaEventSynchronize(uploaded_), "waiting for an upload");
  std::int32_t* to = host.occurrences;
  const auto put = [&](const std::vector<std::int32_t>& values) {
    const std::ptrdiff_t place = to - host.occurrences;
    to = std::ranges::copy(values, to).out;
    return batch_places(batch_.data()).occurrences + place;
  };
  const DeviceOccurrences there = {.rows = put(occurrences_.rows),
                                   .begin = put(occurrences_.begin),
                                   .tokens = put(occurrences_.tokens),
                                   .first = put(occurrences_.first),
                                   .groups = occurrences_.begin.size() - 1,
                                   .distinct = occurrences_.tokens.size()};
  upload(host.occurrences, static_cast<std::size_t>(to - host.occurrences) * sizeof(std::int32_t));
  return there;
}

void Bf16Pass::multiply(const MatmulShape& shape, const MatmulOperands& operands) {
  engine_.device_.note(engine_.matmuls_->multiply(shape, operands));
}

// ---- forward ----

void Bf16Pass::forward(BlockRange blocks, const float* parameters, bool training, const float* input, float* output,
                       double* losses) {
  training_ = training;
  if (blocks.begin > 0) engine_.device_.copy(input_of(blocks.begin), input, elements() * sizeof(Bf16));
  Stream running;
  if (blocks.begin > 0) running.x = input_of(blocks.begin);
  for (std::uint32_t b = blocks.begin; b < blocks.end; ++b) {
    const BlockTimer timer(*this, b);
    const bool last = b + 1 == blocks.end;
    if (b == 0) {
      Bf16* const own = last ? reinterpret_cast<Bf16*>(output) : bf16(boundaries_[0]);
      forward_embedding(parameters, own);
      running = {own, nullptr};
    } else if (b == engine_.head()) {
      forward_head(parameters, running, losses);
    } else {
      running = forward_layer(b, parameters, running, last ? reinterpret_cast<Bf16*>(output) : nullptr);
    }
  }
}

void Bf16Pass::forward_embedding(const float* parameters, Bf16* output) {
  const EmbeddingShape shape{engine_.shape_.sequences, engine_.shape_.context, engine_.model_.width,
                             engine_.model_.vocab};
  embedding_forward(stream(), shape, batch_places(batch_.data()).tokens, parameters,
                    optional(parameters, engine_.position_table_), output);
  if (drops()) drop(0, 0, output, nullptr, output);
}

// Normalizes the stream, which becomes the block's input as a whole.
void Bf16Pass::norm(std::uint32_t block, Stream x, const float* gain, const float* bias, Bf16* y, float* mean,
                    float* deviation) {
  norm_forward(stream(),
               {.shape = {engine_.shape_.rows(), engine_.model_.width, static_cast<float>(engine_.model_.norm_epsilon)},
                .x = x.x,
                .delta = x.delta,
                .sum = x.delta == nullptr ? nullptr : input_of(block),
                .gain = gain,
                .bias = bias,
                .y = y,
                .mean = mean,
                .inverse_deviation = deviation});
}

// The output: in `output`, or, where that is null, as the next block takes it.
Bf16Pass::Stream Bf16Pass::forward_layer(std::uint32_t block, const float* parameters, Stream input, Bf16* output) {
  const LayerTensors& tensor = engine_.layer_;
  const LayerPlaces& place = engine_.layer_places_;
  std::byte* const kept = saved(block);
  const float* const master = parameters + engine_.map_.blocks()[block].offset;
  const Bf16* const p = engine_.working(block, parameters);
  const std::size_t width = engine_.model_.width;
  const std::size_t ffn = engine_.model_.ffn_width;
  const bool gpt2 = engine_.is_gpt2();
  Bf16* const delta = bf16(engine_.narrow_);
  Bf16* const qkv = at<Bf16>(kept, place.qkv);
  Bf16* const attended = at<Bf16>(kept, place.attention);
  Bf16* const middle = at<Bf16>(kept, place.middle);
  Bf16* const normed2 = at<Bf16>(kept, place.normed2);
  Bf16* const up = at<Bf16>(kept, place.up);
  Bf16* const active = at<Bf16>(kept, place.active);

  norm(block, input, master + tensor.norm1_gain, optional(master, tensor.norm1_bias), at<Bf16>(kept, place.normed1),
       at<float>(kept, place.mean1), at<float>(kept, place.deviation1));
  multiply(
      engine_.matmul_shape(MatmulKind::forward, width, engine_.model_.qkv_width(), gpt2),
      {.x = at<Bf16>(kept, place.normed1), .weight = p + tensor.qkv, .bias = optional(p, tensor.qkv_bias), .y = qkv});
  const AttentionShape attention = engine_.attention_shape();
  if (!gpt2) rope(stream(), attention, 1, engine_.rope_table_.floats(), qkv);
  attention_forward(stream(), attention, qkv, attended, at<float>(kept, place.log_sums));
  multiply(engine_.matmul_shape(MatmulKind::forward, width, width, gpt2),
           {.x = attended, .weight = p + tensor.out, .bias = optional(p, tensor.out_bias), .y = delta});

  Stream stream_of_mlp{input_of(block), delta};
  if (drops()) {
    drop(block, 1, delta, input_of(block), middle);
    stream_of_mlp = {middle, nullptr};
  }
  norm_forward(stream(), {.shape = {engine_.shape_.rows(), width, static_cast<float>(engine_.model_.norm_epsilon)},
                          .x = stream_of_mlp.x,
                          .delta = stream_of_mlp.delta,
                          .sum = middle,
                          .gain = master + tensor.norm2_gain,
                          .bias = optional(master, tensor.norm2_bias),
                          .y = normed2,
                          .mean = at<float>(kept, place.mean2),
                          .inverse_deviation = at<float>(kept, place.deviation2)});
  if (gpt2) {
    multiply(engine_.matmul_shape(MatmulKind::forward_gelu, width, ffn, true),
             {.x = normed2, .weight = p + tensor.up, .bias = p + tensor.up_bias, .y = active, .u = up});
  } else {
    multiply(engine_.matmul_shape(MatmulKind::forward, width, 2 * ffn),
             {.x = normed2, .weight = p + tensor.up, .y = up});
    swiglu_forward(stream(), {engine_.shape_.rows(), ffn}, up, active);
  }
  multiply(engine_.matmul_shape(MatmulKind::forward, ffn, width, gpt2),
           {.x = active, .weight = p + tensor.down, .bias = optional(p, tensor.down_bias), .y = delta});
  if (drops()) {
    Bf16* const own = output != nullptr ? output : bf16(boundaries_[block]);
    drop(block, 2, delta, middle, own);
    return {own, nullptr};
  }
  if (output == nullptr) return {middle, delta};
  add(stream(), elements(), middle, delta, output);
  return {output, nullptr};
}

void Bf16Pass::forward_head(const float* parameters, Stream input, double* losses) {
  const float* const master = parameters + engine_.map_.blocks().back().offset;
  const HeadPlaces& place = engine_.head_places_;
  const std::uint32_t block = engine_.head();
  std::byte* const kept = saved(block);
  Bf16* const normed = at<Bf16>(kept, place.normed);
  Bf16* const logits = at<Bf16>(kept, place.logits);
  float* const row_losses = at<float>(kept, place.row_losses);
  static_cast<void>(engine_.working(block, parameters));
  norm(block, input, master + engine_.head_.norm_gain, optional(master, engine_.head_.norm_bias), normed,
       at<float>(kept, place.mean), at<float>(kept, place.deviation));
  multiply(engine_.head_shape(MatmulKind::forward), {.x = normed, .weight = bf16(engine_.head_weight_), .y = logits});
  classify(stream(), {.rows = engine_.shape_.rows(),
                      .vocab = engine_.model_.vocab,
                      .stride = engine_.padded_vocab(),
                      .logits = logits,
                      .targets = batch_places(batch_.data()).targets,
                      .losses = row_losses,
                      .gradient = training_});
  double* const sums = engine_.device_.result(engine_.shape_.sequences, losses);
  if (sums != nullptr) sum_losses(stream(), engine_.shape_.sequences, engine_.shape_.context, row_losses, sums);
}

// ---- backward ----

void Bf16Pass::backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                        float* d_input, const BlockDone& block_done) {
  run_backward(blocks, parameters, gradient, d_output, d_input, nullptr, block_done);
}

void Bf16Pass::backward_input(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                              float* d_input, LinearDeltas& deltas, const BlockDone& block_done) {
  assert(blocks.begin > 0);
  run_backward(blocks, parameters, gradient, d_output, d_input, &deltas, block_done);
}

void Bf16Pass::run_backward(BlockRange blocks, const float* parameters, GradientSums gradient, const float* d_output,
                            float* d_input, LinearDeltas* deltas, const BlockDone& block_done) {
  OutputGradient d{reinterpret_cast<const Bf16*>(d_output), nullptr};
  int current = 0;
  begin_ = gradient.begin;
  for (std::uint32_t b = blocks.end; b-- > blocks.begin; current ^= 1) {
    const BlockInfo& block = engine_.map_.blocks()[b];
    const std::uint64_t offset = block.offset;
    float* const sums = gradient.values + offset;
    const InputGradient to{
        b == blocks.begin && b > 0 ? reinterpret_cast<Bf16*>(d_input) : bf16(engine_.d_boundary_[current]),
        engine_.d_boundary_chunks_[current].floats()};
    {
      const BlockTimer timer(*this, b);
      if (b > 0) clear_padding(block, sums);  // the embedding's is cleared as a whole
      if (b == engine_.head()) {
        if (deltas == nullptr) backward_head_weights(sums);
        backward_head_input(parameters + offset, to, sums);
      } else if (b == 0) {
        backward_embedding(d.values, sums);
      } else {
        backward_layer(b, parameters, d, to, sums,
                       deltas == nullptr ? nullptr : static_cast<std::byte*>(deltas->of_block[b].data()));
      }
    }
    if (block_done) block_done(BlockIndex(b));
    d = {to.values, to.chunks};
  }
}

void Bf16Pass::backward_weights(BlockRange blocks, GradientSums gradient, const LinearDeltas& deltas,
                                const BlockDone& block_done) {
  const LayerTensors& tensor = engine_.layer_;
  const LayerPlaces& place = engine_.layer_places_;
  const DeltaPlaces& delta = engine_.delta_places_;
  const std::size_t width = engine_.model_.width;
  begin_ = gradient.begin;
  for (std::uint32_t b = blocks.end; b-- > blocks.begin;) {
    float* const sums = gradient.values + engine_.map_.blocks()[b].offset;
    {
      const BlockTimer timer(*this, b);
      if (b == engine_.head()) {
        backward_head_weights(sums);
      } else {
        std::byte* const kept = saved(b);
        std::byte* const d = static_cast<std::byte*>(deltas.of_block[b].data());
        const auto accumulate = [&](std::size_t in, std::size_t out, std::size_t x, std::size_t dy,
                                    std::size_t weight) {
          multiply(engine_.matmul_shape(MatmulKind::weight_gradient, in, out),
                   {.x = at<Bf16>(kept, x), .dy = at<Bf16>(d, dy), .d_weight = sums + weight, .begin = begin_});
        };
        accumulate(engine_.model_.ffn_width, width, place.active, delta.down, tensor.down);
        accumulate(width, engine_.model_.up_width(), place.normed2, delta.up, tensor.up);
        accumulate(width, width, place.attention, delta.out, tensor.out);
        accumulate(width, engine_.model_.qkv_width(), place.normed1, delta.qkv, tensor.qkv);
      }
    }
    if (block_done) block_done(BlockIndex(b));
  }
}

// One launch adds up all that a block has to: each alone is too small to fill the device.
void Bf16Pass::sum_later(const float* chunks, std::size_t count, std::size_t width, float* target) {
  later_.push_back({chunks, count, width, target, begin_});
}

void Bf16Pass::clear_padding(const BlockInfo& block, float* sums) {
  if (!begin_) return;
  std::size_t end = 0;
  const auto clear_until = [&](std::size_t begin) {
    if (end < begin) sum_later(nullptr, 0, begin - end, sums + end);
  };
  for (const TensorInfo& tensor : block.tensors) {
    clear_until(tensor.offset);
    end = tensor.offset + tensor.elements();
  }
  clear_until(block.elements);
}

void Bf16Pass::add_sums() {
  add_chunks(stream(), later_);
  later_.clear();
}

void Bf16Pass::bias_gradient(const OutputGradient& d, std::size_t width, DeviceBuffer& chunks, float* target) {
  const std::size_t rows = engine_.shape_.rows();
  if (d.chunks == nullptr) column_chunks(stream(), rows, width, d.values, chunks.floats());
  sum_later(d.chunks != nullptr ? d.chunks : chunks.floats(), chunks_of(rows), width, target);
}

void Bf16Pass::norm_gradient(NormBackward call, std::size_t which, float* d_gain, float* d_bias) {
  const std::size_t rows = engine_.shape_.rows();
  const std::size_t width = engine_.model_.width;
  call.shape = {rows, width, static_cast<float>(engine_.model_.norm_epsilon)};
  if (!engine_.is_gpt2()) call.mean = nullptr;
  call.d_gain_chunks = engine_.gain_chunks_[which].floats();
  call.d_bias_chunks = engine_.bias_chunks_[which].floats();
  norm_backward(stream(), call);
  sum_later(call.d_gain_chunks, chunks_of(rows), width, d_gain);
  if (d_bias != nullptr) sum_later(call.d_bias_chunks, chunks_of(rows), width, d_bias);
}

void Bf16Pass::backward_layer(std::uint32_t block, const float* parameters, OutputGradient d_output,
                              InputGradient d_input, float* sums, std::byte* deltas) {
  const LayerTensors& tensor = engine_.layer_;
  const LayerPlaces& place = engine_.layer_places_;
  const DeltaPlaces& delta = engine_.delta_places_;
  std::byte* const kept = saved(block);
  const float* const master = parameters + engine_.map_.blocks()[block].offset;
  const Bf16* const p = engine_.working(block, parameters);
  const std::size_t width = engine_.model_.width;
  const std::size_t ffn = engine_.model_.ffn_width;
  const std::size_t up_width = engine_.model_.up_width();
  const std::size_t qkv_width = engine_.model_.qkv_width();
  const bool gpt2 = engine_.is_gpt2();
  Bf16* const narrow = bf16(engine_.narrow_);
  Bf16* const d_middle = bf16(engine_.middle_gradient_);
  Bf16* const d_up = deltas == nullptr ? bf16(engine_.wide_) : at<Bf16>(deltas, delta.up);
  Bf16* const d_qkv = deltas == nullptr ? bf16(engine_.wide_) : at<Bf16>(deltas, delta.qkv);
  const auto kept_delta = [&](std::size_t where) { return deltas == nullptr ? nullptr : deltas + where; };
  const auto accumulate = [&](std::size_t in, std::size_t out, std::size_t x, const Bf16* dy, std::size_t weight) {
    if (deltas != nullptr) return;
    multiply(engine_.matmul_shape(MatmulKind::weight_gradient, in, out),
             {.x = at<Bf16>(kept, x), .dy = dy, .d_weight = sums + weight, .begin = begin_});
  };

  const OutputGradient d_down = dropped(block, 2, d_output, kept_delta(delta.down));
  if (gpt2) bias_gradient(d_down, width, engine_.down_chunks_, sums + tensor.down_bias);
  accumulate(ffn, width, place.active, d_down.values, tensor.down);
  if (gpt2) {
    OutputGradient up{d_up, nullptr};
    Bf16* const u = at<Bf16>(kept, place.up);
    if (engine_.epilogue_pays()) {
      multiply(engine_.matmul_shape(MatmulKind::input_dgelu, ffn, width),
               {.weight = p + tensor.down, .dy = d_down.values, .u = u, .dx = d_up});
    } else {
      multiply(engine_.matmul_shape(MatmulKind::input_gradient, ffn, width),
               {.weight = p + tensor.down, .dy = d_down.values, .dx = d_up});
      gelu_backward(stream(), engine_.shape_.rows(), ffn, u, d_up, d_up, engine_.up_chunks_.floats());
      up.chunks = engine_.up_chunks_.floats();
    }
    bias_gradient(up, up_width, engine_.up_chunks_, sums + tensor.up_bias);
  } else {
    multiply(engine_.matmul_shape(MatmulKind::input_gradient, ffn, width),
             {.weight = p + tensor.down, .dy = d_down.values, .dx = bf16(engine_.active_gradient_)});
    swiglu_backward(stream(), {engine_.shape_.rows(), ffn}, at<Bf16>(kept, place.up), bf16(engine_.active_gradient_),
                    d_up);
  }
  accumulate(width, up_width, place.normed2, d_up, tensor.up);
  multiply(engine_.matmul_shape(MatmulKind::input_gradient, width, up_width),
           {.weight = p + tensor.up, .dy = d_up, .dx = narrow});
  norm_gradient({.dy = narrow,
                 .x = at<Bf16>(kept, place.middle),
                 .gain = master + tensor.norm2_gain,
                 .mean = at<float>(kept, place.mean2),
                 .inverse_deviation = at<float>(kept, place.deviation2),
                 .residual = d_output.values,
                 .dx = d_middle,
                 .dx_chunks = engine_.out_chunks_.floats()},
                1, sums + tensor.norm2_gain, optional(sums, tensor.norm2_bias));

  const OutputGradient d_out = dropped(block, 1, {d_middle, engine_.out_chunks_.floats()}, kept_delta(delta.out));
  if (gpt2) bias_gradient(d_out, width, engine_.out_chunks_, sums + tensor.out_bias);
  accumulate(width, width, place.attention, d_out.values, tensor.out);
  multiply(engine_.matmul_shape(MatmulKind::input_gradient, width, width),
           {.weight = p + tensor.out, .dy = d_out.values, .dx = narrow});
  const AttentionShape attention = engine_.attention_shape();
  attention_backward(stream(), attention, at<Bf16>(kept, place.qkv), at<Bf16>(kept, place.attention),
                     at<float>(kept, place.log_sums), narrow, engine_.row_dots_.floats(), d_qkv,
                     gpt2 ? engine_.qkv_chunks_.floats() : nullptr);
  if (gpt2) {
    sum_later(engine_.qkv_chunks_.floats(), attention_chunks(attention), qkv_width, sums + tensor.qkv_bias);
  } else {
    rope(stream(), attention, -1, engine_.rope_table_.floats(), d_qkv);
  }
  accumulate(width, qkv_width, place.normed1, d_qkv, tensor.qkv);
  multiply(engine_.matmul_shape(MatmulKind::input_gradient, width, qkv_width),
           {.weight = p + tensor.qkv, .dy = d_qkv, .dx = narrow});
  norm_gradient({.dy = narrow,
                 .x = input_of(block),
                 .gain = master + tensor.norm1_gain,
                 .mean = at<float>(kept, place.mean1),
                 .inverse_deviation = at<float>(kept, place.deviation1),
                 .residual = d_middle,
                 .dx = d_input.values,
                 .dx_chunks = d_input.chunks},
                0, sums + tensor.norm1_gain, optional(sums, tensor.norm1_bias));
  add_sums();
}

// By way of a matrix with the padding's rows, for which products are several times as fast; the sums have no room for
// them.
void Bf16Pass::backward_head_weights(float* sums) {
  std::byte* const kept = saved(engine_.head());
  float* const padded = engine_.head_gradient_.floats();
  float* const target = sums + engine_.head_.token;
  const std::size_t width = engine_.model_.width;
  multiply(engine_.head_shape(MatmulKind::weight_gradient), {.x = at<Bf16>(kept, engine_.head_places_.normed),
                                                             .dy = at<Bf16>(kept, engine_.head_places_.logits),
                                                             .d_weight = padded,
                                                             .begin = true});
  const std::size_t elements = engine_.model_.vocab * width;
  if (begin_) {
    engine_.device_.copy(target, padded, elements * sizeof(float));
  } else {
    engine_.device_.add(elements, target, padded, target);
  }
}

void Bf16Pass::backward_head_input(const float* parameters, InputGradient d_input, float* sums) {
  const HeadPlaces& place = engine_.head_places_;
  std::byte* const kept = saved(engine_.head());
  Bf16* const narrow = bf16(engine_.narrow_);
  multiply(engine_.head_shape(MatmulKind::input_gradient),
           {.weight = bf16(engine_.head_weight_), .dy = at<Bf16>(kept, place.logits), .dx = narrow});
  norm_gradient({.dy = narrow,
                 .x = input_of(engine_.head()),
                 .gain = parameters + engine_.head_.norm_gain,
                 .mean = at<float>(kept, place.mean),
                 .inverse_deviation = at<float>(kept, place.deviation),
                 .dx = d_input.values,
                 .dx_chunks = d_input.chunks},
                0, sums + engine_.head_.norm_gain, optional(sums, engine_.head_.norm_bias));
  add_sums();
}

void Bf16Pass::backward_embedding(const Bf16* d_output, float* sums) {
  const EmbeddingShape shape{engine_.shape_.sequences, engine_.shape_.context, engine_.model_.width,
                             engine_.model_.vocab};
  if (begin_) engine_.device_.zero(engine_.map_.blocks().front().elements, sums);
  const OutputGradient d = dropped(0, 0, {d_output, nullptr}, nullptr);
  embedding_backward(stream(), shape, upload_occurrences(), d.values, engine_.occurrence_sums_.floats(), sums,
                     optional(sums, engine_.position_table_));
}

// ---- dropout ----

void Bf16Pass::drop(std::uint32_t block, std::uint32_t which, const Bf16* x, const Bf16* residual, Bf16* y) {
  const DropoutKey key{.seed = engine_.seed_, .step = step_.value(), .layer = block, .which = which};
  const DropoutShape shape{.sequences = engine_.shape_.sequences,
                           .elements = engine_.shape_.context * engine_.model_.width,
                           .probability = static_cast<float>(engine_.model_.dropout)};
  dropout(stream(), key, shape, batch_places(batch_.data()).samples, x, residual, y);
}

Bf16Pass::OutputGradient Bf16Pass::dropped(std::uint32_t block, std::uint32_t which, OutputGradient d,
                                           std::byte* kept) {
  Bf16* const place = kept != nullptr ? reinterpret_cast<Bf16*>(kept) : bf16(engine_.dropped_);
  if (drops()) {
    drop(block, which, d.values, nullptr, place);
    return {place, nullptr};
  }
  if (kept == nullptr) return d;
  engine_.device_.copy(place, d.values, elements() * sizeof(Bf16));
  return {place, d.chunks};
}

}  // namespace planaria::cuda

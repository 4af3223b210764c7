#include "kernels/cuda/bf16_engine.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/bf16_pass.hpp"
#include "kernels/cuda/chunk_sums.hpp"
#include "kernels/cuda/pointwise.hpp"

namespace planaria::cuda {
namespace {

constexpr std::size_t kAlignment = 256;  // bytes, of tensors inside a buffer
constexpr std::size_t kVocabMultiple = 128;

// Hands out consecutive aligned ranges of bytes.
class Places {
 public:
  template <class T>
  std::size_t take(std::size_t elements) {
    return std::exchange(next_, (next_ + elements * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment);
  }
  [[nodiscard]] std::size_t total() const { return next_; }

 private:
  std::size_t next_ = 0;
};

std::size_t offset_of(const BlockInfo& block, const char* name) {
  const auto found = std::ranges::find(block.tensors, name, &TensorInfo::name);
  return found == block.tensors.end() ? kNone : static_cast<std::size_t>(found->offset);
}

}  // namespace

Bf16Engine::Bf16Engine(CudaDevice& device, const ModelSpec& model, const StateMap& map, MicroBatchShape shape,
                       std::uint64_t seed)
    : device_(device), model_(model), map_(map), shape_(shape), seed_(seed), made_(map.blocks().size(), false) {
  if (is_gpt2()) model_.kv_heads = model_.heads;
  position_table_ = offset_of(map.blocks().front(), "position.weight");
  const auto layer = [&](const char* name) { return offset_of(map.blocks()[1], name); };
  layer_ = {.norm1_gain = layer("norm1.weight"),
            .norm1_bias = layer("norm1.bias"),
            .qkv = layer("attention.qkv.weight"),
            .qkv_bias = layer("attention.qkv.bias"),
            .out = layer("attention.out.weight"),
            .out_bias = layer("attention.out.bias"),
            .norm2_gain = layer("norm2.weight"),
            .norm2_bias = layer("norm2.bias"),
            .up = layer(is_gpt2() ? "mlp.up.weight" : "mlp.gate_up.weight"),
            .up_bias = layer("mlp.up.bias"),
            .down = layer("mlp.down.weight"),
            .down_bias = layer("mlp.down.bias")};
  const BlockInfo& last = map.blocks().back();
  head_ = {offset_of(last, "norm.weight"), offset_of(last, "norm.bias"), offset_of(last, "token.weight")};

  using Bf16 = __nv_bfloat16;
  const std::size_t rows = shape.rows();
  const std::size_t width = model_.width;
  Places places;
  layer_places_.mean1 = places.take<float>(rows);
  layer_places_.deviation1 = places.take<float>(rows);
  layer_places_.normed1 = places.take<Bf16>(rows * width);
  layer_places_.qkv = places.take<Bf16>(rows * model_.qkv_width());
  layer_places_.attention = places.take<Bf16>(rows * width);
  layer_places_.log_sums = places.take<float>(attention_shape().log_sum_count());
  layer_places_.middle = places.take<Bf16>(rows * width);
  layer_places_.mean2 = places.take<float>(rows);
  layer_places_.deviation2 = places.take<float>(rows);
  layer_places_.normed2 = places.take<Bf16>(rows * width);
  layer_places_.up = places.take<Bf16>(rows * model_.up_width());
  layer_places_.active = places.take<Bf16>(rows * model_.ffn_width);
  layer_places_.total = places.total();

  Places of_head;
  head_places_.mean = of_head.take<float>(rows);
  head_places_.deviation = of_head.take<float>(rows);
  head_places_.normed = of_head.take<Bf16>(rows * width);
  head_places_.logits = of_head.take<Bf16>(rows * padded_vocab());
  head_places_.row_losses = of_head.take<float>(rows);
  head_places_.total = of_head.total();

  Places deltas;
  delta_places_.qkv = deltas.take<Bf16>(rows * model_.qkv_width());
  delta_places_.out = deltas.take<Bf16>(rows * width);
  delta_places_.up = deltas.take<Bf16>(rows * model_.up_width());
  delta_places_.down = deltas.take<Bf16>(rows * width);
  delta_places_.total = deltas.total();
}

AttentionShape Bf16Engine::attention_shape() const {
  return {.sequences = shape_.sequences,
          .context = shape_.context,
          .heads = model_.heads,
          .kv_heads = model_.kv_heads,
          .head_size = model_.head_size()};
}

std::size_t Bf16Engine::padded_vocab() const {
  return (model_.vocab + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
}

MatmulShape Bf16Engine::matmul_shape(MatmulKind kind, std::size_t in, std::size_t out, bool bias) const {
  return {.kind = kind,
          .rows = static_cast<std::uint32_t>(shape_.rows()),
          .in = static_cast<std::uint32_t>(in),
          .out = static_cast<std::uint32_t>(out),
          .out_stride = static_cast<std::uint32_t>(out),
          .bias = bias};
}

// The padding's weights and gradients are zero.
MatmulShape Bf16Engine::head_shape(MatmulKind kind) const {
  return matmul_shape(kind, model_.width, padded_vocab());
}

Result<std::unique_ptr<ModelEngine>> Bf16Engine::create(CudaDevice& device, const ModelSpec& model, const StateMap& map,
                                                        MicroBatchShape shape, std::uint64_t seed) {
  std::unique_ptr<Bf16Engine> engine(new Bf16Engine(device, model, map, shape, seed));
  if (!attention_supports(engine->attention_shape())) {
    return Error(ErrorCode::unsupported,
                 "there is no bf16 attention for heads of " + std::to_string(model.head_size()) + " channels");
  }
  if (model.width % 8 != 0 || model.ffn_width % 8 != 0) {
    return Error(ErrorCode::unsupported, "in bf16, widths are multiples of 8");
  }
  PLANARIA_TRY(engine->allocate());
  PLANARIA_TRY(engine->choose_matmuls());
  return std::unique_ptr<ModelEngine>(std::move(engine));
}

Status Bf16Engine::allocate() {
  using Bf16 = __nv_bfloat16;
  const std::size_t rows = shape_.rows();
  const std::size_t width = model_.width;
  const std::size_t widest = std::max(model_.up_width(), model_.qkv_width());
  const std::size_t chunks = chunks_of(rows);
  const auto reserve = [this](DeviceBuffer& buffer, std::size_t bytes) -> Status {
    PLANARIA_ASSIGN(buffer, device_.reserve(bytes));
    return ok_status();
  };
  PLANARIA_TRY(reserve(working_, map_.vector_elements() * sizeof(Bf16)));
  PLANARIA_ASSIGN(head_weight_, device_.allocate(padded_vocab() * width * sizeof(Bf16)));
  PLANARIA_TRY(reserve(head_gradient_, padded_vocab() * width * sizeof(float)));
  for (DeviceBuffer* buffer : {&narrow_, &middle_gradient_, &d_boundary_[0], &d_boundary_[1]}) {
    PLANARIA_TRY(reserve(*buffer, rows * width * sizeof(Bf16)));
  }
  if (model_.dropout > 0) PLANARIA_TRY(reserve(dropped_, rows * width * sizeof(Bf16)));
  PLANARIA_TRY(reserve(wide_, rows * widest * sizeof(Bf16)));
  for (DeviceBuffer* buffer : {&gain_chunks_[0], &gain_chunks_[1], &bias_chunks_[0], &bias_chunks_[1],
                               &d_boundary_chunks_[0], &d_boundary_chunks_[1], &out_chunks_, &down_chunks_}) {
    PLANARIA_TRY(reserve(*buffer, chunks * width * sizeof(float)));
  }
  if (is_gpt2()) {
    PLANARIA_TRY(reserve(up_chunks_, chunks * model_.ffn_width * sizeof(float)));
    PLANARIA_TRY(reserve(qkv_chunks_, attention_chunks(attention_shape()) * model_.qkv_width() * sizeof(float)));
  }
  PLANARIA_TRY(reserve(row_dots_, attention_shape().log_sum_count() * sizeof(float)));
  PLANARIA_TRY(reserve(occurrence_sums_, rows * width * sizeof(float)));
  if (!is_gpt2()) {
    PLANARIA_TRY(reserve(active_gradient_, rows * model_.ffn_width * sizeof(Bf16)));
    const std::vector<float> table = make_rope_table(shape_.context, model_.head_size(), model_.rope_theta);
    PLANARIA_TRY(reserve(rope_table_, table.size() * sizeof(float)));
    device_.copy_in(rope_table_.data(), table.data(), table.size() * sizeof(float));
  }
  return device_.synchronize();
}

Status Bf16Engine::choose_matmuls() {
  PLANARIA_ASSIGN(matmuls_, device_.matmuls());
  const std::size_t width = model_.width;
  const std::size_t ffn = model_.ffn_width;
  const std::size_t up = model_.up_width();
  const std::size_t qkv = model_.qkv_width();
  const bool bias = is_gpt2();
  using enum MatmulKind;
  std::vector<MatmulShape> shapes = {matmul_shape(forward, width, qkv, bias),
                                     matmul_shape(forward, width, width, bias),
                                     matmul_shape(forward, ffn, width, bias),
                                     matmul_shape(input_gradient, width, qkv),
                                     matmul_shape(input_gradient, width, width),
                                     matmul_shape(input_gradient, width, up),
                                     matmul_shape(weight_gradient, width, qkv),
                                     matmul_shape(weight_gradient, width, width),
                                     matmul_shape(weight_gradient, width, up),
                                     matmul_shape(weight_gradient, ffn, width),
                                     matmul_shape(is_gpt2() ? forward_gelu : forward, width, up, bias),
                                     matmul_shape(input_gradient, ffn, width)};
  if (is_gpt2()) shapes.push_back(matmul_shape(input_dgelu, ffn, width));
  for (const MatmulKind kind : {forward, input_gradient, weight_gradient}) shapes.push_back(head_shape(kind));
  for (const MatmulShape& shape : shapes) PLANARIA_TRY(matmuls_->choose(shape));
  return ok_status();
}

bool Bf16Engine::epilogue_pays() const {
  // Of an H200's memory. The kernel reads the product's result and u and writes; beside the epilogue, the sums read.
  constexpr float kBytesAMicrosecond = 4e6F;
  const auto tensor = static_cast<float>(shape_.rows() * model_.ffn_width * sizeof(__nv_bfloat16));
  const auto time = [this](MatmulKind kind) {
    return matmuls_->entries().at(matmul_shape(kind, model_.ffn_width, model_.width)).microseconds;
  };
  return time(MatmulKind::input_dgelu) <= time(MatmulKind::input_gradient) + 2 * tensor / kBytesAMicrosecond;
}

Result<std::unique_ptr<ModelPass>> Bf16Engine::make_pass(BlockRange blocks) {
  return Bf16Pass::create(*this, blocks);
}

const __nv_bfloat16* Bf16Engine::working(std::uint32_t block, const float* parameters) {
  if (source_ != parameters) made_.assign(made_.size(), false);
  source_ = parameters;
  const BlockInfo& info = map_.blocks()[block];
  auto* const own = static_cast<__nv_bfloat16*>(working_.data()) + info.offset;
  if (made_[block]) return own;
  made_[block] = true;
  if (block == head()) {
    narrow(device_.stream(), std::size_t{model_.vocab} * model_.width, parameters + info.offset + head_.token,
           static_cast<__nv_bfloat16*>(head_weight_.data()));
  } else if (block > 0) {
    narrow(device_.stream(), info.elements, parameters + info.offset, own);
  }
  return own;
}

}  // namespace planaria::cuda

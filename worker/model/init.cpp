#include "worker/model/init.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <numbers>
#include <string_view>

#include "common/philox.hpp"
#include "kernels/elementary.hpp"

namespace planaria {
namespace {

constexpr double kDeviation = 0.02;

// Two independent standard normal numbers.
std::array<double, 2> box_muller(std::uint32_t a, std::uint32_t b) {
  const double uniform = (static_cast<double>(a) + 0.5) * 0x1.0p-32;  // in (0, 1)
  const double radius = std::sqrt(-2.0 * det_log(uniform));           // sqrt rounds correctly everywhere
  const double angle = static_cast<double>(b) * 0x1.0p-31 * std::numbers::pi;
  return {radius * det_cos(angle), radius * det_sin(angle)};
}

void fill_normal(std::uint64_t seed, std::uint32_t block, std::uint32_t tensor, double deviation,
                 std::span<float> out) {
  const std::uint64_t key = philox_key(seed, RandomPurpose::parameter_init);
  const std::uint64_t stream = (std::uint64_t{block} << 32) | tensor;
  for (std::size_t first = 0; first < out.size(); first += 4) {
    const PhiloxWords words = philox(key, stream, first / 4);
    const std::array<double, 2> low = box_muller(words[0], words[1]);
    const std::array<double, 2> high = box_muller(words[2], words[3]);
    const std::array<double, 4> lanes{low[0], low[1], high[0], high[1]};
    const std::size_t count = std::min<std::size_t>(4, out.size() - first);
    for (std::size_t i = 0; i < count; ++i) out[first + i] = static_cast<float>(lanes[i] * deviation);
  }
}

bool writes_residual(std::string_view name) {
  return name == "attention.out.weight" || name == "mlp.down.weight";
}
bool is_norm_gain(std::string_view name) {
  return name.starts_with("norm") && name.ends_with(".weight");
}

}  // namespace

void initialize_block(const ModelSpec& model, const StateMap& map, std::uint64_t seed, BlockIndex block,
                      std::span<float> out) {
  const BlockInfo& info = map.block(block);
  assert(out.size() == info.elements);
  std::ranges::fill(out, 0.0F);
  for (std::uint32_t index = 0; index < info.tensors.size(); ++index) {
    const TensorInfo& tensor = info.tensors[index];
    const std::span<float> values = out.subspan(tensor.offset, tensor.elements());
    if (tensor.tied) {
      fill_normal(seed, 0, 0, kDeviation, values);  // the token embedding is tensor 0 of block 0
    } else if (tensor.dimensions == 2) {
      const double scale = writes_residual(tensor.name) ? std::sqrt(2.0 * model.layers) : 1.0;
      fill_normal(seed, block.value(), index, kDeviation / scale, values);
    } else if (is_norm_gain(tensor.name)) {
      std::ranges::fill(values, 1.0F);
    }
  }
}

void initialize_parameters(const ModelSpec& model, const StateMap& map, std::uint64_t seed, std::span<float> out) {
  assert(out.size() == map.vector_elements());
  std::ranges::fill(out, 0.0F);
  for (std::uint32_t index = 0; index < map.blocks().size(); ++index) {
    const BlockInfo& info = map.blocks()[index];
    initialize_block(model, map, seed, BlockIndex(index), out.subspan(info.offset, info.elements));
  }
}

}  // namespace planaria

#include "kernels/ops.hpp"

#include "common/philox.hpp"
#include "kernels/dropout_counter.hpp"
#include "kernels/elementary.hpp"

namespace planaria {

std::vector<float> make_rope_table(std::size_t context, std::size_t head_size, double theta) {
  const std::size_t half = head_size / 2;
  std::vector<float> table(context * head_size);
  for (std::size_t i = 0; i < half; ++i) {
    const double frequency = det_pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
    for (std::size_t t = 0; t < context; ++t) {
      const double angle = static_cast<double>(t) * frequency;
      table[t * head_size + i] = static_cast<float>(det_cos(angle));
      table[t * head_size + half + i] = static_cast<float>(det_sin(angle));
    }
  }
  return table;
}

bool dropout_keeps(const DropoutKey& key, std::uint64_t sample, std::size_t element, float probability) {
  const PhiloxWords words = philox(dropout_stream(key), sample, dropout_counter(key) + element / 4);
  return (words[element % 4] >> 8) >= dropout_threshold(probability);
}

}  // namespace planaria

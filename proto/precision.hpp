// The number format that a worker trains in: activations, working parameters and products. Parameters, gradients and
// moments are fp32 in each.
//
// Thread contract: plain values.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace planaria {

// automatic: the one that the device trains in best, bf16 on a GPU and fp32 on a CPU.
enum class Precision : std::uint8_t { automatic, bf16, fp32, count_ };
inline constexpr std::array<std::string_view, 3> kPrecisionNames{"auto", "bf16", "fp32"};
[[nodiscard]] constexpr std::string_view to_string(Precision precision) {
  return kPrecisionNames.at(static_cast<std::size_t>(precision));
}

}  // namespace planaria

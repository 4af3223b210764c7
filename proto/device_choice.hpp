// What a worker computes on, as people write it: "cpu", "cuda" (any GPU of the machine), "cuda:1" (that one), or
// "auto" (a GPU where one can be used, else the CPU); and the number format that it trains in there.
//
// Thread contract: pure functions and values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.hpp"
#include "proto/precision.hpp"

namespace planaria {

enum class DeviceKind : std::uint8_t { cpu, cuda, automatic };

struct DeviceChoice {
  DeviceKind kind = DeviceKind::cpu;
  std::optional<std::uint32_t> index;  // of a GPU, as its driver counts
  Precision precision = Precision::automatic;

  bool operator==(const DeviceChoice&) const = default;
};

// invalid_argument: none of these, or bf16 on a CPU, which trains in fp32 only.
[[nodiscard]] Result<DeviceChoice> parse_device(std::string_view text, Precision precision = Precision::automatic);
// invalid_argument: no name of one.
[[nodiscard]] Result<Precision> parse_precision(std::string_view text);
// The device alone.
[[nodiscard]] std::string to_string(const DeviceChoice& choice);

}  // namespace planaria

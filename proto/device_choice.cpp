#include "proto/device_choice.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>

namespace planaria {
namespace {

constexpr std::string_view kCuda = "cuda";

}  // namespace

Result<DeviceChoice> parse_device(std::string_view text, Precision precision) {
  if (text == "cpu") {
    if (precision != Precision::bf16) return DeviceChoice{DeviceKind::cpu, {}, precision};
    return Error(ErrorCode::invalid_argument,
                 "a CPU trains in fp32 only, not in bf16: ask for \"fp32\", for \"auto\", or for a GPU");
  }
  if (text == "auto") return DeviceChoice{DeviceKind::automatic, {}, precision};
  if (text == kCuda) return DeviceChoice{DeviceKind::cuda, {}, precision};
  const Error unknown(
      ErrorCode::invalid_argument,
      fmt::format("\"{}\" is no device: \"cpu\", \"cuda\", \"cuda:0\" and so on, or \"auto\" are", text));
  if (!text.starts_with("cuda:")) return unknown;
  const char* const begin = text.data() + kCuda.size() + 1;
  const char* const end = text.data() + text.size();
  std::uint32_t index = 0;
  const auto [rest, error] = std::from_chars(begin, end, index);
  if (error != std::errc{} || rest != end) return unknown;
  return DeviceChoice{DeviceKind::cuda, index, precision};
}

Result<Precision> parse_precision(std::string_view text) {
  const auto* const found = std::ranges::find(kPrecisionNames, text);
  if (found != kPrecisionNames.end()) {
    return static_cast<Precision>(std::distance(kPrecisionNames.begin(), found));
  }
  return Error(ErrorCode::invalid_argument,
               fmt::format("\"{}\" is no precision: \"auto\", \"bf16\" and \"fp32\" are", text));
}

std::string to_string(const DeviceChoice& choice) {
  if (choice.kind == DeviceKind::cpu) return "cpu";
  if (choice.kind == DeviceKind::automatic) return "auto";
  return choice.index ? fmt::format("cuda:{}", *choice.index) : std::string(kCuda);
}

}  // namespace planaria

#include "proto/device_choice.hpp"

#include <fmt/format.h>

#include <charconv>

namespace planaria {
namespace {

constexpr std::string_view kCuda = "cuda";

}  // namespace

Result<DeviceChoice> parse_device(std::string_view text) {
  if (text == "cpu") return DeviceChoice{};
  if (text == "auto") return DeviceChoice{DeviceKind::automatic, {}};
  if (text == kCuda) return DeviceChoice{DeviceKind::cuda, {}};
  const Error unknown(
      ErrorCode::invalid_argument,
      fmt::format("\"{}\" is no device: \"cpu\", \"cuda\", \"cuda:0\" and so on, or \"auto\" are", text));
  if (!text.starts_with("cuda:")) return unknown;
  const char* const begin = text.data() + kCuda.size() + 1;
  const char* const end = text.data() + text.size();
  std::uint32_t index = 0;
  const auto [rest, error] = std::from_chars(begin, end, index);
  if (error != std::errc{} || rest != end) return unknown;
  return DeviceChoice{DeviceKind::cuda, index};
}

std::string to_string(const DeviceChoice& choice) {
  if (choice.kind == DeviceKind::cpu) return "cpu";
  if (choice.kind == DeviceKind::automatic) return "auto";
  return choice.index ? fmt::format("cuda:{}", *choice.index) : std::string(kCuda);
}

}  // namespace planaria

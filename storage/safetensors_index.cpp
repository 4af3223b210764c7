#include "storage/safetensors_index.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "storage/strict_json.hpp"

namespace planaria {
namespace {

constexpr int kMaxDepth = 2;  // the index, weight_map
constexpr std::size_t kMaxFileName = 255;

Error damaged(std::string what) {
  return {ErrorCode::corrupt, std::move(what)};
}

// A file beside the index.
bool is_file_name(std::string_view name) {
  const auto outside = [](char letter) { return letter == '/' || letter == '\\' || letter == '\0'; };
  return !name.empty() && name.size() <= kMaxFileName && name != "." && name != ".." &&
         std::ranges::none_of(name, outside);
}

}  // namespace

Result<SafetensorsIndex> parse_safetensors_index(std::string_view text) {
  if (text.size() > kMaxSafetensorsIndexBytes) {
    return damaged(fmt::format("it is larger than {} bytes", kMaxSafetensorsIndexBytes));
  }
  const auto parsed = parse_strict_json(text, kMaxDepth);
  if (!parsed) return damaged("it is not a flat JSON object with unique keys");
  for (const auto& [key, value] : parsed->items()) {
    if (key != "metadata" && key != "weight_map") return damaged(fmt::format("it has a key '{}'", key));
    if (!value.is_object()) return damaged(fmt::format("its '{}' is no object", key));
  }
  if (!parsed->contains("weight_map")) return damaged("it has no 'weight_map'");
  SafetensorsIndex index;
  for (const auto& [tensor, file] : (*parsed)["weight_map"].items()) {
    if (!file.is_string()) return damaged(fmt::format("tensor '{}' has no file's name", tensor));
    const auto name = file.get<std::string>();
    if (!is_file_name(name)) {
      return damaged(
          fmt::format("tensor '{}' is said to be in '{}', which is no file of this directory", tensor, name));
    }
    index[name].insert(tensor);
    if (index.size() > kMaxShards) return damaged(fmt::format("it names more than {} files", kMaxShards));
  }
  if (index.empty()) return damaged("its 'weight_map' is empty");
  return index;
}

}  // namespace planaria

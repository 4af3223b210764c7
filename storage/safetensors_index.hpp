// `model.safetensors.index.json`: which tensor of a model lies in which of its safetensors files.
//
// The reader takes it from anyone: bounded, each tensor once, and file names that can't leave the index's directory.
//
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "common/result.hpp"

namespace planaria {

inline constexpr std::uint64_t kMaxSafetensorsIndexBytes = 16U << 20;
inline constexpr std::size_t kMaxShards = 4096;

// The tensors of each file, by its name.
using SafetensorsIndex = std::map<std::string, std::set<std::string>>;

// `corrupt` with the reason for anything but an object of `weight_map`, names of tensors to names of files, at least
// one, and at most an object `metadata`, which says nothing that isn't in the files.
[[nodiscard]] Result<SafetensorsIndex> parse_safetensors_index(std::string_view text);

}  // namespace planaria

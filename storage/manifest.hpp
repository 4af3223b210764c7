// The manifest of a checkpoint: what it is of, which files it has, and the hash of every byte of them.
//
// manifest.json is canonical: rendering what was parsed gives the same bytes again, and its last field hashes the
// rest. A reader refuses anything else, so that no byte of it can change unseen. docs/FORMATS.md has the grammar.
//
// Thread contract: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"

namespace planaria {

inline constexpr std::uint32_t kCheckpointFormat = 1;
inline constexpr std::uint64_t kMaxManifestBytes = 4U << 20;

// One file: the state of one block.
struct ManifestFile {
  std::string name;   // "layer.3.safetensors": no directories
  std::string block;  // "layer.3"
  std::uint64_t bytes = 0;
  Hash128 hash;  // of all its bytes

  bool operator==(const ManifestFile&) const = default;
};

struct Manifest {
  Hash128 job_hash;
  std::string numeric_class;
  Step step;
  ViewNumber view;  // in which the state was committed; for people, not compared
  std::optional<Hash128> weights_hash;
  std::optional<double> loss;       // of the step, nats a token; finite
  std::vector<ManifestFile> files;  // in block order

  bool operator==(const Manifest&) const = default;
};

[[nodiscard]] std::string render(const Manifest& manifest);
// `corrupt` with the reason; `mismatch` for a format version that this program doesn't know.
[[nodiscard]] Result<Manifest> parse_manifest(std::string_view text);

}  // namespace planaria

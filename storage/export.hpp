// Models in Hugging Face's naming: `model.safetensors` and `config.json` as `transformers` reads them. The way back is
// storage/pretrained.hpp.
//
// GPT-2's linear weights are Conv1D there, [in, out]: transposed from ours. Llama's q, k, v and gate, up are parts of
// our packed matrices. RoPE is the rotate-half convention on both sides, so no rows are permuted; GELU is the tanh
// form (`gelu_new`). Values are the fp32 masters, bit for bit.
//
// Thread contract: pure functions of their arguments, and a FileSystem.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.hpp"
#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria {

inline constexpr std::string_view kModelFile = "model.safetensors";
inline constexpr std::string_view kIndexFile = "model.safetensors.index.json";
inline constexpr std::string_view kConfigFile = "config.json";

// One exported tensor: a run of rows of one of ours, or its transpose.
struct ExportTensor {
  std::string name;  // "transformer.h.0.attn.c_attn.weight"
  std::uint32_t dimensions = 1;
  std::uint64_t offset = 0;  // elements, in the whole flat vector
  std::uint64_t rows = 0;    // as we store it; vectors have columns = 1
  std::uint64_t columns = 1;
  bool transposed = false;

  [[nodiscard]] std::uint64_t elements() const { return rows * columns; }
  [[nodiscard]] std::vector<std::uint64_t> shape() const;  // as exported
};

// Every parameter exactly once (a tied copy not), in byte order of the names.
[[nodiscard]] std::vector<ExportTensor> export_tensors(const ModelSpec& model, const StateMap& map);

// The identity of a model's weights: XXH3-128 over, for each exported tensor in name order, the name's length and
// bytes, the number of dimensions and each of them, and the XXH3-128 of the exported bytes; integers as u64.
// `parameters` is the whole flat vector of fp32 masters.
[[nodiscard]] Hash128 weights_hash(const ModelSpec& model, const StateMap& map, std::span<const float> parameters);
// The same in parts: the hashes of the exported bytes of a block's tensors, in the order of their names, and the whole
// from those of all blocks. `parameters`: the block's alone. Precondition: as many as there are.
[[nodiscard]] std::vector<Hash128> tensor_hashes(const ModelSpec& model, const StateMap& map, BlockIndex block,
                                                 std::span<const float> parameters);
[[nodiscard]] std::uint32_t tensor_count(const ModelSpec& model, const StateMap& map, BlockIndex block);
[[nodiscard]] Hash128 weights_hash(const ModelSpec& model, const StateMap& map,
                                   std::span<const std::vector<Hash128>> hashes_of_blocks);
// From the hashes of the tensors' exported bytes. Precondition: tensors as export_tensors() gives them, a hash for
// each.
[[nodiscard]] Hash128 weights_hash(std::span<const ExportTensor> tensors, std::span<const Hash128> hashes);
// The same from an exported file alone.
[[nodiscard]] Result<Hash128> weights_hash_of_file(FileSystem& fs, const std::string& safetensors_path);

[[nodiscard]] std::string hugging_face_config(const ModelSpec& model);
// A GPT-2 or Llama config.json. Refuses what the model can't express (biases, other activations, RoPE scaling), as
// dropping it silently would give another model.
[[nodiscard]] Result<ModelSpec> parse_hugging_face_config(std::string_view text);

// Writes both files into `directory` (made when missing), each atomically. Returns weights_hash().
[[nodiscard]] Result<Hash128> export_model(FileSystem& fs, const std::string& directory, const ModelSpec& model,
                                           const StateMap& map, std::span<const float> parameters);

}  // namespace planaria

// Weights to start from: a directory in Hugging Face's naming, read by ranges.
//
// It holds `config.json` and either `model.safetensors` or `model.safetensors.index.json` with the files that this
// names; values are F32, BF16 or F16. The files are mapped: opening reads their headers, copy() touches the bytes of
// the range that it is asked for and no others, so that a worker takes memory for its own tiles only. weights_hash()
// is what reads everything, once, in order, and keeps nothing. It is the hash of the values as fp32, by tensor: however
// the same weights are split into files and whichever exact type they have, it is the same, and that of the run which
// exported them.
//
// A job pins its weights by that hash (model.pretrained_hash), as it pins its data. Whoever makes the job's record
// computes it, and every worker again before it registers: each reads the directory once, at the speed of its disk or
// of XXH3. A hash that covered a worker's tiles alone would have to come with the job for each tensor.
//
// Thread contract: immutable once opened; any thread may read. Files must be replaced by rename only (common/file.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/file.hpp"
#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "storage/export.hpp"
#include "storage/safetensors.hpp"

namespace planaria {

class PretrainedModel {
 public:
  // Takes the published GPT-2 files too, whose names lack "transformer." and which carry attention-mask buffers.
  // not_found: no such file; corrupt: a file that isn't sound; unsupported: a config.json that we can't express;
  // mismatch: a missing, unknown or wrongly shaped tensor, or one in another file than the index says.
  [[nodiscard]] static Result<PretrainedModel> open(FileSystem& fs, const std::string& directory,
                                                    std::uint32_t tile_elements);

  [[nodiscard]] const ModelSpec& model() const { return model_; }
  // Geometry of the flat vector that copy() reads.
  [[nodiscard]] const StateMap& map() const { return map_; }
  [[nodiscard]] std::size_t tensors() const { return tensors_.size(); }
  [[nodiscard]] std::size_t files() const { return files_.size(); }
  [[nodiscard]] std::set<TensorType> types() const;

  // Writes elements [begin, end) of the flat vector: a tied copy's are the embedding's, padding is zero.
  // Preconditions: the range lies in the vector; out.size() == range.size().
  void copy(ElementRange range, std::span<float> out) const;

  // Touches every byte.
  [[nodiscard]] Hash128 weights_hash() const;

 private:
  // A tensor's values as the file has them.
  struct Source {
    TensorType type = TensorType::f32;
    std::span<const std::byte> bytes;
  };
  // Where a tensor lies in the flat vector. A tied one lies in two places.
  struct Place {
    std::uint64_t begin = 0;
    std::size_t tensor = 0;
  };

  PretrainedModel(const ModelSpec& model, std::uint32_t tile_elements) : model_(model), map_(model, tile_elements) {}
  Status find_tensors(const std::string& directory);
  void place_tensors();
  void copy_part(std::size_t tensor, ElementRange part, std::span<float> out) const;
  [[nodiscard]] Hash128 hash_of_values(const Source& source) const;

  ModelSpec model_;
  StateMap map_;
  std::vector<SafetensorsFile> files_;
  std::vector<ExportTensor> tensors_;  // by name
  std::vector<Source> sources_;        // of those
  std::vector<Place> places_;          // by begin
};

// The weights that a job starts from, held against its model, with job.pretrained.weights_hash filled, or compared when
// the job pins it. Null when the job starts from its seed. mismatch names the keys that differ, or both hashes.
[[nodiscard]] Result<std::shared_ptr<const PretrainedModel>> open_pretrained(FileSystem& fs, JobSpec& job);

// Whether weights of the one architecture are weights of the other; mismatch names the keys that differ. Dropout
// is no part of it, and of a llama, whose weights know no positions, the context may be shorter.
[[nodiscard]] Status check_architecture(const ModelSpec& job, const ModelSpec& pretrained);

struct ImportedModel {
  ModelSpec model;
  std::vector<float> parameters;  // flat, for StateMap(model, tile_elements); a tied copy is filled
};

// The whole of PretrainedModel::open(), and its failures.
[[nodiscard]] Result<ImportedModel> import_model(FileSystem& fs, const std::string& directory,
                                                 std::uint32_t tile_elements);

}  // namespace planaria

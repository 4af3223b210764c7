// Durable checkpoints: directories `step-00000123/` with one safetensors file a block and a manifest. State is named
// by block and tensor, never by rank, so that any number of workers resumes from it to the same bits.
//
// A checkpoint is there whole or not at all: it is written under another name, synced, and renamed. Reading believes
// nothing: every byte is hashed, and a damaged checkpoint is refused with the reason and the one before it is taken.
//
// Thread contract: free functions over a FileSystem, from any thread. Several processes may write to one root; the
// same step from two of them gives one checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/file.hpp"
#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "storage/manifest.hpp"

namespace planaria {

// The optimizer's whole state after `step`: flat vectors in StateMap's geometry, vector_elements() long.
struct TrainState {
  Step step;
  ViewNumber view;
  std::optional<double> loss;  // of the step, nats a token
  std::vector<float> master;
  std::vector<float> first_moment;
  std::vector<float> second_moment;
};

// What a checkpoint is of.
struct CheckpointIdentity {
  Hash128 job_hash;
  std::string numeric_class;
};

struct WriteOptions {
  std::string root;           // the directory of the checkpoint directories; made when missing
  std::uint32_t keep = 3;     // sound checkpoints that are left, the new one included; 0 = all
  std::string writer = "w0";  // tells apart the temporary directories of writers that share a root
};

struct WrittenCheckpoint {
  std::string path;
  std::uint64_t bytes = 0;
  Hash128 weights_hash;
  bool was_there = false;                // the same state had been written before, and is sound
  std::vector<Step> pruned;              // older ones that were removed
  std::optional<Error> pruning_failure;  // old ones are still there; the new one is safe
};

// Writes, publishes, then prunes. `map` is made from `model`. On failure every earlier checkpoint is untouched and the
// new one's parts are removed; only a failure to sync its final name leaves it there, whole but not promised.
// A checkpoint of the same step: kept when it is the same state and sound, replaced when it is damaged, `mismatch`
// when it is another state.
[[nodiscard]] Result<WrittenCheckpoint> write_checkpoint(FileSystem& fs, const WriteOptions& options,
                                                         const CheckpointIdentity& identity, const ModelSpec& model,
                                                         const StateMap& map, const TrainState& state);

struct CheckpointPlace {
  Step step;
  std::string path;
};

// All that look like one by name, newest first. An absent root has none.
[[nodiscard]] Result<std::vector<CheckpointPlace>> list_checkpoints(FileSystem& fs, const std::string& root);

// Reads and checks the manifest only.
[[nodiscard]] Result<Manifest> read_manifest(FileSystem& fs, const std::string& path);
// Hashes every byte of every file.
[[nodiscard]] Result<Manifest> verify_checkpoint(FileSystem& fs, const std::string& path);

struct LoadedCheckpoint {
  std::string path;
  Manifest manifest;
  TrainState state;  // padding is zero; a tied copy in `master` is filled from the embedding
};

// Verifies and reads one. `mismatch` when it is of another job, or of another numeric class than the given one.
[[nodiscard]] Result<LoadedCheckpoint> load_checkpoint(FileSystem& fs, const std::string& path, const StateMap& map,
                                                       const Hash128& job_hash,
                                                       const std::optional<std::string>& numeric_class);

struct Refusal {
  std::string path;
  Error reason;
};

struct NewestCheckpoint {
  std::optional<LoadedCheckpoint> loaded;  // nothing when the root has no checkpoints at all
  std::vector<Refusal> refused;            // newer ones that were passed over
};

// The newest that loads. When there are some and none loads: the newest one's error, its message telling all reasons.
[[nodiscard]] Result<NewestCheckpoint> load_newest_valid(FileSystem& fs, const std::string& root, const StateMap& map,
                                                         const Hash128& job_hash,
                                                         const std::optional<std::string>& numeric_class);

// Fills a tied copy (StateMap) in a vector of parameters from the embedding. No effect without one.
void fill_tied_copy(const StateMap& map, std::span<float> parameters);

}  // namespace planaria

#include "storage/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>

#include "storage/export.hpp"
#include "storage/safetensors.hpp"

namespace planaria {
namespace {

constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kPartialPrefix = ".partial-step-";
constexpr std::string_view kRemovingPrefix = ".removing-step-";
constexpr std::string_view kManifestName = "manifest.json";

// The three vectors of a state, by the names of their tensors' first part.
struct Section {
  std::string_view name;
  std::vector<float> TrainState::*vector;
};
constexpr std::array kSections{Section{"master", &TrainState::master},
                               Section{"first_moment", &TrainState::first_moment},
                               Section{"second_moment", &TrainState::second_moment}};

std::string step_text(Step step) {
  return fmt::format("{:08}", step.value());
}

std::optional<Step> parse_step(std::string_view digits) {
  std::uint64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size() || step_text(Step(step)) != digits) return {};
  return Step(step);
}

std::string tensor_name(const Section& section, const TensorInfo& tensor) {
  return fmt::format("{}/{}", section.name, tensor.name);
}

std::vector<std::uint64_t> shape_of(const TensorInfo& tensor) {
  return {tensor.shape.begin(), tensor.shape.begin() + tensor.dimensions};
}

// Where a tensor's values lie in a flat vector.
template <class Vector>
auto values_of(Vector& flat, const BlockInfo& block, const TensorInfo& tensor) {
  return std::span(flat).subspan(block.offset + tensor.offset, tensor.elements());
}

std::vector<TensorSpec> block_tensors(const BlockInfo& block) {
  std::vector<TensorSpec> specs;
  for (const Section& section : kSections) {
    for (const TensorInfo& tensor : block.tensors) {
      if (!tensor.tied) specs.push_back({tensor_name(section, tensor), TensorType::f32, shape_of(tensor)});
    }
  }
  return specs;
}

// The metadata are for people; they depend on nothing but job, step and block, so that two writers of one state make
// the same bytes.
Result<ManifestFile> write_block(FileSystem& fs, const std::string& directory, const CheckpointIdentity& identity,
                                 const BlockInfo& block, const TrainState& state) {
  ManifestFile entry{block.name + ".safetensors", block.name, 0, {}};
  PLANARIA_ASSIGN(auto file, fs.create(join_path(directory, entry.name)));
  const TensorMetadata metadata{{"planaria.job_hash", identity.job_hash.hex()},
                                {"planaria.step", std::to_string(state.step.value())},
                                {"planaria.block", block.name}};
  PLANARIA_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::begin(*file, block_tensors(block), metadata));
  for (const Section& section : kSections) {
    for (const TensorInfo& tensor : block.tensors) {
      if (!tensor.tied) PLANARIA_TRY(writer.append(values_of(state.*section.vector, block, tensor)));
    }
  }
  PLANARIA_TRY(writer.finish());
  PLANARIA_TRY(file->sync());
  PLANARIA_TRY(file->close());
  entry.bytes = writer.bytes();
  entry.hash = writer.hash();
  return entry;
}

Status check_space(FileSystem& fs, const std::string& root, const StateMap& map, Step step) {
  // Headers and the manifest are small; a fraction more covers them and what the file system adds.
  const std::uint64_t data = map.parameter_count() * sizeof(float) * kSections.size();
  const std::uint64_t needed = data + data / 64 + 65536;
  PLANARIA_ASSIGN(const std::uint64_t free, fs.free_bytes(root));
  if (free >= needed) return ok_status();
  return Error(ErrorCode::exhausted,
               fmt::format("the checkpoint of step {} needs {} MB, '{}' has {} MB free; free space there or lower "
                           "checkpoint.keep",
                           step.value(), needed / 1'000'000 + 1, root, free / 1'000'000));
}

// One write of one checkpoint: everything that touches the disk, in the order that makes it durable.
class Publication {
 public:
  Publication(FileSystem& fs, const WriteOptions& options, Step step)
      : fs_(fs),
        options_(options),
        step_(step),
        path_(join_path(options.root, fmt::format("{}{}", kStepPrefix, step_text(step)))),
        partial_(join_path(options.root, fmt::format("{}{}-{}", kPartialPrefix, step_text(step), options.writer))) {}

  [[nodiscard]] const std::string& path() const { return path_; }

  Status write_partial(const CheckpointIdentity& identity, const StateMap& map, const TrainState& state,
                       Manifest& manifest) {
    PLANARIA_TRY(remove_tree(fs_, partial_));
    PLANARIA_TRY(fs_.make_directories(partial_));
    for (const BlockInfo& block : map.blocks()) {
      PLANARIA_ASSIGN(ManifestFile file, write_block(fs_, partial_, identity, block, state));
      manifest.files.push_back(std::move(file));
    }
    PLANARIA_ASSIGN(auto file, fs_.create(join_path(partial_, kManifestName)));
    PLANARIA_TRY(file->append(render(manifest)));
    PLANARIA_TRY(file->sync());
    PLANARIA_TRY(file->close());
    return fs_.sync_directory(partial_);
  }

  // Gives the partial directory its name. True when the same state already had it.
  Result<bool> publish(const Manifest& manifest) {
    for (int attempt = 0;; ++attempt) {
      if (const auto there = fs_.info(path_); there) {
        const auto existing = verify_checkpoint(fs_, path_);
        if (existing) return keep_existing(*existing, manifest);
        // Damaged, or hashing it failed: nothing that could be resumed from is lost by putting a sound one there.
        PLANARIA_TRY(retire(path_, step_));
      }
      const Status renamed = fs_.rename(partial_, path_);
      if (renamed) break;
      // Another writer of the same step came first: look at what it wrote.
      if (attempt > 0 || !fs_.info(path_)) return renamed.error();
    }
    PLANARIA_TRY(fs_.sync_directory(options_.root));
    return false;
  }

  void abandon() { static_cast<void>(remove_tree(fs_, partial_)); }  // the error that led here is the one to tell

  // Keeps this one and the newest sound ones before it; also removes what dead writers left behind.
  Status prune(std::vector<Step>& pruned) {
    if (options_.keep != 0) {
      PLANARIA_ASSIGN(const auto places, list_checkpoints(fs_, options_.root));
      std::uint32_t kept = 1;
      for (const CheckpointPlace& place : places) {
        if (place.step >= step_) continue;
        if (kept < options_.keep) {
          kept += looks_sound(place.path) ? 1 : 0;
          continue;
        }
        PLANARIA_TRY(retire(place.path, place.step));
        pruned.push_back(place.step);
      }
    }
    return remove_leftovers();
  }

 private:
  Result<bool> keep_existing(const Manifest& existing, const Manifest& ours) {
    if (existing.job_hash != ours.job_hash || existing.files != ours.files) {
      return Error(ErrorCode::mismatch,
                   fmt::format("'{}' holds another state of step {} (job {}); write to an empty directory or remove it",
                               path_, step_.value(), existing.job_hash.hex()));
    }
    PLANARIA_TRY(remove_tree(fs_, partial_));
    return true;
  }

  // Off its name first: a half-removed directory must never look like a checkpoint.
  Status retire(const std::string& path, Step step) {
    const std::string aside =
        join_path(options_.root, fmt::format("{}{}-{}", kRemovingPrefix, step_text(step), options_.writer));
    PLANARIA_TRY(remove_tree(fs_, aside));
    PLANARIA_TRY(fs_.rename(path, aside));
    PLANARIA_TRY(fs_.sync_directory(options_.root));
    return remove_tree(fs_, aside);
  }

  // Sizes only; hashing old checkpoints at every new one would cost more than it tells.
  [[nodiscard]] bool looks_sound(const std::string& path) const {
    const auto manifest = read_manifest(fs_, path);
    return manifest && std::ranges::all_of(manifest->files, [&](const ManifestFile& file) {
             const auto info = fs_.info(join_path(path, file.name));
             return info && info->bytes == file.bytes;
           });
  }

  // Partial directories of earlier steps, and whatever was being removed. Those of this step may belong to a live
  // writer, and go with the next checkpoint.
  Status remove_leftovers() {
    PLANARIA_ASSIGN(const auto entries, fs_.list(options_.root));
    for (const DirectoryEntry& entry : entries) {
      const std::string_view name = entry.name;
      bool leftover = name.starts_with(kRemovingPrefix);
      if (name.starts_with(kPartialPrefix)) {
        const std::string_view rest = name.substr(kPartialPrefix.size());
        const auto step = parse_step(rest.substr(0, rest.find('-')));
        leftover = step && *step < step_;
      }
      if (!leftover) continue;
      const Status removed = remove_tree(fs_, join_path(options_.root, name));
      if (!removed && removed.error().code() != ErrorCode::not_found) return removed;  // another writer was faster
    }
    return ok_status();
  }

  FileSystem& fs_;
  const WriteOptions& options_;
  Step step_;
  std::string path_;
  std::string partial_;
};

Status read_block(FileSystem& fs, const std::string& path, const BlockInfo& block, TrainState& state) {
  PLANARIA_ASSIGN(const SafetensorsFile file, SafetensorsFile::open(fs, path));
  for (const Section& section : kSections) {
    for (const TensorInfo& tensor : block.tensors) {
      if (tensor.tied) continue;
      PLANARIA_TRY(file.copy_floats(tensor_name(section, tensor), shape_of(tensor),
                                    values_of(state.*section.vector, block, tensor)));
    }
  }
  return ok_status();
}

Status check_file(FileSystem& fs, const std::string& directory, const ManifestFile& expected) {
  const std::string path = join_path(directory, expected.name);
  PLANARIA_ASSIGN(const FileView file, fs.map(path));
  if (file.bytes().size() != expected.bytes) {
    return Error(ErrorCode::corrupt,
                 fmt::format("'{}' has {} bytes, its manifest says {}", path, file.bytes().size(), expected.bytes));
  }
  if (hash_bytes(file.bytes()) != expected.hash) {
    return Error(ErrorCode::corrupt, fmt::format("the bytes of '{}' don't match their hash", path));
  }
  return ok_status();
}

Status check_identity(const Manifest& manifest, const std::string& path, const StateMap& map, const Hash128& job_hash,
                      const std::optional<std::string>& numeric_class) {
  const auto mismatch = [&](std::string_view what, std::string_view theirs, std::string_view ours) {
    return Error(ErrorCode::mismatch, fmt::format("'{}' is of {} {}, this is {}", path, what, theirs, ours));
  };
  if (manifest.job_hash != job_hash) return mismatch("job", manifest.job_hash.hex(), job_hash.hex());
  if (numeric_class && *numeric_class != manifest.numeric_class) {
    return mismatch("numeric class", manifest.numeric_class, *numeric_class);
  }
  if (!std::ranges::equal(manifest.files, map.blocks(), {}, &ManifestFile::block, &BlockInfo::name)) {
    return Error(ErrorCode::mismatch, fmt::format("the blocks of '{}' are not those of the model", path));
  }
  return ok_status();
}

}  // namespace

Result<WrittenCheckpoint> write_checkpoint(FileSystem& fs, const WriteOptions& options,
                                           const CheckpointIdentity& identity, const ModelSpec& model,
                                           const StateMap& map, const TrainState& state) {
  for (const Section& section : kSections) {
    if ((state.*section.vector).size() != map.vector_elements()) {
      return Error(ErrorCode::invalid_argument, "a state's vectors don't have the size of the model");
    }
  }
  PLANARIA_TRY(fs.make_directories(options.root));
  PLANARIA_TRY(check_space(fs, options.root, map, state.step));

  Publication publication(fs, options, state.step);
  WrittenCheckpoint written;
  written.path = publication.path();
  written.weights_hash = weights_hash(model, map, state.master);
  Manifest manifest{identity.job_hash, identity.numeric_class, state.step, state.view, written.weights_hash, {}, {}};
  if (state.loss && std::isfinite(*state.loss)) manifest.loss = state.loss;
  if (const Status partial = publication.write_partial(identity, map, state, manifest); !partial) {
    publication.abandon();
    return partial.error();
  }
  const auto published = publication.publish(manifest);
  if (!published) {
    publication.abandon();
    return published.error();
  }
  written.was_there = *published;
  for (const ManifestFile& file : manifest.files) written.bytes += file.bytes;
  if (const Status pruned = publication.prune(written.pruned); !pruned) written.pruning_failure = pruned.error();
  return written;
}

Result<std::vector<CheckpointPlace>> list_checkpoints(FileSystem& fs, const std::string& root) {
  const auto entries = fs.list(root);
  if (!entries && entries.error().code() == ErrorCode::not_found) return std::vector<CheckpointPlace>{};
  if (!entries) return entries.error();
  std::vector<CheckpointPlace> places;
  for (const DirectoryEntry& entry : *entries) {
    if (entry.kind != FileKind::directory || !entry.name.starts_with(kStepPrefix)) continue;
    const auto step = parse_step(std::string_view(entry.name).substr(kStepPrefix.size()));
    if (step) places.push_back({*step, join_path(root, entry.name)});
  }
  std::ranges::sort(places, std::greater(), &CheckpointPlace::step);
  return places;
}

Result<Manifest> read_manifest(FileSystem& fs, const std::string& path) {
  const std::string file = join_path(path, kManifestName);
  PLANARIA_ASSIGN(const std::string text, read_file(fs, file, kMaxManifestBytes));
  auto manifest = parse_manifest(text);
  if (!manifest) return manifest.error().within(file);
  return manifest;
}

Result<Manifest> verify_checkpoint(FileSystem& fs, const std::string& path) {
  PLANARIA_ASSIGN(Manifest manifest, read_manifest(fs, path));
  for (const ManifestFile& file : manifest.files) PLANARIA_TRY(check_file(fs, path, file));
  return manifest;
}

Result<LoadedCheckpoint> load_checkpoint(FileSystem& fs, const std::string& path, const StateMap& map,
                                         const Hash128& job_hash, const std::optional<std::string>& numeric_class) {
  PLANARIA_ASSIGN(Manifest manifest, verify_checkpoint(fs, path));
  PLANARIA_TRY(check_identity(manifest, path, map, job_hash, numeric_class));
  LoadedCheckpoint loaded{path, std::move(manifest), {}};
  loaded.state.step = loaded.manifest.step;
  loaded.state.view = loaded.manifest.view;
  loaded.state.loss = loaded.manifest.loss;
  for (const Section& section : kSections) (loaded.state.*section.vector).resize(map.vector_elements());
  for (std::size_t i = 0; i < map.blocks().size(); ++i) {
    PLANARIA_TRY(read_block(fs, join_path(path, loaded.manifest.files[i].name), map.blocks()[i], loaded.state));
  }
  fill_tied_copy(map, loaded.state.master);
  return loaded;
}

Result<NewestCheckpoint> load_newest_valid(FileSystem& fs, const std::string& root, const StateMap& map,
                                           const Hash128& job_hash, const std::optional<std::string>& numeric_class) {
  PLANARIA_ASSIGN(const auto places, list_checkpoints(fs, root));
  NewestCheckpoint newest;
  for (const CheckpointPlace& place : places) {
    auto loaded = load_checkpoint(fs, place.path, map, job_hash, numeric_class);
    if (loaded && loaded->manifest.step != place.step) {
      loaded = Error(ErrorCode::corrupt,
                     fmt::format("'{}' holds step {}: it was renamed", place.path, loaded->manifest.step.value()));
    }
    if (loaded) {
      newest.loaded = std::move(loaded).value();
      return newest;
    }
    newest.refused.push_back({place.path, loaded.error()});
  }
  if (newest.refused.empty()) return newest;
  std::string reasons;
  for (const Refusal& refusal : newest.refused)
    reasons += fmt::format("\n  {}: {}", refusal.path, refusal.reason.describe());
  return Error(
      newest.refused.front().reason.code(),
      fmt::format("no checkpoint in '{}' can be resumed from; give another directory, or start anew in an empty "
                  "one:{}",
                  root, reasons));
}

void fill_tied_copy(const StateMap& map, std::span<float> parameters) {
  const BlockInfo& embed = map.blocks().front();
  for (const BlockInfo& block : map.blocks()) {
    for (const TensorInfo& tensor : block.tensors) {
      if (!tensor.tied) continue;
      std::ranges::copy(values_of(parameters, embed, embed.tensor(tensor.name)),
                        values_of(parameters, block, tensor).begin());
    }
  }
}

}  // namespace planaria

#include "storage/pretrained.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <map>
#include <utility>

#include "common/config.hpp"
#include "storage/safetensors_index.hpp"

namespace planaria {
namespace {

constexpr std::string_view kGpt2Prefix = "transformer.";
constexpr std::uint64_t kMaxConfigJsonBytes = 1U << 20;

// A tensor and the file that has it.
struct Found {
  const SafetensorsFile* file;
  const TensorEntry* entry;
};
using TensorsByName = std::map<std::string, Found, std::less<>>;

// Buffers that old GPT-2 files carry beside the weights, and the copy of a tied embedding.
bool is_no_weight(std::string_view name, const ModelSpec& model) {
  if (name == "lm_head.weight") return model.tied_embedding;
  return model.family == ModelFamily::gpt2 && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

// Under which name the files have the tensor: published GPT-2 files leave the prefix out.
TensorsByName::const_iterator find(const TensorsByName& all, const std::string& name) {
  const auto found = all.find(name);
  if (found != all.end() || !name.starts_with(kGpt2Prefix)) return found;
  return all.find(std::string_view(name).substr(kGpt2Prefix.size()));
}

// A lower bound of a model's parameters, so that a config can't make us build a map far larger than the files.
unsigned __int128 least_elements(const ModelSpec& model) {
  const unsigned __int128 width = model.width;
  return width * model.vocab + model.layers * (2 * width * width + 2 * width * model.ffn_width);
}

Status check_shard(const SafetensorsFile& file, const std::string& name, const std::set<std::string>& expected) {
  std::set<std::string> missing = expected;
  for (const TensorEntry& entry : file.header().tensors) {
    if (missing.erase(entry.name) != 0) continue;
    return Error(ErrorCode::mismatch,
                 fmt::format("'{}' has tensor '{}', which {} doesn't say", name, entry.name, kIndexFile));
  }
  if (missing.empty()) return ok_status();
  return Error(ErrorCode::mismatch,
               fmt::format("'{}' lacks tensor '{}', which {} says is there", name, *missing.begin(), kIndexFile));
}

// As `transformers` chooses: one file when it is there, else those of the index.
Result<std::vector<SafetensorsFile>> open_files(FileSystem& fs, const std::string& directory) {
  std::vector<SafetensorsFile> files;
  const std::string single = join_path(directory, kModelFile);
  const std::string index_path = join_path(directory, kIndexFile);
  const auto there = fs.info(single);
  if (there || there.error().code() != ErrorCode::not_found) {
    PLANARIA_ASSIGN(SafetensorsFile file, SafetensorsFile::open(fs, single));
    files.push_back(std::move(file));
    return files;
  }
  const auto text = read_file(fs, index_path, kMaxSafetensorsIndexBytes);
  if (!text) {
    if (text.error().code() != ErrorCode::not_found) return text.error();
    return Error(ErrorCode::not_found, fmt::format("'{}' has neither {} nor {}", directory, kModelFile, kIndexFile));
  }
  const auto index = parse_safetensors_index(*text);
  if (!index) return index.error().within(fmt::format("'{}' is not a sound index", index_path));
  for (const auto& [name, tensors] : *index) {
    const std::string path = join_path(directory, name);
    PLANARIA_ASSIGN(SafetensorsFile file, SafetensorsFile::open(fs, path));
    PLANARIA_TRY(check_shard(file, path, tensors));
    files.push_back(std::move(file));
  }
  return files;
}

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Result<PretrainedModel> PretrainedModel::open(FileSystem& fs, const std::string& directory,
                                              std::uint32_t tile_elements) {
  const std::string config_path = join_path(directory, kConfigFile);
  PLANARIA_ASSIGN(const std::string config, read_file(fs, config_path, kMaxConfigJsonBytes));
  const auto model = parse_hugging_face_config(config);
  if (!model) return model.error().within(config_path);
  PLANARIA_ASSIGN(auto files, open_files(fs, directory));
  std::uint64_t bytes = 0;
  std::size_t tensors = 0;
  for (const SafetensorsFile& file : files) {
    tensors += file.header().tensors.size();
    if (!file.header().tensors.empty()) bytes += file.header().tensors.back().end;
  }
  if (least_elements(*model) > bytes || model->layers > tensors) {
    return Error(ErrorCode::mismatch,
                 fmt::format("the files in '{}' are too small for the model in {}", directory, kConfigFile));
  }
  PretrainedModel opened(*model, tile_elements);
  opened.files_ = std::move(files);
  PLANARIA_TRY(opened.find_tensors(directory));
  opened.place_tensors();
  return opened;
}

Status PretrainedModel::find_tensors(const std::string& directory) {
  TensorsByName unused;
  for (const SafetensorsFile& file : files_) {
    for (const TensorEntry& entry : file.header().tensors) unused.emplace(entry.name, Found{&file, &entry});
  }
  const auto fail = [&](std::string why) { return Error(ErrorCode::mismatch, std::move(why)).within(directory); };
  tensors_ = export_tensors(model_, map_);
  for (const ExportTensor& tensor : tensors_) {
    const auto found = find(unused, tensor.name);
    if (found == unused.end()) return fail(fmt::format("tensor '{}' is missing", tensor.name));
    const auto [file, entry] = found->second;
    if (entry->shape != tensor.shape()) {
      return fail(fmt::format("tensor '{}' has shape [{}], {} says [{}]", entry->name, fmt::join(entry->shape, ", "),
                              kConfigFile, fmt::join(tensor.shape(), ", ")));
    }
    if (!reads_as_floats(entry->type)) {
      return fail(fmt::format("tensor '{}' has type {}, readable as floats are F32, BF16, F16", entry->name,
                              to_string(entry->type)));
    }
    sources_.push_back({entry->type, file->bytes(*entry)});
    unused.erase(found);
  }
  for (const auto& [name, found] : unused) {
    if (!is_no_weight(name, model_)) return fail(fmt::format("tensor '{}' has no place in the model", name));
  }
  return ok_status();
}

void PretrainedModel::place_tensors() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) places_.push_back({tensors_[i].offset, i});
  const auto embedding = std::ranges::find(tensors_, std::uint64_t{0}, &ExportTensor::offset);
  for (const TensorInfo& tensor : map_.blocks().back().tensors) {
    if (!tensor.tied) continue;
    places_.push_back(
        {map_.blocks().back().offset + tensor.offset, static_cast<std::size_t>(embedding - tensors_.begin())});
  }
  std::ranges::sort(places_, {}, &Place::begin);
}

std::set<TensorType> PretrainedModel::types() const {
  std::set<TensorType> types;
  for (const Source& source : sources_) types.insert(source.type);
  return types;
}

void PretrainedModel::copy(ElementRange range, std::span<float> out) const {
  assert(range.end <= map_.vector_elements() && out.size() == range.size());
  std::ranges::fill(out, 0.0F);
  auto place = std::ranges::upper_bound(places_, range.begin, {}, &Place::begin);
  if (place != places_.begin()) --place;
  for (; place != places_.end() && place->begin < range.end; ++place) {
    const std::uint64_t begin = std::max(range.begin, place->begin);
    const std::uint64_t end = std::min(range.end, place->begin + tensors_[place->tensor].elements());
    if (begin >= end) continue;
    copy_part(place->tensor, {begin - place->begin, end - place->begin}, out.subspan(begin - range.begin, end - begin));
  }
}

// `part` counts in our order of the tensor's elements.
void PretrainedModel::copy_part(std::size_t index, ElementRange part, std::span<float> out) const {
  const ExportTensor& tensor = tensors_[index];
  const auto& [type, bytes] = sources_[index];
  const std::uint64_t size = bytes_of(type);
  if (!tensor.transposed) {
    read_floats(type, bytes.subspan(part.begin * size, part.size() * size), out);
    return;
  }
  // Our rows are the file's columns. A strip of them is a cache line or two of each of the file's rows, and as many
  // lines of ours. Of a column c the range has the rows r with part.begin <= r · columns + c < part.end.
  constexpr std::uint64_t kStrip = 32;
  std::array<float, kStrip> values{};
  const std::uint64_t columns = tensor.columns;
  const auto first_row = [&](std::uint64_t element, std::uint64_t column) {
    return element > column ? ceil_div(element - column, columns) : 0;
  };
  for (std::uint64_t strip = part.begin / columns; strip * columns < part.end; strip += kStrip) {
    for (std::uint64_t c = 0; c < columns; ++c) {
      const std::uint64_t begin = std::max(strip, first_row(part.begin, c));
      const std::uint64_t end = std::min(strip + kStrip, first_row(part.end, c));
      if (begin >= end) continue;
      const std::span<float> read(values.data(), end - begin);
      read_floats(type, bytes.subspan((c * tensor.rows + begin) * size, read.size() * size), read);
      for (std::uint64_t r = begin; r < end; ++r) out[r * columns + c - part.begin] = values[r - begin];
    }
  }
}

Hash128 PretrainedModel::hash_of_values(const Source& source) const {
  if (source.type == TensorType::f32) return hash_bytes(source.bytes);
  constexpr std::size_t kPart = 16384;
  const std::uint64_t size = bytes_of(source.type);
  std::vector<float> values(kPart);
  Hasher hasher;
  for (std::size_t at = 0; at < source.bytes.size(); at += kPart * size) {
    const auto part = source.bytes.subspan(at, std::min<std::size_t>(kPart * size, source.bytes.size() - at));
    const std::span<float> read = std::span(values).first(part.size() / size);
    read_floats(source.type, part, read);
    hasher.update(std::as_bytes(read));
  }
  return hasher.digest();
}

Hash128 PretrainedModel::weights_hash() const {
  std::vector<Hash128> hashes;
  for (const Source& source : sources_) hashes.push_back(hash_of_values(source));
  return planaria::weights_hash(tensors_, hashes);
}

Status check_architecture(const ModelSpec& job, const ModelSpec& pretrained) {
  Problems problems;
  const auto same = [&](std::string_view key, const auto& ours, const auto& theirs) {
    if (ours != theirs) problems.add(fmt::format("model.{} = {}, but {} says {}", key, ours, kConfigFile, theirs));
  };
  same("family", to_string(job.family), to_string(pretrained.family));
  if (!problems.empty()) return Error(ErrorCode::mismatch, problems.status().error().message());
  same("layers", job.layers, pretrained.layers);
  same("heads", job.heads, pretrained.heads);
  same("kv_heads", job.kv_heads, pretrained.kv_heads);
  same("width", job.width, pretrained.width);
  same("ffn_width", job.ffn_width, pretrained.ffn_width);
  same("vocab", job.vocab, pretrained.vocab);
  const bool shorter = job.family == ModelFamily::llama && job.context < pretrained.context;
  if (!shorter) same("context", job.context, pretrained.context);
  same("tied_embedding", job.tied_embedding, pretrained.tied_embedding);
  if (job.family == ModelFamily::llama) same("rope_theta", job.rope_theta, pretrained.rope_theta);
  same("norm_epsilon", job.norm_epsilon, pretrained.norm_epsilon);
  if (problems.empty()) return ok_status();
  return Error(ErrorCode::mismatch, problems.status().error().message());
}

Result<std::shared_ptr<const PretrainedModel>> open_pretrained(FileSystem& fs, JobSpec& job) {
  if (job.pretrained.path.empty()) return std::shared_ptr<const PretrainedModel>();
  PLANARIA_ASSIGN(PretrainedModel opened, PretrainedModel::open(fs, job.pretrained.path, job.train.tile_elements));
  if (const Status fits = check_architecture(job.model, opened.model()); !fits) {
    return fits.error().within(
        fmt::format("the model in '{}' is not the job's (`planaria import` prints its [model])", job.pretrained.path));
  }
  const Hash128 hash = opened.weights_hash();
  if (job.pretrained.weights_hash != Hash128{} && job.pretrained.weights_hash != hash) {
    return Error(ErrorCode::mismatch,
                 fmt::format("the weights in '{}' are not the job's: their hash is {}, the job says {}",
                             job.pretrained.path, hash.hex(), job.pretrained.weights_hash.hex()));
  }
  job.pretrained.weights_hash = hash;
  return std::make_shared<const PretrainedModel>(std::move(opened));
}

Result<ImportedModel> import_model(FileSystem& fs, const std::string& directory, std::uint32_t tile_elements) {
  PLANARIA_ASSIGN(const PretrainedModel opened, PretrainedModel::open(fs, directory, tile_elements));
  ImportedModel imported{opened.model(), std::vector<float>(opened.map().vector_elements())};
  opened.copy({0, opened.map().vector_elements()}, imported.parameters);
  return imported;
}

}  // namespace planaria

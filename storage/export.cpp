#include "storage/export.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "storage/safetensors.hpp"

namespace planaria {
namespace {

class Collector {
 public:
  explicit Collector(const StateMap& map) : map_(map) {}

  void use(BlockIndex block) { block_ = &map_.block(block); }
  void whole(std::string_view ours, std::string theirs, bool transposed = false) {
    const TensorInfo& tensor = block_->tensor(ours);
    add(tensor, 0, tensor.shape[0], std::move(theirs), transposed);
  }
  void rows(std::string_view ours, std::uint64_t from, std::uint64_t count, std::string theirs) {
    add(block_->tensor(ours), from, count, std::move(theirs), false);
  }
  std::vector<ExportTensor> take() {
    std::ranges::sort(tensors_, {}, &ExportTensor::name);
    return std::move(tensors_);
  }

 private:
  void add(const TensorInfo& tensor, std::uint64_t from, std::uint64_t rows, std::string name, bool transposed) {
    tensors_.push_back({std::move(name), tensor.dimensions, block_->offset + tensor.offset + from * tensor.shape[1],
                        rows, tensor.shape[1], transposed});
  }

  const StateMap& map_;
  const BlockInfo* block_ = nullptr;
  std::vector<ExportTensor> tensors_;
};

void collect_gpt2(const ModelSpec& model, Collector& out) {
  out.use(BlockIndex(0));
  out.whole("token.weight", "transformer.wte.weight");
  out.whole("position.weight", "transformer.wpe.weight");
  struct Names {
    const char* ours;
    const char* theirs;
    bool linear;
  };
  constexpr Names kNames[] = {
      {"norm1", "ln_1", false}, {"attention.qkv", "attn.c_attn", true}, {"attention.out", "attn.c_proj", true},
      {"norm2", "ln_2", false}, {"mlp.up", "mlp.c_fc", true},           {"mlp.down", "mlp.c_proj", true}};
  for (std::uint32_t i = 0; i < model.layers; ++i) {
    out.use(BlockIndex(i + 1));
    for (const Names& names : kNames) {
      const std::string theirs = fmt::format("transformer.h.{}.{}", i, names.theirs);
      out.whole(std::string(names.ours) + ".weight", theirs + ".weight", names.linear);
      out.whole(std::string(names.ours) + ".bias", theirs + ".bias");
    }
  }
  out.use(BlockIndex(model.layers + 1));
  out.whole("norm.weight", "transformer.ln_f.weight");
  out.whole("norm.bias", "transformer.ln_f.bias");
  if (!model.tied_embedding) out.whole("token.weight", "lm_head.weight");
}

void collect_llama(const ModelSpec& model, Collector& out) {
  out.use(BlockIndex(0));
  out.whole("token.weight", "model.embed_tokens.weight");
  const std::uint64_t kv_rows = std::uint64_t{model.kv_heads} * model.head_size();
  for (std::uint32_t i = 0; i < model.layers; ++i) {
    out.use(BlockIndex(i + 1));
    const std::string layer = fmt::format("model.layers.{}.", i);
    out.whole("norm1.weight", layer + "input_layernorm.weight");
    out.rows("attention.qkv.weight", 0, model.width, layer + "self_attn.q_proj.weight");
    out.rows("attention.qkv.weight", model.width, kv_rows, layer + "self_attn.k_proj.weight");
    out.rows("attention.qkv.weight", model.width + kv_rows, kv_rows, layer + "self_attn.v_proj.weight");
    out.whole("attention.out.weight", layer + "self_attn.o_proj.weight");
    out.whole("norm2.weight", layer + "post_attention_layernorm.weight");
    out.rows("mlp.gate_up.weight", 0, model.ffn_width, layer + "mlp.gate_proj.weight");
    out.rows("mlp.gate_up.weight", model.ffn_width, model.ffn_width, layer + "mlp.up_proj.weight");
    out.whole("mlp.down.weight", layer + "mlp.down_proj.weight");
  }
  out.use(BlockIndex(model.layers + 1));
  out.whole("norm.weight", "model.norm.weight");
  if (!model.tied_embedding) out.whole("token.weight", "lm_head.weight");
}

// out[c][r] = in[r][c], in square patches that stay in the cache.
void transpose(std::span<const float> in, std::uint64_t rows, std::uint64_t columns, std::span<float> out) {
  constexpr std::uint64_t kPatch = 32;
  for (std::uint64_t r0 = 0; r0 < rows; r0 += kPatch) {
    for (std::uint64_t c0 = 0; c0 < columns; c0 += kPatch) {
      for (std::uint64_t r = r0; r < std::min(r0 + kPatch, rows); ++r) {
        for (std::uint64_t c = c0; c < std::min(c0 + kPatch, columns); ++c) out[c * rows + r] = in[r * columns + c];
      }
    }
  }
}

// The tensor's values as exported: a view of `parameters`, or of `scratch` when they have to be turned.
std::span<const float> exported_values(const ExportTensor& tensor, std::span<const float> parameters,
                                       std::vector<float>& scratch) {
  const auto ours = parameters.subspan(tensor.offset, tensor.elements());
  if (!tensor.transposed) return ours;
  scratch.resize(tensor.elements());
  transpose(ours, tensor.rows, tensor.columns, scratch);
  return scratch;
}

void add_to_hash(Hasher& hasher, std::string_view name, std::span<const std::uint64_t> shape, const Hash128& values) {
  hasher.update(std::uint64_t{name.size()});
  hasher.update(name);
  hasher.update(std::uint64_t{shape.size()});
  for (const std::uint64_t dimension : shape) hasher.update(dimension);
  hasher.update(values);
}

// The block that a tensor is of.
std::uint32_t block_of(const StateMap& map, const ExportTensor& tensor) {
  const auto after = std::ranges::upper_bound(map.blocks(), tensor.offset, {}, &BlockInfo::offset);
  return static_cast<std::uint32_t>(after - map.blocks().begin() - 1);
}

Status write_model(FileSystem& fs, const std::string& path, const std::vector<ExportTensor>& tensors,
                   std::span<const float> parameters) {
  PLANARIA_ASSIGN(auto file, fs.create(path));
  std::vector<TensorSpec> specs;
  for (const ExportTensor& tensor : tensors) specs.push_back({tensor.name, TensorType::f32, tensor.shape()});
  PLANARIA_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::begin(*file, std::move(specs), {{"format", "pt"}}));
  std::vector<float> scratch;
  for (const ExportTensor& tensor : tensors) PLANARIA_TRY(writer.append(exported_values(tensor, parameters, scratch)));
  PLANARIA_TRY(writer.finish());
  PLANARIA_TRY(file->sync());
  return file->close();
}

}  // namespace

std::vector<std::uint64_t> ExportTensor::shape() const {
  if (dimensions == 1) return {rows};
  return transposed ? std::vector{columns, rows} : std::vector{rows, columns};
}

std::vector<ExportTensor> export_tensors(const ModelSpec& model, const StateMap& map) {
  Collector collector(map);
  if (model.family == ModelFamily::gpt2) {
    collect_gpt2(model, collector);
  } else {
    collect_llama(model, collector);
  }
  return collector.take();
}

Hash128 weights_hash(const ModelSpec& model, const StateMap& map, std::span<const float> parameters) {
  std::vector<std::vector<Hash128>> hashes;
  for (std::uint32_t block = 0; block < map.blocks().size(); ++block) {
    const BlockInfo& info = map.block(BlockIndex(block));
    hashes.push_back(tensor_hashes(model, map, BlockIndex(block), parameters.subspan(info.offset, info.elements)));
  }
  return weights_hash(model, map, hashes);
}

std::vector<Hash128> tensor_hashes(const ModelSpec& model, const StateMap& map, BlockIndex block,
                                   std::span<const float> parameters) {
  std::vector<Hash128> hashes;
  std::vector<float> scratch;
  for (ExportTensor tensor : export_tensors(model, map)) {
    if (block_of(map, tensor) != block.value()) continue;
    tensor.offset -= map.block(block).offset;
    hashes.push_back(hash_bytes(std::as_bytes(exported_values(tensor, parameters, scratch))));
  }
  return hashes;
}

std::uint32_t tensor_count(const ModelSpec& model, const StateMap& map, BlockIndex block) {
  const auto tensors = export_tensors(model, map);
  return static_cast<std::uint32_t>(std::ranges::count_if(
      tensors, [&](const ExportTensor& tensor) { return block_of(map, tensor) == block.value(); }));
}

Hash128 weights_hash(const ModelSpec& model, const StateMap& map,
                     std::span<const std::vector<Hash128>> hashes_of_blocks) {
  const auto tensors = export_tensors(model, map);
  std::vector<Hash128> hashes;
  std::vector<std::size_t> used(hashes_of_blocks.size(), 0);
  for (const ExportTensor& tensor : tensors) {
    const std::uint32_t block = block_of(map, tensor);
    hashes.push_back(hashes_of_blocks[block][used[block]++]);
  }
  return weights_hash(tensors, hashes);
}

Hash128 weights_hash(std::span<const ExportTensor> tensors, std::span<const Hash128> hashes) {
  Hasher hasher;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    add_to_hash(hasher, tensors[i].name, tensors[i].shape(), hashes[i]);
  }
  return hasher.digest();
}

Result<Hash128> weights_hash_of_file(FileSystem& fs, const std::string& safetensors_path) {
  PLANARIA_ASSIGN(const SafetensorsFile file, SafetensorsFile::open(fs, safetensors_path));
  std::vector<const TensorEntry*> entries;
  for (const TensorEntry& entry : file.header().tensors) entries.push_back(&entry);
  std::ranges::sort(entries, {}, &TensorEntry::name);
  Hasher hasher;
  for (const TensorEntry* entry : entries)
    add_to_hash(hasher, entry->name, entry->shape, hash_bytes(file.bytes(*entry)));
  return hasher.digest();
}

Result<Hash128> export_model(FileSystem& fs, const std::string& directory, const ModelSpec& model, const StateMap& map,
                             std::span<const float> parameters) {
  PLANARIA_TRY(fs.make_directories(directory));
  const std::string path = join_path(directory, kModelFile);
  const std::string temporary = path + ".tmp";
  Status written = write_model(fs, temporary, export_tensors(model, map), parameters);
  if (written) written = fs.rename(temporary, path);
  if (!written) {
    static_cast<void>(fs.remove(temporary));
    return written.error();
  }
  PLANARIA_TRY(write_file_atomically(fs, join_path(directory, kConfigFile), hugging_face_config(model)));
  return weights_hash(model, map, parameters);
}

}  // namespace planaria

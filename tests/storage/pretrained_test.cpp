#include "storage/pretrained.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/file_memory.hpp"
#include "storage/checkpoint.hpp"
#include "storage/safetensors.hpp"
#include "tests/storage/states.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;
using testing_states::kTileElements;
using testing_states::random_vector;
using testing_states::two_layer_model;

std::vector<float> random_parameters(const StateMap& map) {
  auto parameters = random_vector(map, 5);
  fill_tied_copy(map, parameters);
  return parameters;
}

// Takes an export apart and writes it again as others would.
class Rewriter {
 public:
  struct Tensor {
    TensorSpec spec;
    std::vector<std::byte> bytes;
  };

  Rewriter(MemoryFileSystem& fs, std::string directory) : fs_(fs), directory_(std::move(directory)) {
    const auto file = SafetensorsFile::open(fs_, join_path(directory_, kModelFile));
    EXPECT_TRUE(file);
    for (const TensorEntry& entry : file->header().tensors) {
      const auto bytes = file->bytes(entry);
      tensors.push_back({entry, std::vector<std::byte>(bytes.begin(), bytes.end())});
    }
  }

  // Half as wide; values lose what bf16 doesn't hold.
  void to_bf16() {
    for (Tensor& tensor : tensors) {
      std::vector<std::byte> half;
      for (std::size_t i = 0; i < tensor.bytes.size(); i += 4) {
        half.insert(half.end(), tensor.bytes.begin() + static_cast<std::ptrdiff_t>(i) + 2,
                    tensor.bytes.begin() + static_cast<std::ptrdiff_t>(i) + 4);
      }
      tensor.spec.type = TensorType::bf16;
      tensor.bytes = std::move(half);
    }
  }
  Tensor& at(std::string_view name) {
    return *std::ranges::find(tensors, name, [](const Tensor& tensor) -> std::string_view { return tensor.spec.name; });
  }
  void write_single() { write(std::string(kModelFile), tensors); }
  // Dealt out in turn; the index names them.
  void write_shards(std::size_t count) {
    ASSERT_TRUE(fs_.remove(join_path(directory_, kModelFile)));
    std::vector<std::vector<Tensor>> dealt(count);
    nlohmann::json map;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      dealt[i % count].push_back(tensors[i]);
      map[tensors[i].spec.name] = shard_name(i % count);
    }
    for (std::size_t i = 0; i < count; ++i) write(shard_name(i), dealt[i]);
    write_index({{"metadata", {{"total_size", 1}}}, {"weight_map", map}});
  }
  void write_index(const nlohmann::json& index) {
    ASSERT_TRUE(write_file_atomically(fs_, join_path(directory_, kIndexFile), index.dump()));
  }
  [[nodiscard]] nlohmann::json index() {
    return nlohmann::json::parse(*read_file(fs_, join_path(directory_, kIndexFile), 1 << 20));
  }
  static std::string shard_name(std::size_t index) { return fmt::format("model-{:05}.safetensors", index + 1); }

  std::vector<Tensor> tensors;

 private:
  void write(const std::string& name, const std::vector<Tensor>& list) {
    const auto file = fs_.create(join_path(directory_, name));
    std::vector<TensorSpec> specs;
    for (const Tensor& tensor : list) specs.push_back(tensor.spec);
    auto writer = SafetensorsWriter::begin(**file, specs, {});
    ASSERT_TRUE(writer);
    for (const Tensor& tensor : list) ASSERT_TRUE(writer->append(tensor.bytes));
    ASSERT_TRUE(writer->finish());
  }

  MemoryFileSystem& fs_;
  std::string directory_;
};

class PretrainedTest : public testing::TestWithParam<std::tuple<ModelFamily, bool>> {
 protected:
  PretrainedTest() { EXPECT_TRUE(export_model(fs_, "hf", model_, map_, parameters_)); }

  Result<PretrainedModel> opened() { return PretrainedModel::open(fs_, "hf", kTileElements); }

  const ModelSpec model_ = two_layer_model(std::get<0>(GetParam()), std::get<1>(GetParam()));
  const StateMap map_{model_, kTileElements};
  const std::vector<float> parameters_ = random_parameters(map_);
  MemoryFileSystem fs_;
};

TEST_P(PretrainedTest, AnyRangesGiveTheExportedBits) {
  const auto model = opened();
  ASSERT_TRUE(model) << model.error().message();
  EXPECT_EQ(model->map().vector_elements(), map_.vector_elements());
  for (const std::uint64_t length : {std::uint64_t{1}, std::uint64_t{37}, std::uint64_t{kTileElements},
                                     std::uint64_t{3000}, map_.vector_elements()}) {
    std::vector<float> read(map_.vector_elements(), -1);
    for (std::uint64_t begin = 0; begin < read.size(); begin += length) {
      const ElementRange range{begin, std::min<std::uint64_t>(begin + length, read.size())};
      model->copy(range, std::span(read).subspan(range.begin, range.size()));
    }
    EXPECT_EQ(read, parameters_) << "in ranges of " << length;
  }
}

TEST_P(PretrainedTest, TheHashIsTheExportsHoweverTheFilesAreSplit) {
  const Hash128 exported = weights_hash(model_, map_, parameters_);
  EXPECT_EQ(opened()->weights_hash(), exported);
  for (const std::size_t shards : {1U, 3U, 7U}) {
    MemoryFileSystem fs;
    ASSERT_TRUE(export_model(fs, "hf", model_, map_, parameters_));
    Rewriter(fs, "hf").write_shards(shards);
    const auto model = PretrainedModel::open(fs, "hf", kTileElements);
    ASSERT_TRUE(model) << model.error().message();
    EXPECT_EQ(model->files(), shards);
    EXPECT_EQ(model->weights_hash(), exported);
    EXPECT_EQ(import_model(fs, "hf", kTileElements)->parameters, parameters_);
  }
}

TEST_P(PretrainedTest, HalvesHashAsTheFloatsThatTheyAre) {
  Rewriter files(fs_, "hf");
  files.to_bf16();
  files.write_single();
  auto rounded = parameters_;
  for (float& value : rounded) value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xFFFF0000U);
  const auto model = opened();
  ASSERT_TRUE(model) << model.error().message();
  EXPECT_THAT(model->types(), testing::ElementsAre(TensorType::bf16));
  EXPECT_EQ(model->weights_hash(), weights_hash(model_, map_, rounded));
  EXPECT_EQ(import_model(fs_, "hf", kTileElements)->parameters, rounded);
}

INSTANTIATE_TEST_SUITE_P(Families, PretrainedTest,
                         testing::Combine(testing::Values(ModelFamily::gpt2, ModelFamily::llama), testing::Bool()));

// Makes those pages of this process's mapping of a file unreadable of which none of `wanted` (bytes of the file) is a
// part; how many.
std::size_t guard_pages(const std::string& path, std::span<const ElementRange> wanted) {
  std::ifstream maps("/proc/self/maps");
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  for (std::string line; std::getline(maps, line);) {
    if (!line.ends_with(path)) continue;
    EXPECT_EQ(std::sscanf(line.c_str(), "%lx-%lx", &begin, &end), 2);
  }
  EXPECT_NE(begin, 0U) << path << " is not mapped";
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t guarded = 0;
  for (std::size_t at = 0; begin + at < end; at += page) {
    const auto overlaps = [&](const ElementRange& range) { return range.begin < at + page && at < range.end; };
    if (std::ranges::any_of(wanted, overlaps)) continue;
    EXPECT_EQ(::mprotect(reinterpret_cast<void*>(begin + at), page, PROT_NONE), 0);  // NOLINT: an address as text
    ++guarded;
  }
  return guarded;
}

class PretrainedRanges : public testing::TestWithParam<ModelFamily> {};

TEST_P(PretrainedRanges, ABlockIsReadFromItsOwnPagesAlone) {
  ModelSpec model = two_layer_model(GetParam());
  model.width = 64;
  model.ffn_width = 256;
  const StateMap map(model, kTileElements);
  const auto parameters = random_parameters(map);
  const TemporaryDirectory directory;
  const std::string path = join_path(directory.path(), kModelFile);
  ASSERT_TRUE(export_model(posix_file_system(), directory.path(), model, map, parameters));
  const auto opened = PretrainedModel::open(posix_file_system(), directory.path(), kTileElements);
  ASSERT_TRUE(opened) << opened.error().message();

  const BlockInfo& block = map.block(BlockIndex(2));
  std::vector<ElementRange> own;
  {
    const auto file = SafetensorsFile::open(posix_file_system(), path);
    for (const ExportTensor& tensor : export_tensors(model, map)) {
      if (tensor.offset < block.offset || tensor.offset >= block.offset + block.elements) continue;
      const TensorEntry* entry = file->find(tensor.name);
      own.push_back({file->header().data_offset + entry->begin, file->header().data_offset + entry->end});
    }
  }
  EXPECT_GT(guard_pages(path, own), 10U);
  std::vector<float> read(block.elements);
  opened->copy({block.offset, block.offset + block.elements}, read);
  EXPECT_TRUE(std::equal(read.begin(), read.end(), parameters.begin() + static_cast<std::ptrdiff_t>(block.offset)));
}

INSTANTIATE_TEST_SUITE_P(Families, PretrainedRanges, testing::Values(ModelFamily::gpt2, ModelFamily::llama));

class PretrainedDamage : public testing::Test {
 protected:
  PretrainedDamage() {
    EXPECT_TRUE(export_model(fs_, "hf", model_, map_, random_parameters(map_)));
    files_.emplace(fs_, "hf");
  }
  std::string problem() {
    const auto model = PretrainedModel::open(fs_, "hf", kTileElements);
    return model ? "none" : model.error().message();
  }

  const ModelSpec model_ = two_layer_model(ModelFamily::llama, false);
  const StateMap map_{model_, kTileElements};
  MemoryFileSystem fs_;
  std::optional<Rewriter> files_;
};

TEST_F(PretrainedDamage, AMissingTensorIsNamed) {
  std::erase_if(files_->tensors, [](const auto& tensor) { return tensor.spec.name == "lm_head.weight"; });
  files_->write_single();
  EXPECT_THAT(problem(), HasSubstr("'lm_head.weight' is missing"));
}

TEST_F(PretrainedDamage, AnUnknownTensorIsNamed) {
  files_->tensors.push_back(
      {{"model.layers.0.self_attn.q_proj.bias", TensorType::f32, {1}}, std::vector<std::byte>(4)});
  files_->write_single();
  EXPECT_THAT(problem(), HasSubstr("'model.layers.0.self_attn.q_proj.bias' has no place"));
}

TEST_F(PretrainedDamage, AnotherShapeIsToldWithBoth) {
  files_->at("model.layers.1.mlp.up_proj.weight").spec.shape = {24, 40};
  files_->write_single();
  EXPECT_THAT(problem(),
              HasSubstr("'model.layers.1.mlp.up_proj.weight' has shape [24, 40], config.json says [40, 24]"));
}

TEST_F(PretrainedDamage, IntegersAreNoWeights) {
  files_->at("model.norm.weight").spec.type = TensorType::i32;
  files_->write_single();
  EXPECT_THAT(problem(), HasSubstr("'model.norm.weight' has type I32"));
}

TEST_F(PretrainedDamage, ATensorInAnotherFileThanTheIndexSaysIsRefused) {
  files_->write_shards(3);
  nlohmann::json index = files_->index();
  index["weight_map"]["model.norm.weight"] =
      Rewriter::shard_name(index["weight_map"]["model.norm.weight"] == Rewriter::shard_name(0) ? 1 : 0);
  files_->write_index(index);
  EXPECT_THAT(problem(), HasSubstr("model.norm.weight"));
}

TEST_F(PretrainedDamage, ATensorThatTheIndexLeavesOutIsRefused) {
  files_->write_shards(3);
  nlohmann::json index = files_->index();
  index["weight_map"].erase("model.norm.weight");
  files_->write_index(index);
  EXPECT_THAT(problem(), HasSubstr("'model.norm.weight', which model.safetensors.index.json doesn't say"));
}

TEST_F(PretrainedDamage, ATensorThatOnlyTheIndexHasIsRefused) {
  files_->write_shards(3);
  nlohmann::json index = files_->index();
  index["weight_map"]["more"] = Rewriter::shard_name(1);
  files_->write_index(index);
  EXPECT_THAT(problem(), HasSubstr("lacks tensor 'more'"));
}

TEST_F(PretrainedDamage, AMissingShardIsNamed) {
  files_->write_shards(3);
  ASSERT_TRUE(fs_.remove("hf/" + Rewriter::shard_name(2)));
  EXPECT_THAT(problem(), HasSubstr(Rewriter::shard_name(2)));
}

TEST_F(PretrainedDamage, AnIndexThatPointsOutsideIsRefused) {
  files_->write_shards(2);
  files_->write_index({{"weight_map", {{"lm_head.weight", "../other/model.safetensors"}}}});
  EXPECT_THAT(problem(), HasSubstr("'../other/model.safetensors', which is no file of this directory"));
}

TEST_F(PretrainedDamage, ATruncatedShardIsRefused) {
  files_->write_shards(2);
  const std::string path = "hf/" + Rewriter::shard_name(1);
  std::string file = *read_file(fs_, path, 1 << 24);
  file.pop_back();
  fs_.overwrite(path, file);
  EXPECT_THAT(problem(), HasSubstr(Rewriter::shard_name(1)));
}

TEST_F(PretrainedDamage, ADirectoryWithoutWeightsSaysWhatIsMissing) {
  ASSERT_TRUE(fs_.remove("hf/model.safetensors"));
  EXPECT_THAT(problem(), HasSubstr("has neither model.safetensors nor model.safetensors.index.json"));
}

TEST_F(PretrainedDamage, ConfigOfAHugeModelBesideASmallFileIsRefusedWithoutTheMemory) {
  ModelSpec huge = model_;
  huge.layers = 1 << 24;
  huge.width = huge.ffn_width = huge.vocab = 1 << 24;
  ASSERT_TRUE(write_file_atomically(fs_, "hf/config.json", hugging_face_config(huge)));
  EXPECT_THAT(problem(), HasSubstr("too small"));
}

TEST_F(PretrainedDamage, ConfigOfManyTinyLayersIsRefusedWithoutTheMemory) {
  ModelSpec deep = model_;
  deep.layers = 3000;
  deep.width = 2;
  deep.heads = deep.kv_heads = deep.ffn_width = deep.vocab = 1;
  ASSERT_TRUE(write_file_atomically(fs_, "hf/config.json", hugging_face_config(deep)));
  EXPECT_THAT(problem(), HasSubstr("too small"));
}

TEST(Pretrained, PublishedGpt2NamesAndBuffersAreTaken) {
  const ModelSpec model = two_layer_model();
  const StateMap map(model, kTileElements);
  auto parameters = random_vector(map, 1);
  MemoryFileSystem fs;
  ASSERT_TRUE(export_model(fs, "hf", model, map, parameters));
  std::string file = *read_file(fs, "hf/model.safetensors", 1 << 24);
  for (std::size_t at = 0; (at = file.find("\"transformer.", at)) != std::string::npos;) {
    file.erase(at + 1, 12);  // names without the prefix …
    const std::size_t padding = file.find("}}") + 2;
    file.insert(padding, 12, ' ');  // … in a header of the same length
  }
  fs.overwrite("hf/model.safetensors", file);
  const auto imported = import_model(fs, "hf", kTileElements);
  ASSERT_TRUE(imported) << imported.error().message();
  fill_tied_copy(map, parameters);
  EXPECT_EQ(imported->parameters, parameters);
}

class PretrainedJob : public testing::Test {
 protected:
  PretrainedJob() {
    EXPECT_TRUE(export_model(fs_, "hf", job_.model, map_, parameters_));
    job_.pretrained.path = "hf";
  }
  std::string problem() {
    const auto opened = open_pretrained(fs_, job_);
    return opened ? "none" : opened.error().message();
  }

  JobSpec job_ = [] {
    JobSpec job;
    job.model = two_layer_model(ModelFamily::llama);
    job.train.tile_elements = kTileElements;
    return job;
  }();
  const StateMap map_{job_.model, kTileElements};
  const std::vector<float> parameters_ = random_parameters(map_);
  MemoryFileSystem fs_;
};

TEST_F(PretrainedJob, IsPinnedByTheHashOfItsWeights) {
  const Hash128 from_seed = job_hash(job_);
  ASSERT_EQ(problem(), "none");
  EXPECT_EQ(job_.pretrained.weights_hash, weights_hash(job_.model, map_, parameters_));
  const Hash128 pinned = job_hash(job_);
  EXPECT_NE(pinned, from_seed);

  auto others = parameters_;
  others[0] += 1;
  fill_tied_copy(map_, others);
  ASSERT_TRUE(export_model(fs_, "hf", job_.model, map_, others));
  EXPECT_THAT(problem(), HasSubstr("the weights in 'hf' are not the job's"));
  job_.pretrained.weights_hash = {};
  EXPECT_EQ(problem(), "none");
  EXPECT_NE(job_hash(job_), pinned);
}

TEST_F(PretrainedJob, WithoutADirectoryStartsFromItsSeed) {
  job_.pretrained.path.clear();
  const auto opened = open_pretrained(fs_, job_);
  ASSERT_TRUE(opened);
  EXPECT_EQ(*opened, nullptr);
  EXPECT_EQ(job_.pretrained.weights_hash, Hash128{});
}

TEST_F(PretrainedJob, AnotherArchitectureIsRefusedByKey) {
  const JobSpec good = job_;
  const auto with = [&](auto change) {
    job_ = good;
    change(job_.model);
    return problem();
  };
  EXPECT_THAT(with([](ModelSpec& m) { m.family = ModelFamily::gpt2; }), HasSubstr("model.family = gpt2"));
  EXPECT_THAT(with([](ModelSpec& m) { m.layers = 3; }), HasSubstr("model.layers = 3, but config.json says 2"));
  EXPECT_THAT(with([](ModelSpec& m) { m.heads = 2; }), HasSubstr("model.heads = 2"));
  EXPECT_THAT(with([](ModelSpec& m) { m.kv_heads = 1; }), HasSubstr("model.kv_heads = 1"));
  EXPECT_THAT(with([](ModelSpec& m) { m.width = 48; }), HasSubstr("model.width = 48"));
  EXPECT_THAT(with([](ModelSpec& m) { m.ffn_width = 41; }), HasSubstr("model.ffn_width = 41"));
  EXPECT_THAT(with([](ModelSpec& m) { m.vocab = 62; }), HasSubstr("model.vocab = 62"));
  EXPECT_THAT(with([](ModelSpec& m) { m.context = 17; }), HasSubstr("model.context = 17"));
  EXPECT_THAT(with([](ModelSpec& m) { m.tied_embedding = false; }), HasSubstr("model.tied_embedding = false"));
  EXPECT_THAT(with([](ModelSpec& m) { m.rope_theta = 5e5; }), HasSubstr("model.rope_theta = 500000"));
  EXPECT_THAT(with([](ModelSpec& m) { m.norm_epsilon = 1e-6; }), HasSubstr("model.norm_epsilon = 1e-06"));
  EXPECT_EQ(with([](ModelSpec& m) { m.context = 8; }), "none");
}

TEST(PretrainedArchitecture, AGpt2KnowsItsPositionsButNotItsDropout) {
  const ModelSpec theirs = two_layer_model();
  ModelSpec ours = theirs;
  ours.dropout = 0.1;
  EXPECT_TRUE(check_architecture(ours, theirs));
  ours.context = 8;
  EXPECT_THAT(check_architecture(ours, theirs).error().message(), HasSubstr("model.context = 8"));
}

}  // namespace
}  // namespace planaria

#include "storage/export.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>

#include "common/file_faults.hpp"
#include "common/file_memory.hpp"
#include "storage/checkpoint.hpp"
#include "storage/pretrained.hpp"
#include "storage/safetensors.hpp"
#include "tests/storage/states.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing_states::kTileElements;
using testing_states::random_vector;
using testing_states::two_layer_model;

std::vector<std::string> names_of(const ModelSpec& model) {
  std::vector<std::string> names;
  for (const auto& tensor : export_tensors(model, StateMap(model, kTileElements))) names.push_back(tensor.name);
  return names;
}

class ExportTest : public testing::TestWithParam<std::tuple<ModelFamily, bool>> {
 protected:
  const ModelSpec model_ = two_layer_model(std::get<0>(GetParam()), std::get<1>(GetParam()));
  const StateMap map_{model_, kTileElements};
  std::vector<float> parameters_ = [this] {
    auto values = random_vector(map_, 5);
    fill_tied_copy(map_, values);
    return values;
  }();
  MemoryFileSystem fs_;
};

TEST_P(ExportTest, EveryParameterIsExportedExactlyOnce) {
  std::vector<int> uses(map_.vector_elements());
  std::uint64_t total = 0;
  for (const ExportTensor& tensor : export_tensors(model_, map_)) {
    for (std::uint64_t i = 0; i < tensor.elements(); ++i) ++uses[tensor.offset + i];
    total += tensor.elements();
  }
  EXPECT_EQ(total, map_.parameter_count());
  EXPECT_LE(*std::ranges::max_element(uses), 1);
}

TEST_P(ExportTest, ExportedModelComesBackBitForBit) {
  ASSERT_TRUE(export_model(fs_, "out/hf", model_, map_, parameters_));
  const auto imported = import_model(fs_, "out/hf", kTileElements);
  ASSERT_TRUE(imported) << imported.error().message();
  EXPECT_EQ(imported->parameters, parameters_);
  EXPECT_EQ(imported->model.family, model_.family);
  EXPECT_EQ(imported->model.kv_heads, model_.kv_heads);
  EXPECT_EQ(imported->model.tied_embedding, model_.tied_embedding);
  EXPECT_EQ(imported->model.norm_epsilon, model_.norm_epsilon);
}

TEST_P(ExportTest, WeightsHashInMemoryEqualsTheOneRecomputedFromTheFile) {
  const auto told = export_model(fs_, "hf", model_, map_, parameters_);
  ASSERT_TRUE(told);
  EXPECT_EQ(*told, weights_hash(model_, map_, parameters_));
  EXPECT_EQ(*told, *weights_hash_of_file(fs_, "hf/model.safetensors"));
}

TEST_P(ExportTest, WeightsHashEqualsThatOfAnIndependentProgram) {
  const TemporaryDirectory directory;
  const auto told = export_model(posix_file_system(), directory.path(), model_, map_, parameters_);
  ASSERT_TRUE(told) << told.error().message();
  const std::string command = fmt::format("python3 {}/tests/oracle/weights_hash.py {}/model.safetensors",
                                          PLANARIA_SOURCE_DIR, directory.path());
  std::FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  char line[64] = {};
  const bool printed = std::fgets(line, sizeof line, pipe) != nullptr;
  const int status = ::pclose(pipe);
  if (WEXITSTATUS(status) == 127) GTEST_SKIP() << "no python3 here";
  ASSERT_TRUE(printed && status == 0);
  EXPECT_EQ(std::string_view(line, 32), told->hex());
}

TEST_P(ExportTest, WeightsHashSeesEveryParameterAndNoPadding) {
  const Hash128 before = weights_hash(model_, map_, parameters_);
  for (const ExportTensor& tensor : export_tensors(model_, map_)) {
    auto changed = parameters_;
    changed[tensor.offset + tensor.elements() - 1] += 1;
    EXPECT_NE(weights_hash(model_, map_, changed), before) << tensor.name;
  }
  auto padded = parameters_;
  padded.back() += map_.blocks().back().offset + map_.blocks().back().elements < map_.vector_elements() ? 1.0F : 0.0F;
  EXPECT_EQ(weights_hash(model_, map_, padded), before);
}

TEST_P(ExportTest, FullDiskLeavesTheOldExport) {
  ASSERT_TRUE(export_model(fs_, "hf", model_, map_, parameters_));
  FaultyFileSystem full(fs_);
  full.fill_after(3000);
  const auto changed = random_vector(map_, 6);
  EXPECT_EQ(export_model(full, "hf", model_, map_, changed).error().code(), ErrorCode::exhausted);
  EXPECT_EQ(import_model(fs_, "hf", kTileElements)->parameters, parameters_);
  EXPECT_EQ(fs_.list("hf")->size(), 2U);
}

INSTANTIATE_TEST_SUITE_P(Families, ExportTest,
                         testing::Combine(testing::Values(ModelFamily::gpt2, ModelFamily::llama), testing::Bool()));

TEST(ExportNames, Gpt2HasConv1dShapesAndNoHeadWhenTied) {
  const ModelSpec model = two_layer_model();
  const StateMap map(model, kTileElements);
  const auto parameters = random_vector(map, 1);
  MemoryFileSystem fs;
  ASSERT_TRUE(export_model(fs, "hf", model, map, parameters));
  const auto file = SafetensorsFile::open(fs, "hf/model.safetensors");
  std::vector<float> exported(24 * 72);
  ASSERT_TRUE(file->copy_floats("transformer.h.1.attn.c_attn.weight", std::vector<std::uint64_t>{24, 72}, exported));
  const BlockInfo& layer = map.block(BlockIndex(2));
  const float* ours = parameters.data() + layer.offset + layer.tensor("attention.qkv.weight").offset;
  for (std::size_t in = 0; in < 24; ++in) {
    for (std::size_t out = 0; out < 72; ++out) ASSERT_EQ(exported[in * 72 + out], ours[out * 24 + in]);
  }
  EXPECT_EQ(file->find("lm_head.weight"), nullptr);
  EXPECT_EQ(file->header().metadata.at("format"), "pt");
  EXPECT_THAT(names_of(two_layer_model(ModelFamily::gpt2, false)), testing::Contains("lm_head.weight"));
}

TEST(ExportNames, LlamaSplitsPackedRowsInOrder) {
  const ModelSpec model = two_layer_model(ModelFamily::llama);
  const StateMap map(model, kTileElements);
  const auto parameters = random_vector(map, 1);
  MemoryFileSystem fs;
  ASSERT_TRUE(export_model(fs, "hf", model, map, parameters));
  const auto file = SafetensorsFile::open(fs, "hf/model.safetensors");
  const BlockInfo& layer = map.block(BlockIndex(1));
  const float* qkv = parameters.data() + layer.offset + layer.tensor("attention.qkv.weight").offset;
  std::vector<float> key(12 * 24);
  ASSERT_TRUE(file->copy_floats("model.layers.0.self_attn.k_proj.weight", std::vector<std::uint64_t>{12, 24}, key));
  EXPECT_TRUE(std::equal(key.begin(), key.end(), qkv + 24 * 24));
  const float* gate_up = parameters.data() + layer.offset + layer.tensor("mlp.gate_up.weight").offset;
  std::vector<float> up(40 * 24);
  ASSERT_TRUE(file->copy_floats("model.layers.0.mlp.up_proj.weight", std::vector<std::uint64_t>{40, 24}, up));
  EXPECT_TRUE(std::equal(up.begin(), up.end(), gate_up + 40 * 24));
}

TEST(Import, ConfigThatTheModelCannotExpressIsRefusedByKey) {
  std::string config = hugging_face_config(two_layer_model(ModelFamily::llama));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    changed.replace(changed.find(from), from.size(), to);
    const auto parsed = parse_hugging_face_config(changed);
    return parsed ? "accepted" : parsed.error().message();
  };
  EXPECT_THAT(with("\"silu\"", "\"gelu\""), testing::HasSubstr("hidden_act"));
  EXPECT_THAT(with("\"attention_bias\": false", "\"attention_bias\": true"), testing::HasSubstr("attention_bias"));
  EXPECT_THAT(with("\"head_dim\": 6", "\"head_dim\": 8"), testing::HasSubstr("head_dim"));
  EXPECT_THAT(with("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"),
              testing::HasSubstr("num_attention_heads"));
  EXPECT_THAT(with("\"llama\"", "\"bert\""), testing::HasSubstr("bert"));
  EXPECT_THAT(with("\"rope_theta\": 10000.0", R"("rope_parameters": {"rope_type": "yarn"})"),
              testing::HasSubstr("rope_parameters"));
  EXPECT_EQ(with("llama", "llama"), "accepted");
}

// As transformers 5 writes it, and those before.
TEST(Import, RopesBaseIsFoundInBothPlaces) {
  ModelSpec model = two_layer_model(ModelFamily::llama);
  model.rope_theta = 5e5;
  std::string config = hugging_face_config(model);
  EXPECT_EQ(parse_hugging_face_config(config)->rope_theta, 5e5);
  const std::string old = "\"rope_theta\": 500000.0";
  config.replace(config.find(old), old.size(),
                 R"("rope_parameters": {"rope_theta": 250000.0, "rope_type": "default"})");
  EXPECT_EQ(parse_hugging_face_config(config)->rope_theta, 2.5e5);
}

}  // namespace
}  // namespace planaria

#include "worker/data/dataset.hpp"

#include <numeric>

#include "data_test_support.hpp"
#include "worker/data/token_shard.hpp"

namespace planaria {
namespace {

using ::testing::HasSubstr;

class DatasetTest : public DataTest {
 protected:
  static DataSpec text(const std::string& path, double validation = 0.25) {
    DataSpec data;
    data.path = path;
    data.validation_fraction = validation;
    return data;
  }
  static DataSpec shards(const std::string& path) {
    DataSpec data = text(path, 0.0);
    data.format = DataFormat::tokens_u16;
    return data;
  }
  static std::string failure(const DataSpec& data, std::uint32_t context = 4, std::uint32_t vocab = 256) {
    const auto set = Dataset::open(data, context, vocab);
    return set.ok() ? "opened" : set.error().message();
  }
  static std::vector<std::int32_t> window(const Dataset& set, Split split, std::uint64_t index) {
    std::vector<std::int32_t> both(std::size_t{2} * set.context());
    set.read(split, index, std::span(both).first(set.context()), std::span(both).last(set.context()));
    return both;
  }
  static Dataset open(const DataSpec& data, std::uint32_t context = 4, std::uint32_t vocab = 256) {
    auto set = Dataset::open(data, context, vocab);
    EXPECT_TRUE(set.ok()) << (set.ok() ? "" : set.error().describe());
    return std::move(set).value();
  }
};

TEST_F(DatasetTest, WindowsAreDisjointAndTargetsAreTheNextTokens) {
  const Dataset set = open(text(write("a.txt", "abcdefghijklmnopqrst")));  // 20 bytes: 15 train, 5 validation
  EXPECT_EQ(set.windows(Split::train), 3U);
  EXPECT_EQ(set.windows(Split::validation), 1U);
  EXPECT_EQ(window(set, Split::train, 1), (std::vector<std::int32_t>{'e', 'f', 'g', 'h', 'f', 'g', 'h', 'i'}));
  EXPECT_EQ(window(set, Split::validation, 0), (std::vector<std::int32_t>{'p', 'q', 'r', 's', 'q', 'r', 's', 't'}));
}

TEST_F(DatasetTest, DirectoriesAreJoinedInNameOrderWithChosenEndings) {
  write("d/b.pod", "34");
  write("d/a.pod", "012");
  write("d/c.bin", "xxxx");
  write("d/sub/z.txt", "56789");
  write("d/empty.txt", "");
  DataSpec data = text(path("d"), 0.0);
  data.extensions = ".pod, .txt";
  const Dataset set = open(data);
  EXPECT_EQ(set.tokens(), 10U);
  EXPECT_EQ(window(set, Split::train, 0), (std::vector<std::int32_t>{'0', '1', '2', '3', '1', '2', '3', '4'}));
}

TEST_F(DatasetTest, TheHashIsThatOfTheBytesAndTheirFiles) {
  write("one/a", "abcdefgh");
  write("two/x", "abcdefgh");
  write("three/a", "abcd");
  write("three/b", "efgh");
  const auto hash = [&](const char* name) { return open(text(path(name), 0.0)).content_hash(); };
  EXPECT_EQ(hash("one"), hash("two"));
  EXPECT_NE(hash("one"), hash("three"));
}

TEST_F(DatasetTest, LargeFilesAreMapped) {
  std::string bytes(std::size_t{3} << 20, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  const Dataset set = open(text(write("large", bytes), 0.0), 1024);
  EXPECT_EQ(window(set, Split::train, 2000)[3], static_cast<std::uint8_t>(bytes[2000 * 1024 + 3]));
}

TEST_F(DatasetTest, MissingEmptyOrTooLittleDataSaysWhatToDo) {
  EXPECT_THAT(failure(text(path("none"))), HasSubstr("does not exist"));
  EXPECT_THAT(failure(text("")), HasSubstr("data.path is not set"));
  EXPECT_THAT(failure(text(write("empty", ""))), HasSubstr("empty file"));
  std::filesystem::create_directories(path("nothing"));
  EXPECT_THAT(failure(text(path("nothing"))), HasSubstr("no file"));
  EXPECT_THAT(failure(text(write("short", "abc"))), HasSubstr("training part"));
  EXPECT_THAT(failure(text(write("few", "abcdefghij"))), HasSubstr("validation part"));
  EXPECT_THAT(failure(text(write("letters", "abcdefghijklmnopqrstuvwxyz")), 4, 100), HasSubstr("model.vocab"));
}

TEST_F(DatasetTest, RawAndLlmCShardsHoldTheSameTokens) {
  std::vector<std::uint16_t> tokens(100);
  std::iota(tokens.begin(), tokens.end(), std::uint16_t{1000});
  write_u16("raw.bin", tokens);
  std::vector<std::uint16_t> file(512 + 100);
  const std::int32_t header[3] = {kShardMagic, kShardVersion, 100};
  std::memcpy(file.data(), header, sizeof header);
  std::copy(tokens.begin(), tokens.end(), file.begin() + 512);
  write_u16("llmc.bin", file);
  const Dataset raw = open(shards(path("raw.bin")), 8, 2000);
  const Dataset llm_c = open(shards(path("llmc.bin")), 8, 2000);
  EXPECT_EQ(raw.tokens(), 100U);
  EXPECT_EQ(llm_c.tokens(), 100U);
  EXPECT_EQ(window(raw, Split::train, 5), window(llm_c, Split::train, 5));
}

TEST_F(DatasetTest, WindowsRunAcrossShards) {
  write_u16("s/x_000000.bin", {1, 2, 3});
  write_u16("s/x_000001.bin", {4});
  write_u16("s/x_000002.bin", {5, 6, 7, 8, 9});
  const Dataset set = open(shards(path("s")), 7, 10);
  EXPECT_EQ(window(set, Split::train, 0), (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 8}));
}

TEST_F(DatasetTest, DamagedShardsAreRefused) {
  std::vector<std::uint16_t> file(512 + 90);
  const std::int32_t header[3] = {kShardMagic, kShardVersion, 100};
  std::memcpy(file.data(), header, sizeof header);
  EXPECT_THAT(failure(shards(write_u16("cut.bin", file))), HasSubstr("cut short"));
  const std::int32_t newer[3] = {kShardMagic, 2, 90};
  std::memcpy(file.data(), newer, sizeof newer);
  EXPECT_THAT(failure(shards(write_u16("new.bin", file))), HasSubstr("version 2"));
  EXPECT_THAT(failure(shards(write("odd.bin", "abc"))), HasSubstr("odd number of bytes"));
  EXPECT_THAT(failure(shards(write("header.bin", std::string_view(reinterpret_cast<const char*>(header), 12)))),
              HasSubstr("cut short"));
}

TEST_F(DatasetTest, BpeTextEqualsItsTokenizedShards) {
  write("t/a.txt", "the cat ate the hat");
  write("t/b.txt", "that's the end");
  DataSpec data = text(path("t"), 0.0);
  data.tokenizer = TokenizerKind::bpe;
  data.tokenizer_file = write("tokenizer.json", small_bpe({{"t", "h"}, {"th", "e"}, {"a", "t"}}).dump());
  for (const ShardLayout layout : {ShardLayout::llm_c, ShardLayout::raw}) {
    const std::string out = path(layout == ShardLayout::raw ? "raw" : "llm_c");
    const auto summary = tokenize_to_shards({data, out, "text", 7, layout});
    ASSERT_TRUE(summary.ok()) << summary.error().describe();
    const Dataset in_memory = open(data, 3, 300);
    const Dataset from_shards = open(shards(out), 3, 300);
    EXPECT_EQ(summary->tokens, in_memory.tokens());
    EXPECT_EQ(summary->shards, (summary->tokens + 6) / 7);
    ASSERT_EQ(in_memory.windows(Split::train), from_shards.windows(Split::train));
    for (std::uint64_t w = 0; w < in_memory.windows(Split::train); ++w) {
      EXPECT_EQ(window(in_memory, Split::train, w), window(from_shards, Split::train, w));
    }
  }
  EXPECT_THAT(tokenize_to_shards({data, path("raw"), "text"}).error().message(), HasSubstr("already there"));
  EXPECT_THAT(tokenize_to_shards({data, path("up"), "../text"}).error().message(), HasSubstr("no prefix"));
}

TEST_F(DatasetTest, ShardsDontLieAmongTheText) {
  write("corpus/a.txt", "text");
  DataSpec data;
  data.path = path("corpus");
  for (const char* output : {"corpus", "corpus/shards", "corpus/../corpus"}) {
    const auto summary = tokenize_to_shards({data, path(output)});
    ASSERT_FALSE(summary.ok()) << output;
    EXPECT_THAT(summary.error().message(), HasSubstr("among the text")) << output;
  }
}

}  // namespace
}  // namespace planaria

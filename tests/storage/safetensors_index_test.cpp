#include "storage/safetensors_index.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace planaria {
namespace {

using testing::HasSubstr;

std::string problem(const std::string& text) {
  const auto index = parse_safetensors_index(text);
  if (index) return "accepted";
  EXPECT_EQ(index.error().code(), ErrorCode::corrupt);
  return index.error().message();
}
std::string of_file(const std::string& file) {
  return fmt::format(R"({{"weight_map": {{"a": "{}"}}}})", file);
}

TEST(SafetensorsIndex, NamesTheTensorsOfEachFile) {
  const auto index =
      parse_safetensors_index(R"({"metadata": {"total_size": 12}, "weight_map": {"a": "1", "b": "2", "c": "1"}})");
  ASSERT_TRUE(index) << index.error().message();
  EXPECT_EQ(*index, (SafetensorsIndex{{"1", {"a", "c"}}, {"2", {"b"}}}));
}

TEST(SafetensorsIndex, FilesThatWouldLeaveTheDirectoryAreRefused) {
  for (const char* file : {"", ".", "..", "../a", "/etc/passwd", "sub/a", R"(a\\b)", R"(a\u0000b)"}) {
    EXPECT_THAT(problem(of_file(file)), HasSubstr("no file of this directory")) << file;
  }
  EXPECT_THAT(problem(of_file(std::string(256, 'a'))), HasSubstr("no file of this directory"));
  EXPECT_EQ(problem(of_file("model-00001-of-00002.safetensors")), "accepted");
}

TEST(SafetensorsIndex, ATensorThatIsNamedTwiceIsRefused) {
  EXPECT_THAT(problem(R"({"weight_map": {"a": "1", "a": "2"}})"), HasSubstr("unique keys"));
}

TEST(SafetensorsIndex, AnythingElseThanFlatObjectsIsRefused) {
  for (const char* text : {"", "[]", "{", R"({"weight_map": {"a": {"b": "c"}}})", R"({"weight_map": {"a": ["1"]}})"}) {
    EXPECT_THAT(problem(text), HasSubstr("flat JSON object")) << text;
  }
  EXPECT_THAT(problem(R"({"weight_map": {"a": 1}})"), HasSubstr("no file's name"));
  EXPECT_THAT(problem(R"({"weight_map": "a"})"), HasSubstr("no object"));
  EXPECT_THAT(problem(R"({"metadata": {}})"), HasSubstr("no 'weight_map'"));
  EXPECT_THAT(problem(R"({"weight_map": {}})"), HasSubstr("empty"));
  EXPECT_THAT(problem(R"({"weight_map": {"a": "1"}, "more": {}})"), HasSubstr("'more'"));
}

TEST(SafetensorsIndex, MoreFilesThanAProcessMayMapAreRefused) {
  std::string map;
  for (std::size_t i = 0; i <= kMaxShards; ++i) map += fmt::format(R"({}"{}": "{}")", i == 0 ? "" : ",", i, i);
  EXPECT_THAT(problem(fmt::format(R"({{"weight_map": {{{}}}}})", map)), HasSubstr("more than 4096 files"));
  EXPECT_THAT(problem(std::string(kMaxSafetensorsIndexBytes + 1, ' ')), HasSubstr("larger than"));
}

}  // namespace
}  // namespace planaria

#include "chaos/faults/coordinator_file.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace planaria {
namespace {

class CoordinatorFileTest : public ::testing::Test {
 protected:
  CoordinatorFileTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "planaria-ports-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  ~CoordinatorFileTest() override { std::filesystem::remove_all(directory_); }
  Result<CoordinatorFile> read(const std::string& text) const {
    std::ofstream(coordinator_file_path(directory_)) << text;
    return read_coordinator_file(directory_);
  }

  std::string directory_;
};

TEST_F(CoordinatorFileTest, WhoListensEverywhereIsReachedOnLoopback) {
  const auto at = [&](const std::string& listen) {
    const auto file = read(R"({"control_port": 7070, "http_port": 7071, "address": ")" + listen + "\"}");
    return file ? file->at(file->control_port) : file.error().describe();
  };
  EXPECT_EQ(at("127.0.0.2"), "127.0.0.2:7070");
  EXPECT_EQ(at("0.0.0.0"), "127.0.0.1:7070");
  EXPECT_EQ(at("::"), "[::1]:7070");
}

TEST_F(CoordinatorFileTest, AMissingOrTruncatedFileIsNamed) {
  EXPECT_EQ(read_coordinator_file(directory_).error().code(), ErrorCode::not_found);
  for (const char* text : {"", "{", "[]", R"({"control_port": 7070})", R"({"control_port": 70700, "http_port": 1})"}) {
    const auto file = read(text);
    ASSERT_FALSE(file) << text;
    EXPECT_EQ(file.error().code(), ErrorCode::corrupt) << text;
    EXPECT_NE(file.error().message().find("coordinator.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace planaria

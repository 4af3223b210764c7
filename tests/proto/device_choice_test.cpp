#include "proto/device_choice.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

TEST(DeviceChoice, IsReadAndWrittenAlike) {
  for (const char* text : {"cpu", "auto", "cuda", "cuda:0", "cuda:15"}) {
    const auto choice = parse_device(text);
    ASSERT_TRUE(choice) << text;
    EXPECT_EQ(to_string(*choice), text);
  }
  EXPECT_EQ(parse_device("cuda:3")->index, 3U);
  EXPECT_EQ(parse_device("cuda")->index, std::nullopt);
}

TEST(DeviceChoice, OthersAreRefusedByName) {
  for (const char* text :
       {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999999999", "cuda 1", "cpu:0"}) {
    const auto choice = parse_device(text);
    ASSERT_FALSE(choice) << text;
    EXPECT_NE(choice.error().message().find("\"auto\""), std::string::npos);
  }
}

}  // namespace
}  // namespace planaria

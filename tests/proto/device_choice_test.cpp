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

TEST(Precision, IsReadAndWrittenAlike) {
  for (const char* text : {"auto", "bf16", "fp32"}) {
    const auto precision = parse_precision(text);
    ASSERT_TRUE(precision) << text;
    EXPECT_EQ(to_string(*precision), text);
  }
  for (const char* text : {"", "FP32", "fp16", "float"}) {
    const auto precision = parse_precision(text);
    ASSERT_FALSE(precision) << text;
    EXPECT_NE(precision.error().message().find("\"bf16\""), std::string::npos);
  }
}

TEST(Precision, OfACpuIsFp32) {
  for (const Precision precision : {Precision::automatic, Precision::fp32}) {
    EXPECT_EQ(parse_device("cpu", precision)->precision, precision);
  }
  const auto refused = parse_device("cpu", Precision::bf16);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("trains in fp32 only"), std::string::npos);
  for (const char* text : {"cuda", "cuda:1", "auto"})
    EXPECT_EQ(parse_device(text, Precision::bf16)->precision, Precision::bf16);
}

}  // namespace
}  // namespace planaria

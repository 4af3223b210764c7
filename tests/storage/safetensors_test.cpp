#include "storage/safetensors.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "common/file_memory.hpp"

namespace planaria {
namespace {

std::span<const std::byte> bytes_of_text(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string file_with(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + header + std::string(data_bytes, '\1');
}

std::string reason_for(const std::string& file) {
  const auto header = parse_safetensors(bytes_of_text(file));
  return header ? "accepted" : header.error().message();
}

std::string one_tensor(const std::string& fields) {
  return file_with("{\"a\":{" + fields + "}}", 8);
}

const std::string kGood = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

class SafetensorsTest : public testing::Test {
 protected:
  // A file with a matrix and a vector of floats.
  void write() {
    auto file = fs_.create("f");
    auto writer = SafetensorsWriter::begin(
        **file, {{"matrix", TensorType::f32, {2, 3}}, {"vector", TensorType::f32, {2}}}, {{"format", "pt"}});
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->append(std::span(matrix_)));
    ASSERT_TRUE(writer->append(std::span(vector_)));
    ASSERT_TRUE(writer->finish());
    hash_ = writer->hash();
  }

  MemoryFileSystem fs_;
  const std::vector<float> matrix_{1, 2, 3, 4, 5, -0.0F};
  const std::vector<float> vector_{INFINITY, 1e-42F};
  Hash128 hash_;
};

TEST_F(SafetensorsTest, WhatWasWrittenIsReadBackBitForBit) {
  write();
  const auto file = SafetensorsFile::open(fs_, "f");
  ASSERT_TRUE(file) << file.error().message();
  std::vector<float> matrix(6);
  std::vector<float> vector(2);
  ASSERT_TRUE(file->copy_floats("matrix", std::vector<std::uint64_t>{2, 3}, matrix));
  ASSERT_TRUE(file->copy_floats("vector", std::vector<std::uint64_t>{2}, vector));
  EXPECT_EQ(std::memcmp(matrix.data(), matrix_.data(), 24), 0);
  EXPECT_EQ(std::memcmp(vector.data(), vector_.data(), 8), 0);
  EXPECT_EQ(file->header().metadata.at("format"), "pt");
  EXPECT_EQ(file->header().data_offset % 64, 0U);
  EXPECT_EQ(hash_, hash_bytes(fs_.map("f")->bytes()));
}

TEST_F(SafetensorsTest, WrongShapeAndMissingNameAreToldApart) {
  write();
  const auto file = SafetensorsFile::open(fs_, "f");
  std::vector<float> out(6);
  EXPECT_EQ(file->copy_floats("matrix", std::vector<std::uint64_t>{3, 2}, out).error().code(), ErrorCode::mismatch);
  EXPECT_EQ(file->copy_floats("other", std::vector<std::uint64_t>{6}, out).error().code(), ErrorCode::not_found);
}

TEST_F(SafetensorsTest, TruncatedTensorFileIsRefusedAtEveryLength) {
  write();
  const std::string whole = *read_file(fs_, "f", 1 << 20);
  EXPECT_EQ(reason_for(whole), "accepted");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(reason_for(whole.substr(0, length)), "accepted") << length;
  }
  EXPECT_NE(reason_for(whole + "x"), "accepted");
}

TEST(SafetensorsWriter, MoreOrLessDataThanDescribedIsAnError) {
  MemoryFileSystem fs;
  auto file = fs.create("f");
  auto writer = SafetensorsWriter::begin(**file, {{"a", TensorType::f32, {2}}}, {});
  const std::vector<float> three(3);
  EXPECT_FALSE(writer->append(std::span(three)));
  EXPECT_FALSE(writer->finish());
}

TEST(SafetensorsHeader, SmallGoodFileIsAccepted) {
  EXPECT_EQ(reason_for(one_tensor(kGood)), "accepted");
}

TEST(SafetensorsHeader, LengthBeyondTheBoundIsRefusedBeforeReading) {
  std::string file = one_tensor(kGood);
  const std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  std::memcpy(file.data(), &huge, sizeof huge);
  EXPECT_NE(reason_for(file).find("more than"), std::string::npos);
}

TEST(SafetensorsHeader, MalformedDescriptionsAreRefused) {
  for (const char* fields : {
           R"("dtype":"F32","shape":[2])",
           R"("dtype":"F31","shape":[2],"data_offsets":[0,8])",
           R"("dtype":4,"shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":2,"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[3],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2],"data_offsets":[8,0])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])",
           R"("dtype":"F32","shape":[4611686018427387905,2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1)",
           R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])",
       }) {
    EXPECT_NE(reason_for(one_tensor(fields)), "accepted") << fields;
  }
}

TEST(SafetensorsHeader, OverlapsHolesAndRepeatedNamesAreRefused) {
  const auto both = [](std::string_view name1, std::string_view offsets1, std::string_view name2,
                       std::string_view offsets2, std::size_t data_bytes) {
    constexpr std::string_view kEntry = R"("{}":{{"dtype":"U8","shape":[4],"data_offsets":{}}})";
    const std::string first = fmt::format(kEntry, name1, offsets1);
    return file_with(fmt::format("{{{},{}}}", first, fmt::format(kEntry, name2, offsets2)), data_bytes);
  };
  EXPECT_EQ(reason_for(both("b", "[4,8]", "a", "[0,4]", 8)), "accepted");
  EXPECT_NE(reason_for(both("a", "[0,4]", "b", "[2,6]", 8)), "accepted");
  EXPECT_NE(reason_for(both("a", "[0,4]", "b", "[6,10]", 10)), "accepted");
  EXPECT_NE(reason_for(both("a", "[0,4]", "a", "[0,4]", 4)), "accepted");
  EXPECT_NE(reason_for(both("a", "[0,4]", "b", "[4,8]", 4)), "accepted");
}

TEST(SafetensorsHeader, DeepNestingAndOddMetadataAreRefused) {
  EXPECT_NE(reason_for(file_with(std::string(100000, '['), 0)), "accepted");
  EXPECT_NE(reason_for(file_with(R"({"__metadata__":{"a":1}})", 0)), "accepted");
  EXPECT_NE(reason_for(file_with(R"({"__metadata__":[]})", 0)), "accepted");
  EXPECT_EQ(reason_for(file_with(R"({"__metadata__":{"a":"1"}})", 0)), "accepted");
  EXPECT_NE(reason_for(file_with("[]", 0)), "accepted");
}

TEST(SafetensorsHeader, EmptyTensorsTakeNoPlace) {
  const std::string header = R"({"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                             R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  EXPECT_EQ(reason_for(file_with(header, 4)), "accepted");
}

TEST(SafetensorsFile, HalfTypesBecomeTheFloatsTheyStandFor) {
  const std::string header = R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
                             R"("h":{"dtype":"F16","shape":[6],"data_offsets":[4,16]}})";
  std::string text = file_with(header, 0);
  const std::uint16_t data[] = {0x3FC0, 0xC000, 0x3C00, 0xC000, 0x0001, 0x7BFF, 0x7C00, 0x8000};
  text.append(reinterpret_cast<const char*>(data), sizeof data);  // NOLINT
  MemoryFileSystem fs;
  ASSERT_TRUE(write_file_atomically(fs, "f", text));
  const auto file = SafetensorsFile::open(fs, "f");
  ASSERT_TRUE(file);
  std::vector<float> bf16(2);
  std::vector<float> fp16(6);
  ASSERT_TRUE(file->copy_floats("b", std::vector<std::uint64_t>{2}, bf16));
  ASSERT_TRUE(file->copy_floats("h", std::vector<std::uint64_t>{6}, fp16));
  EXPECT_EQ(bf16, (std::vector<float>{1.5F, -2.0F}));
  EXPECT_EQ(fp16, (std::vector<float>{1.0F, -2.0F, 0x1p-24F, 65504.0F, INFINITY, -0.0F}));
  EXPECT_TRUE(std::signbit(fp16[5]));
}

}  // namespace
}  // namespace planaria

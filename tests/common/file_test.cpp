#include "common/file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "common/file_faults.hpp"
#include "common/file_memory.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

std::string text_of(FileSystem& fs, const std::string& path) {
  auto text = read_file(fs, path, 1 << 20);
  return text ? *text : "<" + std::string(to_string(text.error().code())) + ">";
}

// The same rules hold for the operating system's files and for the ones in memory.
class AnyFileSystem : public testing::TestWithParam<bool> {
 protected:
  AnyFileSystem() {
    if (GetParam()) root_ = directory_.path();
  }
  FileSystem& fs() { return GetParam() ? posix_file_system() : memory_; }
  std::string at(const std::string& name) { return join_path(root_, name); }

  MemoryFileSystem memory_;
  const TemporaryDirectory directory_;
  std::string root_ = "/";
};

TEST_P(AnyFileSystem, AppendedBytesAreReadBackByEveryWayOfReading) {
  ASSERT_TRUE(fs().make_directories(at("a/b/c")));
  auto file = fs().create(at("a/b/c/f"));
  ASSERT_TRUE(file);
  ASSERT_TRUE((*file)->append(std::string_view("hello ")));
  ASSERT_TRUE((*file)->append(std::string_view("world")));
  ASSERT_TRUE((*file)->sync());
  ASSERT_TRUE((*file)->close());
  EXPECT_EQ(text_of(fs(), at("a/b/c/f")), "hello world");
  const auto mapped = fs().map(at("a/b/c/f"));
  ASSERT_TRUE(mapped);
  EXPECT_EQ(mapped->bytes().size(), 11U);
  EXPECT_EQ(std::to_integer<char>(mapped->bytes()[4]), 'o');
  std::byte two[2];
  const auto opened = fs().open(at("a/b/c/f"));
  ASSERT_TRUE(opened);
  EXPECT_EQ(*(*opened)->read_at(10, two), 1U);
  EXPECT_EQ(fs().info(at("a/b/c/f"))->bytes, 11U);
}

TEST_P(AnyFileSystem, OpenAppendGoesOnWhereTheFileEnded) {
  for (const char* part : {"one", "two"}) {
    auto file = fs().open_append(at("log"));
    ASSERT_TRUE(file);
    ASSERT_TRUE((*file)->append(std::string_view(part)));
  }
  EXPECT_EQ(text_of(fs(), at("log")), "onetwo");
}

TEST_P(AnyFileSystem, AtomicWriteReplacesAndLeavesNoTemporary) {
  ASSERT_TRUE(write_file_atomically(fs(), at("m"), "old"));
  ASSERT_TRUE(write_file_atomically(fs(), at("m"), "new"));
  EXPECT_EQ(text_of(fs(), at("m")), "new");
  const auto entries = fs().list(at(""));
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), 1U);
  EXPECT_EQ(entries->front().name, "m");
}

TEST_P(AnyFileSystem, RenameOntoAFullDirectoryIsRefused) {
  ASSERT_TRUE(fs().make_directories(at("x")));
  ASSERT_TRUE(fs().make_directories(at("y")));
  ASSERT_TRUE(write_file_atomically(fs(), at("y/f"), "kept"));
  EXPECT_FALSE(fs().rename(at("x"), at("y")));
  EXPECT_EQ(text_of(fs(), at("y/f")), "kept");
  ASSERT_TRUE(remove_tree(fs(), at("y")));
  EXPECT_TRUE(fs().rename(at("x"), at("y")));
  EXPECT_EQ(fs().info(at("x")).error().code(), ErrorCode::not_found);
}

TEST_P(AnyFileSystem, ErrorsNameThePathAndAreToldApart) {
  const auto missing = fs().open(at("nowhere/f"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  EXPECT_NE(missing.error().message().find(at("nowhere/f")), std::string::npos);
  EXPECT_FALSE(fs().map(at("")));  // a directory
  ASSERT_TRUE(write_file_atomically(fs(), at("big"), "0123456789"));
  EXPECT_EQ(read_file(fs(), at("big"), 9).error().code(), ErrorCode::exhausted);
  EXPECT_TRUE(remove_tree(fs(), at("never was")));
  EXPECT_GT(*fs().free_bytes(at("")), 0U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, AnyFileSystem, testing::Bool(),
                         [](const auto& info) { return info.param ? "Posix" : "Memory"; });

TEST(PosixFileSystem, FullDeviceIsToldAsExhausted) {
  auto file = posix_file_system().open_append("/dev/full");
  ASSERT_TRUE(file);
  const Status written = (*file)->append(std::string_view("x"));
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code(), ErrorCode::exhausted);
}

TEST(PosixFileSystem, DeviceInPlaceOfAFileIsRefused) {
  EXPECT_EQ(posix_file_system().open("/dev/zero").error().code(), ErrorCode::invalid_argument);
}

TEST(FaultyFileSystem, WriteThatFillsTheDiskIsTornAndHealingHelps) {
  MemoryFileSystem memory;
  FaultyFileSystem fs(memory);
  auto file = fs.create("f");
  ASSERT_TRUE(file);
  fs.fill_after(4);
  EXPECT_EQ((*file)->append(std::string_view("abcdef")).error().code(), ErrorCode::exhausted);
  EXPECT_TRUE(fs.fired());
  EXPECT_EQ(text_of(memory, "f"), "abcd");
  fs.heal();
  EXPECT_TRUE((*file)->append(std::string_view("ef")));
  EXPECT_EQ(text_of(memory, "f"), "abcdef");
}

TEST(FaultyFileSystem, FullDiskReportsNoSpace) {
  MemoryFileSystem memory;
  FaultyFileSystem fs(memory);
  fs.fill_now();
  EXPECT_EQ(*fs.free_bytes("/"), 0U);
  EXPECT_EQ(write_file_atomically(fs, "f", "x").error().code(), ErrorCode::exhausted);
  EXPECT_TRUE(memory.list("/")->empty());
}

TEST(FaultyFileSystem, AtomicWriteThatFailsAnywhereKeepsTheOldContent) {
  for (std::uint64_t at = 0;; ++at) {
    MemoryFileSystem memory;
    ASSERT_TRUE(write_file_atomically(memory, "m", "old"));
    FaultyFileSystem fs(memory);
    fs.fail_operation(at, false);
    const Status written = write_file_atomically(fs, "m", "new!");
    if (!fs.fired()) break;
    ASSERT_FALSE(written) << "operation " << at;
    const std::string now = text_of(memory, "m");
    // The last operation syncs the directory: the new content is there, but isn't promised.
    EXPECT_TRUE(now == "old" || now == "new!") << now;
    EXPECT_EQ(memory.list("/")->size(), 1U) << "operation " << at;
  }
}

TEST(MemoryFileSystem, UnsyncedBytesAndEntriesAreLostInAPowerCut) {
  MemoryFileSystem fs;
  auto file = fs.create("log");
  ASSERT_TRUE((*file)->append(std::string_view("synced")));
  ASSERT_TRUE((*file)->sync());
  ASSERT_TRUE(fs.sync_directory("/"));
  ASSERT_TRUE((*file)->append(std::string_view(" lost")));
  ASSERT_TRUE(fs.create("unnamed yet"));
  fs.power_cut(0);
  EXPECT_EQ(text_of(fs, "log"), "synced");
  EXPECT_EQ(fs.list("/")->size(), 1U);
  EXPECT_FALSE((*file)->append(std::string_view("from before the cut")));
}

TEST(MemoryFileSystem, RenameWithoutDirectorySyncIsLostInAPowerCut) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_file_atomically(fs, "a", "x"));
  ASSERT_TRUE(fs.rename("a", "b"));
  fs.power_cut(0);
  EXPECT_EQ(text_of(fs, "a"), "x");
  EXPECT_EQ(text_of(fs, "b"), "<not found>");
}

TEST(MemoryFileSystem, AtomicWriteSurvivesAPowerCutAtEveryOperation) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    for (std::uint64_t at = 0;; ++at) {
      MemoryFileSystem memory;
      ASSERT_TRUE(write_file_atomically(memory, "m", "old"));
      FaultyFileSystem fs(memory);
      fs.fail_operation(at, true);
      const Status written = write_file_atomically(fs, "m", "new");
      memory.power_cut(seed);
      const std::string now = text_of(memory, "m");
      EXPECT_TRUE(now == "new" || (!written && now == "old")) << "operation " << at << ", seed " << seed << ": " << now;
      if (!fs.fired()) break;
    }
  }
}

}  // namespace
}  // namespace planaria

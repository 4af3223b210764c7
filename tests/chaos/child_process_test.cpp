#include "chaos/faults/child_process.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace planaria {
namespace {

TEST(ChildProcess, OnlyItsOwnOutputIsQuoted) {
  std::string directory = (std::filesystem::temp_directory_path() / "planaria-child-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string log = directory + "/log";
  std::ofstream(log) << "of an earlier start\n";
  auto process = ChildProcess::start({"/bin/sh", "-c", "echo one; echo two; echo three"}, log);
  ASSERT_TRUE(process) << process.error().describe();
  EXPECT_EQ(process->finish(10'000).code, 0);
  EXPECT_EQ(process->last_output(5), "\n  one\n  two\n  three");
  EXPECT_EQ(process->last_output(2), "\n  two\n  three");
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace planaria

// Folders are floors (docs/ARCHITECTURE.md): a file includes project headers of its own folder and of those below.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

using Folders = std::set<std::string>;

// What each folder may include. Storage and kernels don't know each other; worker and coordinator meet in proto.
const std::map<std::string, Folders>& floors() {
  static const std::map<std::string, Folders> allowed{
      {"common", {"common"}},
      {"proto", {"proto", "common"}},
      {"kernels", {"kernels", "proto", "common"}},
      {"storage", {"storage", "proto", "common"}},
      {"worker", {"worker", "kernels", "storage", "proto", "common"}},
      {"coordinator", {"coordinator", "kernels", "storage", "proto", "common"}},
      {"chaos", {"chaos", "worker", "coordinator", "kernels", "storage", "proto", "common"}},
      {"cli", {"cli", "chaos", "worker", "coordinator", "kernels", "storage", "proto", "common"}},
      {"tests", {"tests", "cli", "chaos", "worker", "coordinator", "kernels", "storage", "proto", "common"}},
  };
  return allowed;
}

struct Include {
  std::string target;
  bool quoted = false;
};

std::optional<Include> parse_include(std::string_view line) {
  const auto skip_blanks = [&line] { line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size())); };
  skip_blanks();
  if (!line.starts_with('#')) return std::nullopt;
  line.remove_prefix(1);
  skip_blanks();
  if (!line.starts_with("include")) return std::nullopt;
  line.remove_prefix(7);
  skip_blanks();
  if (line.empty() || (line[0] != '"' && line[0] != '<')) return std::nullopt;
  const std::size_t end = line.find(line[0] == '"' ? '"' : '>', 1);
  if (end == std::string_view::npos) return std::nullopt;
  return Include{std::string(line.substr(1, end - 1)), line[0] == '"'};
}

bool may_use_caf(const std::string& file) {
  if (file.starts_with("cli/")) return true;
  if (file.starts_with("tests/")) return true;  // some play a peer of a shell
  return file.find("/shell/") != std::string::npos && (file.starts_with("worker/") || file.starts_with("coordinator/"));
}

// Why `file` may not include this, or "" when it may. Paths are relative to the source tree.
std::string objection(const std::string& file, const Include& include) {
  if (!include.quoted) {
    if (include.target.starts_with("caf/") && !may_use_caf(file)) return "CAF belongs into the shells";
    const std::string first = include.target.substr(0, include.target.find('/'));
    const bool ours = floors().contains(first) && fs::exists(fs::path(PLANARIA_SOURCE_DIR) / include.target);
    return ours ? "a project header goes in quotes" : "";
  }
  const std::size_t slash = include.target.find('/');
  const std::string to = slash == std::string::npos ? "" : include.target.substr(0, slash);
  // Helpers of tests lie beside them.
  const fs::path beside = (fs::path(PLANARIA_SOURCE_DIR) / file).parent_path() / include.target;
  if (file.starts_with("tests/") && fs::exists(beside)) return "";
  if (!floors().contains(to)) return "a project header is named as \"folder/file.hpp\"";
  const std::string from = file.substr(0, file.find('/'));
  return floors().at(from).contains(to) ? "" : from + " lies below or beside " + to;
}

std::vector<fs::path> sources() {
  std::vector<fs::path> files;
  for (const auto& [folder, unused] : floors()) {
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(PLANARIA_SOURCE_DIR) / folder)) {
      const std::string ending = entry.path().extension().string();
      if (ending == ".hpp" || ending == ".cpp" || ending == ".cu" || ending == ".cuh") files.push_back(entry.path());
    }
  }
  return files;
}

TEST(Floors, EveryIncludeGoesDownward) {
  std::size_t seen = 0;
  for (const fs::path& path : sources()) {
    const std::string file = fs::relative(path, PLANARIA_SOURCE_DIR).generic_string();
    std::ifstream in(path);
    std::size_t number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      const auto include = parse_include(line);
      if (!include) continue;
      ++seen;
      const std::string reason = objection(file, *include);
      EXPECT_EQ(reason, "") << file << ":" << number << ": " << line;
    }
  }
  EXPECT_GT(seen, 50U) << "the tree at " PLANARIA_SOURCE_DIR " was not scanned";
}

TEST(Floors, EveryHeaderIsIncludedOnce) {
  for (const fs::path& path : sources()) {
    if (path.extension() != ".hpp" && path.extension() != ".cuh") continue;
    std::ifstream in(path);
    const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    EXPECT_NE(text.find("\n#pragma once\n"), std::string::npos) << path;
  }
}

TEST(Floors, UpwardSidewaysAndUnnamedIncludesAreObjectedTo) {
  const auto refused = [](const std::string& file, const std::string& line) {
    return !objection(file, parse_include(line).value()).empty();
  };
  EXPECT_TRUE(refused("common/a.cpp", "#include \"proto/job_spec.hpp\""));
  EXPECT_TRUE(refused("storage/a.cpp", "#include \"kernels/device.hpp\""));
  EXPECT_TRUE(refused("kernels/a.cpp", "  #  include \"storage/store.hpp\""));
  EXPECT_TRUE(refused("worker/core/a.cpp", "#include \"coordinator/planner.hpp\""));
  EXPECT_TRUE(refused("common/a.cpp", "#include \"result.hpp\""));
  EXPECT_TRUE(refused("common/a.cpp", "#include <common/result.hpp>"));
  EXPECT_TRUE(refused("worker/core/a.hpp", "#include <caf/all.hpp>"));
  EXPECT_FALSE(refused("worker/shell/a.hpp", "#include <caf/all.hpp>"));
  EXPECT_FALSE(refused("worker/core/a.hpp", "#include \"proto/job_spec.hpp\""));
  EXPECT_FALSE(refused("chaos/sim/a.cpp", "#include \"worker/core/a.hpp\""));
}

}  // namespace

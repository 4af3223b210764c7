#include "tests/integration/planaria_process.hpp"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "chaos/faults/child_process.hpp"
#include "tests/sanitized.hpp"

namespace planaria {

namespace {

constexpr int kSlowness = kSanitized ? 5 : 1;

}  // namespace

ProgramResult run_program(const std::vector<std::string>& command, int timeout_s) {
  const ScratchDirectory scratch;
  const std::string output = scratch.path("output");
  auto process = ChildProcess::start(command, output);
  if (!process) return {-1, process.error().message()};
  const ChildProcess::Exit exit = process->finish(timeout_s * kSlowness * 1000);
  return {exit.signal != 0 ? 128 + exit.signal : exit.code, file_text(output)};
}

ProgramResult planaria_program(const std::vector<std::string>& arguments, int timeout_s) {
  std::vector<std::string> command{planaria_binary()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_program(command, timeout_s);
}

std::string planaria_binary() {
  return PLANARIA_BINARY;
}

nlohmann::json last_json(const ProgramResult& result) {
  std::istringstream lines(result.output);
  std::string last;
  for (std::string line; std::getline(lines, line);) last = line;
  const auto json = nlohmann::json::parse(last, nullptr, false);
  return json.is_object() ? json : nlohmann::json();
}

ScratchDirectory::ScratchDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "planaria-test-XXXXXX").string();
  path_ = mkdtemp(name.data());
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string file_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string tiny_job() {
  return PLANARIA_SOURCE_DIR "/tests/jobs/tiny.toml";
}

}  // namespace planaria

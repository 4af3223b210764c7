// The program as its users start it: arguments in, exit code and output back.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace planaria {

struct ProgramResult {
  int exit_code = -1;  // 128 + number for a signal
  std::string output;  // standard output and error
};

// Runs any program to its end, at most `timeout_s`; five times that in a sanitizer's build.
[[nodiscard]] ProgramResult run_program(const std::vector<std::string>& command, int timeout_s = 120);
// Runs the built binary.
[[nodiscard]] ProgramResult planaria_program(const std::vector<std::string>& arguments, int timeout_s = 120);

// The object on the last line of the output, or null.
[[nodiscard]] nlohmann::json last_json(const ProgramResult& result);

// An empty directory of its own, removed at the end.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// All that is in a file; nothing where there is none.
[[nodiscard]] std::string file_text(const std::string& path);
[[nodiscard]] std::string tiny_job();
[[nodiscard]] std::string planaria_binary();

}  // namespace planaria

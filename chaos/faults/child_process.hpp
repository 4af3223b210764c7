// A child process with its output in a file: started, signalled, awaited. It is killed when its owner goes, and by the
// kernel when the owner's process dies.
//
// Thread contract: one thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/result.hpp"

namespace planaria {

class ChildProcess {
 public:
  struct Exit {
    int code = 0;    // of a normal exit
    int signal = 0;  // that ended it, or 0
  };

  // Standard output and error are appended to `output`.
  [[nodiscard]] static Result<ChildProcess> start(const std::vector<std::string>& command, const std::string& output,
                                                  const std::vector<std::string>& extra_environment = {});
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void signal(int number) const;
  // Collects the exit if there is one; nothing while it runs.
  std::optional<Exit> poll();
  // Waits at most this long, then kills it.
  Exit finish(int timeout_ms);
  [[nodiscard]] bool running() { return !poll().has_value(); }
  // The last lines that this process wrote, each after a line break and two blanks; nothing of earlier ones.
  [[nodiscard]] std::string last_output(std::size_t lines) const;

 private:
  ChildProcess(pid_t pid, std::string output, std::int64_t output_begin)
      : pid_(pid), output_(std::move(output)), output_begin_(output_begin) {}
  pid_t pid_ = -1;
  std::string output_;
  std::int64_t output_begin_ = 0;  // size of the output file when the process was started
  std::optional<Exit> exit_;
};

}  // namespace planaria

// Chaos's end of the fault hook: a Unix-domain socket to which workers connect; lines in, lines out. The protocol is
// described in worker/shell/fault_hook.hpp.
//
// Thread contract: one thread; poll() is the only call that waits.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/result.hpp"

namespace planaria {

class HookServer {
 public:
  struct Line {
    pid_t pid = 0;     // of the worker that says it; known from its hello
    std::string text;  // without the end; empty: it is gone
  };

  // The socket lives at `path`, which must not exist; Unix-domain paths hold about 100 bytes.
  [[nodiscard]] static Result<HookServer> listen(const std::string& path);
  HookServer(HookServer&& other) noexcept;
  HookServer& operator=(HookServer&&) = delete;
  ~HookServer();

  // Waits at most this long for lines.
  [[nodiscard]] std::vector<Line> poll(int timeout_ms);
  // False when that worker isn't connected (any more).
  bool say(pid_t pid, const std::string& line);

 private:
  struct Connection {
    pid_t pid = 0;
    std::string unread;
  };
  HookServer(int listener, std::string path) : listener_(listener), path_(std::move(path)) {}
  void read_from(int socket, Connection& connection, std::vector<Line>& lines);

  int listener_ = -1;
  std::string path_;
  std::map<int, Connection> connections_;
};

}  // namespace planaria

#include "chaos/faults/hook_server.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "worker/shell/fault_hook.hpp"

namespace planaria {

Result<HookServer> HookServer::listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error(ErrorCode::invalid_argument, "the path of a Unix socket is too long: " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, 128) != 0) {
    const std::string why = std::strerror(errno);
    if (listener >= 0) close(listener);
    return Error(ErrorCode::io, "can't listen on " + path + ": " + why);
  }
  return HookServer(listener, path);
}

HookServer::HookServer(HookServer&& other) noexcept
    : listener_(std::exchange(other.listener_, -1)),
      path_(std::exchange(other.path_, {})),
      connections_(std::exchange(other.connections_, {})) {}

HookServer::~HookServer() {
  for (const auto& [socket, connection] : connections_) close(socket);
  if (listener_ < 0) return;
  close(listener_);
  unlink(path_.c_str());
}

std::vector<HookServer::Line> HookServer::poll(int timeout_ms) {
  std::vector<pollfd> waits{{listener_, POLLIN, 0}};
  for (const auto& [socket, connection] : connections_) waits.push_back({socket, POLLIN, 0});
  std::vector<Line> lines;
  if (::poll(waits.data(), waits.size(), timeout_ms) <= 0) return lines;
  for (const pollfd& wait : waits) {
    if (wait.revents == 0) continue;
    if (wait.fd == listener_) {
      const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (socket >= 0) connections_.emplace(socket, Connection{});
      continue;
    }
    read_from(wait.fd, connections_[wait.fd], lines);
  }
  return lines;
}

void HookServer::read_from(int socket, Connection& connection, std::vector<Line>& lines) {
  char buffer[1024];
  const ssize_t got = recv(socket, buffer, sizeof buffer, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const bool flooded = connection.unread.size() > 64 * kMaxFaultLine;
  if (got <= 0 || flooded) {
    if (connection.pid != 0) lines.push_back({connection.pid, ""});
    close(socket);
    connections_.erase(socket);
    return;
  }
  connection.unread.append(buffer, static_cast<std::size_t>(got));
  std::size_t end = 0;
  while ((end = connection.unread.find('\n')) != std::string::npos) {
    std::string text = connection.unread.substr(0, end);
    connection.unread.erase(0, end + 1);
    if (text.starts_with("hello ")) {
      std::from_chars(text.data() + 6, text.data() + text.size(), connection.pid);
    }
    if (connection.pid != 0 && !text.empty()) lines.push_back({connection.pid, std::move(text)});
  }
}

bool HookServer::say(pid_t pid, const std::string& line) {
  for (const auto& [socket, connection] : connections_) {
    if (connection.pid != pid) continue;
    const std::string text = line + "\n";
    return send(socket, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  return false;
}

}  // namespace planaria

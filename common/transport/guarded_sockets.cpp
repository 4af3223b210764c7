#include "common/transport/guarded_sockets.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>

namespace planaria {
namespace {

thread_local int guards = 0;

// A refusal takes a round trip; the thread has other peers.
constexpr int kConnectPatience_ms = 20;

bool peer_is_gone(int failure) {
  return failure == EPIPE || failure == ECONNRESET || failure == ECONNABORTED;
}

}  // namespace

GuardedSockets::GuardedSockets() {
  ++guards;
}
GuardedSockets::~GuardedSockets() {
  --guards;
}

}  // namespace planaria

// Takes the place of the C library's for the whole process, which shared libraries call as well.
extern "C" ssize_t send(int socket, const void* bytes, size_t size, int flags) {
  const ssize_t sent = sendto(socket, bytes, size, flags, nullptr, 0);
  if (sent >= 0 || planaria::guards == 0 || !planaria::peer_is_gone(errno)) return sent;
  return static_cast<ssize_t>(size);
}

extern "C" int connect(int socket, const sockaddr* address, socklen_t size) {
  const int done = static_cast<int>(syscall(SYS_connect, socket, address, size));
  if (done == 0 || planaria::guards == 0 || errno != EINPROGRESS) return done;
  pollfd ready{socket, POLLOUT, 0};
  int failure = 0;
  socklen_t failure_size = sizeof failure;
  if (poll(&ready, 1, planaria::kConnectPatience_ms) <= 0 ||
      getsockopt(socket, SOL_SOCKET, SO_ERROR, &failure, &failure_size) != 0) {
    failure = EINPROGRESS;
  }
  errno = failure;
  return failure == 0 ? 0 : -1;
}

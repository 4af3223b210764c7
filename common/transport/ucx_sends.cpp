#include "common/transport/ucx_sends.hpp"

#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>

namespace planaria {
namespace {

thread_local int guards = 0;

bool peer_is_gone(int failure) {
  return failure == EPIPE || failure == ECONNRESET || failure == ECONNABORTED;
}

}  // namespace

LostSendsSucceed::LostSendsSucceed() {
  ++guards;
}
LostSendsSucceed::~LostSendsSucceed() {
  --guards;
}

}  // namespace planaria

// Takes the place of the C library's for the whole process, which shared libraries call as well.
extern "C" ssize_t send(int socket, const void* bytes, size_t size, int flags) {
  const ssize_t sent = sendto(socket, bytes, size, flags, nullptr, 0);
  if (sent >= 0 || planaria::guards == 0 || !planaria::peer_is_gone(errno)) return sent;
  return static_cast<ssize_t>(size);
}

#include "common/transport/ucx_guard.hpp"

#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <ucs/type/status.h>

#include <cerrno>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "common/log.hpp"

namespace planaria {
namespace {

thread_local int guards = 0;
// Out of UCX's dropping of a request that is under way.
thread_local std::jmp_buf* way_out = nullptr;

bool peer_is_gone(int failure) {
  return failure == EPIPE || failure == ECONNRESET || failure == ECONNABORTED;
}

}  // namespace

UcxGuard::UcxGuard() {
  ++guards;
}
UcxGuard::~UcxGuard() {
  --guards;
}

}  // namespace planaria

// These take the place of the libraries' own for the whole process, which shared libraries call as well.

extern "C" ssize_t send(int socket, const void* bytes, size_t size, int flags) {
  const ssize_t sent = sendto(socket, bytes, size, flags, nullptr, 0);
  if (sent >= 0 || planaria::guards == 0 || !planaria::peer_is_gone(errno)) return sent;
  return static_cast<ssize_t>(size);
}

extern "C" void ucp_request_send_state_ff(void* request, ucs_status_t status) {
  using Drop = void (*)(void*, ucs_status_t);
  static const auto drop = reinterpret_cast<Drop>(dlsym(RTLD_NEXT, "ucp_request_send_state_ff"));
  std::jmp_buf here;
  std::jmp_buf* const outer = std::exchange(planaria::way_out, &here);
  if (setjmp(here) == 0) drop(request, status);  // C, with nothing to unwind
  planaria::way_out = outer;
}

extern "C" [[noreturn]] void ucs_fatal_error_message(const char* file, unsigned line, const char* function,
                                                     char* message);

extern "C" [[noreturn]] void ucs_fatal_error_format(const char* file, unsigned line, const char* function,
                                                    const char* format, ...) {
  const bool drops_reply =
      std::string_view(function) == "ucp_request_send_state_ff" && std::strstr(format, "got %s message") != nullptr;
  if (drops_reply && planaria::way_out != nullptr) {
    planaria::Log("ucx").info("a message to connect with a peer that is gone is not sent");
    std::longjmp(*planaria::way_out, 1);
  }
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  ucs_fatal_error_message(file, line, function, message);
}

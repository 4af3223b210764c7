#include "cli/stop_signal.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <utility>

namespace planaria {
namespace {

// Set in the handler, read by any thread.
std::atomic<bool> terminated = false;
std::atomic<bool> interrupted = false;
std::atomic<int> signalled = -1;  // eventfd; readable when a signal came that no watcher was told of
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler may not take a lock");

void raise_event(int fd) {
  const std::uint64_t one = 1;
  static_cast<void>(!write(fd, &one, sizeof one));  // full means that it is readable already
}

void note(int number) {
  const int before = errno;
  std::atomic<bool>& flag = number == SIGTERM ? terminated : interrupted;
  if (flag.exchange(true)) {
    signal(number, SIG_DFL);
    raise(number);
  }
  raise_event(signalled);
  errno = before;
}

}  // namespace

void watch_stop_signals() {
  if (signalled < 0) signalled = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  struct sigaction action {};
  action.sa_handler = note;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() {
  return terminated || interrupted;
}
bool interrupt_requested() {
  return interrupted;
}

StopSignalWatcher::StopSignalWatcher(std::function<void()> on_signal)
    : ended_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), thread_([ended = ended_, told = std::move(on_signal)] {
        pollfd waited[] = {{signalled, POLLIN, 0}, {ended, POLLIN, 0}};
        while (true) {
          if (poll(waited, 2, -1) < 0) continue;  // a signal in this thread
          if (waited[1].revents != 0) return;
          std::uint64_t ignored = 0;
          static_cast<void>(!read(signalled, &ignored, sizeof ignored));
          told();
        }
      }) {}

StopSignalWatcher::~StopSignalWatcher() {
  raise_event(ended_);
  thread_.join();
  close(ended_);
}

}  // namespace planaria

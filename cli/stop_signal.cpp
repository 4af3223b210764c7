#include "cli/stop_signal.hpp"

#include <signal.h>

#include <atomic>

namespace planaria {
namespace {

// Set in the handler, read by any thread.
std::atomic<bool> terminated = false;
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not take a lock");

void note(int number) {
  std::atomic<bool>& flag = number == SIGTERM ? terminated : interrupted;
  if (flag.exchange(true)) {
    signal(number, SIG_DFL);
    raise(number);
  }
}

}  // namespace

void watch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = note;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() {
  return terminated || interrupted;
}
bool terminate_requested() {
  return terminated;
}
bool interrupt_requested() {
  return interrupted;
}

}  // namespace planaria

#include "cli/stop_signal.hpp"

#include <signal.h>

namespace planaria {
namespace {

volatile sig_atomic_t terminated = 0;
volatile sig_atomic_t interrupted = 0;

void note(int number) {
  volatile sig_atomic_t& flag = number == SIGTERM ? terminated : interrupted;
  if (flag != 0) {
    signal(number, SIG_DFL);
    raise(number);
  }
  flag = 1;
}

}  // namespace

void watch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = note;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() {
  return terminated != 0 || interrupted != 0;
}
bool terminate_requested() {
  return terminated != 0;
}
bool interrupt_requested() {
  return interrupted != 0;
}

}  // namespace planaria

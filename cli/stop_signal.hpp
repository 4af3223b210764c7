// SIGINT and SIGTERM, as flags that a command's loop looks at, or told to who waits.
//
// Thread contract: watch_stop_signals belongs to the start of the process; any thread may look at the flags.
#pragma once

#include <functional>
#include <thread>

namespace planaria {

// Catches both; the second signal of a kind ends the process at once.
void watch_stop_signals();
// Either came.
[[nodiscard]] bool stop_requested();
[[nodiscard]] bool interrupt_requested();  // SIGINT

// Calls `on_signal`, in a thread of its own, after each signal and after those that came before, until it is destroyed.
// It sleeps meanwhile: a loop that looks now and then interrupts threads that compute. One at a time in a process,
// after watch_stop_signals.
class StopSignalWatcher {
 public:
  explicit StopSignalWatcher(std::function<void()> on_signal);
  ~StopSignalWatcher();
  StopSignalWatcher(const StopSignalWatcher&) = delete;
  StopSignalWatcher& operator=(const StopSignalWatcher&) = delete;

 private:
  const int ended_;  // eventfd
  std::thread thread_;
};

}  // namespace planaria

// SIGINT and SIGTERM as flags that a command's loop looks at.
//
// Thread contract: watch_stop_signals belongs to the start of the process; any thread may look at the flags.
#pragma once

namespace planaria {

// Catches both; the second signal of a kind ends the process at once.
void watch_stop_signals();
// Either came.
[[nodiscard]] bool stop_requested();
[[nodiscard]] bool terminate_requested();  // SIGTERM
[[nodiscard]] bool interrupt_requested();  // SIGINT

}  // namespace planaria

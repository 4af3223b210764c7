#include "cli/bus_error.hpp"

#include <signal.h>
#include <unistd.h>

#include <string_view>

#include "common/exit_code.hpp"

namespace planaria {
namespace {

void tell(int) {
  constexpr std::string_view kMessage =
      "planaria: a data file can't be read any more: it shrank, or its disk failed. Put it back as it was and start "
      "the "
      "worker again\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  ::_exit(static_cast<int>(ExitCode::data));
}

}  // namespace

void tell_bus_errors() {
  struct sigaction action {};
  action.sa_handler = tell;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace planaria

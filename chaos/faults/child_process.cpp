#include "chaos/faults/child_process.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <fstream>
#include <thread>
#include <utility>

#include "common/file.hpp"

extern char** environ;  // NOLINT: POSIX's name

namespace planaria {

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& command, const std::string& output,
                                         const std::vector<std::string>& extra_environment) {
  std::vector<char*> arguments;
  for (const std::string& word : command)
    arguments.push_back(const_cast<char*>(word.c_str()));  // NOLINT: execve's type
  arguments.push_back(nullptr);
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  for (const std::string& entry : extra_environment) environment.push_back(const_cast<char*>(entry.c_str()));  // NOLINT
  environment.push_back(nullptr);

  const int log = open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return file_error(errno, "write", output);
  const off_t begin = lseek(log, 0, SEEK_END);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    const int error = errno;
    close(log);
    return Error(ErrorCode::exhausted, std::string("can't start a process: ") + std::strerror(error));
  }
  if (pid == 0) {
    // Only async-signal-safe calls between fork and exec.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    setpgid(0, 0);  // the terminal's Ctrl-C is the parent's to handle
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    const int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execve(arguments[0], arguments.data(), environment.data());
    _exit(127);
  }
  close(log);
  return ChildProcess(pid, output, begin);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::move(other.output_)),
      output_begin_(other.output_begin_),
      exit_(std::exchange(other.exit_, std::nullopt)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(output_, other.output_);
  std::swap(output_begin_, other.output_begin_);
  std::swap(exit_, other.exit_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !poll()) finish(0);
}

void ChildProcess::signal(int number) const {
  if (pid_ > 0 && !exit_) kill(pid_, number);
}

std::optional<ChildProcess::Exit> ChildProcess::poll() {
  if (exit_ || pid_ <= 0) return exit_ ? exit_ : Exit{};
  int status = 0;
  const pid_t done = waitpid(pid_, &status, WNOHANG);
  if (done != pid_) return std::nullopt;
  exit_ = Exit{WIFEXITED(status) ? WEXITSTATUS(status) : 0, WIFSIGNALED(status) ? WTERMSIG(status) : 0};
  return exit_;
}

ChildProcess::Exit ChildProcess::finish(int timeout_ms) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (std::chrono::steady_clock::now() < deadline) {
    if (const auto exit = poll()) return *exit;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (const auto exit = poll()) return *exit;
  kill(pid_, SIGKILL);
  int status = 0;
  waitpid(pid_, &status, 0);
  exit_ = Exit{0, SIGKILL};
  return *exit_;
}

std::string ChildProcess::last_output(std::size_t lines) const {
  std::ifstream file(output_);
  file.seekg(output_begin_);
  std::deque<std::string> last;
  for (std::string line; std::getline(file, line);) {
    last.push_back(std::move(line));
    if (last.size() > lines) last.pop_front();
  }
  std::string text;
  for (const std::string& line : last) text += "\n  " + line;
  return text;
}

}  // namespace planaria
